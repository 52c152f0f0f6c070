"""Can the choice be trusted? How it changes with the images, and what could stand in for each feature.

*Stability*: the images are drawn anew with replacement, in folds, and every class's features are chosen again on the same
head's boundaries. A feature's stability is the share of draws in which it is chosen; a class's, the mean Jaccard index
between the supports of two draws. It is cheap, because the moments of folds add up.

*Substitutes*: leaving a feature out costs some of the loss that its class's support explains. Another feature, taken in its
stead with all weights fitted anew, makes good a share of that; those that make good half of it or more are substitutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from subspect.choosing.boundary import Affine, Boundary
from subspect.choosing.pursuit import Factor, Indices, Quadratic

DRAWS = 20  #: of the images
FOLDS = 20  #: that are drawn from
MOST = 3  #: substitutes named for a feature
LEAST = 0.5  #: share of a feature's worth that a substitute makes good


@dataclass(frozen=True, eq=False)
class Trust:
    """How far the choice of a class's k features can be trusted.

    Attributes:
        stability: (k,) the share of draws in which each feature is chosen again.
        jaccard: mean Jaccard index of the supports of two draws.
        substitutes: (k, 3) the features that make good most of each feature's worth; −1 where there are fewer.
        recovered: (k, 3) the share that each makes good, at most 1.
    """

    stability: npt.NDArray[np.float64]
    jaccard: float
    substitutes: Indices
    recovered: npt.NDArray[np.float64]


def trust(
    boundary: Boundary, supports: list[Indices], head: Affine, *, draws: int = DRAWS, seed: int = 0
) -> list[Trust]:
    """Return for every class how far its support can be trusted; a class without images is taken as it is.

    Args:
        boundary: features, dense head and target.
        supports: the features of each class.
        head: weight (C, d) and bias (C,) on them.
        draws: of the images, with replacement.
        seed: of the draws.
    """
    drawn = np.random.default_rng(seed).multinomial(FOLDS, np.full(FOLDS, 1 / FOLDS), size=draws)
    times = np.vstack([np.ones((1, FOLDS), np.int64), drawn])
    unseen = set(boundary.unseen)

    def work(problems: list[Quadratic]) -> Trust:
        support = supports[problems[0].label]
        if problems[0].label in unseen or not len(support):
            nothing = np.full((len(support), MOST), -1)
            return Trust(np.ones(len(support)), 1.0, nothing, np.zeros(nothing.shape))
        again = [_last(problem, len(support)) for problem in problems[1:]]
        stability = np.mean([np.isin(support, one) for one in again], axis=0)
        jaccard = float(np.mean([_jaccard(one, other) for one, other in combinations(again, 2)]))
        return Trust(stability, jaccard, *substitutes(problems[0], support))

    return boundary.each_resampled(work, times, head)


def substitutes(problem: Quadratic, support: Indices) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Return (k, 3) the features that could best stand in for each of a support, and (k, 3) the share they make good."""
    found, recovered = np.full((len(support), MOST), -1), np.zeros((len(support), MOST))
    places = np.searchsorted(problem.features, support)
    factor = Factor(problem.gram, problem.moments, len(support))
    factor.take(places)
    if factor.chosen:
        gains, costs = factor.exchanges()
        shares = np.minimum(gains / np.where(costs > 0, costs, np.inf)[:, None], 1)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :MOST]
        share = np.take_along_axis(shares, best, axis=1)
        able = np.flatnonzero(np.isin(places, factor.chosen)), slice(best.shape[1])
        found[able] = np.where(share >= LEAST, problem.features[best], -1)
        recovered[able] = np.where(share >= LEAST, share, 0)
    return found, recovered


def _last(problem: Quadratic, size: int) -> Indices:
    path = problem.path(size)
    return path[-1].support if path else np.empty(0, np.int64)


def _jaccard(one: Indices, other: Indices) -> float:
    union = len(np.union1d(one, other))
    return len(np.intersect1d(one, other)) / union if union else 1.0
