"""Several processes and a Ray cluster against one process: the same bytes, whatever is killed; and how much faster.

Real images and weights (SUBSPECT_DATA or --data): CIFAR-10 and ResNets for it. The cluster is this machine.

- *alike*: `observe` on the test set by one process, by three parts, and by one, two and three actors; then `decompose` with
  k = 5 and `evaluate` on the training set's features, every sum by actors. All files are compared, byte by byte.
- *killed*: while two actors observe, one of them is killed by its id, twice; then the driver is, and started again; then an
  actor is stopped for ten seconds, as on a machine that hangs.
- *speed*: two actors of one thread each against one process of one thread, ResNet-56 on the training set: with the start and
  the end of the cluster, and from the first shard to the last; beside them two processes without a cluster, since two cores
  that share their caches, or their machine with others, don't do twice as much as one.

Example: python benchmarks/cluster.py --data DIR --json cluster.json
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from _archives import unpacked
from _cluster_faults import actors as actors_of
from _rows import Row, publish, row

PARTS = ("alike", "killed", "speed")
_OBSERVE = """
import sys
from contextlib import nullcontext
import torch
import subspect
from subspect.ground.memory import keep_freed
torch.set_num_threads(1)
keep_freed()  # as the command line and actors do
images, study, name, weights, depth, actors, part = sys.argv[1:]
network = subspect.load_network(
    f"python:subspect.resnet:cifar10_resnet{depth}",
    weights,
    preprocessing=subspect.Preprocessing(
        resize=None, crop=None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
)
with subspect.engine("ray", actors=int(actors)) if int(actors) else nullcontext():
    subspect.observe(network, images, study, name, part=part or None, show_progress=False)
"""
_DECOMPOSE = """
import sys
from contextlib import nullcontext
import subspect
from subspect.studies import blocks
blocks.SMALL = -1  # features of 50,000 images by 64 would be summed by the driver
study, actors = sys.argv[1:]
with subspect.engine("ray", actors=int(actors)) if int(actors) else nullcontext():
    made = subspect.decompose(study, 5, on="train", draws=4, show_progress=False)
    print(subspect.evaluate(study, made, on="test").to_json())
"""


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="the folder of real data")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("say where the real data is: --data, or SUBSPECT_DATA")
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work, data = Path(folder), Path(arguments.data)
        unpacked(data, "cifar10-jpeg", work)
        measure: dict[str, Callable[[Path, Path], list[Row]]] = {"alike": alike, "killed": killed, "speed": speed}
        for name in arguments.only or PARTS:
            rows += measure[name](work, data)
    return 0 if publish("Cluster", rows, arguments.json) else 1


def alike(work: Path, data: Path) -> list[Row]:
    """Compare what one process, three parts, and one to three actors make."""
    rows, one = list[Row](), work / "one"
    _observe(work, data, one)
    expected = _files(one)
    parts = [_observing(work, data, work / "parts", part=f"{number}/3") for number in (1, 2, 3)]
    ended = [one.wait() for one in parts]
    same = not any(ended) and _files(work / "parts") == expected
    rows += row("observe by three parts: same files", same, "", ">= 1")
    for actors in (1, 2, 3):
        _observe(work, data, work / f"ray-{actors}", actors=actors)
        rows += row(f"observe by {actors} actors: same files", _files(work / f"ray-{actors}") == expected, "", ">= 1")
    _observe(work, data, one, name="train")
    told = _decompose(one, 0)
    expected = _files(one)
    for actors in (1, 2, 3):
        for path in (one / "decompositions").iterdir():
            path.unlink()
        again = _decompose(one, actors)
        same = told == again and _files(one) == expected
        rows += row(f"decompose and evaluate by {actors} actors: same files and figures", same, "", ">= 1")
    return rows


def killed(work: Path, data: Path) -> list[Row]:
    """Kill actors and the driver, and stop an actor for a while."""
    _observe(work, data, work / "whole", name="train")
    expected, rows = _files(work / "whole"), list[Row]()

    def twice(driver: subprocess.Popen[bytes], study: Path) -> None:
        for share in (0.3, 0.6):
            _wait(study, share, driver)
            os.kill(actors_of(driver.pid)[0], signal.SIGKILL)

    def stopped(driver: subprocess.Popen[bytes], study: Path) -> None:
        _wait(study, 0.3, driver)
        pid = actors_of(driver.pid)[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(10)
        os.kill(pid, signal.SIGCONT)

    for what, harm in (("an actor killed twice", twice), ("an actor that hangs", stopped)):
        study = work / what.replace(" ", "-")
        driver = _observing(work, data, study, name="train", actors=2)
        times: dict[str, int] = {}
        watching = threading.Thread(target=_watch, args=(study, driver, times))
        watching.start()
        harm(driver, study)
        ended = driver.wait()
        watching.join()
        rows += row(f"{what}: ended well, same files", ended == 0 and _files(study) == expected, "", ">= 1")
        rows += row(f"{what}: shards written twice", _rewritten(study, times), "", "<= 0")
    study = work / "driver"
    driver = _observing(work, data, study, name="train", actors=2)
    _wait(study, 0.4, driver)
    driver.kill()
    driver.wait()
    times = _times(study)
    _observe(work, data, study, name="train", actors=2)
    rows += row("the driver killed, and started again: same files", _files(study) == expected, "", ">= 1")
    rows += row("the driver killed: shards done before", len(times), "")
    rows += row("the driver killed: of these computed again", _rewritten(study, times), "", "<= 0")
    return rows


def speed(work: Path, data: Path) -> list[Row]:
    """Time two actors against one process, and against two processes that need no cluster, in turns; the best of two each."""
    ways = {"alone": (0, [""]), "actors": (2, [""]), "parts": (0, ["1/2", "2/2"])}
    seconds, between = ({way: list[float]() for way in ways} for _ in range(2))
    for turn in range(2):
        for way, (actors, parts) in ways.items():
            study, begun, times = work / f"speed-{way}-{turn}", time.perf_counter(), dict[str, int]()
            drivers = [
                _observing(work, data, study, name="train", actors=actors, part=part, depth=56) for part in parts
            ]
            for driver in drivers:
                _watch(study, driver, times)
            if any(driver.wait() for driver in drivers):
                raise SystemExit(f"observing into {study} failed")
            seconds[way].append(time.perf_counter() - begun)
            last = sorted(times.values())[max(actors, len(parts)) - 1 :]  # as many come first, at one time
            between[way].append((last[-1] - last[0]) / 1e9 / (len(last) - 1))
    alone, actors_took, parts_took = (min(seconds[way]) for way in ways)
    shard, of_actors, of_parts = (min(between[way]) for way in ways)
    return [
        *row("ResNet-56, 50,000 images: one process of one thread", alone, "s"),
        *row("two actors of one thread each", actors_took, "s"),
        *row("as many times as fast, with the start and the end of the cluster", alone / actors_took, "×", ">= 1.8"),
        *row("as many times as fast, from the first shard to the last", shard / of_actors, "×"),
        *row("two processes (--part 1/2 and 2/2), without a cluster: as many times as fast", alone / parts_took, "×"),
        *row("the same, from the first shard to the last", shard / of_parts, "×"),
    ]


def _observing(
    work: Path, data: Path, study: Path, *, name: str = "test", actors: int = 0, part: str = "", depth: int = 20
) -> subprocess.Popen[bytes]:
    weights = data / f"weights/resnet{depth}-cifar10-jpeg.safetensors"
    about = [work / "cifar10-jpeg" / name, study, name, weights, depth, actors, part]
    return subprocess.Popen([sys.executable, "-c", _OBSERVE, *map(str, about)], stderr=subprocess.DEVNULL)


def _observe(work: Path, data: Path, study: Path, *, name: str = "test", actors: int = 0, depth: int = 20) -> None:
    if _observing(work, data, study, name=name, actors=actors, depth=depth).wait():
        raise SystemExit(f"observing into {study} failed")


def _decompose(study: Path, actors: int) -> str:
    line = [sys.executable, "-c", _DECOMPOSE, str(study), str(actors)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def _files(study: Path) -> dict[str, bytes]:
    paths = (path for path in study.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    return {str(path.relative_to(study)): path.read_bytes() for path in paths}


def _times(study: Path) -> dict[str, int]:
    found = {}
    for path in study.rglob("*.arrow"):
        found[path.name] = path.stat().st_mtime_ns
    return found


def _watch(study: Path, driver: subprocess.Popen[bytes], times: dict[str, int]) -> None:
    """Note when each shard was written first, in nanoseconds."""
    while driver.poll() is None:
        times |= {name: when for name, when in _times(study).items() if name not in times}
        time.sleep(0.05)


def _rewritten(study: Path, times: dict[str, int]) -> int:
    return sum(times.get(name, when) != when for name, when in _times(study).items())


def _wait(study: Path, share: float, driver: subprocess.Popen[bytes]) -> None:
    """Wait until a share of the 49 shards of the training set is there."""
    while driver.poll() is None and len(_times(study)) < share * 49:
        time.sleep(0.02)
    if driver.poll() is not None:
        raise SystemExit("it was done before it could be killed")


if __name__ == "__main__":
    sys.exit(main())
