"""Can the choice be trusted? How it changes with the images, and what could stand in for each feature.

*Stability*: the whole choice (pursuit, refit, choosing anew, how many features each class gets of as many in all) is repeated
on halves of the images (`subspect.choosing.halves`). A feature's stability is the share of halves in which its class gets it;
a class's, the mean Jaccard index between its supports of two halves that overlap by chance.

*Substitutes*: leaving a feature out costs some of the loss that its class's support explains. Another feature, taken in its
stead with all weights fitted anew, makes good a share of that; those that make good half of it or more are substitutes.

*Near-equal supports*: those that explain as much as the chosen one, or less by at most a tenth of what one of its features is
worth (`pursuit.worths`). They are looked for by exchanges from the chosen one. Features that all of them have are the class's
core; a substitute that leads to one of them is as good as the feature. (Models that are nearly as good, the "Rashomon set":
Fisher, Rudin, Dominici 2019.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from subspect.choosing.boundary import Affine, Boundary
from subspect.choosing.pursuit import Factor, Indices, Quadratic
from subspect.heads.trusted import FOUND

MOST = 3  #: substitutes named for a feature
LEAST = 0.5  #: share of a feature's worth that a substitute makes good
NEAR = 0.1  #: of what a feature is worth, that a near-equal support may explain less

Bools = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trust:
    """How far the choice of a class's k features can be trusted.

    Attributes:
        stability: (k,) the share of halves in which each feature is chosen again; 0 where there was none.
        jaccard: mean Jaccard index of the supports of two halves; 0 where there were fewer than three.
        draws: halves with images of the class.
        distinct: how many different supports they gave.
        substitutes: (k, 3) the features that make good most of each feature's worth; −1 where there are fewer.
        recovered: (k, 3) the share that each makes good, at most 1.
        equal: (k, 3) whether the support with it instead is near-equal.
        core: (k,) whether all near-equal supports that were found have it.
        near_equal: how many supports were found that are near-equal, the chosen one included.
        tolerance: what they may explain less, in nats, as a mean over all images.
    """

    stability: Reals
    jaccard: float
    draws: int
    distinct: int
    substitutes: Indices
    recovered: Reals
    equal: Bools
    core: Bools
    near_equal: int
    tolerance: float


def trust(
    boundary: Boundary,
    supports: Sequence[Indices],
    head: Affine,
    again: Sequence[Sequence[Indices | None]] = (),
) -> list[Trust]:
    """Return for every class how far its support can be trusted; a class without images is taken as it is.

    Args:
        boundary: features, dense head and target.
        supports: the features of each class.
        head: weight (C, d) and bias (C,) on them.
        again: what was chosen on each half: of each class its support, or None where the half has no image of it. Two that
            follow each other have no image in common.
    """
    unseen = set(boundary.unseen)

    def work(problem: Quadratic) -> Trust:
        support = supports[problem.label]
        drawn = {place: one[problem.label] for place, one in enumerate(again)}
        chosen = {place: np.sort(one) for place, one in drawn.items() if one is not None}
        if problem.label in unseen or not len(support):
            chosen = {}
        pairs = [
            _jaccard(chosen[one], chosen[other]) for one, other in combinations(chosen, 2) if one // 2 != other // 2
        ]
        often = np.mean([np.isin(support, one) for one in chosen.values()], axis=0) if chosen else 0.0
        return Trust(
            np.broadcast_to(np.asarray(often, np.float64), len(support)),
            float(np.mean(pairs)) if len(chosen) > 2 else 0.0,
            len(chosen),
            len({one.tobytes() for one in chosen.values()}),
            *_stand_ins(problem, support, boundary.moments.images, problem.label not in unseen),
        )

    return boundary.each(work, head)


def substitutes(problem: Quadratic, support: Indices) -> tuple[Indices, Reals, Reals]:
    """Return (k, 3): the features that could best stand in for each of a support, the share they make good, and what is lost.

    Lost is what the support explains less with a substitute, summed over images; infinite where there is none.
    """
    found, recovered = np.full((len(support), MOST), -1), np.zeros((len(support), MOST))
    lost = np.full((len(support), MOST), np.inf)
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
        less = costs[:, None] - np.take_along_axis(gains, best, axis=1)
        lost[able] = np.where(share >= LEAST, less * problem.weight, np.inf)
    return found, recovered, lost


def near_equal(problem: Quadratic, support: Indices, least: float) -> list[Indices]:
    """Find supports of the same size that explain no less than a least, summed over images, by exchanges from a given one.

    All that one exchange leads to are found; from those on, until there are `FOUND`.

    Args:
        problem: least squares of the class.
        support: to begin with.
        least: that is to be explained.
    """
    start = np.searchsorted(problem.features, support)
    found = {frozenset(start.tolist())}
    waiting = [start]
    while waiting and len(found) < FOUND:
        factor = Factor(problem.gram, problem.moments, len(support))
        factor.take(waiting.pop(0))
        if len(factor.chosen) < len(support):
            continue  # some depend on others: exchanges say nothing
        gains, costs = factor.exchanges()
        explained = (float(factor.target @ factor.target) + gains - costs[:, None]) * problem.weight
        explained[:, factor.chosen] = -np.inf
        explained[gains <= 0] = -np.inf
        for member, outsider in zip(*np.nonzero(explained >= least), strict=True):
            other = factor.chosen.copy()
            other[member] = int(outsider)
            if frozenset(other) not in found:
                found.add(frozenset(other))
                waiting.append(np.array(other))
    return [problem.features[sorted(places)] for places in found]


def _stand_ins(
    problem: Quadratic, support: Indices, images: int, seen: bool
) -> tuple[Indices, Reals, Bools, Bools, int, float]:
    """Return substitutes, shares, equal, core, the number of near-equal supports and the tolerance of `Trust`."""
    if not seen or not len(support):
        shape = len(support), MOST
        return np.full(shape, -1), np.zeros(shape), np.zeros(shape, bool), np.ones(len(support), bool), 1, 0.0
    named, recovered, lost = substitutes(problem, support)
    factor = Factor(problem.gram, problem.moments, len(support))
    factor.take(np.searchsorted(problem.features, support))
    slack = NEAR * problem.worth(len(support))
    others = near_equal(problem, support, float(factor.target @ factor.target) * problem.weight - slack)
    core = np.all([np.isin(support, other) for other in others], axis=0)
    return named, recovered, lost <= slack, core, len(others), slack / 2 / images


def _jaccard(one: Indices, other: Indices) -> float:
    union = len(np.union1d(one, other))
    return len(np.intersect1d(one, other)) / union if union else 1.0
