"""How many features for each class, and the promise about what is lost.

Features are handed to classes one at a time where they help most (`allocate`): what a feature adds is measured in nats,
by the dense head's own curvature. `settle` learns heads of growing size, takes the smallest that loses no more than a
tolerance on images set apart for that, and then promises something of it on further images.

The promise is a one-sided exact bound (Clopper, Pearson 1934) for fidelity, and for the loss of accuracy a bound on the
difference of two paired shares (see `most_lost`). Sizes are tested on the promise's images from the largest down, and
testing ends at the first that fails: in a sequence fixed beforehand every test may use the full error rate, and all sizes
that pass hold together (Maurer, Hothorn, Lehmacher 1995; Hsu, Berger 1999), so that choosing doesn't spoil the promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr
from scipy.stats import beta, binom

from subspect.boundary import Boundary, Choice, Head, logits
from subspect.errors import SubspectError
from subspect.pursuit import Array, Factor, Indices, Quadratic
from subspect.refit import Refit
from subspect.rows import Block
from subspect.statistics import check_size

Measure = Literal["fidelity", "accuracy"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
CONFIDENCE = 0.95
MOST = 64  #: features for each class, unless told
LADDER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)  #: mean numbers of features tried
_NONE = np.empty(0, np.int64)
_HALVINGS = 4  # of the step between two rungs of the ladder
_ABOVE = 5  # rungs above the one that keeps the tolerance, on which a promise may fall back
_NUISANCE = 1e-3  # error rate spent on the share of images where exactly one network is right


@dataclass(frozen=True)
class Mean:
    """A mean number of features for each class; how many each gets is found.

    Attributes:
        k: the mean.
        least: no class gets fewer.
        most: no class gets more; unless given, twice the mean, or 64 if that is more.
    """

    k: float
    least: int = 1
    most: int | None = None

    def __str__(self) -> str:
        limits = "" if (self.least, self.most) == (1, None) else f"-{self.least}-{self.most or 'all'}"
        return f"mean{self.k:g}{limits}"

    def limit(self, features: int) -> int:
        """Return the most that a class gets of so many features."""
        return min(features, max(MOST, 2 * ceil(self.k))) if self.most is None else self.most


@dataclass(frozen=True)
class Auto:
    """The fewest features that lose no more than a tolerance; each class may end with its own number.

    Attributes:
        tolerance: the share of fidelity, or of accuracy, that may be lost.
        measure: which of the two.
        promise: name of an image set that neither the network nor any choice has seen, to promise the loss on.
        most: no class gets more features.
        confidence: of the promise.
    """

    tolerance: float = 0.05
    measure: Measure = "fidelity"
    promise: str | None = None
    most: int = MOST
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        name = f"auto{self.tolerance:g}" + ("" if self.measure == "fidelity" else f"-{self.measure}")
        name += "" if self.most == MOST else f"-most{self.most}"
        name += "" if self.confidence == CONFIDENCE else f"-sure{self.confidence:g}"
        return name + (f"-{self.promise}" if self.promise else "")


Size = int | float | Mean | Auto | Literal["auto"]  #: how many features for each class; a float is a share of the mass
Checked = int | float | Mean | Auto  #: a size that fits the network


def check_budget(size: Size, n_features: int, pool: int | None = None) -> Checked:
    """Check how many features are asked for against what the network has.

    Raises:
        SubspectError: more than d, none, or limits that contradict each other.
    """
    if pool is not None and not 1 <= pool <= n_features:
        raise SubspectError(f"a pool must have from 1 to the {n_features} features of the network; got {pool}")
    limit = n_features if pool is None else pool
    size = Auto() if size == "auto" else size
    if isinstance(size, Mean):
        most = size.limit(limit) if isfinite(size.k) else limit
        if not 1 <= size.least <= size.k <= most <= limit:
            raise SubspectError(
                f"a mean of {size.k:g} features needs 1 ≤ least ≤ mean ≤ most ≤ {limit}; got least {size.least} and most {most}"
            )
        return size
    if isinstance(size, Auto):
        if not 0 < size.tolerance < 1:
            raise SubspectError(f"the tolerance is a share between 0 and 1, such as 0.01; got {size.tolerance:g}")
        if size.measure not in MEASURES:
            raise SubspectError(f"the tolerance is of {' or '.join(MEASURES)}; got {size.measure!r}")
        if size.most < 1 or not 0.5 <= size.confidence < 1:
            raise SubspectError(
                f"most must be at least 1 and the confidence from 0.5 to below 1; got {size.most} and {size.confidence:g}"
            )
        return size
    checked = check_size(size, n_features)
    if pool is not None and isinstance(checked, int) and checked > pool:
        raise SubspectError(f"a class cannot have {checked} features from a pool of {pool}")
    return checked


def allocate(explained: Sequence[Array], total: int, least: int = 1, most: int | None = None) -> Indices:
    """Hand out features to classes one at a time, each time to the class where it explains most.

    Where a class's second feature helps more than its first, both count with their mean (the concave envelope), so that
    the features handed out are always the first of each class's path.

    Args:
        explained: for each class what its supports of 1, 2, … features explain, in nats.
        total: how many features to hand out.
        least: no class gets fewer, unless its path is shorter.
        most: no class gets more.

    Returns:
        (C,) the size of each class's support; in sum ``total``, or less where all paths end.
    """
    steps = [_envelope(path[:most]) for path in explained]
    steps = [np.where(np.arange(len(step)) < least, np.inf, step) for step in steps]
    owner = np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    best = np.argsort(-np.concatenate([*steps, []]), kind="stable")[:total]
    return np.bincount(owner[best], minlength=len(steps))


def _envelope(values: Array) -> Array:
    """Return the steps of the least concave curve from 0 through or above the values."""
    curve = np.append(0, values)
    steps: list[float] = []
    while (at := len(steps)) < len(values):
        slopes = (curve[at + 1 :] - curve[at]) / np.arange(1, len(curve) - at)
        ahead = int(np.argmax(slopes)) + 1
        steps += [float(slopes[ahead - 1])] * ahead
    return np.array(steps)


def shared_pool(boundary: Boundary, supports: Sequence[Indices], head: Head, size: int) -> Indices:
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
    most = max(size, int(np.sqrt(boundary.memory / (8 * len(supports)))))
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


class Counts(NamedTuple):
    """How a decomposed head fares on some images.

    Attributes:
        images: their number.
        agree: images on which it has the dense network's top-1 class.
        right: images on which it has the label.
        lost: images on which the dense network alone has the label.
        won: images on which it alone has the label.
    """

    images: int
    agree: int
    right: int
    lost: int
    won: int

    def loss(self, measure: Measure) -> float:
        """Return the share of images on which it disagrees, or the accuracy lost."""
        lost = self.images - self.agree if measure == "fidelity" else self.lost - self.won
        return lost / self.images

    def bound(self, measure: Measure, confidence: float = CONFIDENCE) -> float:
        """Return what the loss is at most, at a confidence."""
        if measure == "fidelity":
            return 1 - at_least(self.agree, self.images, confidence)
        return most_lost(self.lost, self.won, self.images, confidence)


def count(blocks: Iterable[Block], heads: Sequence[Head], skip: npt.NDArray[np.uint64] | None = None) -> list[Counts]:
    """Count how each of some heads fares, in one pass; images whose row print is in ``skip`` are left out."""
    totals = np.zeros((len(heads), 5), np.int64)
    for block in blocks:
        kept = np.ones(len(block.labels), bool) if skip is None else ~np.isin(block.prints(), skip)
        dense = block.predictions == block.labels
        for place, head in enumerate(heads):
            said = logits(block, head).argmax(axis=1)
            right = said == block.labels
            hits = (kept, said == block.predictions, right, dense & ~right, right & ~dense)
            totals[place] += [int((hit & kept).sum()) for hit in hits]
    return [Counts(*row) for row in totals.tolist()]


def at_least(successes: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return what a share is at least, at a confidence: the exact one-sided bound of Clopper and Pearson (1934)."""
    return float(beta.ppf(1 - confidence, successes, n - successes + 1)) if successes else 0.0


def most_lost(lost: int, won: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return what the difference ``P(lost) − P(won)`` of two paired shares is at most, at a confidence.

    The bound inverts the exact test on ``lost − won`` under the trinomial law. The sum of the two shares is unknown: the
    test takes the worst over a confidence interval for it, whose error rate is taken off (Berger, Boos 1994).

    Args:
        lost: pairs where only the first is a success.
        won: pairs where only the second is.
        n: all pairs.
        confidence: of the bound.
    """
    either = lost + won
    low = float(beta.ppf(_NUISANCE / 2, either, n - either + 1)) if either else 0.0
    high = float(beta.ppf(1 - _NUISANCE / 2, either + 1, n - either)) if either < n else 1.0
    least, most = (lost - won) / n, 1.0
    while most - least > 1e-6:
        middle = (least + most) / 2
        sums = np.linspace(max(low, abs(middle)), high, 33) if abs(middle) <= high else np.empty(0)
        chance = max((_chance(lost - won, n, float(total), middle) for total in sums), default=0.0)
        least, most = (middle, most) if chance + _NUISANCE > 1 - confidence else (least, middle)
    return most


def _chance(difference: int, n: int, either: float, mean: float) -> float:
    """Return the probability that lost − won is no more than ``difference``, where the shares have a sum and a mean."""
    spread = 9 * np.sqrt(n * either * (1 - either)) + 9
    ms = np.arange(max(0, int(n * either - spread)), min(n, int(n * either + spread)) + 1)
    most = np.floor((ms + difference) / 2)
    share = (either + mean) / (2 * either) if either else 0.0
    below = np.where(most < 0, 0.0, np.where(most >= ms, 1.0, bdtr(np.clip(most, 0, ms), ms, share)))
    return float((binom.pmf(ms, n, either) * below).sum())


@dataclass(frozen=True, eq=False)
class Found:
    """Features of every class, and the head re-learned on them, if it was."""

    choice: Choice
    learned: Refit | None = None

    @property
    def head(self) -> Head:
        """Weight (C, d) and bias (C,)."""
        return self.learned.head if self.learned else self.choice.head


@dataclass(frozen=True, eq=False)
class Rung:
    """A head of one size, and how it fares on the images on which the size is chosen."""

    found: Found
    counts: Counts


@dataclass(frozen=True)
class Promise:
    """What is promised of a head, from images that neither the network nor the choice has seen.

    Attributes:
        measure: "fidelity" or "accuracy".
        loss: with the stated confidence no more than this share is lost.
        confidence: of the statement.
        images: from how many images.
        kept: whether that is within the tolerance.
    """

    measure: Measure
    loss: float
    confidence: float
    images: int
    kept: bool

    def __str__(self) -> str:
        most = ceil(1000 * self.loss - 1e-9) / 10  # rounded so that no more is said than was shown
        what = (
            f"at least {100 - most:.1f} % agreement with the dense network"
            if self.measure == "fidelity"
            else f"at most {most:.1f} points of accuracy lost"
        )
        return f"{what}, {100 * self.confidence:g} % confidence, n = {self.images:,}"


@dataclass(frozen=True, eq=False)
class Settled:
    """Where the search for a size has ended.

    Attributes:
        rungs: all that was tried, by growing size.
        chosen: the one that was taken.
        met: whether it keeps the tolerance: as promised, or where no promise was asked for, on the images the size was
            chosen on.
        promise: what is promised of it.
    """

    rungs: list[Rung]
    chosen: Rung
    met: bool
    promise: Promise | None


def settle(
    boundary: Boundary,
    learn: Callable[[Indices], Found],
    wanted: Auto,
    check: Iterable[Block],
    promise: Iterable[Block] | None = None,
    skip: npt.NDArray[np.uint64] | None = None,
) -> Settled:
    """Find the fewest features that lose no more than a tolerance.

    Args:
        boundary: features, dense head and target to learn heads on.
        learn: makes a head of given sizes (C,).
        wanted: tolerance, measure, limits.
        check: images to choose the size on.
        promise: further images to promise something on.
        skip: prints of rows that are left out of the promise, since others have seen them.

    Raises:
        SubspectError: no images to choose the size on, or to promise anything on.
    """
    tolerance, measure, most = wanted.tolerance, wanted.measure, wanted.most
    explained = helped(boundary, most)
    n_classes = sum(len(path) > 0 for path in explained)
    totals = [n_classes * mean for mean in LADDER if mean < most] + [n_classes * most]
    rungs: dict[int, Rung] = {}

    def keeps(total: int) -> bool:
        if total not in rungs:
            found = learn(allocate(explained, total, 1, most))
            [counts] = count(check, [found.head])
            if not counts.images:
                raise SubspectError("there are no images to choose the number of features on")
            rungs[total] = Rung(found, counts)
        return rungs[total].counts.loss(measure) <= tolerance

    place = next((place for place, total in enumerate(totals) if keeps(total)), len(totals) - 1)
    high, low = totals[place], totals[place - 1] if place else 0
    met = keeps(high)
    for _ in range(_HALVINGS if met and low else 0):
        middle = (low + high) // 2
        low, high = (low, middle) if middle > low and keeps(middle) else (middle, high)
    if promise is not None:  # the sequence of sizes is fixed before the promise's images are looked at
        for total in {*totals[place + 1 : place + 1 + _ABOVE], totals[-1]}:
            keeps(total)
    tried = [rungs[total] for total in sorted(rungs)]
    if promise is None:
        return Settled(tried, rungs[high], met, None)
    sequence = [rungs[total] for total in sorted(rungs, reverse=True) if total >= high]
    chosen, made = _promise(sequence, count(promise, [rung.found.head for rung in sequence], skip), wanted)
    return Settled(tried, chosen, made.kept, made)


def helped(boundary: Boundary, most: int) -> list[Array]:
    """Return for each class what its supports of 1…most features explain of the divergence, in nats summed over images.

    Nothing for a class without images, which keeps its dense row.
    """
    paths = boundary.each(lambda problem: problem.path(most), boundary.dense)
    return [
        np.array([step.explained / 2 for step in path if label not in boundary.unseen])
        for label, path in enumerate(paths)
    ]


def _promise(sequence: Sequence[Rung], counts: Sequence[Counts], wanted: Auto) -> tuple[Rung, Promise]:
    """Test sizes from the largest down, until one fails; promise for the last that passed what all that passed keep."""
    images = counts[0].images
    if not images:
        raise SubspectError("there are no images to promise anything on that others haven't seen")
    bounds = [one.bound(wanted.measure, wanted.confidence) for one in counts]
    passed = next((place for place, bound in enumerate(bounds) if bound > wanted.tolerance), len(bounds))
    if not passed:
        return sequence[0], Promise(wanted.measure, bounds[0], wanted.confidence, images, False)
    loss = max(bounds) if passed == len(bounds) else wanted.tolerance
    return sequence[passed - 1], Promise(wanted.measure, loss, wanted.confidence, images, True)
