"""The stored features of an image set, in blocks that are gone through again and again.

Pursuit, refit and budget each pass over the same features several times. Blocks join the shards of a study to pieces that
matrix products like; they are kept in memory where all of them have room (`subspect.ground.memory`), and read anew where not,
without any being kept meanwhile, so that memory doesn't grow with the images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController

from subspect.ground.memory import budget
from subspect.heads.history import Part
from subspect.studies.image_set import ImageSet
from subspect.studies.parts import share_of
from subspect.studies.shards import Chunk

KEPT = 8  #: features that are kept may take one in so many parts of the memory there is
STATISTICS = 4  #: and what is summed of them one in so many
_BLOCK = 1 << 26  # bytes of features in a block: 8,192 rows at d = 2,048


@dataclass(frozen=True)
class Block:
    """Some images' features (m, d) float32, class indices (m,) and the dense network's top-1 class (m,)."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]

    def prints(self) -> npt.NDArray[np.uint64]:
        """Return (m,): a hash of each row of features."""
        return prints(self.features)


def prints(features: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Return (m,): a hash of each row of features (m, d), the same wherever the row lies."""
    bits = np.ascontiguousarray(features).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, bits.shape[1], dtype=np.uint64) | np.uint64(1)
    total: npt.NDArray[np.uint64] = (bits * factors).sum(axis=1, dtype=np.uint64)
    return (total ^ (total >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)


@cache
def _libraries() -> ThreadpoolController:
    """Look once for the libraries that multiply matrices: that takes milliseconds, as long as a step of a small refit."""
    return ThreadpoolController()


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Run small matrix products in several threads, each product in one: nested threads would wait for each other."""
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield pool


class Kept(ABC):
    """Blocks that may be gone through any number of times: kept in memory where all fit, and read anew where not.

    Args:
        memory: bytes that may be kept; an eighth of what a command may take unless given.
    """

    def __init__(self, memory: int | None = None) -> None:
        self._kept: list[Block] | None = None
        self._memory = budget() // KEPT if memory is None else memory

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the features, about."""

    @abstractmethod
    def _read(self) -> Iterator[Block]:
        """Read the blocks."""

    def __iter__(self) -> Iterator[Block]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, fits = list[Block](), self.nbytes <= self._memory
        for block in self._read():
            if fits:
                kept.append(block)
            yield block
        self._kept = kept if fits else None

    def __len__(self) -> int:
        return sum(len(block.labels) for block in self)


def bytes_of(blocks: Iterable[Block]) -> int:
    """Return the bytes of the features of some blocks, about."""
    return blocks.nbytes if isinstance(blocks, Kept) else sum(block.features.nbytes for block in blocks)


class Rows(Kept):
    """The features of an image set, or of a part of it.

    Args:
        image_set: observed to its end.
        part: which of its images.
        memory: bytes that may be kept; more than that is read from disk on each pass.
    """

    def __init__(self, image_set: ImageSet, part: Part = "all", memory: int | None = None) -> None:
        super().__init__(memory)
        self._image_set, self._part = image_set, part

    @property
    def nbytes(self) -> int:
        """Bytes of the features; of a part, about."""
        return int(4 * self._image_set.shape.n_features * len(self._image_set) * share_of(self._part))

    def _read(self) -> Iterator[Block]:
        return _join(self._image_set.chunks(self._part))


def _join(chunks: Iterable[Chunk]) -> Iterator[Block]:
    gathered: list[Chunk] = []
    size = 0
    for chunk in chunks:
        gathered.append(chunk)
        size += chunk.features.nbytes
        if size >= _BLOCK:
            yield _block(gathered)
            gathered, size = [], 0
    if gathered:
        yield _block(gathered)


def _block(chunks: list[Chunk]) -> Block:
    return Block(
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate([chunk.labels for chunk in chunks]),
        np.concatenate([chunk.predictions for chunk in chunks]),
    )
