"""Blocks of an image set that are gone through again and again, and what is summed over them.

Blocks are kept in memory where all of them have room (`subspect.ground.memory`); where not, what is made of blocks and takes
fewer bytes is kept in a temporary file, and all else read anew, one ahead of what is worked on, so that memory doesn't grow
with the images.

What is summed is cut into runs of blocks, at places that depend on nothing but their number; each run is summed by itself, and
the sums are added in order. So a sum is the same to the bit whoever takes which run (`subspect.ground.engines`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from subspect.ground.engines import Here, Remembered, in_order, sharing, using
from subspect.ground.memory import budget
from subspect.studies.aside import Aside

KEPT = 8  #: blocks that are kept may take one in so many parts of the memory there is
STATISTICS = 4  #: and what is summed of them one in so many
RUNS = 32  #: at most, of the blocks
SMALL = 64 * 2**20  #: bytes of blocks that are summed here before they would be sent
T = TypeVar("T")
U = TypeVar("U")
S = TypeVar("S")


class Kept(Remembered, ABC, Generic[T]):
    """Blocks that may be gone through any number of times: kept in memory where all fit, and read anew where not.

    Args:
        memory: bytes that may be kept; a share of what a command may take unless given.
        share: one in so many parts.
    """

    def __init__(self, memory: int | None = None, share: int = KEPT) -> None:
        self._memory, self._share = memory, share
        self._known: dict[int, T] = {}
        self._fits: bool | None = None
        self._aside: Aside | None = None

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all blocks, about."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of blocks."""

    @abstractmethod
    def _read(self, index: int) -> T:
        """Read a block."""

    def block(self, index: int) -> T:
        """Return a block, and keep it."""
        found = self._known.get(index)
        if found is None and self._aside is not None:
            found = self._aside.get(index)
        if found is None:
            found = self._read(index)
            self._keep(index, found)
        return found

    def blocks(self, wanted: Iterable[int]) -> Iterator[T]:
        """Go through some blocks; where they aren't kept yet, the next is read meanwhile."""
        left = list(wanted)
        if all(index in self._known for index in left):
            yield from (self._known[index] for index in left)
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(copy_context().run, self.block, index) for index in left[:1]]
            for index in [*left[1:], None]:
                block = coming.pop().result()
                if index is not None:
                    coming.append(ahead.submit(copy_context().run, self.block, index))
                yield block
                del block  # before the next one is there

    @property
    def fits(self) -> bool:
        """Whether all blocks have room, shared among as many processes as there are."""
        if self._fits is None:
            memory = budget() // self._share if self._memory is None else self._memory
            self._fits = self.nbytes <= memory * sharing()
        return self._fits

    @property
    def source(self) -> Kept[Any] | None:
        """The blocks that these are made of; None of what is read from files."""
        return None

    def __iter__(self) -> Iterator[T]:
        return self.blocks(range(self.count))

    def described(self) -> dict[str, Any]:
        """Return what is to be gone through, without what is kept here."""
        return {**vars(self), "_known": {}, "_fits": None, "_aside": None}

    def _keep(self, index: int, block: T) -> None:
        """Keep a block in memory if all have room, else in a file if that is less to read than what it is made of."""
        if self.fits:
            self._known[index] = block
            return
        if self._aside is None:
            less = self.source is not None and self.nbytes < self.source.nbytes
            self._aside = Aside(self.nbytes if less else 0)
        self._aside.put(index, block)


class Given(Kept[T]):
    """Blocks that are in memory already."""

    def __init__(self, blocks: Iterable[T]) -> None:
        super().__init__(0)
        self._blocks = list(blocks)

    @property
    def nbytes(self) -> int:
        """None but those that there are already."""
        return 0

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def _read(self, index: int) -> T:
        return self._blocks[index]


class Mapped(Kept[U], Generic[T, U]):
    """What is made of each of some blocks.

    Args:
        source: the blocks.
        make: makes something of one.
        nbytes: of all that is made, about.
        memory: see `Kept`.
        share: likewise.
    """

    def __init__(
        self, source: Kept[T], make: Callable[[T], U], nbytes: int, memory: int | None = None, share: int = KEPT
    ) -> None:
        super().__init__(memory, share)
        self._source, self._make, self._nbytes = source, make, nbytes

    @property
    def source(self) -> Kept[T]:
        """The blocks."""
        return self._source

    @property
    def nbytes(self) -> int:
        """Bytes of all that is made, about."""
        return self._nbytes

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.source.count

    def _read(self, index: int) -> U:
        return self._make(self.source.block(index))

    def beside(self, index: int) -> tuple[T, U]:
        """Return a block and what is made of it, which is kept if all have room, having read the block once."""
        source = self.source.block(index)
        made = self._make(source)
        self._keep(index, made)
        return source, made


class Beside(Kept[tuple[T, U]]):
    """Blocks with what is made of them."""

    def __init__(self, made: Mapped[T, U]) -> None:
        super().__init__(0)
        self._made = made

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks; none of them are kept here."""
        return max(1, self._made.source.nbytes)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self._made.count

    def _read(self, index: int) -> tuple[T, U]:
        return self._made.beside(index)


def kept(blocks: Iterable[T]) -> Kept[T]:
    """Return blocks as such, whether they are a list or know to keep themselves."""
    return blocks if isinstance(blocks, Kept) else Given(blocks)


def total(blocks: Iterable[T], empty: Callable[[], S], add: Callable[[S, T], S]) -> S:
    """Sum something over blocks.

    Args:
        blocks: gone through once.
        empty: makes the sum of nothing.
        add: adds what a block says to a sum, which it may change, and returns it.

    Returns:
        The sum: a number, an array, a list, what has ``merge``, or a tuple of such.
    """
    work = _Summing(kept(blocks), empty, add)
    with using(Here()) if work.blocks.nbytes <= SMALL else nullcontext():
        parts = in_order(work, range(work.runs))
        whole = next(parts, None)
        for part in parts:
            whole = merged(whole, part)
            del part  # so that there are never more than the whole and one part
    return empty() if whole is None else whole


class _Summing(Generic[T, S]):
    """The sum over each of some runs of blocks, as a work."""

    def __init__(self, blocks: Kept[T], empty: Callable[[], S], add: Callable[[S, T], S]) -> None:
        self.blocks, self.empty, self.add = blocks, empty, add
        self.runs = min(RUNS, blocks.count)

    def __call__(self, pieces: Iterable[int]) -> Iterator[S]:
        wanted = [self._blocks(run) for run in pieces]
        stream = self.blocks.blocks(index for blocks in wanted for index in blocks)
        for blocks in wanted:
            yield self._sum(stream, len(blocks))

    def _blocks(self, run: int) -> Sequence[int]:
        n = self.blocks.count
        return range(run * n // self.runs, (run + 1) * n // self.runs)

    def _sum(self, stream: Iterator[T], count: int) -> S:
        whole = self.empty()
        for _ in range(count):
            whole = self.add(whole, next(stream))
        return whole


def merged(one: S, other: S) -> S:
    """Join two sums; the first may be changed."""
    if isinstance(one, tuple):
        return tuple(merged(*pair) for pair in zip(one, other, strict=True))  # type: ignore[return-value, call-overload]
    if hasattr(one, "merge") and not hasattr(one, "__iadd__"):
        found: S = one.merge(other)
        return found
    one += other  # type: ignore[operator]
    return one
