"""What a refit sums over images: the loss of a head on few features, and its gradient.

With ``z = x W' + b``, the loss is ``mean(logsumexp(z) − p·z)`` and a constant: the wanted probabilities p enter by one sum,
taken once, and a step reads only the features of the supports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import entr, softmax

from subspect.choosing.boundary import Affine, Single, logits, single
from subspect.choosing.options import Target
from subspect.choosing.pursuit import Array, Indices
from subspect.ground.arrays import Features
from subspect.statistics.nearness import FLOOR
from subspect.studies.rows import Block, workers

_FULL = 2048  # images handled at a time by full matrix products
_FEW = 256  # and by products of each class's few features: those of all together stay in a cache
_FILL = 32  # up to so many times the entries of the supports, a full matrix product is faster than those
_GATHERED = 2**16  # features of classes and images copied together at a time, of 512 KB
_WANTED = 2**22  # probabilities of classes and images known at a time, of 32 MB
Taken = tuple[
    int, float, Array, tuple[Array, ...]
]  #: images, constant of the loss, what is wanted, curvature of each class


@dataclass(frozen=True, eq=False)
class Cut:
    """Some images: the features (u + 1, r) of all supports together and a row of ones; the fixed classes' logits (f, r)."""

    features: Array | Features
    fixed: Array


class _Wanted(NamedTuple):
    """Of a cut the probabilities (C, r) that are wanted, what images weigh (C, r), and the constant of the loss."""

    cut: Cut
    p: Array
    weights: Array
    constant: float


@dataclass(frozen=True, eq=False)
class Together:
    """Some classes whose few features are multiplied at one go; what one has fewer is filled up.

    Attributes:
        labels: (B,) the classes.
        places: (B, s) where the supports lie in the union, then the bias, then the bias again.
        entries: (B, s) where their weights and biases lie in the vector, then its end.
        sizes: (B,) the number of weights and bias of each.
        free: (B,) which of the free classes they are.
    """

    labels: Indices
    places: Indices
    entries: Indices
    sizes: Indices
    free: Indices

    def gathered(self, cut: Cut) -> Array:
        """Return (B, s, r): the features of each class, and ones."""
        return cut.features.take(self.places, axis=0).astype(np.float64, copy=False)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the weights of a head on few features lie in one vector: of each free class the support's, then its bias.

    Attributes:
        free: classes that are learned.
        fixed: classes that keep their row.
        kept: weight (f, d) and bias (f,) of those.
        union: (u,) the features of all supports together.
        places: of each free class, where its support lies in the union; the last, beyond it, is the bias.
        parts: of each free class, where its weights lie in the vector.
        entries: row and column of each entry of the vector, in (free classes, u + 1).
        together: the free classes, by size.
    """

    free: list[int]
    fixed: list[int]
    kept: Affine
    union: Indices
    places: list[Indices]
    parts: list[slice]
    entries: tuple[Indices, Indices]
    together: list[Together]

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
        together = _together(free, places, len(union))
        return cls(free, own, (start[0][own], start[1][own]), union, places, parts, entries, together)

    @property
    def full(self) -> bool:
        """Whether one matrix product of all features with all classes is faster than those of each class's own."""
        return len(self.free) * (len(self.union) + 1) <= _FILL * len(self.entries[0])

    @property
    def rows(self) -> int:
        """How many images are handled at a time."""
        return _FULL if self.full else _FEW

    @property
    def bytes_of_image(self) -> int:
        """What an image takes, cut."""
        return (8 if self.full else 4) * (len(self.union) + 1) + 8 * len(self.fixed)

    def cut(self, block: Block) -> list[Cut]:
        """Cut a block into pieces that caches hold."""
        return [self._cut(block.features[start : start + self.rows]) for start in range(0, len(block), self.rows)]

    def nothing(self) -> Taken:
        """Return the sums of no images."""
        curvatures = tuple(np.zeros((len(places), len(places))) for places in self.places)
        return 0, 0.0, np.zeros(len(self.entries[0])), curvatures

    def take(self, dense: Affine, target: Target, begin: Array, so_far: Taken, block: tuple[Block, list[Cut]]) -> Taken:
        """Add what is wanted of some images, and the curvatures of the classes at a vector to begin with."""
        images, constant, wanted, curvatures = so_far
        rows, cuts = block
        at_once = max(1, _WANTED // (len(dense[1]) * self.rows))
        with workers() as pool:
            for start in range(0, len(cuts), at_once):
                some = range(start, min(start + at_once, len(cuts)))
                parts = [rows.at(slice(number * self.rows, (number + 1) * self.rows)) for number in some]
                told = list(
                    pool.map(partial(self._wanted, single(dense), target, begin), parts, [cuts[n] for n in some])
                )
                constant += sum(one.constant for one in told)
                list(pool.map(partial(self._take, told, wanted, curvatures), self.together))
        return images + len(rows), constant, wanted, curvatures

    def normalise(self, theta: Array, so_far: tuple[float, Array], cuts: list[Cut]) -> tuple[float, Array]:
        """Add the sum over images of logsumexp(z), and its gradient."""
        loss, gradient = so_far
        with workers() as pool:
            for own_loss, own_gradient in pool.map(lambda cut: self._normalise(theta, cut), cuts):
                loss += own_loss
                gradient += own_gradient
        return loss, gradient

    def _cut(self, x: Features) -> Cut:
        fixed = np.empty((0, len(x)))
        if self.fixed:
            fixed = self.kept[0] @ x.T.astype(np.float64) + self.kept[1][:, None]
        features = np.ones((len(self.union) + 1, len(x)), np.float64 if self.full else np.float32)
        features[:-1] = x.take(self.union, axis=1).T
        return Cut(features, fixed)

    def _wanted(self, dense: Single, target: Target, begin: Array, block: Block, cut: Cut) -> _Wanted:
        said = logits(block, dense).astype(np.float64).T
        p = np.eye(len(said))[:, block.labels] if target == "labels" else softmax(said, axis=0)
        q = softmax(self._logits(begin, cut), axis=0)
        constant = -float(entr(p).sum()) - float((p[self.fixed] * cut.fixed).sum())
        return _Wanted(cut, p, q * (1 - q) + FLOOR, constant)

    def _take(self, told: list[_Wanted], wanted: Array, curvatures: Sequence[Array], some: Together) -> None:
        for one in told:
            x = some.gathered(one.cut)
            pulls = x @ one.p[some.labels][:, :, None]
            products = (x * one.weights[some.labels][:, None]) @ x.swapaxes(1, 2)
            for c, size, pull, product in zip(some.free.tolist(), some.sizes.tolist(), pulls, products, strict=True):
                wanted[self.parts[c]] += pull[:size, 0]
                np.add(curvatures[c], product[:size, :size], out=curvatures[c])

    def _normalise(self, theta: Array, cut: Cut) -> tuple[float, Array]:
        z = self._logits(theta, cut)
        largest = z.max(axis=0)
        q = np.exp(z - largest)
        total = q.sum(axis=0)
        q /= total
        loss = float((largest + np.log(total)).sum())
        if self.full:
            return loss, (q[self.free] @ cut.features.T)[self.entries]
        gradient = np.empty(len(theta) + 1)
        for some in self.together:
            gradient[some.entries] = (some.gathered(cut) @ q[some.labels][:, :, None])[..., 0]
        return loss, gradient[:-1]

    def _logits(self, theta: Array, cut: Cut) -> Array:
        z = np.empty((len(self.free) + len(self.fixed), cut.features.shape[1]))
        z[self.fixed] = cut.fixed
        if self.full:
            weight = np.zeros((len(self.free), len(cut.features)))
            weight[self.entries] = theta
            z[self.free] = weight @ cut.features
        else:
            weights = np.append(theta, 0.0)
            for some in self.together:
                z[some.labels] = (weights[some.entries][:, None] @ some.gathered(cut))[:, 0]
        return z


def _together(free: list[int], places: list[Indices], bias: int) -> list[Together]:
    """Put classes together, those with as many features if there are such."""
    sizes = np.array([len(one) for one in places], np.int64)
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(sizes, kind="stable")
    found = []
    while len(order):
        some = order[: max(1, _GATHERED // (_FEW * int(sizes[order[-1]])))]
        most = np.arange(sizes[some].max())
        own = most < sizes[some][:, None]
        padded = np.full(own.shape, bias)
        padded[own] = np.concatenate([places[c] for c in some.tolist()])
        entries = np.where(own, starts[some][:, None] + most, sizes.sum())
        found.append(Together(np.array(free)[some], padded, entries, sizes[some], some))
        order = order[len(some) :]
    return found
