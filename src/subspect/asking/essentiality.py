"""Are a class's influential features essential to it, and to it alone? (arXiv 2112.07719, section 4)

The features of a set S are replaced in every image of a class, and the share of the images that the *dense* head still gives
that class is taken: its class accuracy. S is the class's influential features, or all others instead, or, so that numbers mean
something, as many features drawn at random. Replaced by what:

- ``normal``: noise N(0, 1), as the paper does. Its size has nothing to do with that of the features, so that large features
  look essential and many small ones together drown a class.
- ``matched``: normal noise with each feature's own mean and standard deviation over the images that features were chosen on.
- ``mean``: that mean. ``zero``: zero.

The paper compares k influential features with the d − k others; as that compares few with many, the random sets of size k are
the fair control. Noise, random sets and random orders are drawn several times; an interval holds the middle 95 % of the draws.

*Deletion* replaces features by their mean one after the other, the most important first, *insertion* puts them back into an
image of means in the same order (Petsiuk et al. 2018, there for pixels); the area under each curve, against the share of
features, is between 0 and 1. Important first: the class's influential features in their order, then the others by how much they
add to its logit on its images more than on all, ``|W[c, i] · (mean of x[i] over c − mean over all)|``. Random orders are the
control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from subspect.asking.options import REPEATS
from subspect.ground.drawing import COLOURS, drawing, escaped
from subspect.ground.errors import SubspectError
from subspect.ground.progress import progress
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.history import Part
from subspect.measuring.where import Where, where
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.rows import held
from subspect.studies.study import Study, StudyLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("normal", "matched", "mean", "zero")
CURVES = ("deletion", "insertion")
_GRID = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200, 320, 512, 800, 1280, 2048, 3200, 5120, 8192)
Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Replaced:
    """Class accuracy with features replaced in one way, NaN for classes without images.

    Attributes:
        own: (r, C) the influential features of each class replaced, for each draw.
        others: (r, C) all others instead.
        random: (r, C) as many as ``own``, drawn at random.

    Example:
        >>> essentiality = decomposition.essentiality(repeats=2, show_progress=False)
        >>> essentiality.kinds["mean"].own.shape
        (2, 4)
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
        random_deletion: (r, m, C) likewise in random orders.
        random_insertion: (r, m, C) likewise.

    Example:
        >>> curves = decomposition.essentiality(repeats=2, show_progress=False).curves
        >>> int(curves.sizes[0]), int(curves.sizes[-1])
        (0, 256)
    """

    sizes: Indices
    deletion: Array
    insertion: Array
    random_deletion: Array
    random_insertion: Array

    def area(self, name: str) -> Array:
        """Return (C,), or (r, C) for random orders: the area under one of the curves, against the share of features."""
        return np.asarray(np.trapezoid(getattr(self, name), self.sizes / self.sizes[-1], axis=-2))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; NaN as None."""
        curves: dict[str, Any] = {"sizes": self.sizes.tolist()}
        for name in CURVES:
            control = self.area(f"random_{name}")
            curves[name] = {
                "values": [_json(row) for row in getattr(self, name)],
                "random": [_json(row) for row in getattr(self, f"random_{name}").mean(axis=0)],
                "area": _json(self.area(name)),
                "random_area": _json(control.mean(axis=0)),
                "random_area_mean": _json(_interval(np.nanmean(control, axis=1))),
            }
        return curves


@dataclass(frozen=True, eq=False)
class Essentiality(Result):
    """What the influential features are to their classes.

    Attributes:
        decomposition: whose supports they are.
        class_names: a name for each class.
        sizes: (C,) number of influential features.
        before: (C,) class accuracy of the dense network.
        kinds: "normal", "matched", "mean", "zero" → what replacing does.
        curves: deletion and insertion.
        note: on which images this was measured.

    Example:
        >>> essentiality = decomposition.essentiality(repeats=2, show_progress=False)
        >>> essentiality.sizes
        array([5, 5, 5, 5])
        >>> sorted(essentiality.kinds)
        ['matched', 'mean', 'normal', 'zero']
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
        classes = f"{counted(number, 'class', 'classes')} of which there are none, here or in the choice"
        return f"; {classes}, {'is' if number == 1 else 'are'} left out" if number else ""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; NaN as None."""
        kinds = {
            kind: {name: _json(getattr(one, name).mean(axis=0)) for name in ("own", "others", "random")}
            | {"gap": _json(_interval(one.gap()))}
            for kind, one in self.kinds.items()
        }
        return {
            "decomposition": self.decomposition,
            "classes": list(self.class_names),
            "sizes": self.sizes.tolist(),
            "before": _json(self.before),
            "kinds": kinds,
            "curves": self.curves.to_json(),
            "note": self.note,
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each class with images: class accuracy before, and with features replaced, mean over the draws."""
        rows = []
        for label in np.flatnonzero(~np.isnan(self.before)).tolist():
            replaced = {
                f"{kind}_{name}": float(getattr(one, name)[:, label].mean())
                for kind, one in self.kinds.items()
                for name in ("own", "others", "random")
            }
            areas = {f"{name}_area": float(self.curves.area(name)[label]) for name in CURVES}
            about = {"class": self.class_names[label], "features": int(self.sizes[label])}
            rows.append({**about, "before": float(self.before[label]), **replaced, **areas})
        return rows

    def tables(self) -> list[Table]:
        """Return tables for the terminal: what replacing does on average, areas under the curves, then of each class."""
        caption = (
            f"{self.note}{self._left_out}; before: {_percent(np.nanmean(self.before))}. Replaced by noise N(0, 1) (normal), "
            "noise with the feature's own mean and spread (matched), its mean, or zero. Random: as many at random; gap: how "
            "much more the accuracy falls than with those, in brackets the middle 95 % of several draws. Class accuracy is "
            "within a class: what it costs other classes doesn't show"
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
            mean.add_row(kind, *shares, _told(100 * one.gap(), 1))
        under = Table(
            title="area under the curve of class accuracy, mean over classes",
            caption="deletion: features set to their mean one after the other, the most important first; insertion: put back",
            title_justify="left",
            caption_justify="left",
        )
        for column in ("", "important first", "random order"):
            under.add_column(column, justify="right" if column else "left")
        areas = {name: self.curves.area(name) for name in CURVES}
        random = {name: self.curves.area(f"random_{name}") for name in CURVES}
        for name in CURVES:
            under.add_row(name, f"{np.nanmean(areas[name]):.3f}", _told(np.nanmean(random[name], axis=1), 3))
        each = Table(
            title="each class: accuracy in %, noise matched to each feature; areas under deletion and insertion (random order)",
            title_justify="left",
        )
        for column in ("class", "before", "own", "others", "random", "deletion", "insertion"):
            folds = column == "class"
            each.add_column(column, justify="left" if folds else "right", no_wrap=not folds, overflow="fold")
        matched = self.kinds["matched"]
        for label in np.flatnonzero(~np.isnan(self.before)).tolist():
            shares = [values[:, label].mean() for values in (matched.own, matched.others, matched.random)]
            own = [f"{areas[name][label]:.2f} ({random[name][:, label].mean():.2f})" for name in CURVES]
            each.add_row(self.class_names[label], *(f"{100 * s:.1f}" for s in (self.before[label], *shares)), *own)
        return [mean, under, each]

    @drawing()
    def plot(self) -> Figure:
        """Draw deletion and insertion, mean over classes, and the middle 95 % of random orders."""
        from subspect.ground.canvas import Figure

        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        for name, colour in zip(CURVES, ("blue", "orange"), strict=True):
            shade, x = COLOURS[colour][0], self.curves.sizes
            own = 100 * np.nanmean(getattr(self.curves, name), axis=1)
            random = 100 * np.nanmean(getattr(self.curves, f"random_{name}"), axis=2)
            axes.plot(x, own, "-o", color=shade, markersize=3, label=f"{name}, the most important first")
            axes.plot(x, random.mean(axis=0), "--", color=shade, linewidth=1, label=f"{name}, random order")
            axes.fill_between(x, *np.percentile(random, [2.5, 97.5], axis=0), color=shade, alpha=0.15, linewidth=0)
        size = float(np.delete(self.sizes, np.flatnonzero(np.isnan(self.before))).mean())
        axes.axvline(size, color=COLOURS["ink"][0], linestyle=":", linewidth=0.8)
        axes.annotate(f"{size:.3g} influential", (size, 0), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set_ylim(0, 100)
        axes.set_title(escaped(f"{self.decomposition}, {self.note}"), fontsize=9)
        axes.set_xlabel("features set to their mean (deletion) or put back (insertion)")
        axes.set_ylabel("class accuracy, %, mean over classes")
        axes.grid(alpha=0.3)
        figure.legend(frameon=False, loc="outside upper left", fontsize=9, ncols=2)
        return figure


def essentiality(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    on: str | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    show_progress: bool = True,
) -> Essentiality:
    """Replace influential features, all others, and random ones, and measure what becomes of each class.

    Args:
        study: where the features are stored; of many images a sample of 100,000 is measured on.
        decomposition: whose supports are the influential features; the paper's are those of method "frequency".
        on: the image set to measure on; one that took no part in the choice unless given.
        repeats: draws of noise, of random sets and of random orders; intervals take two or more.
        seed: of the draws.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: no image to measure on, or no draw.

    Example:
        >>> essentiality = subspect.essentiality("study", "pursuit-k5", repeats=2, show_progress=False)
        >>> essentiality.decomposition
        'pursuit-k5'
    """
    if repeats < 1:
        raise SubspectError(f"repeats must be 1 or more, got {repeats}")
    study, decomposition = opened(study, decomposition)
    images_of = where(study, decomposition, on)
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    means, deviations = _spread(study, *decomposition.chosen_on)
    whole, sample = held(images_of.chunks(), images_of.images)
    x, labels = whole.features, whole.labels
    supports, d = decomposition.supports, weight.shape[1]
    n_classes = len(weight)
    sizes = np.array([0, *(size for size in _GRID if size < d), d])
    before = np.full(n_classes, np.nan)
    kinds = {kind: [np.full((repeats, n_classes), np.nan) for _ in range(3)] for kind in KINDS}
    lines = np.full((2, 1 + repeats, len(sizes), n_classes), np.nan)  # deletion and insertion; in order, then at random
    seen = [label for label in np.unique(labels).tolist() if label not in decomposition.unseen]
    if not seen:
        raise SubspectError(
            f"there are no {images_of.examples} of classes that have influential features to measure on in "
            f"{images_of.image_set!r}; measure on another image set (on=, --on): {', '.join(study.set_names)}"
        )
    with progress("essentiality", len(seen), "classes", show=show_progress) as advance:
        for label in seen:
            generator = np.random.default_rng([seed, label])
            images = _Images(x[labels == label].astype(np.float64), label, weight, bias, means, deviations)
            before[label] = images.accuracy(np.empty(0, np.int64), "zero", generator)
            for kind, values in kinds.items():
                for value, drawn in zip(
                    values, images.replaced(supports[label], kind, repeats, generator), strict=True
                ):
                    value[:, label] = drawn
            orders = [images.order(supports[label]), *(generator.permutation(d) for _ in range(repeats))]
            lines[..., label] = np.stack([images.curves(order, sizes) for order in orders], axis=1)
            advance(1)
    return Essentiality(
        decomposition=decomposition.name,
        class_names=decomposition.class_names,
        sizes=supports.sizes,
        before=before,
        kinds={kind: Replaced(*values) for kind, values in kinds.items()},
        curves=Curves(sizes, *lines[:, 0], *lines[:, 1:]),
        note=images_of.note + sample,
    )


def without_each(study: Study, decomposition: Decomposition, images_of: Where) -> tuple[Array, Array]:
    """Return (nnz,), of the dense and of the decomposed head: what a class's accuracy loses where an entry is at its mean.

    NaN for classes without images, here or when features were chosen.
    """
    dense = [tensor.double().numpy() for tensor in study.head()]
    few = [array.astype(np.float64) for array in decomposition.matrix()]
    means, deviations = _spread(study, *decomposition.chosen_on)
    lost, count = np.zeros((2, len(decomposition.supports.flat))), np.zeros(len(decomposition.supports.flat))
    for chunk in images_of.chunks():
        for label in set(np.unique(chunk.labels).tolist()) - set(decomposition.unseen):
            place = slice(*decomposition.supports.offsets[label : label + 2])
            own = chunk.features[chunk.labels == label].astype(np.float64)
            count[place] += len(own)
            for row, (weight, bias) in zip(lost, (dense, few), strict=True):
                images = _Images(own, label, weight, bias, means, deviations)
                hits = [images.hits(np.array([feature]), "mean") for feature in decomposition.supports[label]]
                row[place] += images.hits(np.empty(0, np.int64), "mean") - np.array(hits)
    by_dense, by_few = np.where(count > 0, lost / np.maximum(count, 1), np.nan)
    return by_dense, by_few


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

    def replaced(
        self, support: Indices, kind: str, repeats: int, generator: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Return (r,) each: the class accuracy with a support replaced, all others, and as many at random, for each draw."""
        own, rest, random = (np.empty(repeats) for _ in range(3))
        d = self.weight.shape[1]
        others = np.setdiff1d(np.arange(d), support)
        for draw in range(repeats):
            again = draw == 0 or kind in ("normal", "matched")
            own[draw] = self.accuracy(support, kind, generator) if again else own[0]
            rest[draw] = self.accuracy(others, kind, generator) if again else rest[0]
            random[draw] = self.accuracy(generator.permutation(d)[: len(support)], kind, generator)
        return own, rest, random

    def order(self, support: Indices) -> Indices:
        """Return (d,): the features, the most important to the class first."""
        worth = np.abs(self.weight[self.label] * (self.x.mean(axis=0) - self.means))
        worth[support] = np.inf
        behind = np.argsort(-worth, kind="stable")[len(support) :]
        return np.concatenate([support, behind])

    def curves(self, order: Indices, sizes: Indices) -> Array:
        """Return (2, m): the class accuracy with the first of some features at their mean, and with all others at it."""
        moved, change = np.zeros_like(self.logits), self.means - self.x
        bare = (self.logits + change @ self.weight.T).mean(axis=0)  # every feature at its mean: the same for all images
        shares = []
        for start, end in pairwise([0, *sizes.tolist()]):
            moved += change[:, order[start:end]] @ self.weight[:, order[start:end]].T
            shares.append([(z.argmax(axis=1) == self.label).mean() for z in (self.logits + moved, bare - moved)])
        return np.array(shares).T


def _spread(study: Study, image_set: str, part: Part) -> tuple[Array, Array]:
    """Return mean and standard deviation of each feature, (d,) each, by one pass."""
    images, sums, squares = 0, np.zeros(study.identity.n_features), np.zeros(study.identity.n_features)
    for chunk in study.image_set(image_set).chunks(part):
        wide = chunk.features.astype(np.float64)
        images, sums, squares = images + len(wide), sums + wide.sum(axis=0), squares + (wide**2).sum(axis=0)
    means = sums / max(images, 1)
    return means, np.sqrt(np.maximum(squares / max(images, 1) - means**2, 0))


def _interval(values: Array) -> tuple[float, float, float]:
    """Return the 2.5th percentile, the mean and the 97.5th percentile of some draws; one draw has no percentiles."""
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) > 1 else (np.nan, np.nan)
    return float(low), float(values.mean()), float(high)


def _told(values: Array, digits: int) -> str:
    low, middle, high = _interval(values)
    return f"{middle:.{digits}f}" + ("" if np.isnan(low) else f" ({low:.{digits}f} to {high:.{digits}f})")


def _percent(share: float | np.floating[Any]) -> str:
    return f"{100 * share:.1f} %"


def _json(values: Array | Sequence[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
