"""The path: the best k features of one class, for every k at once.

A class's logit (or its labels) is fitted by weighted least squares on few features. That needs only the weighted second
moments of the features, G, and of features and target, g; `subspect.choosing.boundary` gathers them so that the images near the
class's decision boundary count most. On G and g, orthogonal greedy selection adds the feature that lowers the loss most,
with an update of the Cholesky factor (Batch-OMP: Rubinstein, Zibulevsky, Elad 2008; by exact reduction of the loss: Chen,
Billings, Luo 1989). After each addition, a member is exchanged for an outsider as long as that lowers the loss. One run
gives the supports for k = 1…K, nested but for the exchanges.

Of supports that are nearly as good, chance decides which is best on these images. Features may therefore be favoured: a share
of what a feature is worth at that size is added to what each brings, more for those that are favoured more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_TIE = 1e-9  # gains closer than this, relatively, are equal: the lower feature wins
_RANK = 1e-9  # a feature of which no more than this share of variance is its own depends on those chosen
_NOTHING = 1e-12  # a feature that adds no more than this share to what is explained adds rounding


class Step(NamedTuple):
    """A support of the path, and how much of the loss it explains."""

    support: Indices
    explained: float


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The weighted least squares of one class, on the features that are in the running.

    Attributes:
        label: the class index.
        features: (m,) feature indices, ascending.
        weight: sum of the images' weights.
        gram: (m, m) centred second moments, per weight.
        moments: (m,) centred moments with the target, per weight.
        mean: (m,) weighted mean of the features.
        target: weighted mean of the target.
        favour: (m,) how much each feature is favoured, in shares of what one is worth; None where none is.
    """

    label: int
    features: Indices
    weight: float
    gram: Array
    moments: Array
    mean: Array
    target: float
    favour: Array | None = None

    def path(self, size: int, *, swaps: bool = True) -> list[Step]:
        """Return the supports of 1…size features, and how much of the loss, summed over images, each explains."""
        path = pursue(self.gram, self.moments, size, swaps=swaps, favour=self.favour)
        return [Step(self.features[step.support], step.explained * self.weight) for step in path]

    def worth(self, size: int) -> float:
        """Return what a feature is worth at a size, of the loss summed over images: see `worths`."""
        return float(worths(pursue(self.gram, self.moments, size))[-1:].sum()) * self.weight

    def fit(self, support: Indices) -> tuple[Array, float]:
        """Return the weights (k,) and the bias that fit the target best on a support of the path."""
        places = np.searchsorted(self.features, support)
        weights = np.asarray(np.linalg.solve(self.gram[np.ix_(places, places)], self.moments[places]), np.float64)
        return weights, self.target - float(weights @ self.mean[places])


def pursue(gram: Array, moments: Array, size: int, *, swaps: bool = True, favour: Array | None = None) -> list[Step]:
    """Find supports of 1…size features that leave the least of a quadratic loss.

    The loss of a row w with support S is ``w' G w − 2 g' w``; at its best on S, ``−g_S' G_SS⁻¹ g_S``.

    Args:
        gram: (m, m), G: centred second moments of the features.
        moments: (m,), g: centred moments of the features and the target.
        size: the largest support wanted.
        swaps: whether a member may be exchanged for a feature outside while that lowers the loss.
        favour: (m,) in shares of what a feature is worth (`worths`), what is added to that by which each lowers the loss.

    Returns:
        For each k the support, as places in G in the order of growth. The list ends before ``size`` where the features
        left depend linearly on those chosen, or don't lower the loss.
    """
    worth = None if favour is None else worths(pursue(gram, moments, size, swaps=swaps))
    factor = Factor(gram, moments, size)
    path: list[Step] = []
    while len(path) < min(size, len(gram)):
        if favour is not None and worth is not None and len(path) < len(worth):
            factor.bonus = favour * worth[len(path)]
        if not factor.grow():
            break
        while swaps and factor.swap():
            pass
        path.append(Step(np.array(factor.chosen), float(factor.target @ factor.target)))
    return path


def worths(path: Sequence[Step]) -> Array:
    """Return for each k of a path what a feature is worth there: the mean of what its second half of features adds."""
    explained = np.array([0.0, *(step.explained for step in path)])
    k = np.arange(1, len(explained))
    return np.asarray((explained[k] - explained[k // 2]) / (k - k // 2))


class Factor:
    """A support, with as many rows of the Cholesky factor of G, pivoted so that the support comes first.

    Attributes:
        chosen: the support, k features.
        rows: (k, m): ``rows.T @ rows`` is what the support explains of G; ``rows[:, chosen]`` is triangular.
        target: (k,): the same row for the target; its square is what the support explains of the loss.
        left: (m,) the variance of each feature that the support leaves.
        pull: (m,) the moment of each feature and what is left of the target.
        bonus: (m,) what is added to that by which each feature lowers the loss; None for nothing.
    """

    bonus: Array | None = None

    def __init__(self, gram: Array, moments: Array, size: int) -> None:
        self.gram, self.moments = gram, moments
        self.variance = np.ascontiguousarray(gram.diagonal())
        self.least = _RANK * self.variance
        self.chosen: list[int] = []
        self._rows, self._target = np.empty((min(size, len(gram)), len(gram))), np.empty(size)
        self.left, self.pull = self.variance.copy(), moments.copy()

    @property
    def rows(self) -> Array:  # noqa: D102
        return self._rows[: len(self.chosen)]

    @property
    def target(self) -> Array:  # noqa: D102
        return self._target[: len(self.chosen)]

    def grow(self) -> bool:
        """Add the feature that lowers the loss most; tell whether there was one."""
        gains = self.gains()
        if self.bonus is not None:
            helping = gains > _NOTHING * (gains + float(self.target @ self.target))
            gains = np.where(helping, gains + self.bonus, 0)
        best = _first_largest(gains)
        if not gains[best] > _NOTHING * (gains[best] + float(self.target @ self.target)):
            return False
        self.add(best)
        return True

    def take(self, features: Indices) -> None:
        """Take features into the support, but for those that depend linearly on the ones before."""
        for feature in features.tolist():
            if self.left[feature] > self.least[feature]:
                self.add(feature)

    def swap(self) -> bool:
        """Exchange the member and the outsider that lower the loss most; tell whether there were such."""
        gains, costs = self.exchanges()
        if self.bonus is not None:
            gains = np.where(gains > 0, gains + self.bonus, 0)
            costs = costs + self.bonus[self.chosen]
        gains -= costs[:, None]
        best = _first_largest(gains.ravel())
        if not gains.ravel()[best] > _TIE * float(self.target @ self.target):
            return False
        member, outsider = divmod(best, gains.shape[1])
        self.drop(member)
        self.add(outsider)
        return True

    def gains(self) -> Array:
        """Return (m,): by how much each feature would lower the loss."""
        gains = self._gains(self.pull, self.left)
        gains[self.chosen] = 0
        return gains

    def exchanges(self) -> tuple[Array, Array]:
        """Return (k, m): what each feature would gain in each member's stead; and (k,): what leaving a member out costs.

        With ``P = G_SS⁻¹ G_S`` and ``h = diag G_SS⁻¹``, leaving out member s gives back ``P_s² / h_s`` to the variances left
        and ``β_s P_s / h_s`` to the moments, and costs ``β_s² / h_s``. A member's gain is zero: it isn't outside.
        """
        inverse = np.linalg.inv(self.rows[:, self.chosen])
        root = np.sqrt((inverse * inverse).sum(axis=1))
        inverse /= root[:, None]
        shares, weights = inverse @ self.rows, inverse @ self.target
        gains = self._gains(self.pull + weights[:, None] * shares, self.left + shares * shares)
        gains[:, self.chosen] = 0
        return gains, weights * weights

    def add(self, feature: int) -> None:
        """Take a feature into the support."""
        k, root = len(self.chosen), np.sqrt(self.left[feature])
        row = self._rows[k]
        np.subtract(self.gram[feature], self.rows[:, feature] @ self.rows, out=row)
        row /= root
        self._target[k] = self.pull[feature] / root
        self.pull -= row * self._target[k]
        self.left -= row * row
        self.chosen.append(feature)

    def drop(self, member: int) -> None:
        """Leave the member at a place of the support out."""
        rows, target = self.rows, self.target
        del self.chosen[member]
        rotation = np.linalg.qr(rows[:, self.chosen])[0].T
        self.rows[:], self.target[:] = rotation @ rows, rotation @ target
        self.left = self.variance - (self.rows * self.rows).sum(axis=0)
        self.pull = self.moments - self.target @ self.rows

    def _gains(self, pull: Array, left: Array) -> Array:
        """By how much features with these moments and variances left would lower the loss; those without any, not at all."""
        return np.where(left > self.least, pull * pull / np.maximum(left, 1e-300), 0)


def _first_largest(gains: Array) -> int:
    """Return the first place whose gain equals the largest but for rounding, so that equal features give equal answers."""
    return int(np.argmax(gains >= gains.max() * (1 - _TIE)))
