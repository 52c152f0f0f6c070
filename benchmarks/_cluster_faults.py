"""What `benchmarks/faults.py` does to observing on a Ray cluster, and to networks that want too much or say nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from _children import Child, Tree, copy, parts, run, start, tree
from _rows import Row, row

ALONE = "observe python:model.py:small train -o new --batch-size 8"
BY_ACTORS = f"{ALONE} --engine ray --actors 2"
HUNGRY = "observe python:model.py:hungry train -o new --batch-size 8"
PATCHY = "observe python:model.py:patchy train -o new --batch-size 8 --max-failed 0.5"


def cluster(ready: Path, place: Path, share: float, draw: random.Random) -> list[Row]:
    """Kill actors and drivers, run two drivers at once, and give networks too little memory, or images that they fail on."""
    sandbox = copy(ready, place / "sandbox")
    ended = run(ALONE.split(), sandbox)
    if ended.code:
        raise RuntimeError(ended.said)
    after, tries = tree(sandbox), max(2, round(10 * share))
    sandbox = copy(ready, place / "sandbox")
    whole = run(BY_ACTORS.split(), sandbox)
    wrong = list(_same("by actors", sandbox, after))
    for number in range(tries):
        sandbox = copy(ready, place / "sandbox")
        run(BY_ACTORS.split(), sandbox, kill_after=draw.uniform(0, whole.seconds))
        again = run(BY_ACTORS.split(), sandbox)
        wrong += [f"driver killed, {number}: {again.said[-300:]}"] * bool(again.code)
        wrong += _same(f"driver killed, {number}", sandbox, after)
    for number in range(tries):
        sandbox = copy(ready, place / "sandbox")
        ended = _with_an_actor_killed(start(BY_ACTORS.split(), sandbox), draw).wait()
        wrong += [f"actor killed, {number}: {ended.said[-300:]}"] * bool(ended.code)
        wrong += _same(f"actor killed, {number}", sandbox, after)
    for number in range(tries):
        sandbox = copy(ready, place / "sandbox")
        drivers = [start(BY_ACTORS.split(), sandbox)]
        time.sleep(draw.uniform(0, whole.seconds))
        drivers.append(start(BY_ACTORS.split(), sandbox))
        said = [one.wait() for one in drivers]
        wrong += [f"two drivers, {number}: {one.said[-300:]}" for one in said if not one.in_words]
        wrong += _same(f"two drivers, {number}", sandbox, after)
    for one in wrong[:20]:
        print(one)
    return [
        *row("actors and drivers killed, and drivers two at once", 3 * tries, ""),
        *row("of these, something was wrong", len(wrong), "", "<= 0"),
        *row(
            "networks that want too much or say nothing, alone and by actors: wrong",
            _networks(ready, place, after),
            "",
            "<= 0",
        ),
    ]


def _networks(ready: Path, place: Path, after: Tree) -> int:
    """Observe with a network that has no memory for more than three images, and one that gives NaN for some."""
    wrong = 0
    patchy = copy(ready, place / "patchy")
    ended = run(PATCHY.split(), patchy)
    wrong += ended.code != 0 or "features are NaN" not in ended.said
    for line, expected in ((HUNGRY, after), (PATCHY, tree(patchy))):
        for more in ("", " --engine ray --actors 2"):
            sandbox = copy(ready, place / "sandbox")
            ended = run((line + more).split(), sandbox)
            found = tree(sandbox)
            shards = [path for path in expected if path.endswith(".arrow") and path.startswith("new")]
            wrong += ended.code != 0 or not shards or any(found.get(path) != expected[path] for path in shards)
    return wrong


def _same(what: str, sandbox: Path, after: Tree) -> Iterator[str]:
    now = tree(sandbox)
    if differ := [path for path in now.keys() | after.keys() if now.get(path) != after.get(path)]:
        yield f"{what}: other bytes than by one process: {sorted(differ)[:3]}"
    if left := parts(sandbox):
        yield f"{what}: left behind: {left}"


def _with_an_actor_killed(driver: Child, draw: random.Random) -> Child:
    """Kill one of a driver's actors, by its id, some time after it has started."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := actors(driver.pid):
            time.sleep(draw.uniform(0, 2))
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
            return driver
        time.sleep(0.02)
    return driver


def actors(driver: int) -> list[int]:
    """Return the ids of the actors of the cluster that a driver has started."""
    parents, names = dict[int, int](), dict[int, bytes]()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(place.name)] = (place / "cmdline").read_bytes()
            except OSError:
                continue

    def below(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [pid for pid, name in sorted(names.items()) if name.startswith(b"ray::Worker") and below(pid)]
