"""First and second moments of features: of each class, of all images, and weighted for each class's least squares."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from subspect.ground.arrays import Features, Integers, Wide

_ROWS = 2048  # taken in at a time, since they are twice as large then


class _Sums:
    """Arrays and numbers that add up."""

    _summed: ClassVar[tuple[str, ...]]

    def __iadd__(self, other: Self) -> Self:
        for name in self._summed:
            value = getattr(self, name)
            value += getattr(other, name)  # an array in its place
            setattr(self, name, value)
        return self

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        return copy.deepcopy(self).__iadd__(other)


class ClassSums(_Sums):
    """Images and sum of the features of each class, for the mean feature of a class.

    Attributes:
        images: (C,) images seen of each class.
        sums: (C, d) float64.
    """

    _summed = "images", "sums"

    def __init__(self, n_classes: int, n_features: int) -> None:
        self.images = np.zeros(n_classes, np.int64)
        self.sums = np.zeros((n_classes, n_features), np.float64)

    def update(self, features: Features, labels: Integers, ids: Sequence[str] = ()) -> None:
        """Take in features (m, d) float32 and class indices (m,)."""
        self.images += np.bincount(labels, minlength=len(self.images))
        for label in np.unique(labels):
            self.sums[label] += features[labels == label].sum(axis=0, dtype=np.float64)

    def means(self) -> npt.NDArray[np.float64]:
        """Return the mean features of each class, (C, d); zeros for a class without images."""
        return self.sums / np.maximum(self.images, 1)[:, None]


class Moments(_Sums):
    """Second moments of the features: what least squares over all images need.

    Attributes:
        images: their number.
        sums: (d,) float64.
        products: (d, d) float64, the sum over images of ``x x'``.
    """

    _summed = "images", "sums", "products"

    def __init__(self, n_features: int) -> None:
        self.images = 0
        self.sums = np.zeros(n_features)
        self.products = np.zeros((n_features, n_features))

    def update(self, features: Features, labels: Integers | None = None, ids: Sequence[str] = ()) -> None:
        """Take in features (m, d) float32."""
        for start in range(0, len(features), _ROWS):
            wide = features[start : start + _ROWS].astype(np.float64)
            self.images += len(wide)
            self.sums += wide.sum(axis=0)
            self.products += wide.T @ wide

    def deviations(self) -> Wide:
        """Return (d,): the standard deviation of each feature."""
        n = max(self.images, 1)
        return np.sqrt(np.maximum(self.products.diagonal() / n - (self.sums / n) ** 2, 0))


class WeightedMoments(_Sums):
    """For each of some classes, weighted second moments of its own choice of features, and their moments with a target.

    Args:
        features: (B, m) the features of each class.

    Attributes:
        weight: (B,) sum of the weights.
        sums: (B, m) weighted sums of the features.
        products: (B, m, m) weighted sums of ``x x'``.
        target: (B,) sum of the pulls; an image's pull is its weight times its target.
        moments: (B, m) sums of ``x`` times the pull.
    """

    _summed = "weight", "sums", "products", "target", "moments"

    def __init__(self, features: Integers) -> None:
        n_classes, size = features.shape
        self.features = features
        self.weight, self.target = np.zeros(n_classes), np.zeros(n_classes)
        self.sums, self.moments = np.zeros((n_classes, size)), np.zeros((n_classes, size))
        self.products = np.zeros((n_classes, size, size))

    def update(self, place: int, features: Features, rows: Integers, weights: Wide, pulls: Wide) -> None:
        """Take in images for the class at a place: some rows (r,) of features (m, d) float32, weights (r,) and pulls (r,)."""
        if not len(rows):
            return
        at = rows[:, None] * features.shape[1] + self.features[place]  # faster than indexing by rows and columns
        wide = features.reshape(-1).take(at).astype(np.float64)
        weighted = wide * np.sqrt(weights)[:, None]
        self.weight[place] += weights.sum()
        self.sums[place] += weights @ wide
        self.products[place] += weighted.T @ weighted
        self.target[place] += pulls.sum()
        self.moments[place] += pulls @ wide
