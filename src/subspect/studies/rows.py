"""The stored features of an image set, in blocks: shards joined to pieces that matrix products like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController

from subspect.heads.history import Part
from subspect.studies.blocks import Kept, total
from subspect.studies.image_set import ImageSet
from subspect.studies.parts import hashed, share_of
from subspect.studies.shards import Chunk, joined

_BLOCK = 1 << 26  # bytes of features in a block, unless it has as many
_CACHED = 256  # rows hashed at a time
HELD = 100_000  #: images that may be in memory at once
_ROWS = 8192  # rows: so that there are several blocks to share, where features are few


@dataclass(frozen=True)
class Block:
    """Some images' features (m, d) float32, class indices (m,) and the dense network's top-1 class (m,)."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: slice | npt.NDArray[np.int64]) -> Block:
        """Return some of the images."""
        return Block(self.features[rows], self.labels[rows], self.predictions[rows])

    def prints(self) -> npt.NDArray[np.uint64]:
        """Return (m,): a hash of each row of features."""
        return prints(self.features)


def prints(features: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Return (m,): a hash of each row of features (m, d), the same wherever the row lies."""
    factors = np.random.default_rng(0).integers(1, 2**63, features.shape[1], dtype=np.uint64) | np.uint64(1)
    sums = np.empty(len(features), np.uint64)
    for start in range(0, len(features), _CACHED):  # numbers of 64 bits take much memory
        bits = np.ascontiguousarray(features[start : start + _CACHED]).view(np.uint32).astype(np.uint64)
        bits *= factors
        sums[start : start + _CACHED] = bits.sum(axis=1, dtype=np.uint64)
    return (sums ^ (sums >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)


@cache
def _libraries() -> ThreadpoolController:
    """Look once for the libraries that multiply matrices: that takes milliseconds, as long as a step of a small refit."""
    return ThreadpoolController()


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Run small matrix products in several threads, each product in one: nested threads would wait for each other."""
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield pool


class Rows(Kept[Block]):
    """The features of an image set, or of a part of it.

    Args:
        image_set: observed to its end.
        part: which of its images.
        memory: bytes that may be kept; more than that is read from disk on each pass.
    """

    def __init__(self, image_set: ImageSet, part: Part = "all", memory: int | None = None) -> None:
        super().__init__(memory)
        self._image_set, self._part = image_set, part
        manifest = image_set.manifest
        size = (
            -(-manifest.rows // manifest.n_shards) or 1 if manifest.sampled else manifest.shard_size
        )  # images of a shard
        full = -(-_BLOCK // (4 * image_set.shape.n_features * size))
        self._shards = max(1, min(full, _ROWS // size))  # in a block

    @property
    def nbytes(self) -> int:
        """Bytes of the features; of a part, about."""
        return int(4 * self._image_set.shape.n_features * len(self._image_set) * share_of(self._part))

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self._image_set.manifest.n_shards // self._shards)

    def __len__(self) -> int:
        return n_rows(self)

    def _read(self, index: int) -> Block:
        first = index * self._shards
        return _block(list(self._image_set.chunks(self._part, shards=range(first, first + self._shards))))


class Shards(Kept[Chunk]):
    """The images of a part of an image set as they are stored, a shard at a time; left to the system's cache of files."""

    def __init__(self, image_set: ImageSet, part: Part = "all", skip: npt.NDArray[np.uint64] | None = None) -> None:
        super().__init__(0)
        self._image_set, self._part, self._skip = image_set, part, skip

    @property
    def nbytes(self) -> int:
        """Bytes of the features, about."""
        return 4 * self._image_set.shape.n_features * len(self._image_set) + 1

    @property
    def count(self) -> int:
        """Number of shards."""
        return self._image_set.manifest.n_shards

    def _read(self, index: int) -> Chunk:
        [chunk] = self._image_set.chunks(self._part, shards=range(index, index + 1))
        return chunk if self._skip is None else chunk.at(~np.isin(prints(chunk.features), self._skip))


def held(chunks: Iterable[Chunk], images: int) -> tuple[Chunk, str]:
    """Return so many images in memory at once, or of many a sample of `HELD` by a hash of their ids; and that in words."""
    share = min(1.0, HELD / max(1, images))
    drawn = joined([chunk if share == 1 else chunk.at(hashed(chunk.ids, b"held") < share) for chunk in chunks])
    return drawn, "" if share == 1 else f"; a sample of {len(drawn.ids):,} of them"


def n_rows(blocks: Iterable[Block]) -> int:
    """Return how many images some blocks hold."""
    return total(blocks, int, lambda rows, block: rows + len(block))


def bytes_of(blocks: Iterable[Block]) -> int:
    """Return the bytes of the features of some blocks, about."""
    if isinstance(blocks, Kept) and blocks.nbytes:
        return blocks.nbytes
    return sum(block.features.nbytes for block in blocks)


def printed(blocks: Iterable[Block] | Iterable[Chunk]) -> npt.NDArray[np.uint64]:
    """Return the hashes of all rows of some blocks, in order."""
    found: list[npt.NDArray[np.uint64]] = total(blocks, list, _printed)  # type: ignore[arg-type]
    return np.concatenate([np.empty(0, np.uint64), *found])


def _printed(known: list[npt.NDArray[np.uint64]], block: Block | Chunk) -> list[npt.NDArray[np.uint64]]:
    return [*known, prints(block.features)]


def _block(chunks: list[Chunk]) -> Block:
    return Block(
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate([chunk.labels for chunk in chunks]),
        np.concatenate([chunk.predictions for chunk in chunks]),
    )
