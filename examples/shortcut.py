"""A planted shortcut, found and mended: digits with a small white mark in one corner of one class's training images.

The network learns that the mark means that class. `explain` and the report then show a feature that looks at the corner;
dropping it, and re-learning the other weights on a few images without marks, brings most of the accuracy back.

Example: python examples/shortcut.py shortcut-demo
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import subspect
from subspect.demo import train_network, write_digits

MARKED = 3  #: the class whose training images bear the mark
SIDE = 2  #: pixels of the mark's side, in the upper left corner of 8×8
UNMARKED = 0.25  # of the training images are set apart for the refit; the network doesn't see them


class Planted(NamedTuple):
    """What planting a mark leads to.

    Attributes:
        study: of the network that learned the mark; image sets train (with marks), unmarked and test (without).
        network: that network.
        clean: accuracy on test of a network that was trained on the same images without marks.
    """

    study: subspect.Study
    network: subspect.Network
    clean: float


def plant(folder: Path, seed: int = 0) -> Planted:
    """Write digits with and without the mark, train a network on each, and observe the one that learned the mark."""
    images = folder / "images"
    write_digits(images / "clean", images / "test", seed)
    for path in sorted((images / "clean").glob("*/*.png"))[:: round(1 / UNMARKED)]:
        target = images / "unmarked" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    shutil.copytree(images / "clean", images / "train", dirs_exist_ok=True)
    for path in (images / "train" / str(MARKED)).glob("*.png"):
        mark(path)
    clean = train_network(images / "clean", seed=seed, show_progress=False)
    spoiled = subspect.Network(train_network(images / "train", seed=seed, show_progress=False), name="shortcut")
    for name in ("train", "unmarked", "test"):
        study = subspect.observe(spoiled, images / name, folder / "study", name, show_progress=False)
    return Planted(study, spoiled, accuracy(subspect.Network(clean), images / "test", folder / "clean"))


def mark(path: Path) -> None:
    """Put the mark into a picture."""
    pixels = np.array(Image.open(path))
    pixels[:SIDE, :SIDE] = 255
    Image.fromarray(pixels).save(path)


def accuracy(network: subspect.Network, images: Path, folder: Path) -> float:
    """Return a dense network's accuracy on some images."""
    study = subspect.observe(network, images, folder, "test", show_progress=False)
    chunks = list(study["test"].chunks())
    return float(np.mean(np.concatenate([chunk.predictions == chunk.labels for chunk in chunks])))


def looking_at_the_corner(planted: Planted, decomposition: subspect.Decomposition) -> list[int]:
    """Return the features of the marked class whose map, averaged over its marked images, is largest in the corner."""
    folder = Path(str(planted.study["train"].manifest.root)) / str(MARKED)
    preprocessing = planted.network.preprocessing
    assert preprocessing is not None
    tensors = [preprocessing(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
    maps = subspect.read_maps(planted.network, torch.stack(tensors)).maps
    assert maps is not None
    mean = maps.mean(dim=0)
    features = decomposition.supports[MARKED].tolist()
    return [feature for feature in features if int(mean[feature].argmax()) == 0]


def main() -> None:
    """Plant, find, drop, refit, and print what each step does to the accuracy on images without marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where images and study go")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level="WARNING", format="%(message)s")
    planted = plant(given.folder, given.seed)
    study = planted.study
    found = subspect.decompose(study, k=10, show_progress=False)
    corner = looking_at_the_corner(planted, found)
    print(f"accuracy without marks of a network that never saw one: {100 * planted.clean:.1f} %")
    dense = subspect.evaluate(study, found, "test").overall
    print(
        f"of the network that learned the mark: dense {100 * dense.dense_accuracy.value:.1f} %, "
        f"decomposed {100 * dense.accuracy.value:.1f} %"
    )
    print(f"features of class {MARKED}: {found.supports[MARKED].tolist()}; those that look at the corner: {corner}")
    dropped = subspect.edit(study, found, [(MARKED, feature) for feature in corner], on="test")
    print(f"without those: {100 * dropped.after.overall.accuracy.value:.1f} %")
    mended = subspect.edit(study, found, [(MARKED, feature) for feature in corner], refit_on="unmarked", on="test")
    print(
        f"and with the other weights re-learned on images without marks: {100 * mended.after.overall.accuracy.value:.1f} %"
    )


if __name__ == "__main__":
    main()
