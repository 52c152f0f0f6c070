"""What a decomposition costs: accuracy, top-5 accuracy, fidelity and divergence, dense against decomposed.

Shares come with Wilson's 95 % interval (Wilson 1927), the mean Kullback-Leibler divergence ``KL(dense ‖ decomposed)``,
in nats, with a normal one. The images are ones that took no part in choosing the features: another image set, or, where
the study has only one, those of it that a hash of the image id held out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import floor, log10, sqrt
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from subspect.ground.drawing import COLOURS, as_label, drawing, headed
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.heads.trusted import interval
from subspect.measuring.heads_say import Heads, Said
from subspect.measuring.where import Where, where
from subspect.studies.blocks import total
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.shards import Chunk
from subspect.studies.study import StudyLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN = 40  # classes in a figure
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_COUNTED = ("dense_accuracy", "accuracy", "dense_top5", "top5", "fidelity")


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval.

    Example:
        >>> fidelity = decomposition.evaluate().overall.fidelity
        >>> print(f"{fidelity.value:.1%} ({fidelity.low:.1%} to {fidelity.high:.1%})")  # doctest: +SKIP
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f}–{self.high:.4f})"


@dataclass(frozen=True)
class Cost:
    """What a decomposition costs on some images.

    Attributes:
        images: their number.
        dense_accuracy: accuracy of the dense network, as a share.
        accuracy: accuracy of the decomposed network.
        dense_top5: share of images whose label is among the five largest dense logits; None among five classes or fewer.
        top5: the same of the decomposed logits.
        fidelity: share of images on which both networks agree on the top-1 class.
        divergence: mean Kullback-Leibler divergence from the dense network, in nats.

    Example:
        >>> cost = decomposition.evaluate().overall
        >>> cost.images
        60
        >>> cost.fidelity.low <= cost.fidelity.value <= cost.fidelity.high
        True
    """

    images: int
    dense_accuracy: Estimate
    accuracy: Estimate
    dense_top5: Estimate | None
    top5: Estimate | None
    fidelity: Estimate
    divergence: Estimate


@dataclass(frozen=True)
class Fidelity(Result):
    """The cost of a decomposition, overall and per class.

    Attributes:
        decomposition: its name.
        where: the images that were evaluated on, and what may be said of them.
        overall: on all images.
        classes: class name → cost on the images of that class; None where there are none.

    Example:
        >>> fidelity = decomposition.evaluate()
        >>> fidelity.where.image_set
        'test'
        >>> fidelity.classes["cat"].images
        15
    """

    decomposition: str
    where: Where
    overall: Cost
    classes: dict[str, Cost | None]

    def __repr__(self) -> str:
        cost = self.overall
        shares = (f"{100 * one.value:.2f} %" for one in (cost.accuracy, cost.dense_accuracy, cost.fidelity))
        return "Fidelity({}: accuracy {}, dense {}, fidelity {}, n = {:,})".format(
            self.decomposition, *shares, cost.images
        )

    @property
    def note(self) -> str:
        """Say on which images the figures were taken, and what stands for the labels."""
        return self.where.note

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        classes = {name: cost and asdict(cost) for name, cost in self.classes.items()}
        return {
            "decomposition": self.decomposition,
            **self.where.to_json(),
            "overall": asdict(self.overall),
            "classes": classes,
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for all images and one for each class, with a column for each figure and each end of its interval."""
        rows = [{"class": None, **_flat(self.overall)}]
        return [*rows, *({"class": name, **_flat(cost)} for name, cost in self.classes.items())]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: each figure with its 95 % interval, dense against decomposed."""
        table = Table(title=f"What {self.decomposition} costs", caption=self.note, title_justify="left")
        table.add_column(self.where.among_in_words)
        for column in ("dense", "decomposed"):
            table.add_column(column, justify="right")
        cost = self.overall
        table.add_row("accuracy", percent(cost.dense_accuracy), percent(cost.accuracy))
        if cost.top5 is not None:
            table.add_row("top-5 accuracy", percent(cost.dense_top5), percent(cost.top5))
        table.add_row("fidelity", "", percent(cost.fidelity))
        kl = cost.divergence
        table.add_row("divergence (KL)", "", f"{nats(kl.value)} nats ({nats(kl.low)}–{nats(kl.high)})")
        return [table]

    def class_tables(self) -> list[Table]:
        """Return a table for the terminal with a row for each class that there are images of."""
        table = Table(title=f"What {self.decomposition} costs each class", caption=self.note, title_justify="left")
        for column in ("class", self.where.examples, "accuracy dense", "decomposed", "fidelity", "KL"):
            table.add_column(column, justify="left" if column == "class" else "right")
        seen = {name: cost for name, cost in self.classes.items() if cost is not None}
        for name, cost in seen.items():
            shares = (percent(estimate, 0) for estimate in (cost.dense_accuracy, cost.accuracy, cost.fidelity))
            table.add_row(name, f"{cost.images:,}", *shares, nats(cost.divergence.value))
        if len(seen) < len(self.classes):
            table.add_row(f"{len(self.classes) - len(seen):,} without {self.where.examples}", "0")
        return [table]

    @drawing()
    def plot(self) -> Figure:
        """Draw the accuracy of each class with images, dense and decomposed, those that lose most first; at most 40 classes."""
        from subspect.ground.canvas import Figure

        measured = [(name, cost) for name, cost in self.classes.items() if cost is not None]
        measured.sort(key=lambda pair: pair[1].accuracy.value - pair[1].dense_accuracy.value)
        drawn = measured[:_DRAWN]
        figure = Figure(figsize=(6.4, 1.8 + 0.24 * len(drawn)), layout="constrained")
        axes = figure.add_subplot()
        rows = range(len(drawn))
        dense, few = ([100 * getattr(cost, kind).value for _, cost in drawn] for kind in ("dense_accuracy", "accuracy"))
        for row, (_, cost) in enumerate(drawn):
            ends = 100 * cost.accuracy.low, 100 * cost.accuracy.high
            axes.plot(ends, (row, row), color=COLOURS["blue"][0], linewidth=1, alpha=0.5)
        axes.plot(dense, rows, "s", color=COLOURS["orange"][0], markersize=5, fillstyle="none", label="dense")
        axes.plot(few, rows, "o", color=COLOURS["blue"][0], markersize=4, label="decomposed, with 95 % interval")
        axes.set_yticks(rows, [as_label(name, 24) for name, _ in drawn])
        axes.invert_yaxis()
        axes.set_xlabel("accuracy, %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        more = f"; {len(drawn)} of {len(measured)} classes" if len(drawn) < len(measured) else ""
        headed(figure, f"{self.decomposition}, {self.note}{more}")
        figure.legend(frameon=False, loc="outside lower left", fontsize=9, ncols=2)
        return figure


def evaluate(
    study: StudyLike, decomposition: DecompositionLike, *, on: str | None = None, among_given: bool = False
) -> Fidelity:
    """Measure what a decomposition costs.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        on: the image set; unless given, one that took no part in choosing the features (see `subspect.measuring.where`).
        among_given: whether both networks choose among the classes alone that the image set has images of, instead of all: for
            images of a few of the network's classes.

    Raises:
        SubspectError: no such image set, another network's decomposition, no image to evaluate on, or among_given without
            labels.

    Example:
        >>> fidelity = subspect.evaluate("study", "pursuit-k5", on="test")
        >>> fidelity.overall.images
        60
    """
    study, decomposition = opened(study, decomposition)
    images = where(study, decomposition, on, among_given=among_given)
    nothing = partial(_Tally, study.identity.n_classes, images.among_classes)
    tally = total(images.chunks(), nothing, partial(_take, Heads.of(study, decomposition, images)))
    return Fidelity(
        decomposition=decomposition.name,
        where=images,
        overall=tally.cost(slice(None)),
        classes={
            name: tally.cost(slice(label, label + 1)) if tally.images[label] else None
            for label, name in enumerate(unique(study.identity.class_names))
        },
    )


def _take(heads: Heads, tally: _Tally, chunk: Chunk) -> _Tally:
    tally.update(heads.say(chunk))
    return tally


class _Tally:
    """Counts and sums per class, from which every figure comes."""

    def __init__(self, n_classes: int, among: int) -> None:
        self.n_classes, self.top5 = n_classes, among > 5
        self.images = np.zeros(n_classes, np.int64)
        self.counts = {name: np.zeros(n_classes, np.int64) for name in _COUNTED}
        self.divergence = np.zeros(n_classes)
        self.squares = np.zeros(n_classes)

    def update(self, said: Said) -> None:
        """Take in what both heads say of some images."""
        chunk, n = said.chunk, self.n_classes
        dense, decomposed = torch.from_numpy(said.dense), torch.from_numpy(said.decomposed)
        labels, predicted, top = (
            torch.from_numpy(chunk.labels),
            decomposed.argmax(dim=1),
            torch.from_numpy(chunk.predictions),
        )
        hits = {"dense_accuracy": top == labels, "accuracy": predicted == labels, "fidelity": predicted == top}
        if self.top5:
            hits["dense_top5"], hits["top5"] = _in_top5(dense, labels), _in_top5(decomposed, labels)
        self.images += np.bincount(chunk.labels, minlength=n)
        for name, hit in hits.items():
            self.counts[name] += np.bincount(chunk.labels[hit.numpy()], minlength=n)
        log_p, log_q = dense.double().log_softmax(dim=1), decomposed.double().log_softmax(dim=1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1).clamp_min(0).numpy()
        self.divergence += np.bincount(chunk.labels, divergence, n)
        self.squares += np.bincount(chunk.labels, divergence**2, n)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = copy.deepcopy(self)
        joined.images += other.images
        joined.divergence += other.divergence
        joined.squares += other.squares
        for name, counts in other.counts.items():
            joined.counts[name] += counts
        return joined

    def cost(self, classes: slice) -> Cost:
        """Return the figures on the images of some classes."""
        n = int(self.images[classes].sum())
        shares: dict[str, Any] = {name: wilson(int(count[classes].sum()), n) for name, count in self.counts.items()}
        if not self.top5:
            shares["dense_top5"] = shares["top5"] = None
        mean = float(self.divergence[classes].sum()) / n
        spread = _Z * sqrt(max(float(self.squares[classes].sum()) / n - mean**2, 0) / n)
        return Cost(n, divergence=Estimate(mean, max(mean - spread, 0.0), mean + spread), **shares)


def wilson(successes: int, n: int) -> Estimate:
    """Return a share and its 95 % interval after Wilson (1927), without continuity correction; n ≥ 1."""
    return Estimate(successes / n, *interval(successes, n))


def _in_top5(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.topk(5, dim=1).indices == labels[:, None]).any(dim=1)


def unique(names: Sequence[str]) -> list[str]:
    """Tell classes of one name apart by their index, as ImageNet's two "crane"s."""
    return [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)]


def _flat(cost: Cost | None) -> dict[str, Any]:
    if cost is None:
        return {"images": 0}
    row: dict[str, float] = {"images": cost.images}
    for name, value in vars(cost).items():
        if isinstance(value, Estimate):
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return row


def nats(value: float) -> str:
    """Show a divergence: three decimals, of a small one two digits that are no zeros."""
    if not 0 < value < 0.01:
        return f"{value:.3f}"
    return f"{value:.{1 - floor(log10(value))}f}".rstrip("0") if value >= 1e-6 else f"{value:.1e}"


def percent(estimate: Estimate | None, digits: int = 2) -> str:
    """Show a share with its interval, in percent; the ends with a digit less than the share."""
    if estimate is None:
        return ""
    ends = f"{100 * estimate.low:.{max(digits - 1, 0)}f}–{100 * estimate.high:.{max(digits - 1, 0)}f}"
    return f"{100 * estimate.value:.{digits}f} % ({ends})"
