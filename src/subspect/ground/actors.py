"""An actor of a Ray cluster: as it is seen by who gives it pieces of work, and what it does there.

It is started, given pieces, and started anew where it was lost; what it hands back is one result for a piece, or the error of
the work as what it is. It must have the same versions, and is sent whole, so that it can say so where they differ.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from subspect.ground import engines
from subspect.ground.errors import SubspectError, shortened, some
from subspect.ground.memory import LEAST, free, keep_freed, memory_limit, told
from subspect.ground.text import counted

log = logging.getLogger("subspect")

LOST = 5  #: actors that may be lost with the same piece, or be started in vain
_OF_FREE = 4  # of what is free on a machine, its actors may take one in so many


class Actor:
    """One actor, as seen from here: started, given pieces, and started anew where it was lost."""

    def __init__(self, ray: Any, gpu: bool, among: int) -> None:
        self.ray, self.ready, self.starts, self.why = ray, False, 0, ""
        self._how = {"num_cpus": 1, "num_gpus": 1} if gpu else {"num_cpus": 1}
        self._among = among
        self._sent: list[Any] = []
        self.doing: dict[Any, int] = {}
        self._start()

    @property
    def waited_for(self) -> list[Any]:
        """What it is waited for: its start, or results."""
        return list(self.doing) if self.ready else [self._starting]

    def take_up(self, sent: list[Any], forgotten: list[str]) -> None:
        """Have it do pieces of another work from now on."""
        self._sent, self.doing = sent, {}
        if self.ready and forgotten:
            self._actor.forget.remote(forgotten)

    def give(self, piece: int) -> None:
        """Have it do a piece."""
        self.doing[self._actor.do.remote(self._sent, piece)] = piece

    def answer(self, ref: Any) -> tuple[int | None, bytes | None]:
        """Return a piece and its result, pickled; no result where it is lost, or has only started.

        Raises:
            SubspectError: an error of the work, other versions, or it can't be started.
        """
        piece = self.doing.get(ref)
        try:
            found = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            raise SubspectError(f"a Ray actor failed: {shortened(str(error.cause or error).strip(), 500)}") from error
        except self.ray.exceptions.RayError as error:
            self.ready, self.why = False, shortened(" ".join(str(error).split()), 300)
            if piece is None and self.starts >= LOST:
                raise SubspectError(f"a Ray actor can't be started: {self.why}") from error
            return piece, None
        if piece is None:
            _check_versions(found)
            self.ready = True
            return None, None
        del self.doing[ref]
        fine, value = found
        if not fine:
            raise pickle.loads(value)
        return piece, value

    def revive(self) -> list[int]:
        """Start it anew, and return the pieces that were lost with it."""
        pieces = list(self.doing.values())
        self.doing = {}
        log.info(
            "a Ray actor was lost%s: another one takes its place",
            f" with {counted(len(pieces), 'piece', 'pieces')}" if pieces else "",
        )
        self._start()
        return pieces

    def end(self) -> None:
        """End it."""
        self.ray.kill(self._actor)

    def _start(self) -> None:
        self.starts += 1
        limit = told()
        self._actor = self.ray.remote(**self._how)(_worker()).remote(_path(), self._among, limit)
        self._starting = self._actor.about.remote()


def _path() -> list[str]:
    """Return where modules are found: as in this process, in its folder, and beside the files that the user named."""
    return [*sys.path, str(Path.cwd()), *(str(Path(one.__file__ or "").resolve().parent) for one in engines.loaded)]


def versions() -> dict[str, str]:
    """Return the versions that must be the same wherever pieces are done."""
    found: dict[str, str] = _worker()([], 1, None).about()
    return found


def _check_versions(theirs: dict[str, str]) -> None:
    own = versions().items()
    other = [f"{name} {theirs[name]} instead of {version}" for name, version in own if theirs[name] != version]
    if other:
        raise SubspectError(
            f"the Ray cluster has other versions than this process: {some(other)}; install the same ones on all of its machines"
        )


def _worker() -> type:
    """Return the class of actors: made within a function, so that it is sent whole to where another subspect may be."""

    class Worker:
        def __init__(self, path: list[str], among: int, limit: int | None) -> None:
            sys.path += [one for one in path if one not in sys.path]
            self.among, self.limit = among, limit
            self.known: tuple[Any, Any] = None, None

        def about(self) -> dict[str, str]:
            from importlib import metadata

            found = {"python": ".".join(map(str, sys.version_info[:2]))}
            for name in ("subspect", "torch", "numpy"):
                try:
                    found[name] = metadata.version(name)
                except metadata.PackageNotFoundError:
                    found[name] = "missing"
            with suppress(ImportError):
                import torch  # noqa: F401  # takes seconds: now, while the driver may still be getting ready
            return found

        def forget(self, names: list[str]) -> None:
            from subspect.ground.engines import forget

            forget(names)

        def do(self, sent: list[Any], piece: int) -> tuple[bool, bytes]:
            from subspect.ground.actors import done

            self.known, answer = done(self.known, sent[0], piece, self.among, self.limit)
            return answer

    return Worker


def done(
    known: tuple[Any, Any], sent: Any, piece: int, among: int, limit: int | None
) -> tuple[tuple[Any, Any], tuple[bool, bytes]]:
    """Do a piece of a work, within an actor.

    Args:
        known: the work that was done last, by what it was sent as.
        sent: what the work was sent as.
        piece: its number.
        among: how many actors there are.
        limit: bytes that each may take; unless given, those of a machine share a fourth of what is free there.

    Returns:
        What is then known, and whether all went well with the result or the error, pickled.
    """
    import ray

    keep_freed()
    engines.share_among(among)
    share = free() // _OF_FREE // max(1, min(among, os.cpu_count() or 1))
    with memory_limit(max(LEAST, share) if limit is None else limit):
        try:
            if known[0] != sent:
                known = sent, ray.cloudpickle.loads(ray.get(sent))
            [result] = known[1]([piece])
            return known, (True, pickle.dumps(result, 5))
        except Exception as error:
            if not isinstance(error, SubspectError):
                error.add_note("in a Ray actor:\n" + "".join(traceback.format_exception(error)))
            return known, (False, as_bytes(error))


def as_bytes(error: Exception) -> bytes:
    """Return an error as bytes; one that can't be pickled as what it says."""
    try:
        found = pickle.dumps(error)
        pickle.loads(found)
        return found
    except Exception:
        return pickle.dumps(SubspectError(f"{type(error).__name__}: {shortened(str(error), 500)}"))
