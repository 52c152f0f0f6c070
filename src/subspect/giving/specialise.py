"""A smaller network: for some classes alone, and without the channels that nothing uses any more, or within a budget.

Of the decomposed head the rows of the classes that are wanted are kept, and of its columns the features that these use. A
feature that no class uses needs not be computed: the channel that makes it is removed from the backbone, physically, with all
that belongs to it (torch-pruning finds what is tied to what). It may be removed only if the head is the only layer that reads
it: in a network with residual sums, a channel of the sum is also the input of other blocks, and stays; which layers those are
is said.

So what was removed can't have changed anything, and that is checked: on real images the small network's logits are those of the
decomposed network, for its classes. With a shared pool (``subspect decompose --pool 128``) the same makes the network narrower
for all its classes. Within a budget more goes, in all layers (`subspect.giving.budget`).
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from subspect.giving.budget import Budget, Within, check_narrowable, within
from subspect.giving.distil import Learning
from subspect.giving.export import TOLERANCE, Exported, about_of, check_onnx, check_path, exportable, tell_unseen, write
from subspect.giving.formats import Run, onnx_run
from subspect.giving.options import SMALL, TEACHERS, WEIGHED, Format, Teacher
from subspect.giving.settings import Settings
from subspect.giving.specialised import Specialised
from subspect.giving.timing import BATCHES, ROUNDS, TIMED, ratios
from subspect.ground.errors import MissingExtra, SubspectError, some
from subspect.heads.cost import size_of
from subspect.heads.decomposition import Decomposition
from subspect.heads.head import DecomposedHead
from subspect.heads.placing import with_decomposed
from subspect.heads.supports import Supports
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Estimate, wilson
from subspect.measuring.heads_say import heads_say
from subspect.measuring.where import where
from subspect.networks.finding import Head, logits_of
from subspect.networks.network import Network
from subspect.networks.summands import affine, is_linear, with_layers
from subspect.shrinking.last_layer import narrow_last
from subspect.shrinking.traced import Untraceable
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.study import Study, StudyLike

log = logging.getLogger("subspect")


def specialise(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    network: Network,
    classes: Sequence[int | str] | None = None,
    path: str | Path | None = None,
    images: ImageSource | None = None,
    rounds: int = ROUNDS,
    budget: float | None = None,
    times_as_fast: float | None = None,
    train: ImageSource | None = None,
    folder: str | Path | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    sample: int = WEIGHED,
    seed: int = 0,
    teacher: Teacher = "dense",
    onnx: bool = True,
    class_map: Mapping[str, int] | str | Path | None = None,
    workers: int = 0,
    show_progress: bool = True,
) -> Specialised:
    """Return a smaller network for some classes, or for all.

    Unless a budget is given, only channels go that nothing uses any more, and the logits stay those of the decomposed network.
    Within a budget channels of all layers, whole residual branches and pixels go, as little worth to these classes as can be.

    Args:
        study: of the network.
        decomposition: of this study.
        network: that was observed; it is left as it is.
        classes: names or indices of the classes that are wanted, in the order of the outputs; all unless given.
        path: a file to write the small network to, as `subspect.export` does: .onnx or .pt2.
        images: real images to check with (see `subspect.open_images`); those that were observed unless given.
        rounds: of timing; 0 for none.
        budget: share of the network's multiplications that the small one may take, between 0 and 1.
        times_as_fast: how many times as fast as the network, as it was given, it is to be on this machine, for 1 image and for
            32, such as 2; with ``onnx`` in ONNX Runtime too.
        train: images of these classes to learn from what the teacher says of them; labels aren't needed.
        folder: where the state, the log and the weights of that training go; the same call resumes.
        settings: how to train: `subspect.Settings`, or a mapping with some of its fields.
        sample: within a budget, by how many images, spread over the classes, channels are weighed.
        seed: of that sample.
        teacher: what the small network learns to say, also without training, when batch norm and head are fitted anew: what the
            dense network says of these classes, or the decomposed one.
        onnx: within a budget, whether ONNX Runtime is timed too, where it is installed; ``times_as_fast`` holds for it then.
        class_map: of ``train``: folder name → class index, or a JSON file with it.
        workers: processes that read images.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: a class that doesn't exist or is named twice, no class, a path that exists, another network, images that
            aren't there, a network that doesn't say the same twice, a budget that can't be reached, or what `retrain` refuses;
            nothing is written then.

    Example:
        >>> small = subspect.specialise("study", "pursuit-k5", network=network, classes=["cat", "dog"])
        >>> small.model(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 2])
    """
    study, decomposition = opened(study, decomposition)
    labels = _labels(decomposition, classes)
    form = check_path(Path(path), None, SMALL) if path is not None else None
    learning = _learning(train, folder, settings, class_map)
    wanted = _wanted(budget, times_as_fast, learning, labels, sample, teacher)
    check_pruning()
    tell_unseen(decomposition, labels)
    network, head, pixels = exportable(study, network, images)
    if head.one_logit and len(labels) < 2:
        raise SubspectError(
            f"the head {head.name!r} has one logit, which decides between two classes; keep both, "
            f"{some(decomposition.class_names)}"
        )
    used = np.unique(np.concatenate([decomposition.supports[label] for label in labels]))
    if not len(used):
        raise SubspectError("these classes use no feature at all, so there is nothing to compute")
    reason = ""
    if wanted is not None:
        try:
            check_narrowable(network, head, pixels)
            made = within(
                *(study, decomposition, network, head, labels, wanted),
                images=images,
                learning=learning,
                sample=sample,
                seed=seed,
                teacher=teacher,
                workers=workers,
                show=show_progress,
                runtimes=_runtimes(pixels) if wanted.timed and onnx else (),
            )
            return _within_budget(study, decomposition, network, head, labels, made, path, form, rounds, onnx)
        except Untraceable as error:
            untrained = " or trained" if learning is not None else ""
            reason = f"It isn't narrowed to {wanted.said}{untrained}, since {error}"
            log.warning("%s; only channels that nothing uses are taken out", reason)
    model, kept, readers, why, difference = _smaller(network, head, decomposition, labels, used, pixels)
    with network.running():
        times = ratios(network.model, model, pixels.to(network.device), rounds) if rounds > 0 else {}
        rows_alone = with_layers(network.model, {name: lambda old: _rows(old, labels) for name in head.layers})
        sizes = [size_of(one, head, pixels) for one in (network.model, rows_alone, model)]
    among, note = _among(study, decomposition, labels)
    about = {**about_of(study, decomposition), "labels": labels}
    about["class_names"] = [decomposition.class_names[label] for label in labels]
    file = None
    if path is not None and form is not None:
        file = write(Path(path), form, model, network.model, head, pixels, about, called="small")
    return Specialised(
        model=model.requires_grad_(False),
        labels=tuple(labels),
        classes=tuple(about["class_names"]),
        dense=sizes[0],
        rows=sizes[1],
        small=sizes[2],
        removed=decomposition.supports.n_features - len(kept),
        stay=len(kept) - len(used),
        readers=readers,
        why=why,
        difference=difference,
        times=times,
        among=among,
        note=note,
        reason=reason,
        file=file,
    )


def _learning(
    train: ImageSource | None,
    folder: str | Path | None,
    settings: Settings | Mapping[str, Any] | None,
    class_map: Mapping[str, int] | str | Path | None,
) -> Learning | None:
    """Return how the small network is to learn, if it is to.

    Raises:
        SubspectError: images without a folder or the other way round, what goes only with them, or settings of `retrain` alone.
    """
    if train is None or folder is None:
        if train is not None or folder is not None or settings is not None or class_map is not None:
            raise SubspectError(
                "training takes images and a folder for its state: give both train and folder (--train, --folder), and "
                "settings or class_map only with them"
            )
        return None
    made = Settings.of(settings)
    if made.layers or made.without_cues:
        raise SubspectError(
            "a network within a budget is trained in all its layers, on images as they are: give no layers and no "
            "without_cues; `subspect.retrain` takes them"
        )
    return Learning(train, Path(folder), made, class_map)


def _wanted(
    budget: float | None,
    times_as_fast: float | None,
    learning: Learning | None,
    labels: Sequence[int],
    sample: int,
    teacher: str,
) -> Budget | None:
    """Return the budget that was asked for, if any.

    Raises:
        SubspectError: it is none that can be, or something else is asked for that goes only with one.
    """
    wanted = Budget.of(budget, times_as_fast)
    if wanted is None and learning is not None:
        raise SubspectError(
            "training goes with a budget: give budget or times_as_fast (--budget, --times-as-fast); to train the decomposed "
            "network as it is: subspect retrain"
        )
    if wanted is not None and len(labels) < 2:
        raise SubspectError("a budget takes two classes or more, which can be told apart; name another")
    if teacher not in TEACHERS:
        raise SubspectError(f"teacher must be one of {', '.join(TEACHERS)}, got {teacher!r}")
    if sample < 2:
        raise SubspectError(f"sample must be 2 images or more, got {sample}")
    return wanted


def _within_budget(
    study: Study,
    decomposition: Decomposition,
    network: Network,
    head: Head,
    labels: Sequence[int],
    made: Within,
    path: str | Path | None,
    form: Format | None,
    rounds: int,
    onnx: bool,
) -> Specialised:
    """Measure a network that was made within a budget, and write it."""
    with network.running("cpu"):
        times = ratios(network.model, made.model, made.pixels, rounds, TIMED) if rounds > 0 else {}
        rows_alone = with_layers(network.model, {name: lambda old: _rows(old, labels) for name in head.layers})
        sizes = [size_of(one, head, made.pixels) for one in (network.model, rows_alone, made.model)]
        about = {**about_of(study, decomposition), "labels": list(labels)}
        about["class_names"] = [decomposition.class_names[label] for label in labels]
        file = None
        if path is not None and form is not None:
            file = write(
                Path(path), form, made.model, network.model, head, made.pixels, about, batches=TIMED, called="small"
            )
        as_onnx = file if form == "onnx" else _as_onnx(made, network, head) if rounds > 0 and onnx else None
    among, note = _among(study, decomposition, labels)
    return Specialised(
        model=made.model.requires_grad_(False),
        labels=tuple(labels),
        classes=tuple(about["class_names"]),
        dense=sizes[0],
        rows=sizes[1],
        small=sizes[2],
        removed=sizes[0].features - sizes[2].features,
        stay=0,
        readers=(),
        why="",
        difference=None,
        times=times,
        among={**among, **made.among} if among else {},
        note=note,
        file=file,
        asked=made.asked,
        branches=made.branches,
        size=made.size,
        widths=made.widths,
        trained=made.trained,
        onnx={} if as_onnx is None else as_onnx.times,
        onnx_bytes=None
        if as_onnx is None or as_onnx.dense is None
        else (as_onnx.dense.bytes, as_onnx.decomposed.bytes),
    )


def _runtimes(pixels: Tensor) -> list[Callable[[nn.Module], Run]]:
    """Return what else a network is timed by: ONNX Runtime, where it is installed."""
    try:
        check_onnx()
    except MissingExtra as error:
        log.warning("timed in PyTorch alone: %s", error)
        return []
    return [lambda model: onnx_run(model, pixels)]


def _as_onnx(made: Within, network: Network, head: Head) -> Exported | None:
    """Return what a file for ONNX Runtime would cost; None where there is none, and why is logged."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "small.onnx"
            check_path(place, "onnx", SMALL)
            return write(place, "onnx", made.model, network.model, head, made.pixels, {}, batches=TIMED)
    except SubspectError as error:
        log.warning("not timed by ONNX Runtime: %s", error)
        return None


def _smaller(
    network: Network,
    head: Head,
    decomposition: Decomposition,
    labels: Sequence[int],
    used: np.ndarray[Any, Any],
    pixels: Tensor,
) -> tuple[nn.Module, np.ndarray[Any, Any], tuple[str, ...], str, float]:
    """Return the small network, its features, who reads others and why these stay, and the largest difference of a logit."""
    kept = np.arange(decomposition.supports.n_features)
    readers: tuple[str, ...] = ()
    why = ""
    whole = _cut(decomposition, labels, kept)
    model = decomposed = with_decomposed(network.model, head.name, whole).eval()
    exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
    with network.running(), exact:
        wanted = logits_of(decomposed(pixels.to(network.device)), head, len(pixels))
        limit = TOLERANCE * max(1.0, float(wanted.abs().max()))
        difference = _apart(decomposed, head, pixels, wanted)
        if not difference <= limit:
            raise SubspectError(
                f"the logits of this network differ by {difference:.2e} between runs on the same images, so that nothing can "
                "be checked against them; does it hold something random, or that depends on the other images of a batch?"
            )
        if len(used) < len(kept) and len(head.layers) > 1:
            why = "because the head is a sum of several layers"
        elif len(used) < len(kept) and not is_linear(network.model.get_submodule(head.layers[0])):
            why = "because the head is neither an nn.Linear nor a 1×1 convolution"
        elif len(used) < len(kept) and head.name != head.layers[0]:
            why = f"because the head is {head.name}, not a layer as it is"
        elif len(used) < len(kept):
            narrowed, left, readers, why = narrow_last(network.model, head, pixels, used)
            small = _cut(decomposition, labels, left)
            narrowed = with_decomposed(narrowed, head.name, small).eval()
            apart = _apart(narrowed, head, pixels, wanted)
            if apart <= limit:
                model, kept, difference = narrowed, left, apart
            else:
                why = "because without their channels the logits of the others would change"
    return model, kept, readers, why if len(kept) > len(used) else "", difference


def _labels(decomposition: Decomposition, classes: Sequence[int | str] | None) -> list[int]:
    if classes is None:
        return list(range(len(decomposition.class_names)))
    if isinstance(classes, str | int):
        raise SubspectError(f"classes must be a list of names or indices; got {classes!r}")
    labels = [decomposition.label(one) for one in classes]
    if not labels:
        raise SubspectError("name one class or more that the network is to keep")
    twice = sorted({decomposition.class_names[label] for label in labels if labels.count(label) > 1})
    if twice:
        raise SubspectError(f"classes named twice: {some(twice)}; name each once")
    return labels


def check_pruning() -> None:
    """Import torch-pruning.

    Raises:
        MissingExtra: it isn't installed.
    """
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise MissingExtra("torch-pruning", "specialise", "removing channels") from error


def _rows(old: nn.Module, labels: Sequence[int]) -> nn.Module:
    """Return a dense head with the rows of some classes alone."""
    if not is_linear(old):
        weight, bias = affine(old)
        old = nn.Linear(weight.shape[1], len(weight))
        old.weight, old.bias = nn.Parameter(weight), nn.Parameter(bias)
    made = copy.deepcopy(cast(nn.Linear, old))
    if len(made.weight) == 1:  # of two classes, which are both there
        return made
    made.weight = nn.Parameter(made.weight.detach()[list(labels)])
    if made.bias is not None:
        made.bias = nn.Parameter(made.bias.detach()[list(labels)])
    return made


def _cut(decomposition: Decomposition, labels: Sequence[int], kept: np.ndarray[Any, Any]) -> DecomposedHead:
    """Return the head of some classes on some features, in the order of ``kept``."""
    place = {int(feature): index for index, feature in enumerate(kept)}
    offsets = decomposition.supports.offsets
    parts = [decomposition.weights[offsets[label] : offsets[label + 1]] for label in labels]
    rows = [[place[int(feature)] for feature in decomposition.supports[label]] for label in labels]
    return DecomposedHead(Supports(rows, len(kept)), torch.cat(parts), decomposition.bias[list(labels)])


def _apart(model: nn.Module, head: Head, pixels: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of a logit, by batches of each size; infinity where the network no longer runs."""
    apart = 0.0
    for batch in BATCHES:
        try:
            said = logits_of(model(pixels[:batch].to(wanted.device)), head, batch)
        except (RuntimeError, ValueError):  # channels that no longer fit
            return float("inf")
        apart = max(apart, float((said - wanted[:batch]).abs().max()))
    return apart


def _among(study: Study, decomposition: Decomposition, labels: Sequence[int]) -> tuple[dict[str, Estimate], str]:
    """Return how often each head says the right class among some, on images of these, and on which images."""
    if len(labels) == 1:  # right by itself
        return {}, ""
    images = where(study, decomposition)
    if not images.labelled:
        return {}, ""
    hits, count, wanted = {"dense": 0, "decomposed": 0}, 0, np.asarray(labels)
    for said in heads_say(study, decomposition, images):
        own = np.isin(said.chunk.labels, wanted)
        count += int(own.sum())
        for name, logits in (("dense", said.dense), ("decomposed", said.decomposed)):
            top = wanted[logits[own][:, wanted].argmax(axis=1)]
            hits[name] += int((top == said.chunk.labels[own]).sum())
    if not count:
        return {}, ""
    note = f"{count:,} image{'s' * (count > 1)} of {images.image_set!r}"
    return {name: wilson(hit, count) for name, hit in hits.items()}, note
