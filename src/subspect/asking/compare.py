"""Two classes side by side: the features that they share, those that tell them apart, and the images confused between them.

For classes a and b, feature i separates them by ``(W[a, i] − W[b, i]) · (mean of x[i] over a − mean over b)`` logits: what it
says for a against b on images of a, less what it says on images of b. How many features the pair needs is found by pursuit
(`subspect.choosing.pursuit`) of the difference of the two dense logits on images of both, where images near the boundary count
most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.text import Text

from subspect.choosing.pursuit import pursue
from subspect.ground.drawing import COLOURS, as_label, drawing, headed
from subspect.ground.errors import SubspectError
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import in_line, legible
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import Names, columns, names_json, occurring, shown
from subspect.heads.history import Part
from subspect.heads.terms import Term, terms
from subspect.measuring.heads_say import heads_say
from subspect.measuring.where import Where, where
from subspect.statistics.nearness import FLOOR, SHARPNESS
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.study import Study, StudyLike
from subspect.swapping.moved import Moves, kept_moves, moved_by, moved_column, moves_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LETTERS = 80  # of the text of a confused example
_SHOWN = 12  # confused images
_TIPPED = 3  # features named for each
_DRAWN = 20  # features in a figure
_MOST = 12  # features that a pair may need
_NEAR = 0.01  # of the decomposed head's agreement, that the features of a pair must reach
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Separator:
    """One feature of either class.

    Attributes:
        feature: its index.
        weights: in the logits of the two classes; 0 where a class doesn't use it.
        means: over the images of the two classes.
        separation: by how much it separates them, in logits.

    Example:
        >>> separator = decomposition.compare("cat", "dog").separators[0]
        >>> separator.feature, separator.shared  # whether both classes use it
        (12, True)
    """

    feature: int
    weights: tuple[float, float]
    means: tuple[float, float]
    separation: float

    @property
    def shared(self) -> bool:
        """Whether both classes use it."""
        return all(self.weights)


@dataclass(frozen=True)
class ConfusedImage:
    """An image of one of the classes that the decomposed network takes for the other.

    Attributes:
        id: of the image.
        label: name of its class.
        predicted: name of the other class.
        dense: name of the class that the dense network predicts.
        terms: the features that speak most for the wrong class.
        difference: of the decomposed logits, for the wrong class.
        text: that was kept of the example; None where there is none.

    Example:
        >>> for one in decomposition.compare("cat", "dog").confused:
        ...     assert {one.label, one.predicted} == {"cat", "dog"}, one.id
    """

    id: str
    label: str
    predicted: str
    dense: str
    terms: tuple[Term, ...]
    difference: float
    text: str | None = None


@dataclass(frozen=True)
class Comparison(Result):
    """Two classes side by side.

    Attributes:
        names: of the two classes.
        decomposition: its name.
        note: on which images this was measured.
        separators: the features of either class, what separates them most first.
        bias: difference of the two biases, in logits.
        counts: images of the first class taken for the second, and the other way round: (dense, decomposed) each.
        images: number of images of each class.
        confused: some of the images that the decomposed network confuses, the surest first.
        agreement: share of the images of both classes on which the decomposed head sides with the dense one between the two.
        path: the same with the best 1, 2, … of all features, weights fitted to this pair alone.
        feature_names: feature index → name, of those of these features that have one.
        examples: what to call them: "images" or "examples".
        moved_by: feature of either class → the cues that explain a tenth or more of its variance, and how much of it; None
            where the study keeps no cues of the decomposition.

    Example:
        >>> comparison = decomposition.compare("cat", "dog")
        >>> comparison.names
        ('cat', 'dog')
        >>> comparison.separators[0].feature  # what tells them apart most comes first
        12
    """

    names: tuple[str, str]
    decomposition: str
    note: str
    separators: tuple[Separator, ...]
    bias: float
    counts: tuple[tuple[int, int], tuple[int, int]]
    images: tuple[int, int]
    confused: tuple[ConfusedImage, ...]
    agreement: float
    path: tuple[tuple[tuple[int, ...], float], ...]
    feature_names: Names = field(default_factory=dict)
    examples: str = "images"
    moved_by: Moves | None = None

    @property
    def needed(self) -> int | None:
        """How many features the pair needs to agree as often as the decomposed head, to within a point; None for more."""
        return next((len(found) for found, share in self.path if share >= self.agreement - _NEAR), None)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            **vars(self),
            "separators": [{**vars(one), "shared": one.shared} for one in self.separators],
            "confused": [{**vars(one), "terms": [vars(term) for term in one.terms]} for one in self.confused],
            "path": [{"features": list(found), "agreement": share} for found, share in self.path],
            "needed": self.needed,
            "feature_names": names_json(self.feature_names),
            "moved_by": moves_json(self.moved_by),
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each feature of either class."""
        (one, other), rows = self.names, []
        for each in self.separators:
            weights = {f"weight {one}": each.weights[0], f"weight {other}": each.weights[1]}
            means = {f"mean {one}": each.means[0], f"mean {other}": each.means[1]}
            rows.append(
                {
                    **columns(each.feature, self.feature_names),
                    **weights,
                    **means,
                    "separation": each.separation,
                    "shared": each.shared,
                    **moved_column(each.feature, self.moved_by),
                }
            )
        return rows

    def tables(self) -> list[Table]:
        """Return tables for the terminal: features, then confused images."""
        first, second = self.names
        needed = f"{self.needed or f'more than {_MOST}'} feature{' is' if self.needed == 1 else 's are'} needed"
        caption = (
            f"{self.note}; {first} taken for {second}: {self.counts[0][1]} of {self.images[0]} (dense {self.counts[0][0]}), "
            f"{second} for {first}: {self.counts[1][1]} of {self.images[1]} (dense {self.counts[1][0]}); between "
            f"the two, the decomposed head sides with the dense one on {100 * self.agreement:.1f} %; {needed} to come within a "
            f"point of that; difference of the biases {self.bias:+.2f}"
        )
        table = Table(
            title=f"{first} and {second}: {self.decomposition}",
            caption=caption,
            title_justify="left",
            caption_justify="left",
        )
        for column in ("feature", f"weight {first}", second, f"mean {first}", second, "separates by", "used by"):
            table.add_column(column, justify="right", overflow="ellipsis" if column == "used by" else "fold")
        for one in self.separators:
            used = "both" if one.shared else first if one.weights[0] else second
            numbers = [f"{weight:.3g}" if weight else "" for weight in one.weights] + [
                f"{mean:.3g}" for mean in one.means
            ]
            table.add_row(shown(one.feature, self.feature_names), *numbers, f"{one.separation:+.2f}", used)
        images = Table(title=f"confused {self.examples}", title_justify="left")
        for column in (self.examples[:-1], "is", "taken for", "dense", "by", "what tipped it, in logits"):
            images.add_column(column, justify="right" if column == "by" else "left", overflow="fold")
        for shot in self.confused:
            tipped = ", ".join(
                f"{shown(term.feature, self.feature_names)} {term.contribution:+.2f}" for term in shot.terms
            )
            text = Text(legible(f"{shot.id}: {in_line(shot.text or '', _LETTERS)}"), no_wrap=True, overflow="ellipsis")
            images.add_row(
                text if shot.text else shot.id, shot.label, shot.predicted, shot.dense, f"{shot.difference:.2f}", tipped
            )
        moved = [] if self.moved_by is None else [self._moved(self.moved_by)]
        return [table, *moved, *([images] if self.confused else [])]

    def _moved(self, moves: Moves) -> Table:
        caption = (
            "share of the feature's variance that a swap of the cue explains; 100 % is by how much two images differ"
        )
        table = Table(title="what moves them", title_justify="left", caption=caption, caption_justify="left")
        table.add_column("feature", justify="right")
        table.add_column("moved by", overflow="fold", min_width=60)
        for one in self.separators:
            table.add_row(shown(one.feature, self.feature_names), moved_by(moves[one.feature]))
        return table

    @drawing()
    def plot(self) -> Figure:
        """Draw by how much each feature separates the two classes: those that both use, and those of one alone."""
        from subspect.ground.canvas import Figure

        drawn = self.separators[:_DRAWN]
        figure = Figure(figsize=(6.4, 1.6 + 0.26 * len(drawn)), layout="constrained")
        axes = figure.add_subplot()
        first, second = map(as_label, self.names)
        kinds = {"both": ("both", "ink"), "first": (f"{first} alone", "blue"), "second": (f"{second} alone", "orange")}
        for place, one in enumerate(drawn):
            kind = "both" if one.shared else "first" if one.weights[0] else "second"
            axes.barh(place, one.separation, color=COLOURS[kinds[kind][1]][0])
        for label, colour in kinds.values():
            axes.barh(0, 0, color=COLOURS[colour][0], label=f"used by {label}")  # for the legend
        called = [as_label(f"feature {shown(one.feature, self.feature_names)}", 30) for one in drawn]
        axes.set_yticks(range(len(drawn)), called)
        axes.invert_yaxis()
        axes.axvline(0, color=COLOURS["ink"][0], linewidth=0.8)
        axes.set_xlabel("separates the two classes by, in logits")
        more = f"; {len(drawn)} of {len(self.separators)} features" if len(drawn) < len(self.separators) else ""
        headed(figure, f"{self.decomposition}, {self.note}{more}")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside lower left", fontsize=9, ncols=3)
        return figure


def compare(
    study: StudyLike, decomposition: DecompositionLike, *, first: int | str, second: int | str, on: str | None = None
) -> Comparison:
    """Compare two classes.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        first: index or name of a class.
        second: of another one.
        on: the image set to measure on; one that took no part in the choice unless given.

    Raises:
        SubspectError: the same class twice, or one without images.

    Example:
        >>> comparison = subspect.compare("study", "pursuit-k5", first="cat", second="dog")
        >>> comparison.names
        ('cat', 'dog')
    """
    study, decomposition = opened(study, decomposition)
    names, label, other = decomposition.class_names, decomposition.label(first), decomposition.label(second)
    if label == other:
        raise SubspectError(f"two classes are compared, and both are {names[label]!r}; name another one")
    images = where(study, decomposition, on)
    pair = _pair(study, decomposition, images, (label, other))
    counts = [int((pair.labels == one).sum()) for one in (label, other)]
    if not min(counts):
        without = names[label] if not counts[0] else names[other]
        raise SubspectError(
            f"there is no {images.examples[:-1]} of {without!r} in {images.image_set!r} to compare; take another set (--on)"
        )
    dense = [tensor.double().numpy() for tensor in study.head()]
    weight, bias = (array.astype(np.float64) for array in decomposition.matrix())
    heads = {"dense": pair.dense, "decomposed": pair.decomposed}
    said = {name: logits.argmax(axis=1) for name, logits in heads.items()}
    side = {name: logits[:, label] > logits[:, other] for name, logits in heads.items()}
    separators = _separators(pair, weight, label, other)
    path = _path(study, decomposition, pair, (label, other), dense, side["dense"])
    used = {one.feature for one in separators}.union(*(found for found, _ in path))
    return Comparison(
        names=(names[label], names[other]),
        decomposition=decomposition.name,
        note=images.note,
        separators=separators,
        bias=float(bias[label] - bias[other]),
        counts=(
            _taken(pair, said, label, other),
            _taken(pair, said, other, label),
        ),
        images=(counts[0], counts[1]),
        confused=_confused(pair, decomposition, heads["decomposed"], said, (label, other)),
        agreement=float(np.mean(side["dense"] == side["decomposed"])),
        path=path,
        feature_names=occurring(used, study.feature_names),
        examples=images.examples,
        moved_by=kept_moves(study, decomposition, (one.feature for one in separators)),
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """The images of two classes, (n, d), and what both heads say of them, (n, C)."""

    x: Array
    labels: npt.NDArray[np.int64]
    ids: list[str]
    texts: list[str | None]
    dense: npt.NDArray[np.float32]
    decomposed: npt.NDArray[np.float32]


def _pair(study: Study, decomposition: Decomposition, images: Where, labels: Sequence[int]) -> _Pair:
    found, ids, texts = [], list[str](), list[str | None]()
    for said in heads_say(study, decomposition, images):
        rows = np.flatnonzero(np.isin(said.chunk.labels, labels))
        found.append((said.chunk.features[rows], said.chunk.labels[rows], said.dense[rows], said.decomposed[rows]))
        ids += [said.chunk.ids[row] for row in rows.tolist()]
        texts += [said.chunk.texts[row] if said.chunk.texts else None for row in rows.tolist()]
    x, own, dense, decomposed = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Pair(x.astype(np.float64), own, ids, texts, dense, decomposed)


def _features(study: Study, image_set: str, part: Part, labels: Sequence[int]) -> Array:
    """Read the features (n, d) of the images of some classes."""
    chunks = study.image_set(image_set).chunks(part)
    return np.concatenate([chunk.features[np.isin(chunk.labels, labels)] for chunk in chunks]).astype(np.float64)


def _separators(pair: _Pair, weight: Array, label: int, other: int) -> tuple[Separator, ...]:
    means = [pair.x[pair.labels == one].mean(axis=0) for one in (label, other)]
    apart = (weight[label] - weight[other]) * (means[0] - means[1])
    used = np.flatnonzero((weight[label] != 0) | (weight[other] != 0))
    return tuple(
        Separator(
            feature,
            (float(weight[label, feature]), float(weight[other, feature])),
            (float(means[0][feature]), float(means[1][feature])),
            float(apart[feature]),
        )
        for feature in used[np.argsort(-apart[used], kind="stable")].tolist()
    )


def _taken(pair: _Pair, said: dict[str, npt.NDArray[np.int64]], label: int, other: int) -> tuple[int, int]:
    own = pair.labels == label
    return int((said["dense"][own] == other).sum()), int((said["decomposed"][own] == other).sum())


def _confused(
    pair: _Pair,
    decomposition: Decomposition,
    logits: npt.NDArray[np.float32],
    said: dict[str, npt.NDArray[np.int64]],
    labels: tuple[int, int],
) -> tuple[ConfusedImage, ...]:
    wrong = np.where(pair.labels == labels[0], labels[1], labels[0])
    by = logits[np.arange(len(wrong)), wrong] - logits[np.arange(len(wrong)), pair.labels]
    rows = np.flatnonzero(said["decomposed"] == wrong)
    names = decomposition.class_names
    found = []
    for row in rows[np.argsort(-by[rows], kind="stable")][:_SHOWN].tolist():
        label, other = int(wrong[row]), int(pair.labels[row])
        speaking = sorted(terms(decomposition, pair.x[row], label, other)[0], key=lambda term: -term.contribution)
        tipped = tuple(term for term in speaking[:_TIPPED] if term.contribution > 0)
        dense = names[int(said["dense"][row])]
        about = pair.ids[row], names[other], names[label], dense, tipped, float(by[row]), pair.texts[row]
        found.append(ConfusedImage(*about))
    return tuple(found)


def _path(
    study: Study,
    decomposition: Decomposition,
    pair: _Pair,
    labels: tuple[int, int],
    dense: Sequence[Array],
    side: npt.NDArray[np.bool_],
) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Pursue the difference of two dense logits, on the images that the features were chosen on."""
    chosen = _features(study, *decomposition.chosen_on, labels)
    if len(chosen) < 2:
        return ()
    row, shift = dense[0][labels[0]] - dense[0][labels[1]], float(dense[1][labels[0]] - dense[1][labels[1]])
    target = chosen @ row + shift
    weights = _near(target)
    mean, middle = weights @ chosen, float(weights @ target)
    centred = chosen - mean
    gram, moments = (centred * weights[:, None]).T @ centred, centred.T @ (weights * (target - middle))
    path = []
    for step in pursue(gram, moments, _MOST):
        own = np.linalg.solve(gram[np.ix_(step.support, step.support)], moments[step.support])
        said = (pair.x[:, step.support] - mean[step.support]) @ own + middle > 0
        path.append((tuple(step.support.tolist()), float(np.mean(said == side))))
    return tuple(path)


def _near(target: Array) -> Array:
    """Return (n,) weights that sum to 1: images near the boundary between the two classes count most."""
    scale = SHARPNESS * float(np.median(np.abs(target)))
    weights = (np.exp(-np.abs(target) / scale) if scale else np.ones_like(target)) + FLOOR
    return np.asarray(weights / weights.sum())
