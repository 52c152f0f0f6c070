"""Which channels of a layer hold a share of a class's effect, how much classes share them, and how specific they are.

All take effects (c, channels), zero or more: of each of c classes, what each channel's absence changes of its margin.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom, rankdata

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
_PAIRS = 2_000  # pairs of sizes whose chance is computed; of more, so many of them


def holding(effects: Array, share: float) -> Mask:
    """Return (c, channels): the fewest channels, the largest first, that hold a share of each class's sum; ties to the lower.

    A class that no channel has an effect on has none.
    """
    order = np.argsort(-effects, axis=1, kind="stable")
    held = np.cumsum(np.take_along_axis(effects, order, 1), axis=1, dtype=np.float64)
    total = held[:, -1:]
    needed = np.minimum((held < share * total).sum(axis=1) + 1, effects.shape[1])
    inside = np.arange(effects.shape[1]) < np.where(total[:, 0] > 0, needed, 0)[:, None]
    found = np.zeros(effects.shape, bool)
    np.put_along_axis(found, order, inside, axis=1)
    return found


def overlap(chosen: Mask) -> tuple[float, float]:
    """Return the mean Jaccard index of all pairs of classes, and what it would be with as many channels drawn at random.

    NaN where there are not two classes.
    """
    sizes = chosen.sum(axis=1)
    rows, columns = np.triu_indices(len(chosen), 1)
    if not len(rows):
        return float("nan"), float("nan")
    both = (chosen.astype(np.float32) @ chosen.T.astype(np.float32))[rows, columns]
    either = sizes[rows] + sizes[columns] - both
    index = np.divide(both, either, out=np.zeros(len(rows)), where=either > 0)
    pairs, counts = np.unique(np.sort(np.stack([sizes[rows], sizes[columns]]), axis=0), axis=1, return_counts=True)
    step = -(-len(counts) // _PAIRS)
    kept = [by_chance(int(a), int(b), chosen.shape[1]) for a, b in pairs[:, ::step].T]
    return float(index.mean()), float(np.average(kept, weights=counts[::step]))


def by_chance(first: int, second: int, channels: int) -> float:
    """Return the expected Jaccard index of two sets of some sizes, drawn at random among channels."""
    if not first or not second:
        return 0.0
    both = np.arange(max(0, first + second - channels), min(first, second) + 1)
    return float((hypergeom.pmf(both, channels, first, second) * both / (first + second - both)).sum())


def specific(effects: Array) -> float:
    """Return how much a filter, drawn by a class's effects, tells of the class: mutual information, as a share of log c.

    It is 0 where all classes have the same filters in the same proportions, and 1 where no two have one in common.
    NaN where there are not two classes with an effect.
    """
    sums = effects.sum(axis=1, dtype=np.float64)
    shares = effects[sums > 0] / sums[sums > 0, None]
    if len(shares) < 2:
        return float("nan")
    information = _entropy(shares.mean(axis=0, keepdims=True))[0] - _entropy(shares).mean()
    return float(max(0.0, information) / np.log(len(shares)))


def _entropy(shares: Array) -> Array:
    logs = np.log(shares, out=np.zeros(shares.shape), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=1))


def rank_correlation(first: Iterable[float], second: Iterable[float]) -> float:
    """Return Spearman's ρ of two lists of numbers; NaN where either is all the same, or there are fewer than three."""
    one, other = (rankdata(np.asarray(list(values), np.float64)) for values in (first, second))
    if len(one) < 3 or not np.ptp(one) or not np.ptp(other):
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
