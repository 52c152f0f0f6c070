"""What is summed over images, channel by channel; each is joined by ``merge``, which is associative and order-free.

Sums are in float64. They are added in the order of the blocks, so that they are the same to the bit whoever summed which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
SHOWN = 6  #: images kept for each channel


class Peaks:
    """The images that activate each channel most; of equal ones those that come first.

    Args:
        channels: of a layer.
        most: images kept for each.

    Attributes:
        values: (most, channels) float32, descending; −inf where there are fewer images.
        at: (most, channels) the images' positions in the sample; −1 where there are fewer.
    """

    def __init__(self, channels: int, most: int = SHOWN) -> None:
        self.values = np.full((most, channels), -np.inf, np.float32)
        self.at = np.full((most, channels), -1, np.int64)

    def update(self, levels: Small, at: Indices) -> None:
        """Take in how active channels are (n, channels) in images at positions (n,)."""
        self._join(levels, np.broadcast_to(at[:, None], levels.shape))

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(self.values.shape[1], len(self.values))
        joined._join(self.values, self.at)
        joined._join(other.values, other.at)
        return joined

    def _join(self, values: Small, at: Indices) -> None:
        values, at = np.concatenate([self.values, values]), np.concatenate([self.at, at])
        values = np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        rows = np.lexsort((at, -values, at < 0), axis=0)[: len(self.values)]
        self.values, self.at = np.take_along_axis(values, rows, 0), np.take_along_axis(at, rows, 0)


class Levels:
    """How active the channels of layers are: their means, and the images that activate them most.

    Attributes:
        images: that were seen.
        sums: layer → (channels,).
        peaks: layer → `Peaks`.
    """

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[str, Array] = {}
        self.peaks: dict[str, Peaks] = {}

    def update(self, levels: Mapping[str, Small], at: Indices) -> None:
        """Take in a block: layer → (n, channels), and the positions (n,) of its images."""
        self.images += len(at)
        for name, one in levels.items():
            self.sums[name] = self.sums.get(name, 0) + one.sum(axis=0, dtype=np.float64)
            self.peaks.setdefault(name, Peaks(one.shape[1])).update(one, at)

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)()
        joined.images = self.images + other.images
        for name in {**self.sums, **other.sums}:
            sums = [one.sums[name] for one in (self, other) if name in one.sums]
            peaks = [one.peaks[name] for one in (self, other) if name in one.peaks]
            joined.sums[name] = sums[0] + sums[1] if len(sums) > 1 else sums[0]
            joined.peaks[name] = peaks[0].merge(peaks[1]) if len(peaks) > 1 else peaks[0]
        return joined

    def means(self) -> dict[str, Small]:
        """Return layer → (channels,): each channel's mean over the images."""
        return {name: (one / self.images).astype(np.float32) for name, one in self.sums.items()}


@dataclass(eq=False)
class Grouped:
    """Sums of numbers, and of their magnitudes, over images of each of some groups.

    Attributes:
        n: (groups,) how many were summed.
        signed: layer → (groups, channels).
        absolute: layer → (groups, channels).
    """

    n: Indices
    signed: dict[str, Array] = field(default_factory=dict)
    absolute: dict[str, Array] = field(default_factory=dict)

    def update(self, effects: Mapping[str, Small], groups: Indices) -> None:
        """Take in layer → (m, channels), of images of groups (m,); those of no group, −1, are left out."""
        kept = groups >= 0
        mine = groups[kept]
        self.n = self.n + np.bincount(mine, minlength=len(self.n))
        for name, one in effects.items():
            for sums, values in ((self.signed, one[kept]), (self.absolute, np.abs(one[kept]))):
                if name not in sums:
                    sums[name] = np.zeros((len(self.n), one.shape[1]))
                np.add.at(sums[name], mine, values.astype(np.float64))

    def merge(self, other: Self) -> Self:
        """Join what two runs over different images have seen."""
        joined = type(self)(self.n + other.n)
        for mine, first, second in (
            (joined.signed, self.signed, other.signed),
            (joined.absolute, self.absolute, other.absolute),
        ):
            for name in {**first, **second}:
                both = [one[name] for one in (first, second) if name in one]
                mine[name] = both[0] + both[1] if len(both) > 1 else both[0]
        return joined

    def means(self, of: str, names: Sequence[str]) -> list[Small]:
        """Return (groups, channels) of each layer named: means of "signed" or "absolute"; of a group without images zeros."""
        sums: dict[str, Array] = getattr(self, of)
        share = 1 / np.maximum(self.n, 1)[:, None]
        return [(sums[name] * share).astype(np.float32) for name in names]
