"""Where the pieces of some work are done: in this process, or by the actors of a Ray cluster (`subspect.ground.clusters`).

A work goes over numbered pieces and hands back a result for each. Whoever asked for them joins them in the order of their
numbers, so that it makes no difference who did which piece, when, or how often: nothing is kept anywhere but in results.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Protocol, TypeVar

import torch

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Work(Protocol[R_co]):
    """Something that is done for each of some pieces; it can be pickled, where it is to be done elsewhere."""

    def __call__(self, pieces: Iterable[int]) -> Iterator[R_co]:
        """Do some pieces, and return the result of each, in their order."""


class Engine(Protocol):
    """Does some work on every one of some pieces."""

    def map(self, work: Work[R], pieces: Sequence[int]) -> Iterator[tuple[int, R]]:
        """Return the number and the result of each piece, in any order.

        Raises:
            SubspectError: one of the work's own, or the engine can't go on.
        """

    def soon(self, pieces: int, *, gpu: bool) -> None:
        """Begin to start what so many pieces will be done by, and return at once."""


class Here:
    """This process, which takes one piece after another."""

    def map(self, work: Work[R], pieces: Sequence[int]) -> Iterator[tuple[int, R]]:
        """Return the number and the result of each piece, in order."""
        results = work(pieces)
        for piece in pieces:
            yield piece, next(results)

    def soon(self, pieces: int, *, gpu: bool) -> None:
        """Start nothing: it is here."""


loaded: list[ModuleType] = []  #: modules from files that the user named, which no other process can import by name
_engine: ContextVar[Engine] = ContextVar("engine", default=Here())  # noqa: B039  # it holds nothing
_sharing: list[int] = [1]  # how many processes share the pieces of a work among them


@contextmanager
def using(one: Engine) -> Iterator[None]:
    """Use an engine while the block runs."""
    before = _engine.set(one)
    try:
        yield
    finally:
        _engine.reset(before)


def on_engine(work: Work[R], pieces: Sequence[int]) -> Iterator[tuple[int, R]]:
    """Do some work on every piece, by the engine in use; see `Engine.map`."""
    return _engine.get().map(work, pieces)


def soon(pieces: int, *, gpu: bool) -> None:
    """Have the engine in use start while this process still gets ready; see `Engine.soon`."""
    _engine.get().soon(pieces, gpu=gpu)


def elsewhere() -> bool:
    """Tell whether the engine in use is another than this process."""
    return not isinstance(_engine.get(), Here)


def on_gpu(device: str | torch.device | None) -> bool:
    """Tell whether a device, if one is named, is a GPU."""
    return device is not None and torch.device(device).type == "cuda"


def here(device: str | torch.device | None) -> str | torch.device | None:
    """Return where a network runs in this process: on a GPU that only others have, where it is."""
    return None if elsewhere() and on_gpu(device) and not torch.cuda.is_available() else device


class Remembered:
    """Something that is described where it is pickled: a process that it is sent to again finds what it got first, with all
    that it has kept there meanwhile."""

    def __reduce__(self) -> tuple[Any, ...]:
        name = vars(self).get("_sent_as")
        if name is None:
            name = vars(self)["_sent_as"] = uuid.uuid4().hex
            weakref.finalize(self, forgotten.append, name)
        return _revive, (type(self), name, self.described())

    def described(self) -> dict[str, Any]:
        """Return its attributes, as another process is to have them."""
        return dict(vars(self))


forgotten: list[str] = []  #: what was sent, and is used no more
_revived: dict[str, Remembered] = {}


def _revive(kind: type[Remembered], name: str, described: dict[str, Any]) -> Remembered:
    if name not in _revived:
        found = _revived[name] = object.__new__(kind)
        vars(found).update(described)
    return _revived[name]


def forget(names: Iterable[str]) -> None:
    """Let go of what was sent to this process, and is used no more."""
    for name in names:
        _revived.pop(name, None)


def share_among(processes: int) -> None:
    """Note, in one of so many processes, that they share the pieces of every work among them."""
    _sharing[0] = processes


def sharing() -> int:
    """Return how many processes share the pieces of a work."""
    return _sharing[0]


def in_order(work: Work[R], pieces: Sequence[int]) -> Iterator[R]:
    """Do some work on every piece, and return the results in the order of the pieces."""
    found: dict[int, R] = {}
    following = iter(pieces)
    wanted = next(following, None)
    for piece, result in on_engine(work, pieces):
        found[piece] = result
        del result
        while wanted in found:
            yield found.pop(wanted)
            wanted = next(following, None)
