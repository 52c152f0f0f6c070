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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout
from threading import current_thread
from typing import Any, TextIO, TypeVar
from urllib.parse import urlsplit

from subspect.ground import engines
from subspect.ground.actors import LOST, Actor
from subspect.ground.engines import Here, Work, using
from subspect.ground.errors import SubspectError, near, shortened
from subspect.ground.packages import package
from subspect.ground.text import counted

log = logging.getLogger("subspect")
R = TypeVar("R")

ENGINES = ("local", "ray")  #: this process, or a cluster
_ANSWER = 5.0  # seconds for an address to answer
_START = 120.0  # seconds for the first actor to start
_AHEAD = 2  # pieces that an actor has been given at a time: one that it does, and the next
_SOCKETS = 40  # characters that a folder for sockets may have, since their names may have no more than about 100


@contextmanager
def engine(name: str = "ray", address: str | None = None, actors: int | None = None) -> Iterator[None]:
    """Have what goes over many images done elsewhere while the block runs: observe, decompose, evaluate, cues, filters.

    Args:
        name: "ray", or "local" for this process.
        address: of a Ray cluster, as ``ray.init`` takes it: "auto", "10.0.0.1:6379" or "ray://…"; unless given, the one that
            ``RAY_ADDRESS`` names, or one of this machine alone, which ends with the block.
        actors: how many take part; unless given, as many as the cluster has CPUs less one, or as it has GPUs where one is
            asked for.

    Raises:
        SubspectError: no such engine, Ray is missing, the cluster doesn't answer, or has other versions.

    Example:
        >>> with subspect.engine("local"):  # "ray" on a cluster
        ...     subspect.evaluate("study", "pursuit-k5").overall.images
        60
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
    """Join a cluster, or have one of this machine alone start once there is work for it; left, or ended, with the block.

    Args:
        address: see `subspect.engine`.
        actors: how many take part.

    Raises:
        SubspectError: Ray is missing, nothing answers, or the cluster has no room for the actors.
    """
    if actors is not None and (isinstance(actors, bool) or not isinstance(actors, int) or actors < 1):
        raise SubspectError(f"actors (--actors) must be a whole number of at least 1; got {actors!r}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    if not isinstance(address, str | None):
        raise SubspectError(f"the address (--address) of a Ray cluster is text; got {address!r}")
    found = Cluster(package("ray", "ray", "the engine 'ray'"), address or os.environ.get("RAY_ADDRESS"), actors)
    with redirect_stdout(_Ours(sys.stdout)):
        try:
            if found.address is not None or found.ray.is_initialized():
                found.join()
            yield found
        finally:
            found.end()


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
        said = shortened(" ".join(str(error).split()).rstrip("."), 300)
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
    if not _speaks_grpc(host, port):
        raise SubspectError(f"what answers at {address!r} is no Ray cluster: it doesn't speak gRPC; check the port")


def _speaks_grpc(host: str, port: int) -> bool:
    """Tell whether HTTP/2 is spoken at a place: a server then begins with its settings (RFC 9113, section 3.4)."""
    try:
        with socket.create_connection((host, port), _ANSWER) as one:
            one.settimeout(_ANSWER)
            one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
            return one.recv(9)[3:4] == b"\x04"
    except OSError:
        return False


def _gone(ray: Any) -> bool:
    """Tell whether the cluster itself is gone, which Ray ends this process for, after a minute."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWER).close()
    except OSError:
        return True
    return False


def _how_many(ray: Any, actors: int | None) -> int:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if actors is not None and actors > cpus:
        raise SubspectError(
            f"{counted(actors, 'actor needs a CPU', 'actors (--actors) need as many CPUs')}, and the cluster has "
            f"{cpus}; ask for no more than that"
        )
    return actors or max(1, cpus - 1)


class Cluster:
    """The actors of a cluster that do pieces of work.

    Args:
        ray: the package.
        address: of the cluster; None for one of this machine.
        actors: how many at most.
    """

    def __init__(self, ray: Any, address: str | None, actors: int | None) -> None:
        self.ray, self.address, self.asked = ray, address, actors
        self.actors, self._own = 0, False  # known once it is joined
        self.pools: dict[bool, list[Actor]] = {}  # with a GPU each, and without
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="ray_starting")
        self._starting: Future[list[Actor]] | None = None

    def map(self, work: Work[R], pieces: Sequence[int]) -> Iterator[tuple[int, R]]:
        """Return the number and the result of each piece, in any order.

        Raises:
            SubspectError: one of the work's own; the actors have other versions, can't be started or are lost too often.
        """
        if not len(pieces):
            return
        self._started()
        pool = self._pool(len(pieces), gpu=bool(getattr(work, "gpu", False)))
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
                if not actor.ready and _gone(self.ray):
                    self.pools, self._own = {}, False  # nothing is there to be ended
                    raise SubspectError(
                        "the Ray cluster no longer answers; what was stored is kept: the same command goes on, on another one"
                    )
                for one in actor.revive() if not actor.ready else []:
                    lost[one] += 1
                    waiting[pool.index(actor)].appendleft(one)
                if piece is not None and lost[piece] >= LOST:
                    raise SubspectError(
                        f"{LOST} actors were lost while they did the same piece of work, the {piece + 1}. of "
                        f"{max(pieces) + 1}, usually because memory ran out; fewer actors (--actors), or less memory for each "
                        f"(--memory), may help; what was stored is kept. Ray says of the last: {actor.why}"
                    )
                continue
            assert piece is not None
            left -= 1
            result = pickle.loads(answer)
            del answer
            yield piece, result
            del result

    def join(self) -> None:
        """Join the cluster, or start it, unless that is done.

        Raises:
            SubspectError: nothing answers, or it has no room for the actors.
        """
        if self.actors:
            return
        if not self.ray.is_initialized():
            _start(self.ray, self.address, self.asked)
            self._own = True
        self.actors = _how_many(self.ray, self.asked)

    def soon(self, pieces: int, *, gpu: bool) -> None:
        """Have the cluster and its actors start, unless they have; what fails then is told by `map`."""
        if pieces and self._starting is None:
            self._starting = self._aside.submit(self._pool, pieces, gpu=gpu)

    def _started(self) -> None:
        """Wait for what starts.

        Raises:
            SubspectError: see `join`.
        """
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.result()

    def end(self) -> None:
        """End the actors, and leave the cluster."""
        if self._starting is not None:
            wait([self._starting])
        for pool in self.pools.values():
            for actor in pool:
                actor.end()
        self.pools = {}
        if self._own:
            self.ray.shutdown()
        self._aside.shutdown()

    def _pool(self, pieces: int, *, gpu: bool) -> list[Actor]:
        """Return the actors, no more than there are pieces; the cluster is joined for them.

        Raises:
            SubspectError: see `join`; or a GPU was asked for, and there is none.
        """
        self.join()
        number = self.actors
        if gpu:
            number = min(number, int(self.ray.cluster_resources().get("GPU", 0)))
            if not number:
                raise SubspectError(
                    "a GPU was asked for (--device), and the cluster has none; leave --device out, or join one that has"
                )
        pool = self.pools.setdefault(gpu, [])
        wanted = min(number, pieces)
        if wanted > len(pool):
            log.info("Ray: %d of %d actors start", wanted - len(pool), number)
            pool += [Actor(self.ray, gpu, number) for _ in range(wanted - len(pool))]
        return pool[:wanted]


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
        f"no Ray actor of {actors} could start within {_START:.0f} seconds; free in the cluster: {free or 'nothing'}; wait "
        "until others are done, or ask for fewer (--actors)"
    )
