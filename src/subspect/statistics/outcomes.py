"""What networks say of images, counted: confusions and calibration."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from subspect.ground.arrays import Integers, Wide


class Confusion:
    """How often images of one class are said to be of another.

    Attributes:
        counts: (C, C) int64; row: the label, column: what a network says.
    """

    def __init__(self, n_classes: int) -> None:
        self.counts = np.zeros((n_classes, n_classes), np.int64)

    def update(self, labels: Integers, said: Integers) -> None:
        """Take in the labels (m,) of some images and the classes (m,) that a network predicts."""
        n = len(self.counts)
        self.counts += np.bincount(labels * n + said, minlength=n * n).reshape(n, n)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(len(self.counts))
        joined.counts = self.counts + other.counts
        return joined


class Calibration:
    """How often a network is right against its confidence, the probability of the class it predicts, in bins of equal width.

    Attributes:
        images: (b,) int64, images in each bin.
        right: (b,) int64, those of them where the network is right.
        confidence: (b,) sum of the probabilities of the predicted classes.
    """

    def __init__(self, bins: int = 15) -> None:
        self.images, self.right = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
        self.confidence = np.zeros(bins)

    def update(self, confidence: Wide, right: npt.NDArray[np.bool_]) -> None:
        """Take in the largest probability (m,) of some images, and whether the network is right (m,)."""
        bins = len(self.images)
        places = np.minimum((confidence * bins).astype(np.int64), bins - 1)
        self.images += np.bincount(places, minlength=bins)
        self.right += np.bincount(places[right], minlength=bins)
        self.confidence += np.bincount(places, confidence, bins)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(len(self.images))
        for name in ("images", "right", "confidence"):
            setattr(joined, name, getattr(self, name) + getattr(other, name))
        return joined

    def means(self) -> tuple[Wide, Wide]:
        """Return mean confidence and accuracy of the bins that have images."""
        some = self.images > 0
        return self.confidence[some] / self.images[some], self.right[some] / self.images[some]

    def error(self) -> float:
        """Return the expected calibration error: the mean gap of the two, weighed by images (Guo et al. 2017)."""
        gaps = np.abs(self.confidence - self.right)
        return float(gaps.sum() / max(self.images.sum(), 1))
