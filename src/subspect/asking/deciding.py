"""What decides each class: what each of its few features adds to the margin on the class's images.

The margin of an image is its class's decomposed logit less that of the strongest other class j. It is a sum over features, of
which feature i adds ``(W[c, i] − W[j, i]) · x[i]``; averaged over the images of class c, that is what feature i adds to it. A
feature whose weight in the class is positive speaks for it, one whose weight is negative speaks against it: it belongs to other
classes, and what tells class c is that it is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subspect.heads.decomposition import Decomposition
from subspect.measuring.heads_say import Said, heads_say
from subspect.measuring.where import Where
from subspect.studies.study import Study

_MOST = 3  # classes that a feature is said to fire on


@dataclass(frozen=True)
class Speaks:
    """A feature of a class.

    Attributes:
        feature: its index.
        weight: in the class's logit.
        added: to the margin, in logits, on average over the class's images; where none were measured, to the class's logit,
            over those that features were chosen on.
    """

    feature: int
    weight: float
    added: float


@dataclass(frozen=True, eq=False)
class Deciding:
    """What decides each class.

    Attributes:
        speaks_for: class → its features with a positive weight, those that add most first; not of classes without images.
        against: class → its other features, the largest weights first.
        margins: (C,) mean margin of each class, in logits; NaN where no image of it was measured.
        fires_on: feature → up to three classes on whose images it is largest on average, the first the largest.
    """

    speaks_for: Mapping[int, tuple[Speaks, ...]]
    against: Mapping[int, tuple[Speaks, ...]]
    margins: npt.NDArray[np.float64]
    fires_on: Mapping[int, tuple[int, ...]]

    @property
    def most(self) -> float:
        """What a feature adds at most in any class; 0 where nothing adds."""
        return max((one.added for row in self.speaks_for.values() for one in row), default=0.0)

    def belongs_to(self, feature: int, label: int) -> tuple[int, ...]:
        """Return the classes that a feature which speaks against a class belongs to: those on which it is largest."""
        return tuple(other for other in self.fires_on.get(feature, ()) if other != label)[: _MOST - 1]


def deciding(study: Study, decomposition: Decomposition, where: Where) -> Deciding:
    """Go once through images, and sum up what each feature adds to the margin of each image's class."""
    sums = _Sums(decomposition)
    for said in heads_say(study, decomposition, where):
        sums.update(said)
    speaks_for, against = dict[int, tuple[Speaks, ...]](), dict[int, tuple[Speaks, ...]]()
    for label in sums.kept:
        added = dict(
            zip(sums.columns[label].tolist(), (sums.added[label] / max(1, sums.images[label])).tolist(), strict=True)
        )
        found = [
            Speaks(row.feature, row.weight, added[row.feature] if sums.images[label] else row.contribution)
            for row in decomposition.rows(label)
        ]
        speaks_for[label] = tuple(sorted((one for one in found if one.weight > 0), key=lambda one: -one.added))
        against[label] = tuple(sorted((one for one in found if one.weight <= 0), key=lambda one: one.weight))
    with np.errstate(invalid="ignore"):
        return Deciding(speaks_for, against, sums.margins / sums.images, sums.fires_on())


class _Sums:
    """What is summed up over images."""

    def __init__(self, decomposition: Decomposition) -> None:
        supports, n_classes = decomposition.supports, len(decomposition.class_names)
        self.weight = decomposition.matrix()[0]
        self.kept = [label for label in range(n_classes) if label not in set(decomposition.unseen)]
        self.columns = {label: np.asarray(supports[label], np.int64) for label in self.kept}
        self.used = np.unique(np.concatenate([np.empty(0, np.int64), *self.columns.values()]))
        self.added = {label: np.zeros(len(columns)) for label, columns in self.columns.items()}
        self.images, self.margins = np.zeros(n_classes), np.zeros(n_classes)
        self.means = np.zeros((n_classes, len(self.used)))

    def update(self, said: Said) -> None:
        features, labels = np.asarray(said.chunk.features), said.chunk.labels
        logits, rows = said.decomposed.copy(), np.arange(len(labels))
        own = logits[rows, labels]
        logits[rows, labels] = -np.inf
        rival = logits.argmax(axis=1)
        margins = own - logits[rows, rival]
        for label in np.unique(labels).tolist():
            mine = np.flatnonzero(labels == label)
            self.images[label] += len(mine)
            self.margins[label] += margins[mine].sum(dtype=np.float64)
            self.means[label] += features[np.ix_(mine, self.used)].sum(axis=0, dtype=np.float64)
            if (columns := self.columns.get(label)) is not None:
                gain = self.weight[label, columns] - self.weight[np.ix_(rival[mine], columns)]
                self.added[label] += (gain * features[np.ix_(mine, columns)]).sum(axis=0, dtype=np.float64)

    def fires_on(self) -> dict[int, tuple[int, ...]]:
        seen = np.flatnonzero(self.images)
        means = self.means[seen] / self.images[seen, None]
        order = seen[np.argsort(-means, axis=0, kind="stable")[:_MOST]].T
        return {feature: tuple(classes) for feature, classes in zip(self.used.tolist(), order.tolist(), strict=True)}
