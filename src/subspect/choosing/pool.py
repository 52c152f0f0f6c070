"""A pool of features for the whole network to draw from: what Q-SENN and QPM ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from subspect.choosing.boundary import Affine, Boundary
from subspect.choosing.pursuit import Array, Factor, Indices, Quadratic

_BYTES = 2**30  # that the classes' Gram matrices of all features in the running may take
_NONE = np.empty(0, np.int64)


def shared_pool(boundary: Boundary, supports: Sequence[Indices], head: Affine, size: int) -> Indices:
    """Choose a pool of features for the whole network to draw from: what Q-SENN and QPM ask for.

    From all features that the classes use freely, the one whose loss costs least is given up, again and again: each class
    that used it takes the best of the others in its stead.

    Args:
        boundary: features, dense head and target.
        supports: the features of each class, chosen freely.
        head: weight (C, d) and bias (C,) on them, whose curvature weighs the images.
        size: of the pool.

    Returns:
        (size,) feature indices, ascending; fewer where the classes use fewer.
    """
    unseen = set(boundary.unseen)
    used = np.unique(np.concatenate([_NONE, *(s for label, s in enumerate(supports) if label not in unseen)]))
    most = max(size, int(np.sqrt(_BYTES / (8 * len(supports)))))
    if len(used) > most:  # too many for the memory: begin with those that move the logits most
        spread = np.abs(head[0][:, used]).sum(axis=0) * boundary.moments.deviations()[used]
        used = np.sort(used[np.argsort(-spread, kind="stable")[:most]])
        sizes = np.array([[len(support) for support in supports]])
        supports = boundary.within(used).choose(sizes, head)[0].supports
    problems = boundary.within(used, whole=True).each(lambda problem: problem, head)
    users = [_User(problem, supports[problem.label]) for problem in problems if problem.label not in unseen]
    pool = np.ones(len(used), bool)
    while pool.sum() > size:
        worth = np.sum([user.worth(pool) for user in users], axis=0)
        gone = int(np.argmin(np.where(pool, worth, np.inf)))
        pool[gone] = False
        for user in users:
            user.give_up(gone, pool)
    return used[pool]


class _User:
    """A class and its support, while the pool shrinks."""

    def __init__(self, problem: Quadratic, support: Indices) -> None:
        self.weight = problem.weight
        self.factor = Factor(problem.gram, problem.moments, len(support))
        self.factor.take(np.searchsorted(problem.features, support))
        self._known: tuple[Array, Indices] | None = None

    def worth(self, pool: npt.NDArray[np.bool_]) -> Array:
        """Return (u,): what giving up each feature of the pool costs this class."""
        worth = np.zeros(len(pool))
        if self.factor.chosen:
            worth[self.factor.chosen] = self.weight * self._costs(pool)[0]
        return worth

    def give_up(self, feature: int, pool: npt.NDArray[np.bool_]) -> None:
        """Do without a feature that has left the pool."""
        if self._known is not None and feature in self._known[1]:
            self._known = None
        if feature in self.factor.chosen:
            member = self.factor.chosen.index(feature)
            stand_ins = self._costs(pool)[1]
            self.factor.drop(member)
            if stand_ins[member] >= 0:
                self.factor.add(int(stand_ins[member]))
            self._known = None

    def _costs(self, pool: npt.NDArray[np.bool_]) -> tuple[Array, Indices]:
        """Return (k,) what doing without each member costs, and (k,) the best to stand in for it; −1 for none."""
        if self._known is None:
            gains, costs = self.factor.exchanges()
            gains[:, ~pool] = 0
            best = gains.argmax(axis=1)
            most = gains[np.arange(len(best)), best]
            self._known = costs - most, np.where(most > 0, best, -1)
        return self._known
