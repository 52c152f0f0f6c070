"""What becomes of memory and time as a study grows: simulated features, written as `observe` writes them.

- *Memory*: `decompose` with k = 5 on 10,000, 100,000 and 1,000,000 rows of 2,048 features, 100 classes, each in a process of
  its own: the most memory that it had, and the time, which must grow with the rows.
- *Load*: the same rows from 100,000 on with 1,000 classes: writing, `decompose`, `evaluate`.

A row is what a rectified layer might say: the pattern of its class, of another class besides in one of four rows, and noise.
The head is linear discriminant analysis of that. Shards of 1,000,000 rows take 8.2 GB in the folder given by --work.

Example: python benchmarks/scale.py --work scale --json scale.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import subspect
from _rows import Row, publish, row
from subspect.images.preprocessing import GIVEN_AS_FEATURES
from subspect.studies.closing import complete
from subspect.studies.manifests import Identity, SetManifest
from subspect.studies.pieces import observing
from subspect.studies.shards import Chunk, shard_rows
from subspect.studies.study import Study

Floats = npt.NDArray[np.float32]
SIZES = (10_000, 100_000, 1_000_000)
PARTS = ("memory", "load")
_LARGE = 100_000  # rows
_BATCH = 64
_OWN, _NOISE = 0.6, 0.6  # how much of its class's pattern a row has, and of noise
_TEST = 10_000  # rows to measure on


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="keep the studies in this folder")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="numbers of rows for memory")
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--draws", type=int, default=20, help="halves on which decompose repeats its choice")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        _child(json.loads(arguments.child))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(exist_ok=True)
        rows: list[Row] = []
        if arguments.only in (None, "memory"):
            rows += memory(work, arguments.rows, arguments.features, arguments.draws)
        if arguments.only in (None, "load"):
            for size in (size for size in arguments.rows if size >= _LARGE):
                rows += load(work, size, arguments.features, arguments.draws)
    return 0 if publish("Scale", rows, arguments.json) else 1


def memory(work: Path, sizes: list[int], features: int, draws: int, classes: int = 100) -> list[Row]:
    """Decompose studies of several sizes."""
    rows, peaks, seconds = list[Row](), list[float](), list[float]()
    for size in sizes:
        study = simulated(work / f"rows-{size}-{features}-{classes}", size, features, classes)
        told = _measured(study, k=5, draws=draws)
        peaks.append(told["peak"])
        seconds.append(told["seconds"])
        what = f"{size:,} rows × {features:,}, {classes} classes, k = 5, {draws} halves"
        rows += row(f"{what}: peak memory", peaks[-1], "GiB", "<= 4")
        rows += row(f"{what}: time", seconds[-1], "s")
        rows += row(f"{what}: fidelity", told["fidelity"], "%")
    large = [place for place, size in enumerate(sizes) if size >= _LARGE]
    if len(large) > 1:
        most = [peaks[place] for place in large]
        rows += row("peak memory from 100,000 rows on: largest over smallest", max(most) / min(most), "", "<= 1.15")
    if len(sizes) > 2:
        rows += row("time against rows: R² of a line", float(np.corrcoef(sizes, seconds)[0, 1] ** 2), "", ">= 0.99")
    return rows


def load(work: Path, size: int, features: int, draws: int, classes: int = 1000) -> list[Row]:
    """Take a large study through everything."""
    path, started = work / f"rows-{size}-{features}-{classes}", time.perf_counter()
    there, study = path.exists(), simulated(path, size, features, classes)
    what, rows = f"{size:,} rows × {features:,}, {classes} classes", list[Row]()
    if not there:
        rows += row(f"{what}: written in", time.perf_counter() - started, "s")
    for how in ("contribution", "pursuit"):
        told = _measured(study, k=5, method=how, draws=draws if how == "pursuit" else None)
        rows += row(f"{what}: decompose by {how}", told["seconds"], "s")
        rows += row(f"{what}: evaluate", told["evaluated"], "s")
        rows += row(f"{what}: peak memory by {how}", told["peak"], "GiB", "<= 4")
    return rows


def simulated(path: Path, size: int, features: int, classes: int) -> Path:
    """Write a study of some rows, unless it is there already."""
    if (path / "sets/test/set.json").exists() and Study.open(path).unfinished == []:
        return path
    patterns, weight, bias = _layer(features, classes)
    fields = ("simulated", f"{features}-{classes}", "head", classes, features)
    identity = Identity(*fields, tuple(f"class {label}" for label in range(classes)), GIVEN_AS_FEATURES)
    study = Study.create(path, identity, torch.from_numpy(weight), torch.from_numpy(bias))
    for name, images in (("train", size), ("test", _TEST)):
        manifest = SetManifest(
            identity.fingerprint,
            GIVEN_AS_FEATURES,
            "features",
            None,
            images,
            f"{name} {images}",
            True,
            "class indices",
            _BATCH,
            shard_rows(features, _BATCH),
        )
        with observing(path, name):
            image_set = study.begin(name, manifest)
            for index, chunk in _chunks(name, manifest, patterns, weight, bias):
                if index not in image_set.done:
                    image_set.write(index, chunk, [])
            complete(image_set)
    return path


def _layer(features: int, classes: int) -> tuple[Floats, Floats, Floats]:
    """Return patterns (C, d), of which a hundredth is not zero, and a head (C, d), (C,) that tells rows of them apart.

    With 2,048 features and 1,000 classes it is right in 87 of 100 rows, with a median margin of 5.8.
    """
    random = np.random.default_rng(18)
    patterns = random.exponential(1.0, (classes, features)) * (random.random((classes, features)) < 0.01)
    known = patterns.astype(np.float32)
    at_rest = np.float32(_NOISE / (2 * np.pi) ** 0.5)  # what rectified noise is in the mean
    return known, known - known.mean(axis=0), -_OWN / 2 * (known**2).sum(axis=1) - at_rest * known.sum(axis=1)


def _chunks(
    name: str, manifest: SetManifest, patterns: Floats, weight: Floats, bias: Floats
) -> Iterator[tuple[int, Chunk]]:
    for index in range(manifest.n_shards):
        first, end = manifest.ends(index)
        random = np.random.default_rng([18, index, len(name)])
        labels = random.integers(len(patterns), size=end - first)
        mixed = (random.random(end - first) < 0.25)[:, None] * patterns[
            random.integers(len(patterns), size=end - first)
        ]
        noise = random.standard_normal((end - first, patterns.shape[1]), dtype=np.float32)
        x = np.maximum(_OWN * patterns[labels] + 0.5 * mixed.astype(np.float32) + _NOISE * noise, 0)
        said = (x @ weight.T + bias).argmax(axis=1)
        ids = [f"{position:09d}" for position in range(first, end)]
        yield index, Chunk(x, labels, said, ids, {}, [None] * len(ids))


def _measured(study: Path, **options: Any) -> dict[str, float]:
    """Decompose and evaluate in a process of its own."""
    told = json.dumps({"study": str(study), **options})
    line = [sys.executable, __file__, "--child", told]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _child(options: dict[str, Any]) -> None:
    study = options.pop("study")
    begun = time.perf_counter(), time.process_time()
    made = subspect.decompose(study, show_progress=False, **options)
    seconds, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    between = time.perf_counter()
    cost = subspect.evaluate(study, made).overall
    figures = {
        "seconds": seconds,
        "cpu": cpu,
        "evaluated": time.perf_counter() - between,
        "fidelity": 100 * cost.fidelity.value,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(main())
