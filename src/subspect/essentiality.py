"""Are a class's influential features essential to it, and to it alone? (arXiv 2112.07719, section 4)

The features of a set S are replaced in every image of a class, and the share of the images that the *dense* head still gives
that class is taken: its class accuracy. S is the class's influential features, or all others instead, or, so that numbers mean
something, as many features drawn at random. Replaced by what:

- ``normal``: noise N(0, 1), as the paper does. Its size has nothing to do with that of the features, so that large features
  look essential and many small ones together drown a class.
- ``matched``: normal noise with each feature's own mean and standard deviation over the images that features were chosen on.
- ``mean``: that mean. ``zero``: zero.

The paper compares k influential features with the d − k others; as that compares few with many, the random sets of size k are
the fair control. Noise and random sets are drawn several times; an interval holds the middle 95 % of the draws.

*Deletion* replaces features by their mean one after the other, the most important first, *insertion* puts them back into an
image of means in the same order (Petsiuk et al. 2018, there for pixels); the area under each curve, against the share of
features, is between 0 and 1. Important first: the class's influential features in their order, then the others by how much
they add to its logit on its images more than on all, ``|W[c, i] · (mean of x[i] over c − mean over all)|``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from subspect.decomposition import Decomposition
from subspect.errors import SubspectError
from subspect.fidelity import evaluate
from subspect.progress import progress
from subspect.study import Part, Study

KINDS = ("normal", "matched", "mean", "zero")
REPEATS = 20  #: draws of noise and of random sets
_GRID = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200, 320, 512, 800, 1280, 2048, 3200, 5120, 8192)
_ORDERS = 5  # random orders for the curves
Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Replaced:
    """Class accuracy with features replaced in one way, NaN for classes without images.

    Attributes:
        own: (r, C) the influential features of each class replaced, for each draw.
        others: (r, C) all others instead.
        random: (r, C) as many as ``own``, drawn at random.
    """

    own: Array
    others: Array
    random: Array

    def gap(self) -> Array:
        """Return (r,): how much more the class accuracy falls with its own features replaced than with random ones."""
        return np.asarray(np.nanmean(self.random - self.own, axis=1))


@dataclass(frozen=True, eq=False)
class Curves:
    """Class accuracy against the number of features replaced, or put back.

    Attributes:
        sizes: (m,) numbers of features, from 0 to d.
        deletion: (m, C) features replaced by their mean, the most important first.
        insertion: (m, C) put back into an image of means in the same order.
        random_deletion: (m, C) the mean over random orders.
        random_insertion: (m, C) likewise.
    """

    sizes: Indices
    deletion: Array
    insertion: Array
    random_deletion: Array
    random_insertion: Array

    def area(self, name: str) -> Array:
        """Return (C,): the area under one of the curves, against the share of features."""
        return np.asarray(np.trapezoid(getattr(self, name), self.sizes / self.sizes[-1], axis=0))


@dataclass(frozen=True, eq=False)
class Essentiality:
    """What the influential features are to their classes.

    Attributes:
        decomposition: whose supports they are.
        class_names: a name for each class.
        sizes: (C,) number of influential features.
        before: (C,) class accuracy of the dense network.
        kinds: "normal", "matched", "mean", "zero" → what replacing does.
        curves: deletion and insertion.
        note: on which images this was measured.
    """

    decomposition: str
    class_names: tuple[str, ...]
    sizes: Indices
    before: Array
    kinds: Mapping[str, Replaced]
    curves: Curves
    note: str

    @property
    def _left_out(self) -> str:
        number = int(np.isnan(self.before).sum())
        return f"; {number} classes without images, here or in the choice, are left out" if number else ""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; NaN as None."""
        kinds = {
            kind: {name: _json(getattr(one, name).mean(axis=0)) for name in ("own", "others", "random")}
            | {"gap": _interval(one.gap())}
            for kind, one in self.kinds.items()
        }
        names = ("deletion", "insertion", "random_deletion", "random_insertion")
        areas = {name: _json(self.curves.area(name)) for name in names}
        lines = {name: [_json(row) for row in getattr(self.curves, name)] for name in names}
        return {
            "decomposition": self.decomposition,
            "classes": list(self.class_names),
            "sizes": self.sizes.tolist(),
            "before": _json(self.before),
            "kinds": kinds,
            "curves": {"sizes": self.curves.sizes.tolist(), **lines, "areas": areas},
            "note": self.note,
        }

    def tables(self) -> list[Table]:
        """Return tables for the terminal: what replacing does on average, then of each class; areas."""
        caption = (
            f"{self.note}{self._left_out}; before: {_percent(np.nanmean(self.before))}. Random: as many at random; gap: how "
            "much more the accuracy falls than with those, in brackets the middle 95 % of the draws. Class accuracy is over a "
            "class's own images: what it costs other classes doesn't show"
        )
        mean = Table(
            title=f"{self.decomposition}: class accuracy, mean over classes, with features replaced",
            caption=caption,
            title_justify="left",
            caption_justify="left",
        )
        for column in ("replaced by", "influential", "all others", "random", "gap, points"):
            mean.add_column(column, justify="left" if column == "replaced by" else "right")
        for kind, one in self.kinds.items():
            shares = [_percent(np.nanmean(values)) for values in (one.own, one.others, one.random)]
            low, middle, high = (100 * value for value in _interval(one.gap()))
            mean.add_row(kind, *shares, f"{middle:.1f} ({low:.1f} to {high:.1f})")
        each = Table(
            title="each class, noise matched to each feature; areas under deletion and insertion (random order)",
            title_justify="left",
        )
        for column in ("class", "before", "own", "others", "random", "deletion", "insertion"):
            each.add_column(column, justify="left" if column == "class" else "right", no_wrap=True)
        matched, areas = self.kinds["matched"], {name: self.curves.area(name) for name in ("deletion", "insertion")}
        random = {name: self.curves.area(f"random_{name}") for name in areas}
        for label in np.flatnonzero(~np.isnan(self.before)).tolist():
            shares = [_percent(values[:, label].mean()) for values in (matched.own, matched.others, matched.random)]
            under = [f"{areas[name][label]:.3f} ({random[name][label]:.3f})" for name in areas]
            each.add_row(self.class_names[label], _percent(self.before[label]), *shares, *under)
        return [mean, each]


def essentiality(
    study: Study,
    decomposition: Decomposition,
    on: str | None = None,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    show_progress: bool = True,
) -> Essentiality:
    """Replace influential features, all others, and random ones, and measure what becomes of each class.

    Args:
        study: where the features are stored; the images measured on are held in memory.
        decomposition: whose supports are the influential features; the paper's are those of method "frequency".
        on: the image set to measure on; one that took no part in the choice unless given.
        repeats: draws of noise and of random sets.
        seed: of the draws.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: no image to measure on, or no draw.
    """
    if repeats < 1:
        raise SubspectError(f"repeats must be 1 or more, got {repeats}")
    fidelity = evaluate(study, decomposition, on)
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    means, deviations = _spread(study, *decomposition.chosen_on)
    whole = study[fidelity.image_set].whole(fidelity.part)
    x, labels = whole.features, whole.labels
    supports, d = decomposition.supports, weight.shape[1]
    n_classes = len(weight)
    sizes = np.array([0, *(size for size in _GRID if size < d), d])
    before = np.full(n_classes, np.nan)
    kinds = {kind: [np.full((repeats, n_classes), np.nan) for _ in range(3)] for kind in KINDS}
    lines = [np.full((len(sizes), n_classes), np.nan) for _ in range(4)]
    seen = [label for label in np.unique(labels).tolist() if label not in decomposition.unseen]
    if not seen:
        raise SubspectError("there are no images of classes that have influential features to measure on")
    with progress("essentiality", len(seen), "classes", show=show_progress) as advance:
        for label in seen:
            generator = np.random.default_rng([seed, label])
            images = _Images(x[labels == label].astype(np.float64), label, weight, bias, means, deviations)
            before[label] = images.accuracy(np.empty(0, np.int64), "zero", generator)
            others = np.setdiff1d(np.arange(d), supports[label])
            for kind, (own, rest, random) in kinds.items():
                for draw in range(repeats):
                    again = draw == 0 or kind in ("normal", "matched")
                    own[draw, label] = images.accuracy(supports[label], kind, generator) if again else own[0, label]
                    rest[draw, label] = images.accuracy(others, kind, generator) if again else rest[0, label]
                    chosen = generator.permutation(d)[: len(supports[label])]
                    random[draw, label] = images.accuracy(chosen, kind, generator)
            orders = [images.order(supports[label]), *(generator.permutation(d) for _ in range(_ORDERS))]
            curves = np.array([images.curves(order, sizes) for order in orders])  # (orders, 2, m)
            for line, values in zip(lines, (*curves[0], *curves[1:].mean(axis=0)), strict=True):
                line[:, label] = values
            advance(1)
    return Essentiality(
        decomposition=decomposition.name,
        class_names=decomposition.class_names,
        sizes=supports.sizes,
        before=before,
        kinds={kind: Replaced(*values) for kind, values in kinds.items()},
        curves=Curves(sizes, *lines),
        note=fidelity.note,
    )


def without_each(study: Study, decomposition: Decomposition, image_set: str, part: Part) -> Array:
    """Return (nnz,): what the dense network's class accuracy loses where each entry of the supports is set to its mean.

    NaN for classes without images, here or when features were chosen.
    """
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    means, deviations = _spread(study, *decomposition.chosen_on)
    right, wrong, count = (np.zeros(len(decomposition.supports.flat)) for _ in range(3))
    for chunk in study[image_set].chunks(part):
        for label in set(np.unique(chunk.labels).tolist()) - set(decomposition.unseen):
            place = slice(*decomposition.supports.offsets[label : label + 2])
            own = chunk.features[chunk.labels == label].astype(np.float64)
            images = _Images(own, label, weight, bias, means, deviations)
            hits = [images.hits(np.array([feature]), "mean") for feature in decomposition.supports[label]]
            right[place] += images.hits(np.empty(0, np.int64), "mean")
            wrong[place] += hits
            count[place] += len(own)
    return np.asarray(np.where(count > 0, (right - wrong) / np.maximum(count, 1), np.nan))


class _Images:
    """The images of one class, (n, d) float64, and what becomes of them when features are replaced."""

    def __init__(self, x: Array, label: int, weight: Array, bias: Array, means: Array, deviations: Array) -> None:
        self.x, self.label, self.weight = x, label, weight
        self.means, self.deviations = means, deviations
        self.logits = x @ weight.T + bias

    def accuracy(self, features: Indices, kind: str, generator: np.random.Generator) -> float:
        """Return the share still given the class, with some features replaced."""
        return self.hits(features, kind, generator) / len(self.x)

    def hits(self, features: Indices, kind: str, generator: np.random.Generator | None = None) -> int:
        """Return how many are still given the class, with some features replaced."""
        if kind in ("normal", "matched"):
            assert generator is not None
            values = generator.standard_normal((len(self.x), len(features)))
            if kind == "matched":
                values = values * self.deviations[features] + self.means[features]
        else:
            values = np.broadcast_to(self.means[features] * (kind == "mean"), (len(self.x), len(features)))
        logits = self.logits + (values - self.x[:, features]) @ self.weight[:, features].T
        return int((logits.argmax(axis=1) == self.label).sum())

    def order(self, support: Indices) -> Indices:
        """Return (d,): the features, the most important to the class first."""
        worth = np.abs(self.weight[self.label] * (self.x.mean(axis=0) - self.means))
        worth[support] = np.inf
        behind = np.argsort(-worth, kind="stable")[len(support) :]
        return np.concatenate([support, behind])

    def curves(self, order: Indices, sizes: Indices) -> tuple[list[float], list[float]]:
        """Return deletion and insertion: the class accuracy with the first of some features at their mean, or all others."""
        deletion = [self.hits(order[:size], "mean") / len(self.x) for size in sizes]
        insertion = [self.hits(order[size:], "mean") / len(self.x) for size in sizes]
        return deletion, insertion


def _spread(study: Study, image_set: str, part: Part) -> tuple[Array, Array]:
    """Return mean and standard deviation of each feature, (d,) each, by one pass."""
    images, sums, squares = 0, np.zeros(study.identity.n_features), np.zeros(study.identity.n_features)
    for chunk in study[image_set].chunks(part):
        wide = chunk.features.astype(np.float64)
        images, sums, squares = images + len(wide), sums + wide.sum(axis=0), squares + (wide**2).sum(axis=0)
    means = sums / max(images, 1)
    return means, np.sqrt(np.maximum(squares / max(images, 1) - means**2, 0))


def _interval(values: Array) -> tuple[float, float, float]:
    """Return the 2.5th percentile, the mean and the 97.5th percentile of some draws."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(values.mean()), float(high)


def _percent(share: float | np.floating[Any]) -> str:
    return f"{100 * share:.1f} %"


def _json(values: Array | Sequence[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
