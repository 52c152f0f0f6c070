"""What a refit sums over images: the loss of a head on few features, and its gradient.

With ``z = x W' + b``, the loss is ``mean(logsumexp(z) − p·z)`` and a constant: the wanted probabilities p enter by one sum,
taken once, and a step reads only the features of the supports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import entr, softmax

from subspect.choosing.boundary import FLOOR, Affine, logits
from subspect.choosing.options import Target
from subspect.choosing.pursuit import Array, Indices
from subspect.ground.arrays import Features
from subspect.studies.rows import Block, workers

_ROWS = 2048  # images handled at a time
_FILL = 32  # up to so many times the entries of the supports, a full matrix product is faster than one for each class
Taken = tuple[
    int, float, Array, tuple[Array, ...]
]  #: images, constant of the loss, what is wanted, curvature of each class


@dataclass(frozen=True, eq=False)
class Cut:
    """Some images: the features (u + 1, r) of all supports together and a row of ones; the fixed classes' logits (f, r)."""

    features: Array
    fixed: Array


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the weights of a head on few features lie in one vector: of each free class the support's, then its bias.

    Attributes:
        free: classes that are learned.
        fixed: classes that keep their row.
        rows: weight (f, d) and bias (f,) of those.
        union: (u,) the features of all supports together.
        places: of each free class, where its support lies in the union; the last, beyond it, is the bias.
        parts: of each free class, where its weights lie in the vector.
        entries: row and column of each entry of the vector, in (free classes, u + 1).
    """

    free: list[int]
    fixed: list[int]
    rows: Affine
    union: Indices
    places: list[Indices]
    parts: list[slice]
    entries: tuple[Indices, Indices]

    @classmethod
    def of(cls, supports: Sequence[Indices], start: Affine, fixed: Iterable[int]) -> Layout:
        """Lay out heads on some supports."""
        own = sorted(set(fixed))
        free = [label for label in range(len(supports)) if label not in own]
        union = np.unique(np.concatenate([np.empty(0, np.int64), *(supports[label] for label in free)]))
        places = [np.append(np.searchsorted(union, supports[label]), len(union)) for label in free]
        sizes = [len(one) for one in places]
        parts = [slice(end - size, end) for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True)]
        entries = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.empty(0, np.int64), *places])
        return cls(free, own, (start[0][own], start[1][own]), union, places, parts, entries)

    @property
    def full(self) -> bool:
        """Whether one matrix product for all classes is faster than one for each."""
        return len(self.free) * (len(self.union) + 1) <= _FILL * len(self.entries[0])

    def cut(self, block: Block) -> list[Cut]:
        """Cut a block into pieces that caches hold."""
        return [self._cut(block.features[start : start + _ROWS]) for start in range(0, len(block), _ROWS)]

    def nothing(self) -> Taken:
        """Return the sums of no images."""
        curvatures = tuple(np.zeros((len(places), len(places))) for places in self.places)
        return 0, 0.0, np.zeros(len(self.entries[0])), curvatures

    def take(self, dense: Affine, target: Target, begin: Array, so_far: Taken, block: tuple[Block, list[Cut]]) -> Taken:
        """Add what is wanted of some images, and the curvatures of the classes at a vector to begin with."""
        images, constant, wanted, curvatures = so_far
        for number, cut in enumerate(block[1]):
            rows = block[0].at(slice(number * _ROWS, (number + 1) * _ROWS))
            said = logits(rows, dense).astype(np.float64)
            p = np.eye(said.shape[1])[rows.labels] if target == "labels" else softmax(said, axis=1)
            constant -= float(entr(p).sum()) + float((p.T[self.fixed] * cut.fixed).sum())
            self._take(p.T, begin, cut, wanted, curvatures)
        return images + len(block[0]), constant, wanted, curvatures

    def normalise(self, theta: Array, so_far: tuple[float, Array], cuts: list[Cut]) -> tuple[float, Array]:
        """Add the sum over images of logsumexp(z), and its gradient."""
        loss, gradient = so_far
        with workers() as pool:
            for own_loss, own_gradient in pool.map(lambda cut: self._normalise(theta, cut), cuts):
                loss += own_loss
                gradient += own_gradient
        return loss, gradient

    def _cut(self, x: Features) -> Cut:
        fixed = self.rows[0] @ x.T.astype(np.float64) + self.rows[1][:, None]
        features = np.ones((len(self.union) + 1, len(x)))
        features[:-1] = x[:, self.union].T
        return Cut(features, fixed)

    def _take(self, p: Array, begin: Array, cut: Cut, wanted: Array, curvatures: Sequence[Array]) -> None:
        q = softmax(self._logits(begin, cut), axis=0)
        weights = q * (1 - q) + FLOOR

        def at(c: int) -> None:
            x, label = cut.features[self.places[c]], self.free[c]
            wanted[self.parts[c]] += x @ p[label]
            np.add(curvatures[c], (x * weights[label]) @ x.T, out=curvatures[c])

        with workers() as pool:
            list(pool.map(at, range(len(self.free))))

    def _normalise(self, theta: Array, cut: Cut) -> tuple[float, Array]:
        z = self._logits(theta, cut)
        largest = z.max(axis=0)
        q = np.exp(z - largest)
        total = q.sum(axis=0)
        q /= total
        loss = float((largest + np.log(total)).sum())
        if self.full:
            return loss, (q[self.free] @ cut.features.T)[self.entries]
        return loss, np.concatenate(
            [cut.features[places] @ q[label] for places, label in zip(self.places, self.free, strict=True)]
        )

    def _logits(self, theta: Array, cut: Cut) -> Array:
        z = np.empty((len(self.free) + len(self.fixed), cut.features.shape[1]))
        z[self.fixed] = cut.fixed
        if self.full:
            weight = np.zeros((len(self.free), len(cut.features)))
            weight[self.entries] = theta
            z[self.free] = weight @ cut.features
        else:
            for places, part, label in zip(self.places, self.parts, self.free, strict=True):
                z[label] = theta[part] @ cut.features[places]
        return z
