"""Reference figures on CIFAR-10 with the published residual networks: accuracy and fidelity on `test`, supports from `train`.

Needs a folder with ``cifar10-jpeg.tar`` (train/CLASS/*.jpg, test/CLASS/*.jpg), ``weights/`` and ``paper/``, given by --data
or the environment variable SUBSPECT_DATA. About two minutes on two cores.

Example: python benchmarks/cifar10.py --data DIR --json cifar10.json
"""

from __future__ import annotations

import sys
from pathlib import Path

import subspect
from _archives import on_cifar
from _rows import Row, around, row
from subspect.resnet import cifar10_resnet20

ROOM = 0.05  # percentage points


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    return on_cifar(__doc__, "CIFAR-10, ResNet-20, decomposed heads", measure)


def measure(data: Path, images: Path, work: Path) -> list[Row]:
    """Measure every figure."""
    study = observed(data / "weights/resnet20-cifar10-jpeg.safetensors", images, work / "jpeg", ("train", "test"))
    published = subspect.decompose_by_file(study, data / "paper/resnet20_cifar-10_indices.json", on="train")
    bars = {"frequency": 79.67, "contribution": 83.07, "published indices": 82.81}
    made = {
        "frequency": subspect.decompose(study, 5, method="frequency", on="train"),
        "contribution": subspect.decompose(study, 5, method="contribution", on="train"),
        "published indices": published,
    }
    costs = {name: subspect.evaluate(study, one, on="test").overall for name, one in made.items()}
    rows = row(
        "jpeg weights, dense, accuracy", 100 * costs["frequency"].dense_accuracy.value, "%", *around(88.16, ROOM)
    )
    for name, cost in costs.items():
        rows += row(f"jpeg weights, {name} k=5, accuracy", 100 * cost.accuracy.value, "%", *around(bars[name], ROOM))
        rows += row(f"jpeg weights, {name} k=5, fidelity", 100 * cost.fidelity.value, "%")
        rows += row(f"jpeg weights, {name} k=5, KL", cost.divergence.value, "nats")
    for k in (5, 10, 20):
        for method in ("frequency", "contribution", "pursuit")[0 if k > 5 else 2 :]:
            cost = subspect.evaluate(study, subspect.decompose(study, k, method=method, on="train"), on="test").overall
            rows += row(f"jpeg weights, {method} k={k}, accuracy", 100 * cost.accuracy.value, "%")
            rows += row(f"jpeg weights, {method} k={k}, fidelity", 100 * cost.fidelity.value, "%")
    original = observed(data / "weights/resnet20-12fca82f.th", images, work / "th", ("test",))
    chunks = list(original.image_set("test").chunks())
    right = sum(int((chunk.labels == chunk.predictions).sum()) for chunk in chunks)
    share = 100 * right / sum(len(chunk.labels) for chunk in chunks)
    return rows + row("published .th checkpoint, dense, accuracy", share, "%", *around(81.03, ROOM))


def observed(weights: Path, images: Path, folder: Path, sets: tuple[str, ...]) -> subspect.Study:
    """Observe the image sets with ResNet-20 and some weights."""
    network = subspect.load_network(f"python:{cifar10_resnet20.__module__}:{cifar10_resnet20.__name__}", weights)
    for name in sets:
        study = subspect.observe(network, images / name, folder, name, batch_size=256)
    return study


if __name__ == "__main__":
    sys.exit(main())
