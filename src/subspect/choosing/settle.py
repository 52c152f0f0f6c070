"""The fewest features that keep a tolerance, and the promise about what is lost.

Heads of growing size are learned; the smallest that loses no more than a tolerance on images set apart for that is taken. Sizes
are then tested on the promise's images from the largest down, and testing ends at the first that fails: in a sequence fixed
beforehand every test may use the full error rate, and all sizes that pass hold together (Maurer, Hothorn, Lehmacher 1995; Hsu,
Berger 1999), so that choosing doesn't spoil the promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subspect.choosing.boundary import Boundary, Choice
from subspect.choosing.promise import Counts, count, promised
from subspect.choosing.pursuit import Array, Indices
from subspect.choosing.sizes import LADDER, Auto, allocate
from subspect.ground.errors import SubspectError
from subspect.heads.history import Promised
from subspect.studies.rows import Block

_HALVINGS = 4  # of the step between two rungs of the ladder
_ABOVE = 5  # rungs above the one that keeps the tolerance, on which a promise may fall back


@dataclass(frozen=True, eq=False)
class Rung:
    """A head of one size, and how it fares on the images on which the size is chosen."""

    choice: Choice
    counts: Counts


@dataclass(frozen=True, eq=False)
class Search:
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
    promise: Promised | None


def settle(
    boundary: Boundary,
    learn: Callable[[Indices], Choice],
    wanted: Auto,
    check: Iterable[Block],
    promise: Iterable[Block] | None = None,
    skip: npt.NDArray[np.uint64] | None = None,
) -> Search:
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
            choice = learn(allocate(explained, total, 1, most))
            [counts] = count(check, [choice.affine])
            if not counts.images:
                raise SubspectError(
                    "there are no images to choose the number of features on; give more, or a whole number (-k 5)"
                )
            rungs[total] = Rung(choice, counts)
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
        return Search(tried, rungs[high], met, None)
    sequence = [rungs[total] for total in sorted(rungs, reverse=True) if total >= high]
    chosen, made = _promise(sequence, count(promise, [rung.choice.affine for rung in sequence], skip), wanted)
    return Search(tried, chosen, bool(made.kept), made)


def helped(boundary: Boundary, most: int) -> list[Array]:
    """Return for each class what its supports of 1…most features explain of the divergence, in nats summed over images.

    Nothing for a class without images, which keeps its dense row.
    """
    paths = boundary.each(lambda problem: problem.path(most), boundary.dense)
    return [
        np.array([step.explained / 2 for step in path if label not in boundary.unseen])
        for label, path in enumerate(paths)
    ]


def _promise(sequence: Sequence[Rung], counts: Sequence[Counts], wanted: Auto) -> tuple[Rung, Promised]:
    """Test sizes from the largest down, until one fails; promise for the last that passed what all that passed keep."""
    images = counts[0].images
    if not images:
        raise SubspectError(
            "there are no images to promise anything on that others haven't seen; give other images, or leave the promise out"
        )
    bounds = [one.bound(wanted.measure, wanted.confidence) for one in counts]
    passed = next((place for place, bound in enumerate(bounds) if bound > wanted.tolerance), len(bounds))
    if not passed:
        return sequence[0], promised(wanted, bounds[0], images, kept=False)
    loss = max(bounds) if passed == len(bounds) else wanted.tolerance
    return sequence[passed - 1], promised(wanted, loss, images, kept=True)
