"""What observing costs beyond running the network, what checksums cost, and histograms beside a full sort.

Ratios, each against a named baseline in the same run: observing 10,000 CIFAR images against a plain
``for batch: model(batch)`` loop over the same loader (medians of alternating rounds), and against itself less the time that
checksums take; reading a study, in a fresh process each time, against one plain read of the same files, and against reading it
unchecked; top-k histograms for ten values of k at once, one thread, against a full argsort of every row and counting. Needs
``cifar10-jpeg.tar`` and ``weights/`` in the folder given by --data or the environment variable SUBSPECT_DATA. About five
minutes on two cores.

Example: python benchmarks/observe.py --data DIR --json observe.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

import subspect
from _rows import Row, publish, row
from subspect.images.batches import batches
from subspect.images.labels import match_classes
from subspect.images.opening import open_images
from subspect.statistics.largest import TopFeatures

KS = tuple(range(10, 101, 10))
BATCH = 256


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of observing and of the plain loop")
    parser.add_argument("--images", type=int, default=100_000, help="rows of the histograms")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    rows = observing(Path(arguments.data), arguments.rounds) + reading(20_000) + histograms(arguments.images)
    return 0 if publish("The cost of observing", rows, arguments.json) else 1


def observing(data: Path, rounds: int) -> list[Row]:
    """Time observing against the plain loop, in alternation, so that a slow moment of the machine meets both."""
    network = subspect.load_network(
        "python:subspect.resnet:cifar10_resnet20", data / "weights/resnet20-cifar10-jpeg.safetensors"
    )
    with tempfile.TemporaryDirectory() as folder, tarfile.open(data / "cifar10-jpeg.tar") as archive:
        members = [member for member in archive if member.name.startswith("cifar10-jpeg/test")]
        archive.extractall(folder, members, filter="data")
        images = Path(folder) / "cifar10-jpeg/test"
        plain(network, images)  # reads every file once, so that no round pays for a cold disk
        loop, observed, spent = list[float](), list[float](), list[float]()
        for turn in range(rounds):
            loop.append(timed(lambda: plain(network, images)))
            spent.append(0.0)
            with counted(spent):
                study = Path(folder) / f"study-{turn}"
                observed.append(timed(lambda study=study: subspect.observe(network, images, study, batch_size=BATCH)))  # type: ignore[misc]
    ratios = [one / other for one, other in zip(observed, loop, strict=True)]
    checks = [one / (one - own) for one, own in zip(observed, spent, strict=True)]
    return [
        *row("plain loop, 10,000 images, median", statistics.median(loop), "s"),
        *row("observing, 10,000 images, median", statistics.median(observed), "s"),
        *row("observing / plain loop, median of rounds", statistics.median(ratios), "×", "<= 1.10"),
        *row("the same, worst round", max(ratios), "×"),
        *row("observing / the same less the time in checksums, worst round", max(checks), "×", "<= 1.01"),
    ]


@contextmanager
def counted(spent: list[float]) -> Iterator[None]:
    """Add to the last entry the seconds that checksums, of shards and of image files, and looks at shards take.

    Counted within the run: between two runs the machine's moods make more of a difference than this.
    """
    places = [("shards", name) for name in ("_checksum", "_content", "_look")] + [("decoding", "digest")]
    with ExitStack() as stack:
        for module, name in places:
            plain = getattr(sys.modules[f"subspect.{module}"], name)

            def timing(*args: object, plain: Callable[..., object] = plain) -> object:
                start = time.perf_counter()
                try:
                    return plain(*args)
                finally:
                    spent[-1] += time.perf_counter() - start

            stack.enter_context(patch.object(sys.modules[f"subspect.{module}"], name, timing))
        yield


def reading(images: int) -> list[Row]:
    """Time a first pass over a study against one plain read of its files, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        made, _ = _large(study, images), _large(Path(folder) / "small", 10)
        size = sum(path.stat().st_size for path in made) / 1e9
        plain_read, first, loose = [], [], []
        for _ in range(5):
            plain_read.append(timed(lambda: [path.read_bytes() for path in made]))
            first.append(_elsewhere(study, "pass"))
            loose.append(
                _elsewhere(
                    study,
                    "sys.modules['subspect.shards']._checksum = lambda _: type('Any', (), {'__ne__': lambda *_: False})()",
                )
            )
    read, ours, bare = min(plain_read), min(first), min(loose)
    return [
        *row(f"one plain read of {size:.2g} GB in {len(made)} files", read, "s"),
        *row("a first pass over the study, checksums looked at", ours, "s"),
        *row("first pass / plain read", ours / read, "×", "<= 1.50"),
        *row("the same without checksums", bare / read, "×"),
    ]


def _large(study: Path, images: int) -> list[Path]:
    """Write a study of some images with 2,048 features, and return its shards."""
    network = subspect.Network(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2048, 10)))
    subspect.observe(network, torch.rand(images, 2048, 1, 1), study, batch_size=BATCH, show_progress=False)
    return sorted((study / "sets/train").glob("*.arrow"))


_PASS = """
import sys, time
import numpy as np
import subspect
list(subspect.Study.open({small!r}).image_set("train").chunks())  # so that no import of Arrow's counts
image_set = subspect.Study.open({study!r}).image_set("train")
{change}
start = time.perf_counter()
for chunk in image_set.chunks():
    np.dot(chunk.features.reshape(-1), chunk.features.reshape(-1))
print(time.perf_counter() - start)
"""


def _elsewhere(study: Path, change: str) -> float:
    """Return the seconds of a pass over a study, every feature touched, in a new process on one thread."""
    code = _PASS.format(study=str(study), small=str(study.with_name("small")), change=change)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def plain(network: subspect.Network, folder: Path) -> None:
    """Run the network over the same loader and do nothing else."""
    images = open_images(folder)
    match = match_classes(images, 10, network.class_names)
    cuts = [range(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
    with network.running():
        for batch in batches(images, network.preprocessing, match, cuts):
            network.model(batch.pixels)


def histograms(images: int) -> list[Row]:
    """Time ten histograms in one pass against sorting every row, both on one thread, with the same result."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    features = generator.standard_normal((images, 2048), dtype=np.float32)
    np.maximum(features + 0.5, 0, out=features)  # as after a ReLU: a third are zero
    labels = generator.integers(0, 100, images)
    top = TopFeatures(100, 2048, KS)
    ours = timed(lambda: top.update(features, labels))
    counts: list[NDArray[np.int64]] = []
    stable = timed(lambda: counts.extend(by_sorting(features, labels, "stable")))
    if not all(np.array_equal(top.counts(k), table) for k, table in zip(KS, counts, strict=True)):
        raise AssertionError("the histograms differ from those by sorting")
    quick = timed(lambda: by_sorting(features, labels, "quicksort"))
    what = f"histograms, {images:,} × 2,048, k = 10…100"
    return [
        *row(f"{what}, one pass", ours, "s"),
        *row(f"{what}, by stable argsort (the same result)", stable, "s"),
        *row("one pass / stable argsort", ours / stable, "×", "<= 0.25"),
        *row(f"{what}, by NumPy's fastest argsort (ties at random)", quick, "s"),
        *row("one pass / fastest argsort", ours / quick, "×"),
    ]


def by_sorting(
    features: NDArray[np.float32], labels: NDArray[np.int64], kind: Literal["stable", "quicksort"]
) -> list[NDArray[np.int64]]:
    """Count by a full argsort of every row: the obvious way."""
    counts = [np.zeros((100, 2048), np.int64) for _ in KS]
    for start in range(0, len(features), 1024):
        part, own = features[start : start + 1024], labels[start : start + 1024]
        order = np.argsort(-np.abs(part), axis=1, kind=kind)
        for table, k in zip(counts, KS, strict=True):
            np.add.at(table, (own[:, None], order[:, :k]), 1)
    return counts


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
