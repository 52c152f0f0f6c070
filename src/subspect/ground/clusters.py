"""A Ray cluster: pieces of work are done by actors, on as many machines as it has.

What Ray must not decide is decided here. A piece that was lost with its actor is done again by another, and its result is used
once, since it comes back whole or not at all; nothing is summed within an actor. No piece is given to two actors at once,
however slow one is. Errors of the work come back as what they are, and end it. Actors leave a CPU to others where there are
several. A piece goes to the same actor each time, if that is free, since it may have kept what it read.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from threading import current_thread
from typing import Any, TextIO, TypeVar
from urllib.parse import urlsplit

from subspect.ground import engines
from subspect.ground.actors import LOST, Actor
from subspect.ground.engines import Here, Work, using
from subspect.ground.errors import SubspectError, near, shortened
from subspect.ground.packages import package

log = logging.getLogger("subspect")
R = TypeVar("R")

ENGINES = ("local", "ray")  #: this process, or a cluster
_ANSWER = 5.0  # seconds for an address to answer
_START = 120.0  # seconds for the first actor to start
_AHEAD = 2  # pieces that an actor has been given at a time: one that it does, and the next
_SOCKETS = 40  # characters that a folder for sockets may have, since their names may have no more than about 100


@contextmanager
def engine(name: str = "ray", address: str | None = None, actors: int | None = None) -> Iterator[None]:
    """Have what goes over many images done elsewhere while the block runs: observe, decompose, evaluate, cues.

    Args:
        name: "ray", or "local" for this process.
        address: of a Ray cluster, as ``ray.init`` takes it: "auto", "10.0.0.1:6379" or "ray://…"; unless given, the one that
            ``RAY_ADDRESS`` names, or one of this machine alone, which ends with the block.
        actors: how many take part; unless given, as many as the cluster has CPUs less one, or as it has GPUs where one is
            asked for.

    Raises:
        SubspectError: no such engine, Ray is missing, the cluster doesn't answer, or has other versions.
    """
    if name not in ENGINES:
        raise SubspectError(f"the engine (--engine) is one of {', '.join(ENGINES)}; got {name!r}{near(name, ENGINES)}")
    if name == "local":
        if address is not None or actors is not None:
            raise SubspectError("an address or a number of actors goes with the engine 'ray' (--engine ray)")
        with using(Here()):
            yield
        return
    with cluster(address, actors) as found, using(found):
        yield


@contextmanager
def cluster(address: str | None, actors: int | None) -> Iterator[Cluster]:
    """Join a cluster, or start one of this machine alone; left, or ended, with the block.

    Args:
        address: see `subspect.engine`.
        actors: how many take part.

    Raises:
        SubspectError: Ray is missing, nothing answers, or the cluster has no room for the actors.
    """
    if actors is not None and (isinstance(actors, bool) or not isinstance(actors, int) or actors < 1):
        raise SubspectError(f"actors (--actors) must be a whole number of at least 1; got {actors!r}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    ray = package("ray", "ray", "the engine 'ray'")
    address = address or os.environ.get("RAY_ADDRESS")
    own = not ray.is_initialized()
    if own:
        _start(ray, address, actors)
    found = Cluster(ray, _how_many(ray, actors))
    try:
        with redirect_stdout(_Ours(sys.stdout)):
            yield found
    finally:
        found.end()
        if own:
            ray.shutdown()


class _Ours:
    """A stream that takes nothing of what Ray's threads print of lost actors, which isn't a result of ours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if current_thread().name.startswith("ray_"):
            log.debug("%s", text.strip())
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _start(ray: Any, address: str | None, actors: int | None) -> None:
    how: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
    if address is None:
        how["num_cpus"] = max(os.cpu_count() or 1, actors or 1) + 1  # one is left to others
        if len(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "") > _SOCKETS:
            how["_temp_dir"] = "/tmp/ray"
    else:
        _check_answers(address)
        how = {"address": address, **{key: how[key] for key in ("log_to_driver", "configure_logging")}}
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it says of its own settings is nothing that one asked for
    try:
        ray.init(**how)
    except Exception as error:  # of many kinds: ConnectionError, RuntimeError, ValueError, of gRPC
        said = shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
        where = "on this machine" if address is None else f"at {address!r}"
        raise SubspectError(
            f"no Ray cluster {where}: {said}; start one with ray start --head (one that asks for a token needs "
            "RAY_AUTH_MODE=token here as well), or leave the address (--address, RAY_ADDRESS) out to use this machine alone"
        ) from error


def _check_answers(address: str) -> None:
    """Ask whether anything listens at an address, which Ray itself would wait for for minutes."""
    if address in ("auto", "local"):
        return
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise SubspectError(
            f"the address (--address) of a Ray cluster is 'auto', HOST:PORT or ray://HOST:PORT; got {shortened(address)!r}"
        )
    try:
        socket.create_connection((host, port), _ANSWER).close()
    except OSError as error:
        raise SubspectError(
            f"no Ray cluster answers at {address!r} ({error.strerror or error}); see that it runs, and that this machine may "
            "reach it, or leave the address (--address, RAY_ADDRESS) out to use this machine alone"
        ) from error


def _how_many(ray: Any, actors: int | None) -> int:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if actors is not None and actors > cpus:
        raise SubspectError(f"{actors} actors (--actors) need as many CPUs, and the cluster has {cpus}")
    return actors or max(1, cpus - 1)


class Cluster:
    """The actors of a cluster that do pieces of work.

    Args:
        ray: the package, which has joined a cluster.
        actors: how many.
    """

    def __init__(self, ray: Any, actors: int) -> None:
        self.ray, self.actors = ray, actors
        self.pools: dict[bool, list[Actor]] = {}  # with a GPU each, and without

    def map(self, work: Work[R], pieces: Sequence[int]) -> Iterator[tuple[int, R]]:
        """Return the number and the result of each piece, in any order.

        Raises:
            SubspectError: one of the work's own; the actors have other versions, can't be started or are lost too often.
        """
        if not len(pieces):
            return
        pool = self._pool(bool(getattr(work, "gpu", False)))
        forgotten, engines.forgotten[:] = engines.forgotten[:], []
        for module in engines.loaded:
            self.ray.cloudpickle.register_pickle_by_value(module)
        sent = [self.ray.put(self.ray.cloudpickle.dumps(work))]
        waiting = [deque(pieces[number :: len(pool)]) for number in range(len(pool))]
        lost, left = Counter[int](), len(pieces)
        for actor in pool:
            actor.take_up(sent, forgotten)
        while left:
            for number, actor in enumerate(pool):
                while actor.ready and len(actor.doing) < _AHEAD and (piece := _next(waiting, number)) is not None:
                    actor.give(piece)
            known = {ref: actor for actor in pool for ref in actor.waited_for}
            done, _ = self.ray.wait(list(known), num_returns=1, timeout=None if any(a.ready for a in pool) else _START)
            if not done:
                raise SubspectError(_no_room(self.ray, len(pool)))
            actor = known[done[0]]
            piece, answer = actor.answer(done[0])
            if answer is None:  # it has started, or is lost
                for one in actor.revive() if not actor.ready else []:
                    lost[one] += 1
                    waiting[pool.index(actor)].appendleft(one)
                if piece is not None and lost[piece] >= LOST:
                    raise SubspectError(
                        f"{LOST} actors were lost while they did the same piece of work, usually because memory ran out; "
                        "fewer actors (--actors), or less memory for each (--memory), may help; what was stored is kept"
                    )
                continue
            assert piece is not None
            left -= 1
            result = pickle.loads(answer)
            del answer
            yield piece, result
            del result

    def end(self) -> None:
        """End the actors."""
        for pool in self.pools.values():
            for actor in pool:
                actor.end()
        self.pools = {}

    def _pool(self, gpu: bool) -> list[Actor]:
        if gpu not in self.pools:
            number = self.actors
            if gpu:
                number = min(number, int(self.ray.cluster_resources().get("GPU", 0)))
                if not number:
                    raise SubspectError(
                        "a GPU was asked for (--device), and the cluster has none; leave --device out, or join one that has"
                    )
            self.pools[gpu] = [Actor(self.ray, gpu, number) for _ in range(number)]
        return self.pools[gpu]


def _next(waiting: list[deque[int]], number: int) -> int | None:
    """Take a piece: the next of one's own, or else the last of whoever has most left."""
    if waiting[number]:
        return waiting[number].popleft()
    longest = max(waiting, key=len)
    return longest.pop() if longest else None


def _no_room(ray: Any, actors: int) -> str:
    free = ", ".join(
        f"{int(value)} {name}" for name, value in ray.available_resources().items() if name in ("CPU", "GPU")
    )
    return (
        f"none of {actors} Ray actors could start within {_START:.0f} seconds; free in the cluster: {free or 'nothing'}; wait "
        "until others are done, or ask for fewer (--actors)"
    )
