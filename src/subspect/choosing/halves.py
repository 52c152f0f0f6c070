"""Halves of the images, in pairs that have none in common: on what a choice is repeated to see whether it stays.

Why halves, and not images drawn with replacement? A mean over n / 2 of n images varies about the mean over all by σ² / n, as it
does in a bootstrap, and as a mean over n other images would about the truth; no image counts twice, which would sharpen
decisions that the images don't support; it takes half the time; and what is known of pairs without an image in common is that
few features come by chance (Shah, Samworth 2013). What differs between two networks that were trained alike is not in it.

A hash of an image's features tells its half, so that neither the order of images nor how they are cut into shards matters, and
equal images go together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from subspect.ground.errors import SubspectError
from subspect.studies.blocks import Kept, kept
from subspect.studies.rows import Block, bytes_of, n_rows

_MOST = 1000  # more take hours, and tell no more
LARGEST = 100_000  #: images of a half, of however many there are
_SAMPLE = 2**32  # a hash of its own
FEW = 100_000  #: images that rough heads are learned from, of however many there are


def check_draws(draws: int) -> int:
    """Check a number of halves.

    Raises:
        SubspectError: it is odd, negative, 2, of which no two overlap, or more than anybody waits for.
    """
    if draws == 0 or (4 <= draws <= _MOST and draws % 2 == 0):
        return draws
    raise SubspectError(
        f"draws are halves of the images, in pairs: an even number from 4 to {_MOST:,}, or 0 for none; got {draws:,}"
    )


def halves(rows: Iterable[Block], draws: int, images: int = 0) -> Iterator[Drawn]:
    """Return as many halves of some rows; two that follow each other have no image in common.

    Of many ``images`` no more than `LARGEST` are taken, so that time and memory don't grow with them. Such a half varies more
    than one of all, so that a choice is then more stable than is said.
    """
    share = min(1.0, LARGEST / max(1, images // 2))
    for draw in range(draws):
        yield half(rows, draw // 2, draw % 2, share)


def half(rows: Iterable[Block], pair: int, side: int, share: float = 1.0) -> Drawn:
    """Return a half of some rows, or a share of it: of a cut in two, given by its number, the side 0 or 1."""
    return Drawn(rows, pair, side / 2, (side + share) / 2)


def few(rows: Kept[Block], images: int) -> Kept[Block]:
    """Return some rows of so many images if there are few, else a sample of them."""
    return rows if images <= FEW else Drawn(rows, _SAMPLE, 0, FEW / images)


class Drawn(Kept[Block]):
    """Those of some rows whose hash lies within limits; may be iterated over any number of times.

    Args:
        rows: all of them.
        seed: which hash; each spreads images evenly from 0 to 1, independent of the others.
        low: the least hash.
        high: above the largest.
        memory: bytes that may be kept.
    """

    def __init__(self, rows: Iterable[Block], seed: int, low: float, high: float, memory: int | None = None) -> None:
        super().__init__(memory)
        self._rows, self._low, self._high = kept(rows), low, high
        self._factor = np.random.default_rng(seed).integers(1, 2**63, dtype=np.uint64) | np.uint64(1)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the features, about."""
        return int(bytes_of(self._rows) * (self._high - self._low))

    @property
    def source(self) -> Kept[Block]:
        """All of the rows."""
        return self._rows

    @property
    def count(self) -> int:
        """Number of blocks, some of which may be empty."""
        return self._rows.count

    def __len__(self) -> int:
        return n_rows(self)

    def _read(self, index: int) -> Block:
        block = self._rows.block(index)
        mixed = block.prints() * self._factor
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        hashes = (mixed >> np.uint64(11)).astype(np.float64) / 2**53
        own = np.flatnonzero((self._low <= hashes) & (hashes < self._high))
        return block.at(own)
