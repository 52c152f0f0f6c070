"""Through which features an image loses its margin when a cue is swapped.

The margin of class c is ``m = z_c − max over the others``. Between the features x of an image and x′ of its swapped copy it
changes by the sum, over the features i, of

    ∫ ∂m/∂x_i along the straight line from x′ to x · (x_i − x′_i) = (W_ci − Σ_j λ_j W_ji) (x_i − x′_i),

λ_j being the share of the line on which j is the strongest rival (integrated gradients, Sundararajan et al. 2017, here exact,
as a maximum of linear functions has a gradient that only changes where another rival takes over). A feature that the swap
doesn't move has no part in it, and the parts add up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def margin(logits: Array, own: Indices) -> Array:
    """Return (n,), the margins of classes ``own`` (n,) by logits (n, C)."""
    rows = np.arange(len(own))
    others = logits.copy()
    others[rows, own] = -np.inf
    return np.asarray(logits[rows, own] - others.max(axis=1))


def through(before: Array, after: Array, own: Indices, weight: Array, bias: Array) -> Array:
    """Return (n, d): how much of each image's margin is lost through each feature.

    Args:
        before: (n, d) features of the images.
        after: (n, d) features of their swapped copies.
        own: (n,) the class of each.
        weight: (C, d).
        bias: (C,).
    """
    shares = rivals(after @ weight.T + bias, before @ weight.T + bias, own)
    return (weight[own] - shares @ weight) * (before - after)


def rivals(start: Array, end: Array, own: Indices) -> Array:
    """Return (n, C): the share of the way from logits ``start`` (n, C) to ``end`` on which each class is the strongest."""
    n, rows = len(own), np.arange(len(own))
    at, slope = start.copy(), end - start
    at[rows, own] = -np.inf
    rival, time = at.argmax(axis=1), np.zeros(n)
    shares, going = np.zeros_like(start), rows
    while len(going):
        mine = rival[going]
        ahead = at[going, mine][:, None] - at[going]
        faster = slope[going] - slope[going, mine][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            meets = np.where((faster > 0) & np.isfinite(ahead), ahead / faster, np.inf)
        meets = np.maximum(meets, time[going, None])  # rounding
        first = meets.min(axis=1)
        following = np.where(meets <= first[:, None], faster, -np.inf).argmax(axis=1)  # of several the steepest
        until = np.minimum(first, 1)
        shares[going, mine] += until - time[going]
        time[going], rival[going] = until, following
        going = going[first < 1]
    return shares
