"""A network for some classes within a budget: narrowed in all its layers, and what that lost won back.

The head is cut to the wanted classes' rows of the decomposed one; then channels, residual branches and pixels are taken out
together with its features (`subspect.shrinking`), as little worth to these classes as can be for what they cost. On images of
these classes, without labels, batch norm's averages are fitted anew and the head is refitted; and, where images to train on
are given, the small network learns to say what its teacher says, the dense network or the decomposed one, by the same features
(distillation).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from subspect.giving.answers import Shared
from subspect.giving.distil import Learning, Plans, distilled, kept_in, known_of, lessons
from subspect.giving.formats import Run
from subspect.giving.images_of_classes import ImagesOfClasses
from subspect.giving.options import Teacher
from subspect.giving.timing import TIMED, Time
from subspect.giving.training import Trained, check_state
from subspect.ground.errors import SubspectError
from subspect.ground.progress import progress
from subspect.heads.decomposition import Decomposition
from subspect.heads.head import DecomposedHead
from subspect.heads.supports import Supports
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Estimate, wilson
from subspect.measuring.where import where
from subspect.networks.finding import Head
from subspect.networks.network import Network
from subspect.networks.summands import affine, is_convolution, is_linear, with_layers
from subspect.shrinking.cost import Cost, Multiplications
from subspect.shrinking.folded import folded, without_idle
from subspect.shrinking.recover import BATCH, features_of, readjust, refit, said_of, vectors
from subspect.shrinking.shrink import Plan, rounds_to, shrink, width
from subspect.shrinking.traced import Untraceable, traced
from subspect.shrinking.worth import Images
from subspect.studies.spread import spread
from subspect.studies.study import Study

RECOVERED = 2000  #: images, at most, on which batch norm and head are learned anew


@dataclass(frozen=True)
class Budget:
    """What a small network may cost.

    Attributes:
        share: of the network's multiplications, or of its time.
        timed: whether it is time.

    Raises:
        SubspectError: it is nothing that can be asked for.
    """

    share: float
    timed: bool

    @classmethod
    def of(cls, budget: float | None, times_as_fast: float | None) -> Budget | None:
        """Return what was asked for, if anything."""
        if budget is not None and times_as_fast is not None:
            raise SubspectError("give a budget or times_as_fast (--budget, --times-as-fast), not both")
        if budget is not None and not 0 < budget < 1:
            raise SubspectError(f"budget is a share of the multiplications, between 0 and 1; got {budget!r}")
        if times_as_fast is not None and not 1 < times_as_fast < float("inf"):
            raise SubspectError(f"times_as_fast is larger than 1, such as 2 for half the time; got {times_as_fast!r}")
        if budget is None and times_as_fast is None:
            return None
        return cls(budget, False) if budget is not None else cls(1 / float(times_as_fast or 1), True)

    @property
    def said(self) -> str:
        """In words."""
        return f"1 / {1 / self.share:.3g} of the time" if self.timed else f"{self.share:.3g} of the multiplications"


@dataclass(frozen=True, eq=False)
class Within:
    """A network within a budget, and how it came to be.

    Attributes:
        model: on the CPU, with a decomposed head, and batch norm folded.
        pixels: (n, …) real images, as many as are timed at once.
        among: "small, before recovery", "small, before training" where it was trained, "small" → accuracy on images that took
            no part in the choice, among the wanted classes; empty without labels.
        asked: the budget, in words.
        branches: how many residual branches are left out.
        size: height and width that images are made smaller to, within the network; None where they stay as they are.
        widths: layer → its channels before and after, of layers that are narrower.
        trained: how it was trained, if it was.
    """

    model: nn.Module
    pixels: Tensor
    among: Mapping[str, Estimate]
    asked: str
    branches: int
    size: tuple[int, int] | None
    widths: Mapping[str, tuple[int, int]]
    trained: Trained | None


def within(
    study: Study,
    decomposition: Decomposition,
    network: Network,
    head: Head,
    labels: Sequence[int],
    budget: Budget,
    *,
    images: ImageSource | None,
    learning: Learning | None,
    sample: int,
    seed: int,
    teacher: Teacher,
    workers: int,
    show: bool,
    runtimes: Sequence[Callable[[nn.Module], Run]] = (),
) -> Within:
    """Make a network for some classes within a budget; see `subspect.specialise`.

    Raises:
        Untraceable: the network is no fixed graph.
        SubspectError: the budget can't be reached, or images or folder aren't fit.
    """
    given = lessons(network, labels, learning) if learning is not None else None
    about: dict[str, Any] = {
        "network": network.fingerprint(),
        "decomposition": _digest(decomposition, labels),
        "labels": list(labels),
        "budget": asdict(budget),
        "runtimes": len(runtimes),
        "sample": [sample, seed],
        "teacher": teacher,
    }
    on, part = decomposition.chosen_on  # what was set apart to measure on stays apart
    measured = where(study, decomposition)
    among: dict[str, Estimate] = {}
    weighed = ImagesOfClasses(study, network, labels, on, study.image_set(on).chunks(part), images, workers)
    source = images if measured.image_set == on else None
    shown = ImagesOfClasses(study, network, labels, measured.image_set, measured.chunks(), source, workers)
    there = measured.labelled and shown.readable()
    with kept_in(learning.folder) if learning is not None else nullcontext():
        plans = Plans(learning.folder, about) if learning is not None else None
        if plans is not None and learning is not None and given is not None:
            plans.read()
            check_state(learning.folder, known_of(learning.settings, given, about))
        found = weighed.drawn(max(sample, RECOVERED), seed)
        some_of = spread(found.own.numpy(), sample, seed)
        few = Images(found.pixels[some_of], found.own[some_of])
        with network.running("cpu"):
            made = narrowed(network, head, decomposition, labels, budget, few, show, plans, teacher, runtimes)
        stages = {"small, before recovery": with_layers(made.model, {head.name: decomposed_head})}
        recovered(made, head.name, found.pixels)
        small, trained = with_layers(made.model, {head.name: decomposed_head}), None
        if learning is not None and given is not None:
            about |= {"plan": sha256(json.dumps(made.plan.to_json()).encode()).hexdigest()}
            ways = head, network, given, learning.folder, learning.settings
            trained = distilled(small, made.teacher, made.shared, *ways, about, workers, show)
            stages["small, before training"] = with_layers(made.model, {head.name: decomposed_head})
            small = trained.model
    stages["small"] = small = folded(cast(fx.GraphModule, small))
    if there:
        among = dict(zip(stages, accuracy(list(stages.values()), shown.read()), strict=True))
    return Within(
        small.eval(),
        repeated(found.pixels)[: max(TIMED)],
        among,
        budget.said,
        sum(len(one.branches) for one in made.plan.rounds),
        next((one.size for one in reversed(made.plan.rounds) if one.size is not None), None),
        _widths(made.whole, small),
        trained,
    )


def repeated(pixels: Tensor) -> Tensor:
    """Return images over and over, as many at least as are timed at once."""
    return pixels.repeat(-(-max(TIMED) // len(pixels)), *[1] * (pixels.ndim - 1))


def check_narrowable(network: Network, head: Head, pixels: Tensor) -> None:
    """Check that all layers of a network can be narrowed.

    Args:
        network: that was observed.
        head: its head.
        pixels: (n, …) images.

    Raises:
        Untraceable: the network is no fixed graph, or its head no single layer that reads a row for each image.
    """
    if head.one_logit:
        raise Untraceable("its head has a single logit")
    if head.name != head.layers[0] or not is_linear(layer := network.model.get_submodule(head.name)):
        raise Untraceable("its head is no single linear layer on all of its input")
    with network.running("cpu"), torch.no_grad():
        graph, read = traced(network.model, pixels[:2]), list[int]()
        graph.get_submodule(head.name).register_forward_pre_hook(lambda _, args: read.append(args[0].ndim))
        graph(pixels[:2])
    if isinstance(layer, nn.Linear) and set(read) != {2}:
        raise Untraceable("its head reads several places of an image one by one")


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A network within its budget.

    Attributes:
        model: on the CPU; its head is a linear layer, zero where a class doesn't use a feature.
        whole: the network before, as a graph, with the decomposed head of the same classes.
        teacher: the network that it learns from, with the same classes.
        plan: what was taken out.
        shared: the features that it has of the teacher's.
    """

    model: fx.GraphModule
    whole: fx.GraphModule
    teacher: nn.Module
    plan: Plan
    shared: Shared


def narrowed(
    network: Network,
    head: Head,
    decomposition: Decomposition,
    labels: Sequence[int],
    budget: Budget,
    images: Images,
    show: bool,
    plans: Plans | None = None,
    teacher: Teacher = "dense",
    runtimes: Sequence[Callable[[nn.Module], Run]] = (),
) -> Narrowed:
    """Return a network for some classes within a budget, adjusted on the images (`recover.readjust`).

    Args:
        network: that was observed.
        head: its head.
        decomposition: of it.
        labels: the wanted classes.
        budget: what it may cost.
        images: of these classes, by which channels are weighed.
        show: whether to draw a progress bar.
        plans: if the network is to be trained, where what was taken out is kept round by round, and gone on with.
        teacher: what it learns from: the dense network, or the decomposed one.
        runtimes: beside PyTorch, where the budget is time (`subspect.giving.timing.Time`).

    Raises:
        Untraceable: the network is no fixed graph (`check_narrowable` tells sooner).
        SubspectError: the budget can't be reached.
    """

    def with_rows(weight: Tensor, bias: Tensor) -> nn.Module:
        made = with_layers(
            network.model, {head.name: lambda old: _linear(old, weight[list(labels)], bias[list(labels)])}
        )
        return made.cpu().float().eval().requires_grad_(False)

    weight, bias = affine(network.model.get_submodule(head.name))
    taught = with_rows(weight.detach().flatten(1).cpu().float(), bias.detach().cpu().float())
    model = with_rows(*(torch.from_numpy(array).float() for array in decomposition.matrix()))
    whole = traced(model, images.pixels[:2])
    plan, done = plans.read() if plans is not None else (Plan(), False)
    if not done:
        timed, pixels = budget.timed, repeated(images.pixels)
        given = head.name, pixels
        cost: Cost = (
            Time(network.model, *given, runtimes, plans is not None) if timed else Multiplications(whole, *given)
        )
        with progress("narrowing", rounds_to(budget.share) * len(images.pixels), "images", show=show) as advance:
            told = lambda count, _: advance(count)  # noqa: E731
            step = width() if timed else None
            keep = plans.write if plans is not None else lambda _: None
            plan = shrink(traced(model, pixels[:2]), head.name, images, budget.share, cost, step, told, plan, keep)
        if plans is not None:
            plans.write(plan, done=True)
    small = traced(model, images.pixels[:2])
    plan.apply(small, head.name, images.pixels)
    without_idle(small)
    source = folded(traced(taught, images.pixels[:2]) if teacher == "dense" else whole)  # which answers sooner
    readjust(small, head.name, images.pixels, said_of(source, images.pixels))
    marked = copy.deepcopy(whole)
    mark(marked, head.name)
    plan.apply(marked, head.name, images.pixels[:2])
    return Narrowed(small, whole, source, plan, shared_by(marked, source, head.name, images.pixels))


def mark(model: nn.Module, head: str) -> None:
    """Give each of the head's inputs its number as weight: where channels go, those of the others tell which they were."""
    weight = cast(nn.Linear, model.get_submodule(head)).weight.data
    numbers = torch.arange(weight.shape[1], dtype=weight.dtype)
    weight.copy_(numbers.reshape(1, -1, *[1] * (weight.ndim - 2)).expand_as(weight))


def shared_by(marked: nn.Module, teacher: nn.Module, head: str, pixels: Tensor) -> Shared:
    """Return the features that a network has of its teacher's, of which what is left of a marked one tells."""
    places = _matrix(cast(nn.Linear, marked.get_submodule(head)))[0].long()
    spread = features_of(teacher, head, torch.split(pixels, BATCH)).std(dim=0, correction=0)[places]
    return Shared(places, spread.clamp_min(float(spread.mean()) / 10))


def recovered(made: Narrowed, head: str, pixels: Tensor) -> None:
    """Adjust it on more images, and refit the head to what the teacher says, in place.

    Args:
        made: the network.
        head: name of its head.
        pixels: (n, …) images of the wanted classes.
    """
    wanted = said_of(made.teacher, pixels)
    readjust(made.model, head, pixels, wanted)
    layer = cast(nn.Linear, made.model.get_submodule(head))
    parts = torch.split(pixels, BATCH)
    weight, bias = refit(_matrix(layer), _bias(layer), features_of(made.model, head, parts), wanted)
    layer.weight.data.copy_(weight.reshape(layer.weight.shape))
    layer.bias.data.copy_(bias)


def decomposed_head(layer: nn.Module) -> DecomposedHead:
    """Return the decomposed head that a linear layer with zeros is."""
    weight = _matrix(layer)
    rows = [row.nonzero()[:, 0].tolist() for row in weight]
    made = DecomposedHead(Supports(rows, weight.shape[1]), weight[weight != 0], _bias(layer))
    made.convolution = is_convolution(layer)
    return made


def accuracy(models: Sequence[nn.Module], parts: Iterable[Images]) -> list[Estimate]:
    """Return how often some networks say the right one of the wanted classes."""
    hits, count = [0] * len(models), 0
    with torch.no_grad():
        for part in parts:
            count += len(part.own)
            for place, model in enumerate(models):
                hits[place] += int((vectors(model(part.pixels)).argmax(dim=1) == part.own).sum())
    return [wilson(hit, count) for hit in hits]


def _digest(decomposition: Decomposition, labels: Sequence[int]) -> str:
    """Return the SHA-256 of these classes' weights and biases."""
    rows = [np.ascontiguousarray(array[list(labels)]) for array in decomposition.matrix()]
    return sha256(b"".join(row.tobytes() for row in rows)).hexdigest()


def _linear(old: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    """Return a layer of the kind of the head, with some rows."""
    made = cast(nn.Linear, copy.deepcopy(old))
    made.weight = nn.Parameter(weight.reshape(len(weight), -1, *made.weight.shape[2:]).clone())
    made.bias = nn.Parameter(bias.clone())
    for name in ("out_features", "out_channels"):
        if hasattr(made, name):
            setattr(made, name, len(weight))
    return made


def _widths(whole: nn.Module, small: nn.Module) -> dict[str, tuple[int, int]]:
    """Return layers with fewer channels than they had: name → before and after."""
    sizes = [
        {name: len(one) for name, one in model.state_dict().items() if name.endswith(".weight") and one.ndim > 1}
        for model in (whole, small)
    ]
    both = sizes[0].keys() & sizes[1].keys()
    pairs = {name: (sizes[0][name], sizes[1][name]) for name in sizes[0] if name in both}
    return {name.removesuffix(".weight"): pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _matrix(layer: nn.Module) -> Tensor:
    return cast(nn.Linear, layer).weight.detach().flatten(1)


def _bias(layer: nn.Module) -> Tensor:
    return cast(nn.Linear, layer).bias.detach()
