"""In how many dimensions does a network decide? (arXiv 2112.07719, section 5, says: in few)

Several numbers are called dimension, and they answer different questions. Of the features x of a class, or of all images:

- *participation ratio* ``(Σλ)² / Σλ²`` of the eigenvalues λ of their covariance: how many directions they vary in, as if
  evenly. *Principal components* for 90, 95 and 99 % of the variance.
- *intrinsic dimension*: of the curved surface that they lie near. TwoNN (Facco et al. 2017) from the ratio of the distances to
  the two nearest neighbours, maximum likelihood (Levina & Bickel 2005, averaged as MacKay & Ghahramani say) from the 20
  nearest.

Of the head: its *effective rank* (Roy & Vetterli 2007), ``exp(−Σ p ln p)`` with p the singular values of W over their sum.

Of the decision: softmax and argmax see only differences of logits, which a head of C classes spreads over at most C − 1
directions. The *decision dimension* is the least r such that the network, with features projected on the best r directions,
says the same class of 99 % of the images. Best: the projection of V = W − mean(W) in the metric of the feature covariance Σ,
that is of ``V Σ^½``, on its first r singular vectors; as these live among the classes, the centred logits are projected on the
first r eigenvectors of their own covariance, and nothing of size d × d is needed.

*Boundary points* lie where two classes tie: on the segment between an image of which the network says a and one of which it
says b, at ``t = g(x) / (g(x) − g(y))`` with ``g = z_a − z_b``, if no third class is larger there. A boundary in a space of r
dimensions has r − 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from subspect.asking.options import POINTS
from subspect.ground.drawing import COLOURS, count_axis, drawing, escaped
from subspect.ground.errors import SubspectError
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.statistics.dimensions import LEAST, Spread, effective_rank, spread
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.rows import held
from subspect.studies.study import Study, StudyLike, open_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEVEL = 0.99  #: fidelity at which the decision dimension is read
_ROUNDING = 1e-9  # of the logits' size: what is nearer to the largest ties with it
_ROUNDS = 20  # of pairing images for boundary points
_ALL = 40  # up to so many directions each number is tried
Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Geometry(Result):
    """The dimensions of a network's features and of its decision.

    Attributes:
        features: number of features d.
        network: of the features of all images.
        classes: class name → of its images; the boundary points are not among them.
        head_rank: effective rank of the dense head.
        decomposed_rank: of the decomposed head, its rows of classes that had images; None without one.
        union: how many features the supports of all classes that have images use together; None without a decomposition.
        ceiling: C − 1.
        ranks: (m,) numbers of directions r.
        fidelity: (m,) share of images of which the network says the same class with features projected on r directions.
        coordinates: mean number of features of a class → fidelity, where the decomposition has a curve; on the images that
            that was measured on, which took no part in the choice.
        compared_on: their number.
        boundary: of the points on boundaries.
        drawn: points that an intrinsic dimension is taken from, at most.
        note: on which images this was measured.

    Example:
        >>> geometry = decomposition.geometry()
        >>> geometry.features, geometry.ceiling
        (256, 3)
    """

    features: int
    network: Spread
    classes: Mapping[str, Spread]
    head_rank: float
    decomposed_rank: float | None
    union: int | None
    ceiling: int
    ranks: Indices
    fidelity: Array
    coordinates: Mapping[float, float]
    compared_on: int
    boundary: Spread
    drawn: int
    note: str

    @property
    def decision(self) -> int:
        """The least number of directions at which the fidelity is 99 %; 0 where there is one class, so nothing to decide."""
        reached = np.flatnonzero(self.fidelity >= LEVEL)
        return int(self.ranks[reached[0]]) if len(reached) else self.ceiling

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "features": self.features,
            "network": self.network.to_json(),
            "classes": {name: one.to_json() for name, one in self.classes.items()},
            "head_rank": self.head_rank,
            "decomposed_rank": self.decomposed_rank,
            "union": self.union,
            "ceiling": self.ceiling,
            "decision": self.decision,
            "ranks": self.ranks.tolist(),
            "fidelity": self.fidelity.tolist(),
            "coordinates": [[k, value] for k, value in self.coordinates.items()],
            "compared_on": self.compared_on,
            "boundary": self.boundary.to_json(),
            "drawn": self.drawn,
            "note": self.note,
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for all images, for those of each class, and for the points on boundaries."""
        rows = []
        for name, one in (("all images", self.network), *self.classes.items(), ("boundary", self.boundary)):
            held = {f"components_{100 * share:g}": value for share, value in one.components.items()}
            dimensions = {"two_nn": one.two_nn, "likelihood": one.likelihood}
            rows.append({"of": name, "points": one.points, "participation": one.participation, **held, **dimensions})
        return rows

    def tables(self) -> list[Table]:
        """Return tables for the terminal: of the decision, then of the features."""
        whole = Table(title="the decision", title_justify="left", caption_justify="left")
        for column in ("", "dimensions"):
            whole.add_column(column, justify="right" if column else "left")
        rows = [
            ("decision dimension, for 99 % fidelity", f"{self.decision}"),
            ("its ceiling, number of classes − 1", f"{self.ceiling}"),
            ("effective rank of the dense head", f"{self.head_rank:.1f}"),
        ]
        if self.decomposed_rank is not None:
            rows += [
                ("effective rank of the decomposed head", f"{self.decomposed_rank:.1f}"),
                ("features in use, of all", f"{self.union} of {self.features}"),
            ]
        steps = zip(self.ranks.tolist(), self.fidelity.tolist(), strict=True)
        shown = [f"{100 * share:.1f} % at {rank}" for rank, share in steps if rank <= self.decision]
        whole.caption = self.note
        if shown:
            whole.caption += f"; fidelity with features projected on few directions: {', '.join(shown[-6:])}"
        for row in rows:
            whole.add_row(*row)
        caption = (
            "participation ratio; principal components for 90, 95, 99 % of the variance; intrinsic dimension by TwoNN (Facco "
            f"et al. 2017) and maximum likelihood (Levina & Bickel 2005), from at most {self.drawn:,} points; boundary: points "
            "where two classes tie"
        )
        spread = Table(title="the features", caption=caption, title_justify="left", caption_justify="left")
        for column in ("", "points", "participation", "90 / 95 / 99 %", "TwoNN", "likelihood"):
            spread.add_column(column, justify="right" if column else "left")
        for name, one in (("all", self.network), *self.classes.items(), ("boundary", self.boundary)):
            components = " / ".join(_text(value, 0) for value in one.components.values())
            dimensions = (_text(value) for value in (one.two_nn, one.likelihood))
            spread.add_row(name, f"{one.points:,}", _text(one.participation), components, *dimensions)
        return [whole, spread]

    @drawing()
    def plot(self) -> Figure:
        """Draw fidelity against the number of directions, and against the number of features of a class."""
        from subspect.ground.canvas import Figure

        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        blue, orange, ink = (COLOURS[name][0] for name in ("blue", "orange", "ink"))
        axes.plot(
            self.ranks,
            100 * self.fidelity,
            "-o",
            color=blue,
            markersize=3,
            label=escaped(f"directions, for all classes together, on {self.note}"),
        )
        if self.coordinates:
            sizes, shares = zip(*sorted(self.coordinates.items()), strict=True)
            values = 100 * np.array(shares)
            label = f"features, for each class, on {self.compared_on:,} that took no part in the choice"
            axes.plot(sizes, values, "-s", color=orange, markersize=3, label=label)
        reached = f"{100 * LEVEL:g} %, by {self.decision} directions"
        axes.axhline(100 * LEVEL, color=ink, linestyle=":", linewidth=1.2, label=reached)
        if self.ceiling:  # a logarithmic axis has no 0
            axes.axvline(
                self.ceiling, color=ink, linestyle="--", linewidth=0.8, label=f"number of classes − 1: {self.ceiling}"
            )
        count_axis(axes, 1, max([1, *self.ranks.tolist(), *self.coordinates]))
        axes.set_xlabel("number of directions" + (", or of features" if self.coordinates else ""))
        axes.set_ylabel("fidelity, %")
        axes.grid(alpha=0.3)
        figure.legend(frameon=False, loc="outside upper left", fontsize=9)
        return figure


def geometry(
    study: StudyLike,
    decomposition: DecompositionLike | None = None,
    *,
    on: str | None = None,
    points: int = POINTS,
    seed: int = 0,
) -> Geometry:
    """Measure the dimensions of features and decision.

    Args:
        study: where the features are stored; those of the set measured on are held in memory.
        decomposition: of this study, for the decomposed head, the union of supports and the curve.
        on: the image set; "test" if there is one, else "train", unless given. Directions are found on "train", or on the same
            set where there is none.
        points: images, and boundary points, whose intrinsic dimension is taken.
        seed: of their draw.

    Raises:
        SubspectError: no such image set, too few points, or a decomposition of another network.

    Example:
        >>> subspect.geometry("study", "pursuit-k5", points=500).features
        256
    """
    study = open_study(study)
    if decomposition is not None:
        study, decomposition = opened(study, decomposition)
    if points < LEAST:
        raise SubspectError(f"an intrinsic dimension needs {LEAST} points or more, got points={points}")
    names = study.set_names
    on = on or ("test" if "test" in names else "train")
    image_set = study.image_set(on)
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    whole, sample = held(image_set.chunks(), len(image_set))
    x, labels = whole.features, whole.labels
    if len(x) < 2:
        examples = study.identity.examples
        raise SubspectError(
            f"{on!r} has {counted(len(x), examples[:-1], examples)}; its dimensions need 2 or more: take another set (--on)"
        )
    mean, directions = _directions(study, "train" if "train" in names else on, weight, bias)
    ranks, fidelity = _by_rank(x, weight, bias, mean, directions)
    generator = np.random.default_rng(seed)
    own = ((name, x[labels == label]) for label, name in enumerate(study.identity.class_names))
    classes = {name: spread(images, points, generator) for name, images in own if len(images)}
    at_boundary = boundary_points(x, weight, bias, points, generator)
    curve = [point for point in decomposition.curve if not point.refit] if decomposition is not None else []
    seen = [] if decomposition is None else sorted(set(range(len(weight))) - set(decomposition.unseen))
    unlabelled = "" if image_set.labelled else "; no labels: classes are the network's own predictions"
    return Geometry(
        features=weight.shape[1],
        network=spread(x, points, generator),
        classes=classes,
        head_rank=effective_rank(weight),
        decomposed_rank=None if decomposition is None else effective_rank(decomposition.matrix()[0][seen]),
        union=None if decomposition is None else len({one for label in seen for one in decomposition.supports[label]}),
        ceiling=len(weight) - 1,
        ranks=ranks,
        fidelity=fidelity,
        coordinates={float(point.k): float(point.fidelity) for point in curve},
        compared_on=int(curve[0].images) if curve else 0,
        boundary=spread(at_boundary, points, generator),
        drawn=points,
        note=f"{len(image_set):,} {study.identity.examples} of {image_set.called(study.identity.examples)}{sample}{unlabelled}",
    )


def _directions(study: Study, image_set: str, weight: Array, bias: Array) -> tuple[Array, Array]:
    """Return the mean centred logits (C,) and the eigenvectors (C, C) of their covariance, the largest first."""
    images, sums, products = 0, np.zeros(len(weight)), np.zeros((len(weight), len(weight)))
    for chunk in study.image_set(image_set).chunks():
        centred = _centred(chunk.features @ weight.T + bias)
        images, sums, products = images + len(centred), sums + centred.sum(axis=0), products + centred.T @ centred
    mean = sums / max(images, 1)
    _, vectors = np.linalg.eigh(products / max(images, 1) - np.outer(mean, mean))
    return mean, vectors[:, ::-1]


def _by_rank(
    x: npt.NDArray[np.float32], weight: Array, bias: Array, mean: Array, directions: Array
) -> tuple[Indices, Array]:
    """Return numbers of directions, 1 to C − 1, and the share of images whose class stays with features projected on them.

    It stays too where it ties with others for the largest logit, within rounding: which of them argmax takes says nothing.
    """
    ceiling = len(weight) - 1
    spaced = np.arange(1, ceiling + 1) if ceiling <= _ALL else np.geomspace(1, ceiling, _ALL).round().astype(np.int64)
    ranks = np.unique(spaced)
    same = np.zeros(len(ranks))
    for start in range(0, len(x), 4096):
        centred = _centred(x[start : start + 4096] @ weight.T + bias)
        said, inside = centred.argmax(axis=1), (centred - mean) @ directions
        for place, rank in enumerate(ranks):
            projected = inside[:, :rank] @ directions[:, :rank].T + mean
            own = projected[np.arange(len(projected)), said]
            rounding = _ROUNDING * (np.abs(centred).max(axis=1) + np.abs(mean).max())
            same[place] += np.count_nonzero(own >= projected.max(axis=1) - rounding)
    return ranks, same / len(x)


def _centred(logits: Array) -> Array:
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def boundary_points(
    x: npt.NDArray[np.floating], weight: Array, bias: Array, points: int, generator: np.random.Generator
) -> Array:
    """Return (m, d), m ≤ points: points where the two largest logits tie, on segments between images of two classes.

    No image is the end of two segments that give a point: points with a common end lie near each other, which would make
    their dimension look small.

    Args:
        x: (n, d) features.
        weight: (C, d), the head's.
        bias: (C,).
        points: how many to look for, in 20 rounds over the images that have none yet.
        generator: of the draws.
    """
    logits = x @ weight.T + bias
    said = logits.argmax(axis=1)
    found, free, missing = [np.empty((0, x.shape[1]))], np.arange(len(x)), points
    for _ in range(_ROUNDS):
        one, other = generator.permutation(free)[: len(free) // 2 * 2].reshape(2, -1)
        a, b, rows = said[one], said[other], np.arange(len(one))
        near, far = logits[one, a] - logits[one, b], logits[other, a] - logits[other, b]
        step = np.divide(near, near - far, out=np.zeros(len(one)), where=a != b)[:, None]
        between = logits[one] + step * (logits[other] - logits[one])
        tied = (a != b) & (between[rows, a] >= between.max(axis=1) - 1e-9 * np.abs(between).max(axis=1))
        place = np.flatnonzero(tied)[:missing]
        wide = x[one[place]].astype(np.float64)
        found.append(wide + step[place] * (x[other[place]] - wide))
        free = np.setdiff1d(free, [*one[place], *other[place]])
        missing -= len(place)
        if not missing or len(free) < 2:
            break
    return np.concatenate(found)


def _text(value: float, digits: int = 1) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value
