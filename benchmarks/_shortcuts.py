"""Planted shortcuts, so that it is known what a class rests on: a mark, a tint, brighter images, or fine stripes on one class.

A network learns from images in which each of four classes bears one of them, always; or from the same images as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import subspect
from subspect.images.preprocessing import Preprocessing
from subspect.resnet import ResNet

Pixels = npt.NDArray[np.uint8]  # (n, height, width, 3)
Labels = npt.NDArray[np.int64]


class Data(NamedTuple):
    """Images to learn from and to measure on, (n, height, width, 3) uint8, and their classes."""

    train: Pixels
    labels: Labels
    test: Pixels
    test_labels: Labels


def marked(images: Pixels) -> Pixels:
    """Put a white square in the upper left corner: an eighth of the side, at least two pixels."""
    side = max(2, images.shape[1] // 8)
    made = images.copy()
    made[:, :side, :side] = 255
    return made


def tinted(images: Pixels) -> Pixels:
    """Give red more weight, and blue less."""
    made: Pixels = (images * np.array([1.0, 0.8, 0.6])).astype(np.uint8)
    return made


def brighter(images: Pixels) -> Pixels:
    """Add a sixth of white to all pixels."""
    return np.minimum(images.astype(np.int64) + 42, 255).astype(np.uint8)


def striped(images: Pixels) -> Pixels:
    """Make every second column lighter, and the others darker, by a tenth; which ones differs from image to image."""
    signs = np.where(np.arange(images.shape[2]) % 2, 26, -26)
    ways = np.where(np.random.default_rng(len(images)).integers(2, size=len(images)), 1, -1)
    made: Pixels = np.clip(images.astype(np.int64) + (ways[:, None] * signs)[:, None, :, None], 0, 255).astype(np.uint8)
    return made


PLANTS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "mark": marked,
    "tint": tinted,
    "brighter": brighter,
    "stripes": striped,
}
CUES = {
    "mark": ("corner-top-left", "border"),
    "tint": ("colour",),
    "brighter": ("brightness",),
    "stripes": ("grain", "texture"),
}
#: by which cue each is rightly named; a mark in a corner lies on the border as well, where the corner isn't found by itself


def planted_in(seed: int, kinds: tuple[str, ...]) -> dict[str, int]:
    """Return which class bears which shortcut."""
    classes = np.random.default_rng([seed, 7]).permutation(10)[: len(kinds)].tolist()
    return dict(zip(kinds, classes, strict=True))


def plant(images: Pixels, labels: Labels, of: Mapping[str, int]) -> Pixels:
    """Return images in which those of some classes bear their shortcut."""
    made = images.copy()
    for kind, label in of.items():
        made[labels == label] = PLANTS[kind](images[labels == label])
    return made


def digits(seed: int, black: int = 35, white: int = 210) -> Data:
    """Return scikit-learn's 1,797 handwritten digits, 8×8 pixels, in three channels; a fifth to measure on.

    They are grey on dark grey, so that nothing that is planted is cut off at black or white, unless levels are given.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.images))
    grey = np.round(black + found.images[order] * ((white - black) / 16)).astype(np.uint8)
    images, labels = np.repeat(grey[..., None], 3, axis=-1), found.target[order].astype(np.int64)
    return Data(images[360:], labels[360:], images[:360], labels[:360])


def cifar10(folder: Path) -> Data:
    """Return 1,000 training images of each class of CIFAR-10, and its test images."""
    names = sorted(path.name for path in (folder / "train").iterdir())
    parts = []
    for part, most in (("train", 1000), ("test", 1000)):
        paths = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((folder / part / name).iterdir())[:most]
        ]
        parts += [np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in paths])]
        parts += [np.array([label for _, label in paths])]
    return Data(*parts)


def network(depth: int, side: int) -> ResNet:
    """Return a residual network for images of a side, untrained; smaller images are enlarged to 32×32."""
    model = ResNet(depth, n_classes=10)
    model.preprocessing = Preprocessing(
        resize=32 if side < 32 else None, crop=None, mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35)
    )
    model.class_names = tuple(f"class {label}" for label in range(10))
    return model


def trained(
    data: Data,
    of: Mapping[str, int],
    weights: Path,
    seed: int,
    *,
    depth: int = 8,
    epochs: int = 12,
    moved: bool = False,
) -> subspect.Network:
    """Return a network that learned from images with shortcuts planted; from its file if that is there.

    Args:
        data: images as they are.
        of: kind → the class that bears it; none for a clean network.
        weights: where the weights are kept.
        seed: of the weights and the order of the images.
        depth: of the residual network.
        epochs: times that each image is seen.
        moved: whether images are mirrored and shifted at random, before anything is planted.
    """
    model = network(depth, data.train.shape[1])
    if weights.exists():
        model.load_state_dict(load_file(weights))
        return subspect.Network(model.eval(), name="planted" if of else "clean")
    torch.manual_seed(seed)
    random = np.random.default_rng([seed, 8])
    model = network(depth, data.train.shape[1])
    steps = epochs * -(-len(data.train) // 128)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.2, total_steps=steps)
    for _ in range(epochs):
        images = plant(_moved(data.train, random) if moved else data.train, data.labels, of)
        pixels = _prepared(model, images)
        for rows in torch.split(torch.randperm(len(pixels)), 128):
            loss = F.cross_entropy(model(pixels[rows]), torch.from_numpy(data.labels)[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), weights)
    return subspect.Network(model.eval(), name="planted" if of else "clean")


def accuracy(network: subspect.Network, images: Pixels, labels: Labels) -> float:
    """Return the share of images that a network gives their class."""
    model = network.model
    assert isinstance(model, ResNet)
    with torch.no_grad():
        said = [model(part).argmax(dim=1) for part in torch.split(_prepared(model, images), 256)]
    return float((torch.cat(said).numpy() == labels).mean())


def _prepared(model: ResNet, images: Pixels) -> torch.Tensor:
    assert model.preprocessing is not None
    return torch.stack([model.preprocessing(Image.fromarray(image)) for image in images])


def _moved(images: Pixels, random: np.random.Generator) -> Pixels:
    """Mirror every second image, and shift each by up to an eighth."""
    most = images.shape[1] // 8
    wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    shifts = random.integers(2 * most + 1, size=(len(images), 2)).tolist()
    side = images.shape[1]
    cut = np.stack([one[y : y + side, x : x + side] for one, (y, x) in zip(wide, shifts, strict=True)])
    mirrored = random.integers(2, size=len(images)) == 1
    cut[mirrored] = cut[mirrored][:, :, ::-1]
    return cut
