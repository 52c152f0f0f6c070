"""An image set filled in pieces: ``--part 3/16`` fills the third of sixteen runs of shards, in a process of its own.

Shards don't depend on each other, and each is written whole or not at all, with bytes that depend on nothing but the network
and its images. So any number of processes, on machines that share the study's folder, may fill a set at once: what guards the
resume of one guards them all. Which shards fall to a piece follows from its number; nobody hands out work. The process after
which none is missing closes the set, as does a run without ``--part``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from subspect.ground.addresses import look_again
from subspect.ground.errors import SubspectError, some
from subspect.ground.files import entries, refuse_links
from subspect.ground.locks import locked
from subspect.studies.names import check_set_name

_WAIT = 10.0  # seconds for another writer of an image set: workers of one that was killed end within five
_LOCK = re.compile(r"\.lock-([1-9][0-9]{0,8})-of-([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Piece:
    """A run of an image set's shards: the ``number``-th, counted from 1, ``of`` as many that are as equal as can be."""

    number: int = 1
    of: int = 1

    def shards(self, count: int) -> range:
        """Return which of so many shards fall to it."""
        return range((self.number - 1) * count // self.of, self.number * count // self.of)

    @property
    def lock(self) -> str:
        """Name of the file that the process holds locked that fills it."""
        return f".lock-{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"part {self.number} of {self.of}"


def piece_of(part: str | tuple[int, int]) -> Piece:
    """Return the piece that was asked for, as "3/16" or (3, 16).

    Raises:
        SubspectError: it is written otherwise, or there is no such piece.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", part) if isinstance(part, str) else None
    numbers = tuple(map(int, found.groups())) if found else part
    if (
        not isinstance(numbers, tuple)
        or len(numbers) != 2
        or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers)
        or not 1 <= numbers[0] <= numbers[1]
    ):
        raise SubspectError(
            f"a part is one of so many, counted from 1, such as 3/16 (--part 3/16, part=(3, 16)); got {part!r}"
        )
    return Piece(*numbers)


@contextmanager
def observing(study: Path, name: str, piece: Piece | None = None) -> Iterator[None]:
    """Keep every other process from filling an image set, or a piece of it, while the block runs.

    Raises:
        SubspectError: another one is still at it after ten seconds, or the folder cannot be written.
    """
    if piece is not None:
        with _locked(study, name, _WAIT, piece):
            yield
        return
    with deciding(study, name, _WAIT):
        if others := busy(study / "sets" / name, _WAIT):
            raise SubspectError(
                f"other processes are observing the image set {name!r} of the study {study}: {some(others)}; wait for them, "
                "or choose another folder"
            )
        yield


def deciding(study: Path, name: str, wait: float = 60) -> AbstractContextManager[None]:
    """Keep every other process from beginning or closing an image set while the block runs.

    Raises:
        SubspectError: another one is still at it after so many seconds (−1: as long as it takes), or the folder cannot be
            written.
    """
    return _locked(study, name, wait)


@contextmanager
def _locked(study: Path, name: str, wait: float, piece: Piece | None = None) -> Iterator[None]:
    check_set_name(name)
    refuse_links(study, "sets", name)
    what = f"observing the image set {name!r} of the study {study}"
    lock = (what, ".lock") if piece is None else (f"{what}, {piece}", piece.lock)
    with locked(study / "sets" / name, lock[0], wait=wait, name=lock[1]):
        look_again(study)
        yield


def busy(folder: Path, wait: float = 0, but: Piece | None = None) -> list[Piece]:
    """Return the pieces of the image set in a folder that other processes are filling, after so many seconds at most."""
    found = []
    for name in sorted(entry.name for entry in entries(folder)):
        if numbers := _LOCK.fullmatch(name):
            piece = Piece(*map(int, numbers.groups()))
            try:
                with nullcontext() if piece == but else locked(folder, f"observing {piece}", wait=wait, name=name):
                    pass
            except SubspectError:
                found.append(piece)
    return found


def is_lock(name: str) -> bool:
    """Tell whether a file in the folder of an image set is one that is held locked by who writes there."""
    return name == ".lock" or _LOCK.fullmatch(name) is not None
