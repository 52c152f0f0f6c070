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

import numpy as np

from subspect.ground.errors import SubspectError
from subspect.studies.rows import MEMORY, Block, Kept

_MOST = 1000  # more take hours, and tell no more


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


def halves(rows: Iterable[Block], draws: int, memory: int = MEMORY // 2) -> Iterator[Half]:
    """Return as many halves of some rows; two that follow each other have no image in common."""
    for draw in range(draws):
        yield Half(rows, draw // 2, draw % 2, memory)


class Half(Kept):
    """One half of some rows; may be iterated over any number of times.

    Args:
        rows: all of them.
        pair: which cut in two.
        side: which of its sides, 0 or 1.
        memory: bytes that may be kept.
    """

    def __init__(self, rows: Iterable[Block], pair: int, side: int, memory: int) -> None:
        super().__init__(memory)
        self._rows, self._side = rows, side
        self._factor = np.random.default_rng(pair).integers(1, 2**63, dtype=np.uint64) | np.uint64(1)

    def _read(self) -> Iterator[Block]:
        for block in self._rows:
            mixed = block.prints() * self._factor
            mixed ^= mixed >> np.uint64(32)
            mixed *= np.uint64(0xD6E8FEB86659FD93)
            own = np.flatnonzero(mixed >> np.uint64(63) == self._side)
            if len(own):
                yield Block(block.features[own], block.labels[own], block.predictions[own])
