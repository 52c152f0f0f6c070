"""How often features are among an image's largest, how many hold a share of its mass, and which images activate each most.

Features are ranked by ``|x|``, since features may be negative; ties go to the lower index, so that results repeat
exactly. The trick that makes this cheap: for non-negative floats the bits, read as an integer, grow with the value, so
that ``bits(|x|) · 2^b + (2^b − 1 − index)`` is one int64 whose order is the wanted order. No two are equal, and a
partition finds the largest few.

Each statistic is filled by ``update`` while images stream past and joined by ``merge``, which is associative and order-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from subspect.ground.arrays import Features, Integers, Wide
from subspect.ground.errors import SubspectError

_ROWS = 256  # rows ranked at a time: 4 MB of keys at d = 2,048, which a cache holds


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

    def counts(self, size: int | float) -> Integers:
        """Return (C, d): the images of each class that have each feature among their largest."""
        if isinstance(size, float):
            return self._counts[size]
        return cast(Integers, sum(self._counts[k] for k in self._ks if k <= size))

    def used(self, size: int | float) -> npt.NDArray[np.float64]:
        """Return (C,): the mean over a class's images of how many features those are; 0 for a class without images."""
        return self._used[size] / np.maximum(self.images, 1)

    def mass(self, size: int | float) -> npt.NDArray[np.float64]:
        """Return (C,): the mean over a class's images of the mass that they hold; 0 for a class without images."""
        return self._mass[size] / np.maximum(self.images, 1)

    def update(self, features: Features, labels: Integers, ids: Sequence[str] = ()) -> None:
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

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all that was counted, by name; what is written into an array is counted."""
        found: dict[str, npt.NDArray[Any]] = {"images": self.images}
        for size in self.sizes:
            found |= {
                f"counts {size}": self._counts[size],
                f"used {size}": self._used[size],
                f"mass {size}": self._mass[size],
            }
        return found

    def _update(self, features: Features, labels: Integers) -> None:
        magnitudes = np.abs(features)
        order, values = rank(magnitudes, self.n_features if self._shares else self._ks[-1])
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

    def update(self, features: Features, labels: Integers, ids: Sequence[str] = ()) -> None:
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


def needed(features: Features, share: float) -> Integers:
    """Return (m,): the least number of features that hold a share of each row's L1 norm; 0 for a row of zeros."""
    largest = -np.sort(-np.abs(np.asarray(features, np.float32)), axis=1)
    held = np.cumsum(largest, axis=1, dtype=np.float64)
    norms = held[:, -1]
    least = np.minimum((held < share * norms[:, None]).sum(axis=1) + 1, features.shape[1])
    return np.where(norms > 0, least, 0)


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

    def update(self, features: Features, labels: Integers, ids: Sequence[str]) -> None:
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

    def _join(self, values: Features, ids: npt.NDArray[np.object_], labels: Integers) -> None:
        values, ids = np.concatenate([self.values, values]), np.concatenate([self.ids, ids])
        labels = np.concatenate([self.labels, labels])
        ranks = np.unique(ids.astype(str), return_inverse=True)[1].reshape(ids.shape)
        rows = _top_rows(values, ranks, len(self.values))
        self.values = np.take_along_axis(values, rows, axis=0)
        self.ids = np.take_along_axis(ids, rows, axis=0)
        self.labels = np.take_along_axis(labels, rows, axis=0)


def _top_rows(values: Features, ranks: Integers, most: int) -> Integers:
    """Return (most, d): the rows of each column's largest values, descending; ties go to the lower rank."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
    bits = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # sign and magnitude → an integer with the order of the float
    keys = -((bits << 31) - ranks)
    rows = np.argpartition(keys, most - 1, axis=0)[:most] if most < len(keys) else np.argsort(keys, axis=0)
    return np.take_along_axis(rows, np.argsort(np.take_along_axis(keys, rows, axis=0), axis=0), axis=0)


def rank(magnitudes: Features, k: int) -> tuple[Integers, Features]:
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


def check_size(
    size: int | float, n_features: int, besides: str = ", or a share of the mass between 0 and 1"
) -> int | float:
    """Check a number of features k, or a share of the mass; ``besides`` says what else k may be.

    Raises:
        SubspectError: neither a whole number from 1 to d nor a share between 0 and 1.
    """
    if isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= n_features:
        return size
    if isinstance(size, float) and 0 < size < 1:
        return size
    raise SubspectError(f"k = {size!r} must be a whole number from 1 to {n_features}, the number of features{besides}")
