"""A smaller network: for some classes alone, and without the channels that nothing uses any more.

Of the decomposed head the rows of the classes that are wanted are kept, and of its columns the features that these use. A
feature that no class uses needs not be computed: the channel that makes it is removed from the backbone, physically, with all
that belongs to it (torch-pruning finds what is tied to what). It may be removed only if the head is the only layer that reads
it: in a network with residual sums, a channel of the sum is also the input of other blocks, and stays; which layers those are
is said.

What was removed can't have changed anything, and that is checked: on real images the small network's logits are those of the
decomposed network, for its classes. With a shared pool (``subspect decompose --pool 128``) the same makes the network narrower
for all its classes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from subspect.giving.export import TOLERANCE, Exported, about_of, check_path, exportable, tell_unseen, write
from subspect.giving.options import SMALL
from subspect.giving.timing import BATCHES, ROUNDS, Ratio, ratios
from subspect.ground.errors import MissingExtra, SubspectError, some
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.cost import NetworkSize, size_of
from subspect.heads.decomposition import Decomposition
from subspect.heads.head import DecomposedHead
from subspect.heads.placing import with_decomposed
from subspect.heads.supports import Supports
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Estimate, percent, wilson
from subspect.measuring.heads_say import heads_say
from subspect.measuring.where import where
from subspect.networks.finding import Head, logits_of
from subspect.networks.network import Network
from subspect.networks.summands import affine, is_convolution, is_linear, with_layers
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.study import Study, StudyLike

log = logging.getLogger("subspect")


@dataclass(frozen=True, eq=False)
class Specialised(Result):
    """A network for some classes.

    Attributes:
        model: the small network; its head is a `DecomposedHead` under the old name, its outputs are ``classes``, in order.
        labels: (c,) which classes of the network these are.
        classes: their names.
        dense: the size of the network that was observed.
        rows: its size with these classes' rows of the head alone, which takes no method.
        small: that of the small one.
        removed: features that are no longer computed.
        stay: features that no class uses, and that are computed all the same.
        readers: names of layers besides the head that read their channels.
        why: why features that no class uses stay; empty where none do.
        difference: the largest difference of a logit from the decomposed network's, on real images.
        times: images at a time → how long the small network takes beside the dense one; on the CPU, or where it lies.
        among: "dense", "decomposed" → accuracy on images of these classes, told among these classes; empty without labels.
        note: on which images.
        file: the file that was written, if any.

    Example:
        >>> small = decomposition.specialise(network, classes=["cat", "dog"], path="pets.onnx")
        >>> small.classes
        ('cat', 'dog')
    """

    model: nn.Module
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    dense: NetworkSize
    rows: NetworkSize
    small: NetworkSize
    removed: int
    stay: int
    readers: tuple[str, ...]
    why: str
    difference: float
    times: Mapping[int, Ratio]
    among: Mapping[str, Estimate] = field(default_factory=dict)
    note: str = ""
    file: Exported | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all but the model as JSON values."""
        return {
            "labels": list(self.labels),
            "classes": list(self.classes),
            "dense": asdict(self.dense),
            "rows": asdict(self.rows),
            "small": asdict(self.small),
            "removed": self.removed,
            "stay": self.stay,
            "readers": list(self.readers),
            "why": self.why,
            "difference": self.difference,
            "times": {str(batch): asdict(ratio) for batch, ratio in self.times.items()},
            "among": {name: asdict(share) for name, share in self.among.items()},
            "note": self.note,
            "file": self.file and self.file.to_json(),
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for the dense network, for it with these classes' rows alone, and for the small one."""
        sizes = (("dense", self.dense), ("dense, these classes", self.rows), ("small", self.small))
        return [{"network": name, **asdict(size)} for name, size in sizes]

    def tables(self) -> list[Table]:
        """Return tables for the terminal: size and time before and after, and of the file."""
        caption = (
            f"{counted(self.removed, 'feature is', 'features are')} no longer computed; logits on real images differ "
            "from the decomposed network's by "
            f"{self.difference:.1e} at most; times with {counted(torch.get_num_threads(), 'thread', 'threads')}, in "
            "brackets 95 % intervals"
        )
        if self.stay:
            caption += (
                f". {counted(self.stay, 'feature that no class uses stays', 'features that no class uses stay')}, "
                f"{self.why}"
            )
        if self.among:
            said = ", ".join(f"{name} {percent(share)}" for name, share in self.among.items())
            caption += f". Accuracy among these classes, on {self.note}: {said}"
        count = counted(len(self.classes), "class", "classes")
        table = Table(title=f"{count}: {some(self.classes)}", caption=caption)
        table.title_justify = table.caption_justify = "left"
        fewer = self.rows != self.dense
        for column in ("", "dense", *(["dense, these classes"] if fewer else []), "small", "share of dense"):
            table.add_column(column, justify="right" if column else "left", no_wrap=not column)
        for name in ("parameters", "multiplications", "features"):
            sizes = [getattr(one, name) for one in (self.dense, *([self.rows] if fewer else []), self.small)]
            table.add_row(name, *(f"{size:,}" for size in sizes), f"{sizes[-1] / sizes[0]:.3f}")
        for batch, ratio in self.times.items():
            before, after = (f"{1000 * seconds:.3g} ms" for seconds in (ratio.dense, ratio.small))
            table.add_row(f"{batch} image{'s' * (batch > 1)}", before, *([""] if fewer else []), after, str(ratio))
        return [table, *(self.file.tables() if self.file is not None else [])]


def specialise(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    network: Network,
    classes: Sequence[int | str] | None = None,
    path: str | Path | None = None,
    images: ImageSource | None = None,
    rounds: int = ROUNDS,
) -> Specialised:
    """Return a smaller network for some classes, or for all, without the channels that nothing uses any more.

    Args:
        study: of the network.
        decomposition: of this study.
        network: that was observed; it is left as it is.
        classes: names or indices of the classes that are wanted, in the order of the outputs; all unless given.
        path: a file to write the small network to, as `subspect.export` does: .onnx or .pt2.
        images: real images to check with (see `subspect.open_images`); those that were observed unless given.
        rounds: of timing; 0 for none.

    Raises:
        SubspectError: a class that doesn't exist or is named twice, no class, a path that exists, another network, images that
            aren't there, or a network that doesn't say the same twice; nothing is written then.

    Example:
        >>> small = subspect.specialise("study", "pursuit-k5", network=network, classes=["cat", "dog"])
        >>> small.model(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 2])
    """
    study, decomposition = opened(study, decomposition)
    labels = _labels(decomposition, classes)
    form = check_path(Path(path), None, SMALL) if path is not None else None
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
    model, kept, readers, why, difference = _smaller(network, head, decomposition, labels, used, pixels)
    with network.running():
        times = ratios(network.model, model, pixels.to(network.device), rounds) if rounds > 0 else {}
        rows_alone = with_layers(network.model, {name: lambda old: _rows(old, labels) for name in head.layers})
        sizes = [size_of(one, head, pixels) for one in (network.model, rows_alone, model)]
    among, note = _among(study, decomposition, labels)
    about = {**about_of(study, decomposition), "labels": labels}
    about["class_names"] = [decomposition.class_names[label] for label in labels]
    file = write(Path(path), form, model, network.model, head, pixels, about) if path is not None and form else None
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
        file=file,
    )


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
        elif len(used) < len(kept):
            narrowed, left, readers, why = _narrow(network.model, head, pixels, used)
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


def _narrow(
    given: nn.Module, head: Head, pixels: Tensor, used: np.ndarray[Any, Any]
) -> tuple[nn.Module, np.ndarray[Any, Any], tuple[str, ...], str]:
    """Return a copy of a network without channels of unused features, those left, who reads the others, and why these stay."""
    import torch_pruning

    model = copy.deepcopy(given).cpu().float().eval()
    layer = model.get_submodule(head.name)
    d = head.n_features
    unused = np.setdiff1d(np.arange(d), used)
    cut = torch_pruning.prune_conv_in_channels if is_convolution(layer) else torch_pruning.prune_linear_in_channels

    def tied(features: Sequence[int]) -> tuple[Any, set[int]]:
        """Return the group of what goes with some features, and all features that go."""
        group = graph.get_pruning_group(layer, cut, idxs=list(features))
        return group, {int(index) for item in group if item.dep.target.module is layer for index in item.idxs}

    try:
        with torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(
                model, example_inputs=pixels[:1].cpu(), verbose=False
            )
        readers = _readers(tied(unused.tolist())[0], graph, layer)
        readable = {int(index) for indices in readers.values() for index in indices}
        free = [int(feature) for feature in unused if int(feature) not in readable]
        if free and tied(free)[1] - set(free):  # what a channel makes of several features goes only with all of them
            free = [feature for feature in free if tied([feature])[1] <= set(free)]
        if free:
            group, gone = tied(free)
            if gone - set(free):
                raise RuntimeError("features share channels")
            group.prune()
            _tell(item.dep.target.module for item in group)
    except Exception as error:  # its tracing ends in almost any error
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("no channel was removed, since torch-pruning cannot tell what is tied to what here: %s", first)
        return copy.deepcopy(given), np.arange(d), (), "because torch-pruning cannot tell what is tied to what here"
    names = tuple(sorted(readers))
    why = (
        f"because other layers read their channels: {some(names, 4)}"
        if names
        else "because used features share their channels"
    )
    return model.to(next(given.parameters()).device), np.setdiff1d(np.arange(d), free), names, why


def _tell(modules: Iterable[nn.Module]) -> None:
    """Write the sizes of what was cut into it; torch-pruning counts a channel of several features several times."""
    for module in modules:
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.running_mean is not None:
            module.num_features = len(module.running_mean)


def _readers(group: Any, graph: Any, head: nn.Module) -> dict[str, list[int]]:
    """Return the layers besides the head that read channels, or mix them: name → features that can't be removed for it."""
    import torch_pruning

    kinds = torch_pruning.ops.OPTYPE
    apart = (kinds.CONV, kinds.DEPTHWISE_CONV, kinds.LINEAR, kinds.BN, kinds.PRELU, kinds.ELEMENTWISE, kinds.RESHAPE)
    whole = (*apart, kinds.CONCAT, kinds.SPLIT, kinds.SLICE, kinds.EXPAND, kinds.UNBIND, kinds.OUTPUT)
    found: dict[str, list[int]] = {}
    names = {module: name for name, module in graph.model.named_modules()}
    for item in group:
        target, kind = item.dep.target.module, item.dep.target.type
        if target is head:
            continue
        reads = kind in (kinds.CONV, kinds.LINEAR) and not graph.is_out_channel_pruning_fn(item.dep.handler)
        if reads or kind not in whole:
            name = names.get(target, str(item.dep.target.name))
            found.setdefault(name, []).extend(int(index) for index in item.root_idxs or ())
    return found


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
