"""Features kept against statistics kept, on CIFAR-10 with ResNet-20: disk, processor time, whether answers are the same.

Observes ``train`` (50,000 images) once with features kept and once for each sample with statistics kept, chooses on it, and
measures on ``test``. Needs ``cifar10-jpeg.tar`` and ``weights/`` in the folder given by --data or the environment variable
SUBSPECT_DATA. About ten minutes on two cores.

Example: python benchmarks/statistics_only.py --data DIR --json statistics_only.json
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import subspect
from _archives import on_cifar
from _rows import Row, row
from subspect import Decomposition

SAMPLES = (20_000, 5_000, 2_000)


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    return on_cifar(__doc__, "Features kept against statistics kept", measure)


def measure(data: Path, images: Path, work: Path) -> list[Row]:
    """Measure every figure."""
    network = subspect.load_network(
        "python:subspect.resnet:cifar10_resnet20", data / "weights/resnet20-cifar10-jpeg.safetensors"
    )
    whole, features = work / "features", dict[str, Decomposition]()
    subspect.observe(network, images / "test", whole, "test", batch_size=256)
    tests = shutil.copytree(whole, work / "test")
    rows = [
        *row("features, processor time", observed(network, images, whole), "s"),
        *figures("features", whole, features),
    ]
    for sample in SAMPLES:
        kept, name = shutil.copytree(tests, work / str(sample)), f"sample of {sample:,}"
        rows += row(f"{name}, processor time", observed(network, images, kept, sample), "s")
        made = dict[str, Decomposition]()
        rows += figures(name, kept, made)
        for how in ("contribution 5", "contribution 10", "frequency 5", "frequency 10", "frequency 0.5"):
            rows += row(f"{name}, {how}: the same supports", same(made[how], features[how]), "", ">= 1")
        for how in ("pursuit 5 raw", "pursuit 5", "pursuit 10"):
            rows += row(f"{name}, {how}: classes of the same support", same(made[how], features[how]), "")
    return rows


def observed(network: subspect.Network, images: Path, study: Path, sample: int = 0) -> float:
    """Observe ``train``, with features kept or statistics and a sample, and return the seconds of processor time."""
    start = time.process_time()
    keep = {"keep": "statistics", "sample": sample} if sample else {}
    subspect.observe(network, images / "train", study, "train", batch_size=256, **keep)  # type: ignore[arg-type]
    return time.process_time() - start


def figures(name: str, folder: Path, made: dict[str, Decomposition]) -> list[Row]:
    """Choose by every method, and return what the set takes on disk and what the choices cost."""
    size = sum(file.stat().st_size for file in (folder / "sets/train").iterdir())
    rows = row(f"{name}, disk", size / 1e6, "MB")
    for method, k in (
        ("contribution", 5),
        ("contribution", 10),
        ("frequency", 5),
        ("frequency", 10),
        ("frequency", 0.5),
    ):
        made[f"{method} {k}"] = subspect.decompose(folder, k, method=method)
    made["pursuit 5 raw"] = subspect.decompose(folder, 5, refit=False, draws=0)
    for k in (5, 10):
        made[f"pursuit {k}"] = subspect.decompose(folder, k, draws=0)
    for how in ("pursuit 5 raw", "pursuit 5", "pursuit 10"):
        cost = subspect.evaluate(folder, made[how]).overall
        rows += row(f"{name}, {how}, accuracy", 100 * cost.accuracy.value, "%")
        rows += row(f"{name}, {how}, fidelity", 100 * cost.fidelity.value, "%")
    return rows


def same(one: Decomposition, other: Decomposition) -> float:
    """Return the share of classes whose supports are the same."""
    pairs = [
        set(one.supports[label].tolist()) == set(other.supports[label].tolist()) for label in range(len(one.supports))
    ]
    return sum(pairs) / len(pairs)


if __name__ == "__main__":
    sys.exit(main())
