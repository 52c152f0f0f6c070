"""Train the network under the decomposed softmax, so that the backbone fits the few features (arXiv 2112.07719, section 4).

The decomposed head takes the place of the dense one, its supports stay, and all weights, or those of the layers that the user
names, go on learning by cross-entropy to the labels. As any training on these images could gain something, a *control* belongs
beside it: the dense network trained just as long in just the same way.

A share of the images, told by a hash of their ids, is held out; the epoch that is best on them is kept. Where cues are to be
done without, they are swapped in held-out images as well, as only there shows what leans on them. The order of the images and
every random choice follow from the seed and the number of the step, and the state is written every minute, so that a run that
was killed goes on, and ends as it would have. What it writes carries seals; nothing else in its folder is replaced.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from subspect.giving.settings import Settings
from subspect.giving.training import BEST, LOG, Run, Trained, cut, refuse_study, right, split
from subspect.ground.errors import SubspectError
from subspect.ground.files import check_free, make_folder
from subspect.ground.locks import locked
from subspect.ground.progress import progress
from subspect.ground.results import Result
from subspect.ground.seals import is_sealed
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.head import DecomposedHead
from subspect.images.batches import Batch, batches, lost_workers
from subspect.images.labels import match_classes
from subspect.images.opening import ImageSource, open_images
from subspect.measuring.fidelity import Estimate, percent, wilson
from subspect.networks.finding import Head
from subspect.networks.layers import layer_names
from subspect.networks.network import Network
from subspect.networks.summands import is_linear, with_layers
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.first_images import find_head
from subspect.studies.same_network import same_network
from subspect.studies.study import StudyLike
from subspect.swapping.in_training import Swaps
from subspect.swapping.naming import cues_named


@lost_workers()
def train(
    network: Network,
    images: ImageSource,
    folder: str | Path,
    decomposition: Decomposition | None = None,
    settings: Settings | None = None,
    *,
    class_map: Mapping[str, int] | str | Path | None = None,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Trained:
    """Train a network with a decomposed head, or, as a control, as it is.

    The network given is left as it was. The same call resumes where it was stopped.

    Args:
        network: that was observed; its head is known.
        images: labelled images to learn from (see `subspect.open_images`).
        folder: where the state, the log and the weights go.
        decomposition: of this network; the dense network is trained without one.
        settings: how to train.
        class_map: folder name → class index, or a JSON file with it.
        workers: processes that read images; 0 reads them in this one.
        device: where to train; where the network lies unless given.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: no labels, a layer that doesn't exist, another network's decomposition, a folder with another run or
            files that aren't a run's, or in which another process trains, a loss that is not a number.
    """
    settings, folder, source = settings or Settings(), Path(folder), open_images(images)
    if not source.labelled:
        raise SubspectError("training needs labels: give class folders, a CSV with labels, or (images, labels)")
    head = network.head
    if not head.exact:
        raise SubspectError(
            f"the head {head.name!r} is not the network's own output, so the network cannot be trained by it"
        )
    match = match_classes(source, head.n_classes, network.class_names, class_map)
    model = decomposition.apply(network.model) if decomposition else copy.deepcopy(network.model)
    layers = layer_names(model, settings.layers, head.layers)
    if decomposition is not None:
        _check_form(network, head)
    kept, held = split(source, range(len(source)), settings)
    refuse_study(folder)
    make_folder(folder)
    about = {**asdict(settings), "layers": list(settings.layers), "images": source.fingerprint(match)}
    about["without_cues"] = list(settings.without_cues)
    if not settings.without_cues:
        del about["without_cues"]  # so that what was begun before there were cues goes on
    about |= {"network": network.fingerprint(), "decomposition": decomposition and decomposition.to_json()}

    def read(positions: Sequence[Sequence[int]]) -> Iterator[Batch]:
        return batches(source, network.preprocessing, match, positions, workers)

    with locked(folder, f"training in {folder}", wait=0):
        for name in (BEST, LOG):
            check_free(folder / name, is_sealed)
        model.to(device or network.device)
        run = Run(model, head, layers, settings, folder, json.dumps(about, sort_keys=True), _swaps(network, settings))
        run.train(kept, held, read, show_progress)
        return run.finish(lambda trained: _plain(trained, head.layers, network.model), len(held))


@dataclass(frozen=True, eq=False)
class Retrained(Result):
    """A decomposed network that was trained further, and the control beside it.

    Attributes:
        decomposition: its name.
        retrained: the decomposed network.
        control: the dense network, trained just as long; None where that wasn't asked for.
        accuracy: what → accuracy on the test images with its 95 % interval (Wilson); empty without such.
        images: number of test images.
        without_cues: that were swapped while training, and in the held-out images.
        swapped: what → accuracy on the test images with these cues swapped; empty without such, or without cues.

    Example:
        >>> retrained = decomposition.retrain(
        ...     network, "images/train", "retrained", settings={"epochs": 1}, test="images/test", show_progress=False
        ... )
        >>> retrained.images
        60
    """

    decomposition: str
    retrained: Trained
    control: Trained | None
    accuracy: Mapping[str, Estimate]
    images: int
    without_cues: tuple[str, ...] = ()
    swapped: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all but the models as JSON values."""
        return {
            "decomposition": self.decomposition,
            "retrained": self.retrained.to_json(),
            "control": self.control and self.control.to_json(),
            "accuracy": {name: asdict(share) for name, share in self.accuracy.items()},
            "images": self.images,
            "without_cues": list(self.without_cues),
            "swapped": {name: asdict(share) for name, share in self.swapped.items()},
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each epoch of each network; epoch 0 is before the first."""
        rows: list[Mapping[str, Any]] = []
        for name, one in (("decomposed", self.retrained), ("dense (control)", self.control)):
            if one is not None:
                rows.append({"network": name, "epoch": 0, "loss": None, "held_out": one.start})
                epochs = enumerate(one.epochs, start=1)
                rows += ({"network": name, "epoch": number, **asdict(epoch)} for number, epoch in epochs)
        return rows

    def tables(self) -> list[Table]:
        """Return tables for the terminal: accuracy after each epoch, and on the test images."""
        cues = f" with {' and '.join(self.without_cues)} swapped" if self.without_cues else ""
        caption = (
            f"held out: accuracy{cues} before this training on {counted(self.retrained.images, 'image', 'images')} left out of "
            "it (the original training may have used them), then after each epoch; weights: "
        )
        caption += ", ".join(str(one.path) for one in (self.retrained, self.control) if one is not None)
        if cues:
            caption += f"\nto see what it rests on now: subspect observe NEW IMAGES … --weights {self.retrained.path}, "
            caption += "then decompose, cues and check of that new study"
        table = Table(
            title=self.decomposition, caption=caption, title_justify="left", caption_justify="left", min_width=72
        )
        runs = {"decomposed": self.retrained, "dense (control)": self.control}
        trained = {name: one for name, one in runs.items() if one is not None}
        for column in ("held out", *trained):
            table.add_column(column, justify="left" if column == "held out" else "right")
        table.add_row("before", *(f"{100 * one.start:.2f} %" for one in trained.values()), end_section=True)
        for number in range(1, len(self.retrained.epochs) + 1):
            shares = ((one.epochs[number - 1].held_out, " best" * (one.best == number)) for one in trained.values())
            table.add_row(f"epoch {number}", *(f"{100 * share:.2f} %{best}" for share, best in shares))
        if not self.accuracy:
            return [table]
        test = Table(title=f"accuracy on {counted(self.images, 'test image', 'test images')}", title_justify="left")
        for column in ("", "before", "retrained"):
            test.add_column(column, justify="right" if column else "left")
        for name in ("decomposed", "dense"):
            after = self.accuracy.get(f"{name}, retrained")
            row = f"{name} (control)" if name == "dense" and after is not None else name
            test.add_row(row, percent(self.accuracy[name]), percent(after) if after is not None else "")
            if self.swapped:
                ends = (self.swapped.get(f"{name}{when}") for when in ("", ", retrained"))
                test.add_row(f"{row},{cues}", *("" if one is None else percent(one) for one in ends))
        return [table, test]


@lost_workers()
def retrain(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    network: Network,
    images: ImageSource,
    folder: str | Path,
    settings: Settings | Mapping[str, Any] | None = None,
    test: ImageSource | None = None,
    control: bool = True,
    class_map: Mapping[str, int] | str | Path | None = None,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Retrained:
    """Train a decomposed network and, beside it, the dense one just as long, and measure both on test images.

    Args:
        study: of the network.
        decomposition: of this study.
        network: that was observed.
        images: labelled images to learn from.
        folder: where ``decomposed`` and ``control`` go.
        settings: how to train: `subspect.Settings`, or a mapping with some of its fields.
        test: labelled images to measure the accuracy on, before and after.
        control: whether to train the dense network too.
        class_map: folder name → class index, or a JSON file with it.
        workers: processes that read images.
        device: where to train; where the network lies unless given.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: another network, or what `train` refuses.

    Example:
        >>> retrained = subspect.retrain(
        ...     "study", "pursuit-k5", network=network, images="images/train", folder="retrained",
        ...     settings={"epochs": 1}, test="images/test", show_progress=False,
        ... )
        >>> retrained.control is not None
        True
    """
    study, decomposition = opened(study, decomposition)
    network = same_network(study, network)
    settings = Settings.of(settings)
    folder, source = Path(folder), open_images(images)
    find_head(network, source)
    shown = open_images(test) if test is not None else None
    if shown is not None and not shown.labelled:
        raise SubspectError("the test images need labels: give class folders, a CSV with labels, or (images, labels)")
    if shown is not None and shown.fingerprint(None) == source.fingerprint(None):
        raise SubspectError("the test images are those that are learned from; name others, or leave them out")
    runs: dict[str, Trained] = {}
    for name, kind in {"decomposed": decomposition, "control": None}.items():
        if name == "decomposed" or control:
            runs[name] = train(
                network,
                source,
                folder / name,
                kind,
                settings,
                class_map=class_map,
                workers=workers,
                device=device,
                show_progress=show_progress,
            )
    shares, swapped = dict[str, Estimate](), dict[str, Estimate]()
    if shown is not None:
        match = match_classes(shown, network.head.n_classes, study.identity.class_names, class_map)
        models = {"dense": network.model, "decomposed": decomposition.apply(network.model)}
        models |= {f"{name}, retrained".replace("control", "dense"): one.model for name, one in runs.items()}
        swaps = _swaps(network, settings)
        order = np.random.default_rng([settings.seed, 5]).permutation(len(shown))  # a batch holds several classes
        total = len(models) * len(shown) * (1 + (swaps is not None))
        with progress("test", total, "images", show=show_progress) as advance:

            def share(model: nn.Module, swaps: Swaps | None) -> Estimate:
                positions = np.arange(len(shown)) if swaps is None else order
                read = batches(shown, network.preprocessing, match, cut(positions, 128), workers)
                return wilson(*right(model, network.head, read, advance, swaps))

            for name, model in models.items():
                modes = {module: module.training for module in model.modules()}
                shares[name] = share(model, None)
                if swaps is not None:
                    swapped[name] = share(model, swaps)
                for module, mode in modes.items():
                    module.training = mode
    return Retrained(
        decomposition.name,
        runs["decomposed"],
        runs.get("control"),
        shares,
        len(shown) if shown is not None else 0,
        settings.without_cues,
        swapped,
    )


def _swaps(network: Network, settings: Settings) -> Swaps | None:
    """Return how cues that are to be done without are swapped; None where there are none."""
    if not settings.without_cues:
        return None
    return Swaps(cues_named(settings.without_cues), network.preprocessing, network.head.n_classes, settings.seed)


def _check_form(network: Network, head: Head) -> None:
    """Refuse a head in whose form a decomposed one, which has a bias and zeros, cannot be written.

    Raises:
        SubspectError: it has no bias, or is no linear layer.
    """
    for name in head.layers:
        layer = network.model.get_submodule(name)
        if is_linear(layer) and layer.bias is not None:
            continue
        why = "has no bias" if is_linear(layer) else f"is a {type(layer).__name__} and no nn.Linear"
        raise SubspectError(f"the head {name!r} {why}, so a decomposed head cannot be written in its form")


def _plain(model: nn.Module, head: Sequence[str], given: nn.Module) -> nn.Module:
    """Return a trained network in the form of the one given: a decomposed head as a dense one with zeros."""

    def dense(name: str, layer: nn.Module) -> nn.Module:
        if not isinstance(layer, DecomposedHead):
            return layer
        made = copy.deepcopy(given.get_submodule(name))
        state = made.state_dict()
        state["weight"] = layer.dense_weight().reshape(state["weight"].shape)
        state["bias"] = layer.bias
        made.load_state_dict(state)
        return made

    return with_layers(model, {name: partial(dense, name) for name in head})
