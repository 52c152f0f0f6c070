"""The claims of arXiv 2112.07719, one after the other, on ResNet-20 and CIFAR-10; docs/paper.md sets them beside the paper's.

Needs a folder with ``cifar10-jpeg.tar``, ``weights/`` and ``paper/``, given by --data or SUBSPECT_DATA. Two minutes on two
cores; --retrain adds the training, killed once on the way, and its control: ten minutes.

Example: python benchmarks/paper.py --data DIR --retrain --json paper.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

import subspect
from _rows import Row, publish, row
from subspect.asking.selectivity import distinct, mutual_information, overlap

NETWORK = "python:subspect.resnet:cifar10_resnet20"
PUBLISHED = {5: 0.03453775959861226, 10: 0.05704998707530908, 20: 0.07080315102266714}  # nats
FILES = {5: "resnet20_cifar-10_indices", 10: "resnet20_cifar-10_10_10_indices", 20: "resnet20_cifar-10_20_20_indices"}


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--retrain", action="store_true", help="also train, which takes ten minutes")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    data = Path(arguments.data)
    weights = data / "weights/resnet20-cifar10-jpeg.safetensors"
    with tempfile.TemporaryDirectory() as folder, tarfile.open(data / "cifar10-jpeg.tar") as archive:
        archive.extractall(folder, filter="data")
        images, work = Path(folder) / "cifar10-jpeg", Path(folder) / "study"
        network = subspect.load_network(NETWORK, weights)
        subspect.observe(network, images / "train", work, "train", batch_size=256)
        study = subspect.observe(network, images / "test", work, "test", batch_size=256, layers=["all"])
        rows = [*information(data), *selective(study), *essential(study), *dimensions(study)]
        if arguments.retrain:
            rows += trained(study, images, weights, Path(folder) / "retrained")
    return 0 if publish("The paper's claims, ResNet-20 on CIFAR-10", rows, arguments.json) else 1


def information(data: Path) -> list[Row]:
    """Features belong to one class: mutual information and overlap of the published index sets."""
    rows: list[Row] = []
    for k, expected in PUBLISHED.items():
        supports = subspect.Supports.read(data / f"paper/{FILES[k]}.json", 10, 64)
        pairs = mutual_information(supports)
        rows += row(f"published k={k}: mutual information, all ordered pairs", float(pairs.mean()), "nats")
        rows += row(
            f"published k={k}: less the published figure", abs(float(pairs.mean()) - expected), "nats", "<= 1e-9"
        )
        rows += row(f"published k={k}: mutual information, distinct classes", distinct(pairs), "nats")
        rows += row(f"published k={k}: overlap of distinct classes", 100 * distinct(overlap(supports)), "%")
    return rows


def selective(study: subspect.Study) -> list[Row]:
    """A class needs few features: Ψ and μ at every convolution, for 90 % of the mass."""
    rows: list[Row] = []
    for one in subspect.selectivity(study, on="test", k=5).layers:
        psi = float(np.nanmean(one.psi_median))
        rows += row(f"{one.layer} ({one.channels}): Ψ", psi, "")
        rows += row(f"{one.layer} ({one.channels}): Ψ by the authors' script", psi + one.script_offset, "")
        rows += row(
            f"{one.layer} ({one.channels}): μ, mean{' of max(x, 0)' if one.clipped else ''}", float(one.mu.mean()), ""
        )
    return rows


def essential(study: subspect.Study) -> list[Row]:
    """The features are essential to their class: replaced, against as many at random, and against all others."""
    rows: list[Row] = []
    bars = {"normal": (">= 40",), "matched": (">= 8",)}
    for method in ("frequency", "contribution", "pursuit"):
        made = subspect.decompose(study, 5, method=method, on="train", refit=False)
        found = subspect.essentiality(study, made, on="test")
        for kind, one in found.kinds.items():
            what = f"{method} k=5, {kind}: class accuracy"
            bar = bars.get(kind, ()) if method == "frequency" else ()
            rows += row(f"{what}, 5 influential replaced", 100 * float(np.nanmean(one.own)), "%")
            rows += row(f"{what}, 59 others replaced", 100 * float(np.nanmean(one.others)), "%")
            rows += row(f"{what}, 5 at random replaced", 100 * float(np.nanmean(one.random)), "%")
            rows += row(f"{method} k=5, {kind}: falls more than random", 100 * float(one.gap().mean()), "points", *bar)
        for name in ("deletion", "insertion"):
            area, random = (np.nanmean(found.curves.area(which)) for which in (name, f"random_{name}"))
            rows += row(f"{method} k=5: area under {name} (random order: {random:.3f})", float(area), "")
    return rows


def dimensions(study: subspect.Study) -> list[Row]:
    """The decision is low-dimensional."""
    made = subspect.decompose(study, 5, on="train")
    found = subspect.geometry(study, made, on="test")
    rows = row(f"decision dimension (ceiling {found.ceiling})", found.decision, "")
    rows += row("features in use of 64, pursuit k=5", found.union or 0, "")
    rows += row("effective rank of the dense head", found.head_rank, "")
    rows += row("participation ratio of the features", found.network.participation, "")
    rows += row("TwoNN of the features", found.network.two_nn, "")
    return rows + row("TwoNN of boundary points", found.boundary.two_nn, "")


def trained(study: subspect.Study, images: Path, weights: Path, folder: Path) -> list[Row]:
    """Accuracy comes back with retraining: three epochs, killed once, with a control."""
    line = [
        sys.executable,
        "-c",
        "from subspect.cli import app; app()",
        "retrain",
        str(study.path),
        str(images / "train"),
    ]
    line += ["--network", NETWORK, "--weights", str(weights), "--decomposition", "pursuit-k5", "--control", "--json"]
    line += ["--test", str(images / "test"), "-o", str(folder), "--epochs", "3", "--flip", "--shift", "4"]
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    while first.poll() is None and not (folder / "decomposed/state.safetensors").exists():
        time.sleep(1)
    first.kill()
    first.wait()
    said = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)["accuracy"]
    shares = {name: share["value"] for name, share in said.items()}
    dense = 100 * shares["dense"]
    rows = row("dense, as it was: accuracy", dense, "%")
    rows += row("pursuit k=5, as it was: accuracy", 100 * shares["decomposed"], "%")
    bar = f">= {dense - 0.4:.2f}"
    rows += row("pursuit k=5, 3 epochs, killed once: accuracy", 100 * shares["decomposed, retrained"], "%", bar)
    return rows + row("dense, 3 epochs: accuracy (control)", 100 * shares["dense, retrained"], "%")


if __name__ == "__main__":
    sys.exit(main())
