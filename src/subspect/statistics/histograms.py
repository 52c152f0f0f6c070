"""How the values of each feature are spread: a histogram for each, over a range that is fixed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from subspect.ground.arrays import Features, Integers, Wide

BINS = 64


class Histograms:
    """How many images have a feature's value in each of some bins of equal width; the first and the last bin are open.

    Args:
        edges: (d, bins + 1), ascending; see `edges_over`.

    Attributes:
        counts: (d, bins) int64.
    """

    def __init__(self, edges: Wide) -> None:
        self.edges = edges
        self.counts = np.zeros((len(edges), edges.shape[1] - 1), np.int64)

    def update(self, features: Features, labels: Integers | None = None, ids: Sequence[str] = ()) -> None:
        """Take in features (m, d) float32."""
        bins = self.counts.shape[1]
        for feature, values in enumerate(np.ascontiguousarray(features.T, np.float64)):
            places = np.searchsorted(self.edges[feature, 1:-1], values, side="right")
            self.counts[feature] += np.bincount(places, minlength=bins)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(self.edges)
        joined.counts = self.counts + other.counts
        return joined


def edges_over(features: Features, bins: int = BINS) -> Wide:
    """Return (d, bins + 1): edges of bins of equal width over the range of some features; over 1 where they don't vary."""
    low, high = (np.asarray(end, np.float64) for end in (features.min(axis=0), features.max(axis=0)))
    alike = low == high
    return np.linspace(np.where(alike, low - 0.5, low), np.where(alike, high + 0.5, high), bins + 1, axis=1)
