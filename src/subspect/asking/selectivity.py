"""How class-specific the features of a layer are (arXiv 2112.07719, sections 3 and 4).

*Ψ*: with n the least number of units that hold a share s of an image's mass, ``Ψ = 1 − n / d``: the share of the layer that
isn't needed. The authors' own script counts the units strictly before s is reached, so ``1 − (n − 1) / d``; both are given.
Per image, then median and mean over the images of a class.

*μ*, the class-selectivity index of a unit: ``(μ_max − μ_rest) / (μ_max + μ_rest)`` with μ_max its largest mean over a class and
μ_rest the mean of its means over the other classes (Leavitt & Morcos 2020). It is defined for units that are never negative;
of others, ``max(x, 0)`` is taken, and the result says so. A unit that is never active has μ = 0.

*Mutual information* between two classes: of the 0/1 vectors that tell which units are influential for each, in nats. The
authors average over all ordered pairs, a class with itself included; the mean over distinct classes is given beside it.
*Overlap*: the Jaccard index of the two sets. *Cosine*: of the two classes' histograms of how often each unit is influential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from subspect.asking.options import SHARE
from subspect.choosing.influence import frequency
from subspect.ground.drawing import COLOURS, drawing, escaped, headed, short
from subspect.ground.errors import SubspectError, near, some
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.feature_names import Names, names_json
from subspect.heads.history import Part
from subspect.heads.supports import Supports
from subspect.statistics.largest import Needed, TopFeatures
from subspect.statistics.moments import ClassSums
from subspect.studies.parts import in_words
from subspect.studies.study import StudyLike, open_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEATURES = "features"  #: what the head's input is called among the layers
_KS = (1, 2, 3, 5, 10, 20, 50, 100)  # sizes at which the mass is told
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerSelectivity:
    """How class-specific one layer is.

    Attributes:
        layer: its name; "features" for the head's input.
        channels: number of units d.
        supports: the k most frequent units of each class; all for a class without images.
        counts: (C, d) images of each class that have each unit among their k largest.
        psi_median: (C,) Ψ, median over the images of each class; NaN without images.
        psi_mean: (C,) likewise the mean.
        mu: (d,) the class-selectivity index of each unit.
        clipped: whether some unit was negative, so that μ is of ``max(x, 0)``.
        mass: k → (C,) the mean share of an image's mass that its k largest units hold; NaN without images.
        seen: (C,) whether there are images of each class.

    Example:
        >>> layer = study.selectivity().layers[0]
        >>> layer.layer, layer.channels
        ('features', 256)
    """

    layer: str
    channels: int
    supports: Supports
    counts: npt.NDArray[np.int64]
    psi_median: Array
    psi_mean: Array
    mu: Array
    clipped: bool
    mass: dict[int, Array]
    seen: npt.NDArray[np.bool_]

    @property
    def script_offset(self) -> float:
        """What the authors' script says more of Ψ: 1 / d."""
        return 1 / self.channels

    @property
    def information(self) -> Array:
        """Mutual information of the supports of the classes that have images, (c, c), nats."""
        return mutual_information(self._known)

    @property
    def jaccard(self) -> Array:
        """Jaccard index of the same, (c, c)."""
        return overlap(self._known)

    @property
    def cosines(self) -> Array:
        """Cosine between the histograms of the same classes, (c, c)."""
        return cosine(self.counts[self.seen])

    @property
    def _known(self) -> Supports:
        rows = [row for row, seen in zip(self.supports, self.seen, strict=True) if seen]
        return Supports(rows, self.channels)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; NaN as None."""
        information = self.information
        return {
            "layer": self.layer,
            "channels": self.channels,
            "supports": [row.tolist() for row in self.supports],
            "psi": {
                "median": _json(self.psi_median),
                "mean": _json(self.psi_mean),
                "script_median": _json(self.psi_median + self.script_offset),
                "script_mean": _json(self.psi_mean + self.script_offset),
            },
            "mu": {"units": _json(self.mu), "mean": float(self.mu.mean()), "clipped": self.clipped},
            "mass": {str(k): _json(values) for k, values in self.mass.items()},
            "mutual_information": {"all_pairs": float(information.mean()), "distinct": distinct(information)},
            "overlap": distinct(self.jaccard),
            "cosine": distinct(self.cosines),
        }


@dataclass(frozen=True, eq=False)
class Selectivity(Result):
    """How class-specific some layers are.

    Attributes:
        layers: one after the other.
        class_names: a name for each class.
        k: units that are influential for each class.
        share: of the mass that Ψ is about.
        note: on which images this was measured.
        feature_names: feature index → name, of the features that have one, where the features are among the layers.

    Example:
        >>> selectivity = study.selectivity(k=5)
        >>> [layer.layer for layer in selectivity.layers]
        ['features']
    """

    layers: tuple[LayerSelectivity, ...]
    class_names: tuple[str, ...]
    k: int
    share: float
    note: str
    feature_names: Names = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        layers = [one.to_json() for one in self.layers]
        about = {"k": self.k, "share": self.share, "note": self.note}
        names = names_json(self.feature_names)
        return {**about, "classes": list(self.class_names), "layers": layers, "feature_names": names}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each class with images in each layer."""
        return [
            {
                "layer": one.layer,
                "class": self.class_names[label],
                "psi_median": float(one.psi_median[label]),
                "psi_mean": float(one.psi_mean[label]),
                **{f"mass_{k}": float(mass[label]) for k, mass in one.mass.items()},
            }
            for one in self.layers
            for label in np.flatnonzero(one.seen).tolist()
        ]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each layer, the mean over classes."""
        caption = (
            f"{self.note}; k = {self.k}. Ψ: share of the units that aren't needed for {100 * self.share:g} % of the "
            "mass, median over a class, mean over classes (the authors' script: + 1 / units). μ: class selectivity, "
            "mean over units. MI: mutual information, nats, between distinct classes; (all): with a class and itself too, as "
            "the authors take it. Overlap (Jaccard: units of both as a share of those of either), cosine: between distinct "
            "classes. Mass, %: of the k largest units"
        )
        if any(one.channels < self.k for one in self.layers):
            caption += f"; a layer of fewer than {self.k} units takes them all"
        if any(one.clipped for one in self.layers):
            caption += "; * some units are negative, μ is of max(x, 0)"
        table = Table(title="selectivity", caption=caption, title_justify="left", caption_justify="left")
        table.add_column("layer, units", overflow="fold")
        for column in ("Ψ", "μ", "MI", "(all)", "overlap", "cosine", "mass"):
            table.add_column(column, justify="right", no_wrap=True)
        for one in self.layers:
            information = one.information
            table.add_row(
                f"{one.layer}, {one.channels}",
                f"{np.nanmean(one.psi_median):.3f}",
                f"{one.mu.mean():.3f}{'*' if one.clipped else ''}",
                f"{distinct(information):.4f}",
                f"{information.mean():.4f}",
                f"{distinct(one.jaccard):.3f}",
                f"{distinct(one.cosines):.3f}",
                f"{100 * np.nanmean(one.mass[min(self.k, one.channels)]):.1f}",
            )
        return [table]

    @drawing()
    def plot(self) -> Figure:
        """Draw Ψ of each layer, the median and the middle 95 % over its classes, and μ, the same over its units."""
        from subspect.ground.canvas import Figure

        figure = Figure(figsize=(6.4, 1.6 + 0.4 * len(self.layers)), layout="constrained")
        layers = [escaped(short(f"{one.layer}, {one.channels}", 40)) for one in self.layers]
        blue, orange = (COLOURS[name][0] for name in ("blue", "orange"))
        sides = figure.subplots(1, 2, sharey=True)
        for axes, values, colour, what in (
            (
                sides[0],
                [one.psi_median[one.seen] for one in self.layers],
                blue,
                f"Ψ, of {100 * self.share:g} % of the mass",
            ),
            (sides[1], [one.mu for one in self.layers], orange, "μ, class selectivity of each unit"),
        ):
            _draw_spread(axes, values, colour)
            axes.set_xlabel(what)
        sides[0].set_yticks(range(len(layers)), layers)
        sides[0].invert_yaxis()
        headed(figure, self.note)
        return figure

    def class_tables(self) -> list[Table]:
        """Return a table for each layer: of each class with images Ψ and the mass that its k largest units hold."""
        tables = []
        for one in self.layers:
            title = (
                f"{one.layer}, {counted(one.channels, 'unit', 'units')}: Ψ (median, mean), and % of the mass in the k "
                "largest, by k"
            )
            table = Table(title=title, title_justify="left")
            table.add_column("class", overflow="fold")
            for column in ("Ψ", "mean", *(f"{k}" for k in one.mass)):
                table.add_column(column, justify="right", no_wrap=True)
            for label in np.flatnonzero(one.seen).tolist():
                psi = (f"{values[label]:.3f}" for values in (one.psi_median, one.psi_mean))
                held = (f"{100 * mass[label]:.0f}" for mass in one.mass.values())
                table.add_row(self.class_names[label], *psi, *held)
            tables.append(table)
        return tables


def _draw_spread(axes: Axes, rows: Sequence[Array], colour: str) -> None:
    """Draw of each row of numbers between 0 and 1 the median, as a dot, and the middle 95 %, as a line."""
    for row, values in enumerate(rows):
        low, middle, high = np.percentile(values, [2.5, 50, 97.5])
        axes.plot((low, high), (row, row), color=colour, linewidth=1.5)
        axes.plot(middle, row, "o", color=colour, markersize=5)
    axes.set_xlim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, axis="x")


def selectivity(
    study: StudyLike,
    *,
    layers: str | Sequence[str] | None = None,
    on: str = "train",
    part: Part = "all",
    k: int = 5,
    share: float = SHARE,
) -> Selectivity:
    """Measure how class-specific the features and the layers of a study are, in one pass.

    Args:
        study: whose image set was observed, with ``layers`` where other layers than the features are asked for.
        layers: their names, "features" for the head's input; all that were observed unless given.
        on: the image set.
        part: which of its images.
        k: units that are influential for each class; a layer with fewer takes all.
        share: of the mass that Ψ is about, between 0 and 1.

    Raises:
        SubspectError: a layer that wasn't observed, no image, or a k or share that makes no sense.

    Example:
        >>> subspect.selectivity("study", k=5).layers[0].channels
        256
    """
    study = open_study(study)
    known = study.image_set(on).manifest.layers
    widths = {**known, FEATURES: study.identity.n_features}
    names = (layers,) if isinstance(layers, str) else tuple(layers) if layers is not None else tuple(widths)
    for name in names:
        if name not in widths:
            raise SubspectError(
                f"layer {name!r} wasn't observed on {on!r}{near(name, list(widths))}; there are: {some(widths)}; observe the "
                "images with --layers to have more"
            )
    if k < 1 or not 0 < share < 1:
        wrong = f"k must be 1 or more; got {k}" if k < 1 else f"share must be between 0 and 1; got {share}"
        raise SubspectError(wrong)
    n_classes = study.identity.n_classes
    states = {name: _State(n_classes, widths[name], min(k, widths[name]), share) for name in names}
    images = 0
    for chunk in study.image_set(on).chunks(part, [name for name in names if name != FEATURES]):
        images += len(chunk.ids)
        for name, state in states.items():
            state.update(chunk.features if name == FEATURES else chunk.layers[name], chunk.labels)
    if not images:
        raise SubspectError(
            f"there are no {study.identity.examples} in {on!r} ({part}) to measure on; take another set (--on)"
        )
    labels = (
        "" if study.image_set(on).labelled else f"; no labels: the {study.identity.what}'s own predictions stand in"
    )
    examples = study.identity.examples
    note = f"{images:,} {examples} of {study.image_set(on).called(examples)}{in_words(part, examples)}{labels}"
    found = tuple(state.result(name) for name, state in states.items())
    named = dict(study.feature_names) if FEATURES in names else {}
    return Selectivity(found, study.identity.class_names, k, share, note, named)


class _State:
    """What is filled while images stream past."""

    def __init__(self, n_classes: int, channels: int, k: int, share: float) -> None:
        self.k, self.channels = k, channels
        self.top = TopFeatures(n_classes, channels, sorted({k, *(size for size in _KS if size <= channels)}))
        self.needed = Needed(n_classes, channels, share)
        self.active = ClassSums(n_classes, channels)
        self.clipped = False

    def update(self, values: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        self.top.update(values, labels)
        self.needed.update(values, labels)
        self.clipped |= bool((values < 0).any())
        self.active.update(np.maximum(values, 0), labels)

    def result(self, name: str) -> LayerSelectivity:
        seen = self.top.images > 0
        median, mean = self.needed.median(), self.needed.mean()
        return LayerSelectivity(
            layer=name,
            channels=self.channels,
            supports=frequency(self.top, self.k),
            counts=self.top.counts(self.k),
            psi_median=1 - median / self.channels,
            psi_mean=1 - mean / self.channels,
            mu=class_selectivity(self.active.means()[seen]),
            clipped=self.clipped,
            mass={int(k): np.where(seen, self.top.mass(k), np.nan) for k in self.top.sizes},
            seen=seen,
        )


# The formulas ---------------------------------------------------------------------------------------------------------


def class_selectivity(means: npt.NDArray[np.floating]) -> Array:
    """Return μ of each unit, (d,), from its mean over each class, (C, d), none negative; 0 with fewer than two classes."""
    if len(means) < 2:
        return np.zeros(means.shape[1])
    largest = means.max(axis=0)
    rest = (means.sum(axis=0) - largest) / (len(means) - 1)
    total = largest + rest
    return np.asarray(np.divide(largest - rest, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0))


def mutual_information(supports: Supports) -> Array:
    """Return (C, C): mutual information, in nats, of the 0/1 vectors of length d of every pair of classes."""
    d, used = supports.n_features, _used(supports)
    both, sizes = used @ used.T, supports.sizes.astype(np.float64)
    one, other = np.broadcast_to(sizes[:, None], both.shape), np.broadcast_to(sizes, both.shape)
    total = np.zeros(both.shape)
    for joint, first, second in (
        (both, one, other),
        (one - both, one, d - other),
        (other - both, d - one, other),
        (d - one - other + both, d - one, d - other),
    ):
        ratio = np.divide(joint * d, first * second, out=np.ones_like(joint), where=joint > 0)
        total += joint / d * np.log(ratio)
    return total


def overlap(supports: Supports) -> Array:
    """Return (C, C): the Jaccard index of the supports of every pair of classes; 1 for two empty ones."""
    used, sizes = _used(supports), supports.sizes.astype(np.float64)
    both = used @ used.T
    union = sizes[:, None] + sizes - both
    return np.asarray(np.divide(both, union, out=np.ones_like(both), where=union > 0))


def cosine(counts: npt.NDArray[np.integer]) -> Array:
    """Return (C, C): the cosine between the rows of counts (C, d); 0 for a row of zeros."""
    wide = counts.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    scaled = wide / np.where(norms > 0, norms, 1)[:, None]
    return np.asarray(scaled @ scaled.T)


def distinct(pairs: Array) -> float:
    """Return the mean over pairs of two different classes of a symmetric (C, C) matrix; NaN with fewer than two."""
    apart = ~np.eye(len(pairs), dtype=bool)
    return float(pairs[apart].mean()) if len(pairs) > 1 else float("nan")


def _used(supports: Supports) -> Array:
    used = np.zeros((len(supports), supports.n_features))
    used[supports.rows, supports.flat] = 1
    return used


def _json(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
