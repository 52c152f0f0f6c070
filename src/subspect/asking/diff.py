"""Two studies side by side: another network, or the same one after retraining, on the same images.

Images are matched by their ids. What a class gained and lost is told in images, by what each decomposed network says, and in
features: those of one network are matched with those of the other by their correlation over the images, each with one at
most (Hungarian method); a pair that correlates by less than 0.5 is no match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from subspect.ground.errors import SubspectError, some
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import Names, listed, names_json, occurring, shown
from subspect.measuring.heads_say import heads_say
from subspect.measuring.where import Where, where
from subspect.studies.decompositions import DecompositionLike, load_decomposition, opened
from subspect.studies.study import Study, StudyLike

_SAME = 0.5  # correlation from which on two features count as the same
_IDS = 12  # images listed
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MatchedFeature:
    """A feature of the first network and its match in the second.

    Attributes:
        first: its index in the first.
        second: its index in the second.
        correlation: over the images.

    Example:
        >>> for match in decomposition.diff("another").classes[1].kept:
        ...     assert -1 <= match.correlation <= 1, (match.first, match.second)
    """

    first: int
    second: int
    correlation: float


@dataclass(frozen=True)
class ClassChange:
    """What one class gained and lost.

    Attributes:
        name: of the class.
        images: their number.
        dense: accuracy of the two dense networks.
        decomposed: accuracy of the two decomposed networks.
        gained: images that only the second decomposed network gets right.
        lost: images that only the first gets right.
        gained_ids: some of those images.
        lost_ids: likewise.
        kept: features of the class in both networks.
        gone: features of the first that have no match in the second.
        new: features of the second that have no match in the first.

    Example:
        >>> change = decomposition.diff("another").classes[1]
        >>> change.name, change.images
        ('cat', 15)
    """

    name: str
    images: int
    dense: tuple[float, float]
    decomposed: tuple[float, float]
    gained: int
    lost: int
    gained_ids: tuple[str, ...]
    lost_ids: tuple[str, ...]
    kept: tuple[MatchedFeature, ...]
    gone: tuple[int, ...]
    new: tuple[int, ...]

    @property
    def of_first(self) -> tuple[int, ...]:
        """All features of the class in the first network."""
        return (*(pair.first for pair in self.kept), *self.gone)

    @property
    def of_second(self) -> tuple[int, ...]:
        """All features of the class in the second network."""
        return (*(pair.second for pair in self.kept), *self.new)


@dataclass(frozen=True)
class Difference(Result):
    """Two studies side by side, on the images that both have.

    Attributes:
        studies: their folders or addresses.
        decompositions: their names.
        image_set: where the images come from.
        note: on which images this was measured; on which by each study, where they differ.
        images: how many both have.
        dense: accuracy of the two dense networks.
        decomposed: accuracy of the two decomposed networks.
        same: share of the images of which both decomposed networks say the same.
        classes: what each class with images gained and lost.
        feature_names: of each study, feature index → name, of those of these features that have one.

    Example:
        >>> difference = decomposition.diff("another")
        >>> difference.images
        60
    """

    studies: tuple[str, str]
    decompositions: tuple[str, str]
    image_set: str
    note: str
    images: int
    dense: tuple[float, float]
    decomposed: tuple[float, float]
    same: float
    classes: tuple[ClassChange, ...]
    feature_names: tuple[Names, Names] = field(default_factory=lambda: ({}, {}))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "feature_names": [names_json(names) for names in self.feature_names]}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each class."""
        sides, rows = ("first", "second"), []
        for one in self.classes:
            dense = {f"dense {side}": value for side, value in zip(sides, one.dense, strict=True)}
            decomposed = {f"decomposed {side}": value for side, value in zip(sides, one.decomposed, strict=True)}
            features = {name: len(getattr(one, name)) for name in ("kept", "gone", "new")}
            counts = {"images": one.images, "gained": one.gained, "lost": one.lost}
            rows.append({"class": one.name, **counts, **dense, **decomposed, **features})
        return rows

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each class, those that lost most first."""
        caption = (
            f"{self.note}; {self.images:,} that both have; accuracy dense {_both(self.dense)}, decomposed "
            f"{_both(self.decomposed)}; both decomposed networks predict the same for {100 * self.same:.1f} %; classes: "
            "accuracy, gained and lost, features kept → their counterparts (which correlate by half or more), gone, new"
        )
        sides = zip(self.studies, self.decompositions, strict=True)
        title = " → ".join(f"{study}, {name}" for study, name in sides)
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
        columns = ("class", "dense, %", "decomposed, %", "gained", "lost", "kept", "gone", "new")
        for column in columns:
            table.add_column(column, justify="left" if column == "class" else "right", no_wrap=column == "class")
        for one in sorted(self.classes, key=lambda one: one.lost - one.gained, reverse=True):
            kept = _pairs(one.kept, self.feature_names)
            gone, new = (listed(*side) for side in zip((one.gone, one.new), self.feature_names, strict=True))
            counts = str(one.gained), str(one.lost)
            shares = _both(one.dense).rstrip(" %"), _both(one.decomposed).rstrip(" %")
            table.add_row(one.name, *shares, *counts, kept, gone, new)
        return [table]


def diff(
    study: StudyLike, decomposition: DecompositionLike, *, other: Decomposition | StudyLike, on: str | None = None
) -> Difference:
    """Compare two studies of the same classes on the same images.

    Args:
        study: the first.
        decomposition: of it.
        other: a decomposition of the second study, which it knows: ``other_study["pursuit-k5"]``; of a study, or its folder,
            the newest.
        on: the image set, of that name in both; one that took no part in the first's choice unless given.

    Raises:
        SubspectError: other classes, no image set of that name in both, or no image in common.

    Example:
        >>> subspect.diff("study", "pursuit-k5", other="another").images
        60
    """
    first, decomposition = opened(study, decomposition)
    other = other if isinstance(other, Decomposition) else load_decomposition(other)
    second = other.study
    if second is None:
        raise SubspectError(
            f"decomposition {other.name!r} was read from a file and doesn't know its study; take it from there: "
            f"subspect.open_study(folder)[{other.name!r}]"
        )
    decompositions = decomposition, other
    names = first.identity.class_names
    if names != second.identity.class_names:
        differ = [pair for pair in zip(names, second.identity.class_names, strict=False) if pair[0] != pair[1]]
        raise SubspectError(
            f"the two studies have other classes: {len(names)} and {len(second.identity.class_names)}, "
            f"{some([f'{one} and {other}' for one, other in differ]) or 'of another number'}; compare studies of the same ones"
        )
    image_set = where(first, decompositions[0], on).image_set
    images = [where(study, one, image_set) for study, one in zip((first, second), decompositions, strict=True)]
    notes = dict.fromkeys(one.note for one in images)
    sides = [_read(*side) for side in zip((first, second), decompositions, images, strict=True)]
    order = {id: row for row, id in enumerate(sides[1].ids)}
    rows = [(row, order[id]) for row, id in enumerate(sides[0].ids) if id in order]
    if not rows:
        raise SubspectError(
            f"{image_set!r} of {first.path} and of {second.path} have no id in common ({some(sides[0].ids, 2)}; "
            f"{some(sides[1].ids, 2)}); store the same {first.identity.examples} in both"
        )
    pair = [side.at([row[place] for row in rows]) for place, side in enumerate(sides)]
    labels = pair[0].labels
    right = [(side.dense == labels, side.said == labels) for side in pair]
    changes = []
    for label, name in enumerate(names):
        own = labels == label
        if own.any():
            changes.append(_change(name, label, own, pair, right))
    return Difference(
        studies=(first.address, second.address),
        decompositions=(decompositions[0].name, decompositions[1].name),
        image_set=image_set,
        note=" / ".join(notes),
        images=len(rows),
        dense=(float(right[0][0].mean()), float(right[1][0].mean())),
        decomposed=(float(right[0][1].mean()), float(right[1][1].mean())),
        same=float(np.mean(pair[0].said == pair[1].said)),
        classes=tuple(changes),
        feature_names=(
            occurring((feature for one in changes for feature in one.of_first), first.feature_names),
            occurring((feature for one in changes for feature in one.of_second), second.feature_names),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """What one study knows of some images: the features that its decomposition uses, and what its networks say."""

    decomposition: Decomposition
    columns: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    dense: npt.NDArray[np.int64]
    said: npt.NDArray[np.int64]
    ids: list[str]

    def at(self, rows: Sequence[int]) -> _Side:
        """Take some of the images."""
        place = list(rows)
        return replace(
            self,
            features=self.features[place],
            labels=self.labels[place],
            dense=self.dense[place],
            said=self.said[place],
            ids=[self.ids[row] for row in place],
        )

    def of(self, label: int) -> Array:
        """Return (n, k): the features of a class, standardised over all images."""
        places = np.searchsorted(self.columns, self.decomposition.supports[label])
        own = self.features[:, places].astype(np.float64)
        own -= own.mean(axis=0)
        return np.asarray(own / np.maximum(np.linalg.norm(own, axis=0), 1e-300))


def _read(study: Study, decomposition: Decomposition, images: Where) -> _Side:
    kept = [s for label, s in enumerate(decomposition.supports) if label not in decomposition.unseen]
    columns = np.unique(np.concatenate([np.empty(0, np.int64), *kept]))
    found, ids = [], list[str]()
    for said in heads_say(study, decomposition, images):
        chunk = said.chunk
        found.append((chunk.features[:, columns], chunk.labels, chunk.predictions, said.decomposed.argmax(axis=1)))
        ids += chunk.ids
    features, labels, dense, said_by_few = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Side(decomposition, columns, features, labels, dense, said_by_few, ids)


def _change(
    name: str,
    label: int,
    own: npt.NDArray[np.bool_],
    pair: Sequence[_Side],
    right: Sequence[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]],
) -> ClassChange:
    gained, lost = own & ~right[0][1] & right[1][1], own & right[0][1] & ~right[1][1]
    kept, gone, new = _match(label, pair)
    ids = pair[0].ids
    return ClassChange(
        name=name,
        images=int(own.sum()),
        dense=(float(right[0][0][own].mean()), float(right[1][0][own].mean())),
        decomposed=(float(right[0][1][own].mean()), float(right[1][1][own].mean())),
        gained=int(gained.sum()),
        lost=int(lost.sum()),
        gained_ids=tuple(ids[row] for row in np.flatnonzero(gained)[:_IDS].tolist()),
        lost_ids=tuple(ids[row] for row in np.flatnonzero(lost)[:_IDS].tolist()),
        kept=kept,
        gone=gone,
        new=new,
    )


def _match(label: int, pair: Sequence[_Side]) -> tuple[tuple[MatchedFeature, ...], tuple[int, ...], tuple[int, ...]]:
    """Match the features of a class; nothing for a class that one of the two has no features for."""
    if any(label in side.decomposition.unseen for side in pair):
        return (), (), ()
    supports = [side.decomposition.supports[label].tolist() for side in pair]
    correlations = pair[0].of(label).T @ pair[1].of(label)
    kept = []
    for row, column in zip(*linear_sum_assignment(-np.abs(correlations)), strict=True):
        if abs(correlations[row, column]) >= _SAME:
            kept.append(MatchedFeature(supports[0][row], supports[1][column], float(correlations[row, column])))
    firsts, seconds = {one.first for one in kept}, {one.second for one in kept}
    gone = tuple(feature for feature in supports[0] if feature not in firsts)
    return tuple(kept), gone, tuple(feature for feature in supports[1] if feature not in seconds)


def _pairs(kept: Sequence[MatchedFeature], names: tuple[Names, Names]) -> str:
    """Return matched features in a row; with commas where one has a name."""
    pairs = [f"{shown(pair.first, names[0])}→{shown(pair.second, names[1])}" for pair in kept]
    named = any(pair.first in names[0] or pair.second in names[1] for pair in kept)
    return (", " if named else " ").join(pairs)


def _both(shares: tuple[float, float]) -> str:
    return f"{100 * shares[0]:.1f} → {100 * shares[1]:.1f} %"
