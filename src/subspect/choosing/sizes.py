"""How many features for each class: what may be asked for, and how a total is handed out.

Features are handed to classes one at a time where they help most (`allocate`): what a feature adds is measured in nats, by the
dense head's own curvature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Literal, get_args

import numpy as np

from subspect.choosing.pursuit import Array, Indices
from subspect.ground.errors import SubspectError, near, shortened
from subspect.statistics.largest import check_size

Measure = Literal["fidelity", "accuracy"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
CONFIDENCE = 0.95
MOST = 64  #: features for each class, unless told
LADDER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)  #: mean numbers of features tried


@dataclass(frozen=True)
class Mean:
    """A mean number of features for each class; how many each gets is found.

    Attributes:
        k: the mean.
        least: no class gets fewer.
        most: no class gets more; unless given, twice the mean, or 64 if that is more.

    Example:
        >>> made = study.decompose(subspect.Mean(5, least=2, most=20))
        >>> made.mean_size
        5.0
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

    Example:
        >>> made = study.decompose(subspect.Auto(tolerance=0.2, most=32))
        >>> print(made.settled)  # doctest: +SKIP
        >>> made.auto.tolerance
        0.2
        >>> int(made.supports.sizes.max()) <= 32
        True
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


#: how many features for each class; a float is a share of the mass, a text "auto", "mean:5" or "mean:5:LEAST:MOST"
Budget = int | float | Mean | Auto | str
Checked = int | float | Mean | Auto  #: a size that fits the network
#: what each method takes besides a whole number of features
_BESIDES = {
    "pursuit": ", 'auto' for the fewest that keep a tolerance, or 'mean:5' (Mean(5)) for a mean number",
    "contribution": "",
    "frequency": ", or a share of the mass between 0 and 1",
}


def read_size(text: str) -> int | float | Mean | Literal["auto"]:
    """Read a number of features: 5, 0.5, mean:5, mean:5:LEAST:MOST or auto.

    Raises:
        ValueError: it is none of these.
    """
    word, *numbers = text.split(":")
    if word == "auto" and not numbers:
        return "auto"
    if word == "mean" and len(numbers) in (1, 3):
        return Mean(float(numbers[0]), *(int(number) for number in numbers[1:]))
    return int(text) if text.isdecimal() else float(text)


def check_budget(size: Budget, n_features: int, pool: int | None = None, method: str = "pursuit") -> Checked:
    """Check how many features are asked for against how many there are.

    Raises:
        SubspectError: more than d, none, or limits that contradict each other.
    """
    if pool is not None and not 1 <= pool <= n_features:
        raise SubspectError(f"a pool must have from 1 to {n_features} features; got {pool}")
    limit = n_features if pool is None else pool
    if isinstance(size, str):
        try:
            size = read_size(size)
        except ValueError:
            raise SubspectError(
                f"k = {shortened(repr(size))}{near(size, ['auto', 'mean:5'])} must be a whole number from 1 to "
                f"{n_features}, the number of features{_BESIDES[method]}"
            ) from None
    size = Auto() if size == "auto" else size
    if isinstance(size, Mean):
        most = size.limit(limit) if isfinite(size.k) else limit
        if not 1 <= size.least <= size.k <= most <= limit:
            raise SubspectError(
                f"a mean of {size.k:g} features per class needs 1 ≤ least ≤ mean ≤ most ≤ {limit}; got least "
                f"{size.least} and most {most}"
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
    checked = check_size(size, n_features, _BESIDES[method])
    if pool is not None and isinstance(checked, int) and checked > pool:
        raise SubspectError(
            f"a class cannot have {checked} features from a pool of {pool}; take a larger pool, or fewer features a class"
        )
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
