"""Train the network under the decomposed softmax, so that the backbone fits the few features (arXiv 2112.07719, section 4).

The decomposed head takes the place of the dense one, its supports stay, and all weights, or those of the layers that the user
names, go on learning by cross-entropy to the labels. As any training on these images could gain something, a *control* belongs
beside it: the dense network trained just as long in just the same way.

A share of the images, told by a hash of their ids, is held out; the epoch that is best on them is kept. The order of the images
and every random choice follow from the seed and the number of the step, and the state is written every minute, so that a run
that was killed goes on, and ends as it would have. What it writes carries seals; nothing else in its folder is replaced.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspect.decomposition import Decomposition
from subspect.errors import SubspectError, some
from subspect.fidelity import Estimate, percent, wilson
from subspect.files import atomic, check_free, locked, make_folder
from subspect.head import DecomposedHead
from subspect.images import Batch, batches, lost_workers, match_classes, open_images
from subspect.layers import layer_names
from subspect.maps import observed
from subspect.network import Head, Network, logits_of, with_head
from subspect.observe import find_head
from subspect.progress import progress
from subspect.seals import is_sealed, read_tensors, tensor_bytes, write_json
from subspect.study import Study, hashed
from subspect.tables import Table

log = logging.getLogger("subspect")

Optimiser = Literal["sgd", "adamw"]
RATES: Mapping[Optimiser, float] = {
    "sgd": 0.01,
    "adamw": 1e-4,
}  #: learning rate at the start; it falls to 0 as a cosine
HELD_OUT = 0.05  #: share of the images
_FALL = 0.1  # of the accuracy on held-out images, beyond which a training is said to have failed
_EVERY = 60  # seconds between two states
_STATE, _BEST, _LOG = "state.safetensors", "best.safetensors", "log.json"
_MADE_BY = {"made_by": "subspect retrain"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a step.
        optimiser: "sgd" (Nesterov momentum 0.9) or "adamw".
        rate: learning rate at the start; it falls to 0 as a cosine. 0.01 for SGD and 0.0001 for AdamW unless given.
        weight_decay: pull of the weights to 0.
        layers: names of the modules that learn, with all within; all unless given. The others stay as they are, batch norm's
            averages included.
        shift: pixels, at most, by which an image is moved at random, edges repeated.
        flip: whether images are mirrored at random.
        held_out: share of the images that is held out.
        seed: of the order of the images and all else that is random.

    Raises:
        SubspectError: a value that makes no sense.
    """

    epochs: int = 3
    batch_size: int = 128
    optimiser: Optimiser = "sgd"
    rate: float | None = None
    weight_decay: float = 5e-4
    layers: tuple[str, ...] = ()
    shift: int = 0
    flip: bool = False
    held_out: float = HELD_OUT
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimiser not in RATES:
            raise SubspectError(f"optimiser must be one of {', '.join(RATES)}, got {self.optimiser!r}")
        rate = RATES[self.optimiser] if self.rate is None else self.rate
        object.__setattr__(self, "rate", rate)
        for name, fine, expected in (
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 2, "2 or more"),
            ("shift", self.shift >= 0, "0 or more"),
            ("held_out", 0 < self.held_out < 1, "between 0 and 1"),
            ("rate", 0 < rate < float("inf"), "positive"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
        ):
            if not fine:
                raise SubspectError(f"{name} must be {expected}, got {getattr(self, name):g}")


@dataclass(frozen=True)
class Epoch:
    """One pass over the images.

    Attributes:
        loss: mean cross-entropy on the images that were learned from, in nats.
        held_out: accuracy on those that were held out.
    """

    loss: float
    held_out: float


@dataclass(frozen=True, eq=False)
class Retrained:
    """A network that was trained further.

    Attributes:
        model: as it was after its best epoch, with the head that it was trained with.
        weights: a safetensors file of that network in the form of the one given: a decomposed head is written as a dense one
            with zeros, so that it loads wherever the old weights did.
        epochs: one after the other.
        images: number of held-out images.
        start: accuracy on the held-out images before the first; no rival to the epochs, as the network may have learned from
            these images earlier.
        best: number of the best epoch, from 1.
    """

    model: nn.Module
    weights: Path
    epochs: tuple[Epoch, ...]
    images: int
    start: float
    best: int

    def to_json(self) -> dict[str, Any]:
        """Return all but the model as JSON values."""
        epochs = [asdict(epoch) for epoch in self.epochs]
        about = {"images": self.images, "start": self.start, "best": self.best}
        return {"weights": str(self.weights), "epochs": epochs, **about}


@lost_workers()
def retrain(
    network: Network,
    images: object,
    folder: str | Path,
    decomposition: Decomposition | None = None,
    settings: Settings | None = None,
    *,
    class_map: Mapping[str, int] | str | Path | None = None,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Retrained:
    """Train a network with a decomposed head, or, as a control, as it is.

    The network given is left as it was. The same call goes on where it was stopped.

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
    layers = layer_names(model, settings.layers, head.name)
    if decomposition is not None and network.model.get_submodule(head.name).bias is None:
        raise SubspectError(f"the head {head.name!r} has no bias, so a decomposed head cannot be written in its form")
    at = hashed([source.id(position) for position in range(len(source))]) < 1 - settings.held_out
    kept, held = np.flatnonzero(at), np.flatnonzero(~at)
    if len(kept) < settings.batch_size or not len(held):
        raise SubspectError(
            f"{len(source)} images are too few: {len(kept)} to learn from, in batches of {settings.batch_size}, and "
            f"{len(held)} held out; give more, or a smaller batch_size (--batch-size)"
        )
    _refuse_study(folder)
    make_folder(folder)
    about = {**asdict(settings), "layers": list(settings.layers), "images": source.fingerprint(match)}
    about |= {"network": network.fingerprint(), "decomposition": decomposition and decomposition.to_json()}

    def read(positions: Sequence[Sequence[int]]) -> Iterator[Batch]:
        return batches(source, network.preprocessing, match, positions, workers)

    with locked(folder, f"training in {folder}", wait=0):
        for name in (_BEST, _LOG):
            check_free(folder / name, is_sealed)
        run = _Run(
            model.to(device or network.device), head, layers, settings, folder, json.dumps(about, sort_keys=True)
        )
        run.train(kept, held, read, show_progress)
        return run.finish(lambda trained: _plain(trained, head.name, network.model), len(held))


@dataclass(frozen=True, eq=False)
class Both:
    """A decomposed network that was trained further, and the control beside it.

    Attributes:
        decomposition: its name.
        retrained: the decomposed network.
        control: the dense network, trained just as long; None where that wasn't asked for.
        accuracy: what → accuracy on the test images with its 95 % interval (Wilson); empty without such.
        images: number of test images.
    """

    decomposition: str
    retrained: Retrained
    control: Retrained | None
    accuracy: Mapping[str, Estimate]
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return all but the models as JSON values."""
        return {
            "decomposition": self.decomposition,
            "retrained": self.retrained.to_json(),
            "control": self.control and self.control.to_json(),
            "accuracy": {name: asdict(share) for name, share in self.accuracy.items()},
            "images": self.images,
        }

    def tables(self) -> list[Table]:
        """Return tables for the terminal: accuracy after each epoch, and on the test images."""
        caption = (
            f"held out: accuracy on {self.retrained.images:,} of the images, that were not learned from here, though perhaps "
            "earlier; after it that of each epoch; weights: "
        )
        caption += ", ".join(str(one.weights) for one in (self.retrained, self.control) if one is not None)
        table = Table(title=self.decomposition, caption=caption, title_justify="left", caption_justify="left")
        for column in (
            "",
            "held out",
            *(f"epoch {number}" for number in range(1, len(self.retrained.epochs) + 1)),
            "best",
        ):
            table.add_column(column, justify="right" if column else "left")
        for name, one in (("decomposed", self.retrained), ("dense (control)", self.control)):
            if one is not None:
                shares = (one.start, *(epoch.held_out for epoch in one.epochs))
                table.add_row(name, *(f"{100 * share:.2f} %" for share in shares), str(one.best))
        if not self.accuracy:
            return [table]
        test = Table(title=f"accuracy on {self.images:,} test images", title_justify="left")
        for column in ("", "before", "retrained"):
            test.add_column(column, justify="right" if column else "left")
        for name in ("decomposed", "dense"):
            after = self.accuracy.get(f"{name}, retrained")
            row = f"{name} (control)" if name == "dense" and after is not None else name
            test.add_row(row, percent(self.accuracy[name]), percent(after) if after is not None else "")
        return [table, test]


@lost_workers()
def retrain_both(
    study: Study,
    decomposition: Decomposition,
    network: Network,
    images: object,
    folder: str | Path,
    settings: Settings | None = None,
    *,
    test: object = None,
    control: bool = True,
    class_map: Mapping[str, int] | str | Path | None = None,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Both:
    """Train a decomposed network and, beside it, the dense one just as long, and measure both on test images.

    Args:
        study: of the network.
        decomposition: of this study.
        network: that was observed.
        images: labelled images to learn from.
        folder: where ``decomposed`` and ``control`` go.
        settings: how to train.
        test: labelled images to measure the accuracy on, before and after.
        control: whether to train the dense network too.
        class_map: folder name → class index, or a JSON file with it.
        workers: processes that read images.
        device: where to train; where the network lies unless given.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: another network, or what `retrain` refuses.
    """
    decomposition.check(study)
    preprocessing = observed(study, network)
    if network.preprocessing is None:
        network = Network(
            network.model, preprocessing=preprocessing, class_names=network.class_names, name=network.name
        )
    folder, source = Path(folder), open_images(images)
    if not network.head_known:
        find_head(network, source)
    shown = open_images(test) if test is not None else None
    if shown is not None and not shown.labelled:
        raise SubspectError("the test images need labels")
    runs: dict[str, Retrained] = {}
    for name, kind in {"decomposed": decomposition, "control": None}.items():
        if name == "decomposed" or control:
            runs[name] = retrain(
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
    shares: dict[str, Estimate] = {}
    if shown is not None:
        match = match_classes(shown, network.head.n_classes, study.identity.class_names, class_map)
        models = {"dense": network.model, "decomposed": decomposition.apply(network.model)}
        models |= {f"{name}, retrained".replace("control", "dense"): one.model for name, one in runs.items()}
        cuts = _cut(np.arange(len(shown)), 128)
        with progress("test", len(models) * len(shown), "images", show=show_progress) as advance:
            for name, model in models.items():
                modes = {module: module.training for module in model.modules()}
                shares[name] = wilson(
                    *right(model, network.head, batches(shown, network.preprocessing, match, cuts, workers), advance)
                )
                for module, mode in modes.items():
                    module.training = mode
    return Both(
        decomposition.name, runs["decomposed"], runs.get("control"), shares, len(shown) if shown is not None else 0
    )


def right(
    model: nn.Module, head: Head, read: Iterator[Batch], advance: Callable[[int], object] = lambda _: None
) -> tuple[int, int]:
    """Return on how many images the largest logit is the label's, and their number; the model is left in evaluation mode."""
    hits = images = 0
    place = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        for batch in read:
            if batch.pixels is not None:
                logits = logits_of(model(batch.pixels.to(place)), head, len(batch.labels))
                said = logits.argmax(dim=1).cpu().numpy()
                hits, images = hits + int((said == batch.labels).sum()), images + len(said)
            advance(len(batch.labels) + len(batch.failed))
    return hits, images


class _Run:
    """A training that can be stopped at any step and goes on from its last state."""

    def __init__(
        self, model: nn.Module, head: Head, layers: Sequence[str], settings: Settings, folder: Path, about: str
    ) -> None:
        self.model, self.settings, self.folder, self.about = model, settings, folder, about
        self.head, self.layers = head, layers
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not layers or any(name.startswith(f"{layer}.") for layer in layers))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise SubspectError(f"nothing would learn: the layers {some(layers)} have no parameters; name others")
        rate, decay = settings.rate or 0.0, settings.weight_decay
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=decay)
            if settings.optimiser == "sgd"
            else torch.optim.AdamW(parameters, rate, weight_decay=decay)
        )
        self.step, self.loss, self.start, self.best = 0, 0.0, float("nan"), 0
        self.epochs: list[Epoch] = []
        self.kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self._load()

    def train(
        self,
        kept: np.ndarray[Any, Any],
        held: np.ndarray[Any, Any],
        read: Callable[[Sequence[Sequence[int]]], Iterator[Batch]],
        show: bool,
    ) -> None:
        """Take all steps that are left."""
        size = self.settings.batch_size
        steps = len(kept) // size  # what is left over takes its turn in another epoch
        total = steps * self.settings.epochs
        if np.isnan(self.start):
            self.start = _share(*right(self.model, self.head, read(_cut(held, size))))
        saved = time.monotonic()
        place = next(self.model.parameters()).device
        with (
            progress("training", total, "steps", done=self.step, show=show) as advance,
            torch.random.fork_rng(),
        ):
            while self.step < total:
                epoch, first = divmod(self.step, steps)
                order = np.random.default_rng([self.settings.seed, epoch]).permutation(kept)[: steps * size]
                self._modes()
                for batch in read(_cut(order, size)[first:]):
                    if batch.pixels is not None:
                        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
                        self._learn(batch.pixels.to(place), torch.from_numpy(batch.labels).to(place), total)
                    self.step += 1
                    advance(1)
                    if time.monotonic() - saved > _EVERY:
                        self._save()
                        saved = time.monotonic()
                share = _share(*right(self.model, self.head, read(_cut(held, size))))
                best = max((epoch.held_out for epoch in self.epochs), default=-1.0)
                self.epochs.append(Epoch(self.loss / steps, share))
                self.loss = 0.0
                if share > best:
                    self.best = len(self.epochs)
                    self.kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                self._save()

    def finish(self, plain: Callable[[nn.Module], nn.Module], held: int) -> Retrained:
        """Take the best epoch's weights, and write them in the form of the network that was given."""
        self.model.load_state_dict(self.kept)
        self.model.eval().requires_grad_(False)
        path = self.folder / _BEST
        with atomic(path, is_sealed) as file:
            file.write(tensor_bytes(_copied(plain(self.model).state_dict()), _MADE_BY))
        best = self.epochs[self.best - 1].held_out
        if best < self.start - _FALL:
            log.warning(
                "%s: accuracy on held-out images fell from %.1f to %.1f %%; a smaller rate than %g may help, in a new folder",
                *(self.folder, 100 * self.start, 100 * best, self.settings.rate),
            )
        made = Retrained(self.model, path, tuple(self.epochs), held, self.start, self.best)
        write_json(self.folder / _LOG, made.to_json())
        return made

    def _learn(self, pixels: Tensor, labels: Tensor, total: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = (self.settings.rate or 0.0) * (1 + cos(pi * self.step / total)) / 2
        logits = logits_of(self.model(_varied(pixels, self.settings)), self.head, len(labels))
        loss = F.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise SubspectError(
                f"the loss is {loss.item()} at step {self.step}; a smaller rate than {self.settings.rate:g} may help, in a new "
                "folder"
            )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.loss += loss.item()

    def _modes(self) -> None:
        """Put into training mode what learns; elsewhere batch norm keeps its averages, and dropout stays off."""
        for path, module in self.model.named_modules():
            module.training = not self.layers or any(f"{path}.".startswith(f"{layer}.") for layer in self.layers)

    def _save(self) -> None:
        tensors = _copied(self.model.state_dict(), "model.") | _copied(self.kept, "kept.")
        plain: dict[str, dict[str, Any]] = {}  # what the optimiser keeps of a parameter that is no tensor
        for place, kept in self.optimiser.state_dict()["state"].items():
            ours = {name: value for name, value in kept.items() if isinstance(value, Tensor)}
            tensors |= _copied(ours, f"optimiser.{place}.")
            plain[str(place)] = {name: value for name, value in kept.items() if name not in ours}
        header = {
            **_MADE_BY,
            "about": self.about,
            "optimiser": plain,
            "step": self.step,
            "loss": self.loss,
            "start": self.start,
            "best": self.best,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        with atomic(self.folder / _STATE, is_sealed) as file:
            file.write(tensor_bytes(tensors, header))

    def _load(self) -> None:
        path = self.folder / _STATE
        if not os.path.lexists(path):
            return
        check_free(path, lambda _: True)  # a link or a folder is no state
        try:
            tensors, state = read_tensors(path, "a state")
            about, epochs = state["about"], [Epoch(**epoch) for epoch in state["epochs"]]
            numbers = tuple(state[name] for name in ("step", "loss", "start", "best"))
            if {name: state.get(name) for name in _MADE_BY} != _MADE_BY:
                raise SubspectError(f"{path} is no state of a training")
            optimiser: dict[int, dict[str, Any]] = {
                int(place): dict(kept) for place, kept in state["optimiser"].items()
            }
            for name, tensor in _within(tensors, "optimiser.").items():
                place, _, key = name.partition(".")
                optimiser[int(place)][key] = tensor
        except (SubspectError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise SubspectError(f"{path} is damaged, or no state of a training; delete it to start again") from error
        if about != self.about:
            old, new = json.loads(about), json.loads(self.about)
            differ = [name for name in new if old.get(name) != new[name]]
            raise SubspectError(
                f"{self.folder} holds a training with other {some(differ)}; choose another folder, or delete it to start again"
            )
        log.info("%s: going on from step %d", self.folder, numbers[0])
        self.model.load_state_dict(_within(tensors, "model."))
        # rates and the like follow from the settings, which are the same
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": optimiser})
        self.step, self.loss, self.start, self.best = numbers
        self.kept, self.epochs = _within(tensors, "kept."), epochs


def _copied(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return tensors as a file takes them: on the CPU, contiguous, none sharing memory with another."""
    return {
        f"{prefix}{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _refuse_study(folder: Path) -> None:
    """Keep a training out of a study's folder."""
    if any((place / "study.json").exists() for place in (folder, *folder.absolute().parents)):
        raise SubspectError(f"{folder} lies in a study; choose another folder for the training")


def _share(hits: int, images: int) -> float:
    return hits / max(images, 1)


def _plain(model: nn.Module, head: str, given: nn.Module) -> nn.Module:
    """Return a trained network in the form of the one given: a decomposed head as a dense one with zeros."""

    def dense(layer: nn.Module) -> nn.Module:
        if not isinstance(layer, DecomposedHead):
            return layer
        made = copy.deepcopy(given.get_submodule(head))
        state = made.state_dict()
        state["weight"] = layer.dense_weight().reshape(state["weight"].shape)
        state["bias"] = layer.bias
        made.load_state_dict(state)
        return made

    return with_head(model, head, dense)


def _varied(pixels: Tensor, settings: Settings) -> Tensor:
    """Mirror and move images at random."""
    if settings.flip:
        mirrored = torch.rand(len(pixels), device=pixels.device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    if settings.shift:
        most, (height, width) = settings.shift, pixels.shape[-2:]
        wide = F.pad(pixels, (most,) * 4, mode="replicate")
        down, right = torch.randint(0, 2 * most + 1, (2, len(pixels))).tolist()
        moved = [one[:, y : y + height, x : x + width] for one, y, x in zip(wide, down, right, strict=True)]
        pixels = torch.stack(moved)
    return pixels


def _cut(positions: np.ndarray[Any, Any], size: int) -> list[list[int]]:
    return [positions[start : start + size].tolist() for start in range(0, len(positions), size)]
