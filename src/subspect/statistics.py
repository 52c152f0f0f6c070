"""Mergeable one-pass statistics over features.

Each statistic is filled by ``update`` while images stream past and joined by ``merge``, which is associative and
order-free: a laptop, a resumed run and a cluster give the same answer. Counts are exact; sums are float64.

Features are ranked by ``|x|``, since features may be negative; ties go to the lower index, so that results repeat
exactly. The trick that makes this cheap: for non-negative floats the bits, read as an integer, grow with the value, so
that ``bits(|x|) · 2^b + (2^b − 1 − index)`` is one int64 whose order is the wanted order. No two are equal, and a
partition finds the largest few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from subspect.errors import SubspectError

Features = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Wide = npt.NDArray[np.float64]
_ROWS = 256  # rows ranked at a time: 4 MB of keys at d = 2,048, which a cache holds


class Statistic(Protocol):
    """What is filled while images stream past."""

    def update(self, features: Features, labels: Counts, ids: Sequence[str]) -> None:
        """Take in features (m, d) float32, class indices (m,) and the m image ids."""

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""


class TopFeatures:
    """How often each feature is among an image's largest, for several sizes at once (arXiv 2112.07719, section 3).

    A size is a whole number k, the k largest features of an image, or a share s in (0, 1): the least number of features
    that hold the share s of the row's L1 norm (its mass).

    Args:
        n_classes: number of classes C.
        n_features: number of features d.
        sizes: whole numbers from 1 to d, and shares between 0 and 1.

    Attributes:
        images: (C,) images seen of each class.

    Raises:
        SubspectError: a size that is neither.
    """

    def __init__(self, n_classes: int, n_features: int, sizes: Sequence[int | float]) -> None:
        self.n_classes, self.n_features = n_classes, n_features
        self.sizes = tuple(dict.fromkeys(check_size(size, n_features) for size in sizes))
        self._ks = sorted(size for size in self.sizes if isinstance(size, int))
        self._shares = [size for size in self.sizes if isinstance(size, float)]
        self.images = np.zeros(n_classes, np.int64)
        # One (C, d) table for each size. A table of whole k counts only the ranks from the next smaller k on, so that
        # an image's feature is counted once, whatever the number of sizes.
        self._counts = {size: np.zeros((n_classes, n_features), np.int64) for size in self.sizes}
        self._used = {size: np.zeros(n_classes, np.int64) for size in self.sizes}
        self._mass = {size: np.zeros(n_classes, np.float64) for size in self.sizes}

    def counts(self, size: int | float) -> Counts:
        """Return (C, d): the images of each class that have each feature among their largest."""
        if isinstance(size, float):
            return self._counts[size]
        return cast(Counts, sum(self._counts[k] for k in self._ks if k <= size))

    def used(self, size: int | float) -> npt.NDArray[np.float64]:
        """Return (C,): the mean over a class's images of how many features those are; 0 for a class without images."""
        return self._used[size] / np.maximum(self.images, 1)

    def mass(self, size: int | float) -> npt.NDArray[np.float64]:
        """Return (C,): the mean over a class's images of the mass that they hold; 0 for a class without images."""
        return self._mass[size] / np.maximum(self.images, 1)

    def update(self, features: Features, labels: Counts, ids: Sequence[str] = ()) -> None:
        """Take in features (m, d) float32 and class indices (m,)."""
        features = np.asarray(features, np.float32)
        self.images += np.bincount(labels, minlength=self.n_classes)
        for start in range(0, len(features), _ROWS):
            self._update(features[start : start + _ROWS], labels[start : start + _ROWS])

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen.

        Raises:
            SubspectError: the other has other classes, features or sizes.
        """
        mine, theirs = ((one.n_classes, one.n_features, sorted(one.sizes)) for one in (self, other))
        if mine != theirs:
            raise SubspectError(
                f"cannot merge statistics of {mine[0]} classes, {mine[1]} features and sizes {mine[2]} with those of "
                f"{theirs[0]}, {theirs[1]} and {theirs[2]}"
            )
        joined = type(self)(self.n_classes, self.n_features, self.sizes)
        joined.images = self.images + other.images
        for size in self.sizes:
            joined._counts[size] = self._counts[size] + other._counts[size]
            joined._used[size] = self._used[size] + other._used[size]
            joined._mass[size] = self._mass[size] + other._mass[size]
        return joined

    def _update(self, features: Features, labels: Counts) -> None:
        magnitudes = np.abs(features)
        order, values = _rank(magnitudes, self.n_features if self._shares else self._ks[-1])
        norms = magnitudes.sum(axis=1, dtype=np.float64)
        held = np.cumsum(values, axis=1, dtype=np.float64)
        held /= np.where(norms > 0, norms, 1)[:, None]
        cells = labels[:, None] * self.n_features + order
        for smaller, k in zip([0, *self._ks], self._ks, strict=False):
            np.add.at(self._counts[k].reshape(-1), cells[:, smaller:k].ravel(), 1)
            self._used[k] += k * np.bincount(labels, minlength=self.n_classes)
            self._mass[k] += np.bincount(labels, held[:, k - 1], self.n_classes)
        for share in self._shares:
            needed = np.minimum((held < share).sum(axis=1) + 1, self.n_features)
            needed[norms == 0] = 0  # an image without any activity needs no feature
            inside = np.arange(self.n_features) < needed[:, None]
            np.add.at(self._counts[share].reshape(-1), cells[inside], 1)
            np.add.at(self._used[share], labels, needed)
            self._mass[share] += np.bincount(labels, (held * inside).max(axis=1), self.n_classes)


class Needed:
    """How many features an image needs to hold a share of its mass: the least number, largest first by ``|x|``.

    Args:
        n_classes: number of classes C.
        n_features: number of features d.
        share: of the row's L1 norm, between 0 and 1.

    Attributes:
        counts: (C, d + 1) int64, images of each class that need 0, 1, … features; one without any activity needs none.
    """

    def __init__(self, n_classes: int, n_features: int, share: float) -> None:
        self.share = share
        self.counts = np.zeros((n_classes, n_features + 1), np.int64)

    def update(self, features: Features, labels: Counts, ids: Sequence[str] = ()) -> None:
        """Take in features (m, d) float32 and class indices (m,)."""
        np.add.at(self.counts, (labels, needed(features, self.share)), 1)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(len(self.counts), self.counts.shape[1] - 1, self.share)
        joined.counts = self.counts + other.counts
        return joined

    def mean(self) -> Wide:
        """Return (C,): the mean over a class's images; NaN for a class without images."""
        images = self.counts.sum(axis=1)
        total = self.counts @ np.arange(self.counts.shape[1])
        return np.where(images > 0, total / np.maximum(images, 1), np.nan)

    def median(self) -> Wide:
        """Return (C,): the median; that of two middle images is the mean of the two."""
        images = self.counts.sum(axis=1)
        until = self.counts.cumsum(axis=1)
        low = (until <= ((images - 1) // 2)[:, None]).sum(axis=1)
        high = (until <= (images // 2)[:, None]).sum(axis=1)
        return np.where(images > 0, (low + high) / 2, np.nan)


def needed(features: Features, share: float) -> Counts:
    """Return (m,): the least number of features that hold a share of each row's L1 norm; 0 for a row of zeros."""
    largest = -np.sort(-np.abs(np.asarray(features, np.float32)), axis=1)
    held = np.cumsum(largest, axis=1, dtype=np.float64)
    norms = held[:, -1]
    least = np.minimum((held < share * norms[:, None]).sum(axis=1) + 1, features.shape[1])
    return np.where(norms > 0, least, 0)


class ClassSums:
    """Images and sum of the features of each class, for the mean feature of a class.

    Attributes:
        images: (C,) images seen of each class.
        sums: (C, d) float64.
    """

    def __init__(self, n_classes: int, n_features: int) -> None:
        self.images = np.zeros(n_classes, np.int64)
        self.sums = np.zeros((n_classes, n_features), np.float64)

    def update(self, features: Features, labels: Counts, ids: Sequence[str] = ()) -> None:
        """Take in features (m, d) float32 and class indices (m,)."""
        self.images += np.bincount(labels, minlength=len(self.images))
        for label in np.unique(labels):
            self.sums[label] += features[labels == label].sum(axis=0, dtype=np.float64)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(*self.sums.shape)
        joined.images, joined.sums = self.images + other.images, self.sums + other.sums
        return joined

    def means(self) -> npt.NDArray[np.float64]:
        """Return the mean features of each class, (C, d); zeros for a class without images."""
        return self.sums / np.maximum(self.images, 1)[:, None]


class Moments:
    """Second moments of the features: what least squares over all images need.

    Attributes:
        images: their number.
        sums: (d,) float64.
        products: (d, d) float64, the sum over images of ``x x'``.
    """

    def __init__(self, n_features: int) -> None:
        self.images = 0
        self.sums = np.zeros(n_features)
        self.products = np.zeros((n_features, n_features))

    def update(self, features: Features, labels: Counts | None = None, ids: Sequence[str] = ()) -> None:
        """Take in features (m, d) float32."""
        wide = features.astype(np.float64)
        self.images += len(wide)
        self.sums += wide.sum(axis=0)
        self.products += wide.T @ wide

    def deviations(self) -> Wide:
        """Return (d,): the standard deviation of each feature."""
        n = max(self.images, 1)
        return np.sqrt(np.maximum(self.products.diagonal() / n - (self.sums / n) ** 2, 0))

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(len(self.sums))
        joined.images, joined.sums = self.images + other.images, self.sums + other.sums
        joined.products = self.products + other.products
        return joined


class WeightedMoments:
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

    def __init__(self, features: Counts) -> None:
        n_classes, size = features.shape
        self.features = features
        self.weight, self.target = np.zeros(n_classes), np.zeros(n_classes)
        self.sums, self.moments = np.zeros((n_classes, size)), np.zeros((n_classes, size))
        self.products = np.zeros((n_classes, size, size))

    def update(self, place: int, features: Features, weights: Wide, pulls: Wide) -> None:
        """Take in images for the class at a place: its features (r, m) float32, weights (r,) and pulls (r,)."""
        wide = features.astype(np.float64)
        weighted = wide * np.sqrt(weights)[:, None]
        self.weight[place] += weights.sum()
        self.sums[place] += weights @ wide
        self.products[place] += weighted.T @ weighted
        self.target[place] += pulls.sum()
        self.moments[place] += pulls @ wide

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(self.features)
        for name in ("weight", "sums", "products", "target", "moments"):
            setattr(joined, name, getattr(self, name) + getattr(other, name))
        return joined


class Confusion:
    """How often images of one class are said to be of another.

    Attributes:
        counts: (C, C) int64; row: the label, column: what a network says.
    """

    def __init__(self, n_classes: int) -> None:
        self.counts = np.zeros((n_classes, n_classes), np.int64)

    def update(self, labels: Counts, said: Counts) -> None:
        """Take in the labels (m,) of some images and the classes (m,) that a network says."""
        n = len(self.counts)
        self.counts += np.bincount(labels * n + said, minlength=n * n).reshape(n, n)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(len(self.counts))
        joined.counts = self.counts + other.counts
        return joined


class Calibration:
    """How often a network is right, against the probability of the class that it says, in bins of equal width.

    Attributes:
        images: (b,) int64, images in each bin.
        right: (b,) int64, those of them where the network is right.
        confidence: (b,) sum of the probabilities of the classes said.
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


class TopImages:
    """The images that activate each feature most.

    Args:
        n_features: number of features d.
        most: images kept for each feature.

    Attributes:
        values: (most, d) float32, the largest values of each feature, in descending order; −inf where there are fewer.
        ids: (most, d) their image ids; "" where there are fewer.
        labels: (most, d) their class indices; −1 where there are fewer.
    """

    def __init__(self, n_features: int, most: int) -> None:
        self.values = np.full((most, n_features), -np.inf, np.float32)
        self.ids = np.full((most, n_features), "", object)
        self.labels = np.full((most, n_features), -1, np.int64)

    def update(self, features: Features, labels: Counts, ids: Sequence[str]) -> None:
        """Take in features (m, d) float32, class indices (m,) and the m image ids."""
        names = np.array(ids, object)
        rows = _top_rows(features, np.argsort(np.argsort(names.astype(str), kind="stable"))[:, None], len(self.values))
        self._join(np.take_along_axis(features, rows, axis=0), names[rows], labels[rows])

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(self.values.shape[1], len(self.values))
        joined._join(self.values, self.ids, self.labels)
        joined._join(other.values, other.ids, other.labels)
        return joined

    def _join(self, values: Features, ids: npt.NDArray[np.object_], labels: Counts) -> None:
        values, ids = np.concatenate([self.values, values]), np.concatenate([self.ids, ids])
        labels = np.concatenate([self.labels, labels])
        ranks = np.unique(ids.astype(str), return_inverse=True)[1].reshape(ids.shape)
        rows = _top_rows(values, ranks, len(self.values))
        self.values = np.take_along_axis(values, rows, axis=0)
        self.ids = np.take_along_axis(ids, rows, axis=0)
        self.labels = np.take_along_axis(labels, rows, axis=0)


def _top_rows(values: Features, ranks: Counts, most: int) -> Counts:
    """Return (most, d): the rows of each column's largest values, descending; ties go to the lower rank."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
    bits = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # sign and magnitude → an integer with the order of the float
    keys = -((bits << 31) - ranks)
    rows = np.argpartition(keys, most - 1, axis=0)[:most] if most < len(keys) else np.argsort(keys, axis=0)
    return np.take_along_axis(rows, np.argsort(np.take_along_axis(keys, rows, axis=0), axis=0), axis=0)


def largest(features: Features, k: int) -> Counts:
    """Rank each row's features by ``|x|``, ties by the lower index, and return the indices of the first k.

    Args:
        features: (m, d) float32 without NaN.
        k: from 1 to d.

    Returns:
        (m, k) int64, the largest first.
    """
    return _rank(np.abs(np.asarray(features, np.float32)), k)[0]


def _rank(magnitudes: Features, k: int) -> tuple[Counts, Features]:
    """Return the indices and the values (m, k) of each row's largest magnitudes (m, d)."""
    width = magnitudes.shape[1]
    bits = (width - 1).bit_length()
    mask = (1 << bits) - 1
    keys = magnitudes.view(np.int32).astype(np.int64)
    keys <<= bits
    keys |= mask - np.arange(width)
    if k < width:
        keys.partition(width - k, axis=1)
    top = keys[:, width - k :]
    top.sort(axis=1)
    top = top[:, ::-1]
    return mask - (top & mask), (top >> bits).astype(np.int32).view(np.float32)


def check_size(size: int | float, n_features: int) -> int | float:
    """Check a number of features k, or a share of the mass.

    Raises:
        SubspectError: neither a whole number from 1 to d nor a share between 0 and 1.
    """
    if isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= n_features:
        return size
    if isinstance(size, float) and 0 < size < 1:
        return size
    raise SubspectError(
        f"k = {size!r} must be a whole number from 1 to the {n_features} features of the network, or a share of the mass "
        "between 0 and 1"
    )
