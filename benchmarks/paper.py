"""The claims of arXiv 2112.07719, one after the other, on ResNet-20 and CIFAR-10; docs/paper.md sets them beside the paper's.

Needs a folder with ``cifar10-jpeg.tar``, ``weights/`` and ``paper/``, given by --data or SUBSPECT_DATA. Two minutes on two
cores; --retrain adds the training, killed once on the way, and its control: ten minutes. --csg adds the class-specific gates
of the network that the authors compare with, from a clone of github.com/akshaybadola/decomposing-the-deep: a minute and a half.

Example: python benchmarks/paper.py --data DIR --retrain --json paper.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import subspect
from _archives import unpacked
from _rows import Row, publish, row
from subspect.asking.selectivity import distinct, mutual_information, overlap
from subspect.networks.weights import load_weights

NETWORK = "python:subspect.resnet:cifar10_resnet20"
PUBLISHED = {5: 0.03453775959861226, 10: 0.05704998707530908, 20: 0.07080315102266714}  # nats
CSG_PUBLISHED = 0.03750908408724534  # nats, k = 5, by the authors' script
CSG_WEIGHTS, CSG_FILE = "best_save_CSG.pth", "resnet20_cifar-10_csg_indices.json"
FILES = {5: "resnet20_cifar-10_indices", 10: "resnet20_cifar-10_10_10_indices", 20: "resnet20_cifar-10_20_20_indices"}


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--retrain", action="store_true", help="also train, which takes ten minutes")
    parser.add_argument(
        "--csg", type=Path, metavar="CLONE", help="also measure the gates, from the authors' repository"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    data = Path(arguments.data)
    weights = data / "weights/resnet20-cifar10-jpeg.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        images, work = unpacked(data, "cifar10-jpeg", Path(folder)), Path(folder) / "study"
        network = subspect.load_network(NETWORK, weights)
        subspect.observe(network, images / "train", work, "train", batch_size=256)
        study = subspect.observe(network, images / "test", work, "test", batch_size=256, layers=["all"])
        rows = [
            *shares(study, Path(folder)),
            *information(data),
            *selective(study),
            *essential(study),
            *dimensions(study),
        ]
        if arguments.csg is not None:
            rows += gates(arguments.csg, images, Path(folder))
        if arguments.retrain:
            rows += trained(study, images, weights, Path(folder) / "retrained")
    return 0 if publish("The paper's claims, ResNet-20 on CIFAR-10", rows, arguments.json) else 1


def shares(study: subspect.Study, folder: Path) -> list[Row]:
    """A class needs few features: as many as hold a share of the mass, as subspect and as the authors' code choose them."""
    chunks = list(study.image_set("train").chunks())
    features, labels = (np.concatenate([getattr(one, name) for one in chunks]) for name in ("features", "labels"))
    rows: list[Row] = []
    for share in (0.5, 0.9):
        ours = subspect.decompose(study, share, method="frequency", on="train")
        rows += costs(study, f"frequency -k {share}", ours)
        for cut, what in {False: "counted strictly before, truncated", True: "the authors' code"}.items():
            path = folder / f"share-{share}-{cut}.json"
            by_script(features, labels, share, cut=cut).write(path)
            rows += costs(study, f"share {share}, {what}", subspect.decompose_by_file(study, path, on="train"))
    return rows


def by_script(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], share: float, *, cut: bool = True
) -> subspect.Supports:
    """Choose features for a share of the mass as ``main.py`` of github.com/akshaybadola/class_specific_cnn does.

    For each image it counts the features strictly before the share is reached; n is the mean over a class's images,
    truncated. The n largest features of every image are counted. Of the class's counts, the rarest features go that
    together hold no more than the share; without ``cut`` the n most frequent stay instead. Ties go to the higher index, as they
    do where ascending order is kept; the script leaves that to NumPy's quicksort.
    """
    supports = []
    for label in range(int(labels.max()) + 1):
        x = features[labels == label].astype(np.float64)
        order = np.argsort(x, axis=1, kind="stable")[:, ::-1]
        held = np.take_along_axis(x, order, axis=1).cumsum(axis=1) / x.sum(axis=1, keepdims=True)
        n = int(np.mean((held < share).sum(axis=1)))
        counts = np.bincount(order[:, :n].ravel(), minlength=x.shape[1])
        rarest = np.argsort(counts, kind="stable")
        held_up_to = counts[rarest].cumsum()
        supports.append((rarest[held_up_to > share * counts.sum()] if cut else rarest[len(rarest) - n :])[::-1])
    return subspect.Supports(supports, features.shape[1])


def costs(study: subspect.Study, what: str, made: subspect.Decomposition) -> list[Row]:
    """Say how many features classes have, and what that costs."""
    cost, sizes = subspect.evaluate(study, made, on="test").overall, made.supports.sizes
    rows = row(f"{what}: features a class ({sizes.min()} to {sizes.max()})", float(sizes.mean()), "")
    rows += row(f"{what}: accuracy", 100 * cost.accuracy.value, "%")
    return rows + row(f"{what}: fidelity", 100 * cost.fidelity.value, "%")


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


def gates(clone: Path, images: Path, folder: Path) -> list[Row]:
    """The gates of the network that the authors compare with (class-specific gates, CSG): which features they name."""
    network = subspect.load_network(NETWORK, clone / CSG_WEIGHTS, ignore_extra=["csg"])
    for name in ("train", "test"):
        study = subspect.observe(network, images / name, folder / "csg", name, batch_size=256)
    alone = torch.nn.Module()
    alone.register_buffer("csg", torch.empty(10, 64))
    load_weights(alone, clone / CSG_WEIGHTS, ["conv1", "bn1", "layer1", "layer2", "layer3", "linear"])
    order = np.argsort(alone.get_buffer("csg").numpy(), axis=1, kind="stable")
    published = subspect.Supports.read(clone / CSG_FILE, 10, 64)
    same = sum(len(set(row) & set(least)) for row, least in zip(published, order[:, :5], strict=True))
    rows = row("CSG: published features that are among the class's 5 smallest gates", same, f"of {len(published.flat)}")
    for method in ("frequency", "contribution", "pursuit"):
        rows += costs(study, f"CSG, {method} k=5", subspect.decompose(study, 5, method=method, on="train"))
    for which, chosen in {"smallest": order[:, :5], "largest": order[:, :-6:-1]}.items():
        what, path = f"CSG, the 5 {which} gates", folder / f"{which}.json"
        subspect.Supports(list(chosen), 64).write(path)
        made = subspect.decompose_by_file(study, path, on="train")
        pairs = mutual_information(made.supports)
        rows += costs(study, what, made)
        rows += costs(study, f"{what}, refit", subspect.decompose_by_file(study, path, on="train", refit=True))
        rows += row(f"{what}: mutual information, all ordered pairs", float(pairs.mean()), "nats")
        if which == "smallest":
            rows += row(
                f"{what}: less the script's figure", abs(float(pairs.mean()) - CSG_PUBLISHED), "nats", "<= 1e-9"
            )
        rows += row(f"{what}: mutual information, distinct classes", distinct(pairs), "nats")
        found = subspect.essentiality(study, made, on="test")
        rows += row(f"{what}: class accuracy before", 100 * float(np.nanmean(found.before)), "%")
        for kind in ("normal", "matched"):
            one = found.kinds[kind]
            for whose, left in {"these": one.own, "the 59 others": one.others, "5 at random": one.random}.items():
                rows += row(f"{what}, {kind}: class accuracy, {whose} replaced", 100 * float(np.nanmean(left)), "%")
            rows += row(f"{what}, {kind}: falls more than random", 100 * float(one.gap().mean()), "points")
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
