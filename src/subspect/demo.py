"""The embedded example: scikit-learn's handwritten digits and a small residual network trained on the spot.

It writes the digits as an image folder and the weights as safetensors, and then does the main job on them exactly as a
user would on their own: ``subspect run python:subspect.demo:network IMAGES --weights WEIGHTS``.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from subspect.choosing.decompose import check_choice
from subspect.choosing.options import METHODS
from subspect.ground.errors import MissingExtra, SubspectError
from subspect.ground.files import atomic, check_free, read_bytes
from subspect.ground.progress import progress
from subspect.ground.seals import is_sealed, read_tensors, tensor_bytes
from subspect.ground.threads import one_thread
from subspect.images.batches import batches
from subspect.images.labels import match_classes
from subspect.images.opening import open_images
from subspect.images.preprocessing import Preprocessing
from subspect.job import Job, run
from subspect.networks.naming import load_network
from subspect.networks.network import Network
from subspect.networks.weights import load_weights
from subspect.resnet import ResNet

log = logging.getLogger("subspect")

NETWORK = "python:subspect.demo:network"
DIGITS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)  #: the classes: features have numbers
DEPTHS = (8, 14, 20, 26, 32, 44)  #: of the family of networks
_EPOCHS, _BATCH, _RATE = 12, 64, 0.05


def network(depth: int = 8) -> ResNet:
    """Return the demo's network, untrained: ResNet-8 for ten digits, with its preprocessing and class names."""
    model = ResNet(depth, n_classes=10)
    model.preprocessing = Preprocessing(resize=16, crop=None, mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))
    model.class_names = DIGITS
    return model


@one_thread()
def run_demo(folder: str | Path, *, k: int = 5, show_progress: bool = True) -> Job:
    """Write the digits, train the network, and do the main job on them; with one thread, since the network is small.

    Args:
        folder: where images, weights, study and report go; what is there already is used again.
        k: features for each class.
        show_progress: whether to draw progress bars.

    Raises:
        MissingExtra: scikit-learn is not installed.
        SubspectError: the folder cannot be written, or holds other files by the names of the demo's.
    """
    check_choice([k], METHODS[0], 64)  # before the training, not after
    folder = Path(folder)
    train, test, weights = folder / "images" / "train", folder / "images" / "test", folder / "weights.safetensors"
    if not _are_trained(weights):
        write_digits(train, test)
        log.info("training ResNet-8 on 1,437 handwritten digits")
        model = train_network(train, show_progress=show_progress)
        _write(model, weights)
    trained = load_network(NETWORK, weights)
    return run(trained, train, folder / "study", test=test, k=k, show_progress=show_progress)


def digits_family(
    folder: str | Path, depths: Sequence[int] = DEPTHS, seeds: int = 3, *, show_progress: bool = True
) -> dict[str, Network]:
    """Train residual networks of several depths on the digits, each with several seeds; what is there already is loaded.

    Args:
        folder: where images (``images/train``, ``images/test``) and weights go.
        depths: 6n + 2 each.
        seeds: networks of each depth.
        show_progress: whether to draw a progress bar.

    Raises:
        MissingExtra: scikit-learn is not installed.
        SubspectError: a depth that isn't 6n + 2, or the folder cannot be written, or holds other files by these names.
    """
    folder = Path(folder)
    train, family = folder / "images" / "train", dict[str, Network]()
    if not train.exists():
        write_digits(train, folder / "images" / "test")
    for depth in depths:
        for seed in range(seeds):
            name = f"ResNet-{depth}-{seed}"
            weights, build = folder / f"{name}.safetensors", partial(network, depth)
            if not _are_trained(weights):
                log.info("training %s on %s", name, train)
                trained = train_network(train, build=build, seed=seed, show_progress=show_progress)
                _write(trained, weights)
            model = build()
            load_weights(model, weights)
            family[name] = Network(model.eval(), name=name)
    return family


def write_digits(train: Path, test: Path, seed: int = 0) -> None:
    """Write the 1,797 digits, 8×8 pixels, as PNG files in class folders: 1,437 to train on, 360 to test on.

    Raises:
        MissingExtra: scikit-learn is not installed.
        SubspectError: a file is there by the name of one of them, and not this one.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "demo", "the demo") from error
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.images))
    for place, index in enumerate(order):
        name = f"{DIGITS[digits.target[index]]}/{index:04d}.png"
        pixels = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
        _write_digit((test if place < 360 else train) / name, Image.fromarray(pixels))


def _write_digit(path: Path, picture: Image.Image) -> None:
    """Write a PNG file, unless it is there already, with the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    check_free(path, lambda there: read_bytes(there) == buffer.getvalue())
    if not path.exists():
        with atomic(path) as file:
            file.write(buffer.getvalue())


def _are_trained(weights: Path) -> bool:
    """Tell whether weights are there.

    Raises:
        SubspectError: something else is.
    """
    if not os.path.lexists(weights):
        return False
    check_free(weights, lambda _: True)  # a link or a folder is none
    try:
        read_tensors(weights, "a file of weights")
    except SubspectError as error:
        raise SubspectError(f"{error}; delete it to train anew, or choose another folder") from error
    return True


def _write(model: nn.Module, weights: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic(weights, is_sealed) as file:
        file.write(tensor_bytes(tensors, {"made_by": "subspect demo"}))


@one_thread()
def train_network(
    images: Path,
    *,
    build: Callable[[], ResNet] = network,
    seed: int = 0,
    epochs: int = _EPOCHS,
    show_progress: bool = True,
) -> ResNet:
    """Train a network on a folder of digits, with one thread: SGD with a one-cycle schedule, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        source = open_images(images)
        match = match_classes(source, 10, model.class_names)
        batch = next(batches(source, model.preprocessing, match, [range(len(source))]))
        assert batch.pixels is not None
        order = torch.from_numpy(np.argsort(batch.labels, kind="stable"))  # so that names of classes change nothing
        pixels, labels = batch.pixels[order], torch.from_numpy(batch.labels)[order]
        steps = epochs * -(-len(pixels) // _BATCH)
        optimiser = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=_RATE, total_steps=steps)
        with progress(f"training, {epochs} epochs", steps, "steps", show=show_progress) as advance:
            for _ in range(epochs):
                for rows in torch.split(torch.randperm(len(pixels)), _BATCH):
                    loss = F.cross_entropy(model(pixels[rows]), labels[rows])
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    schedule.step()
                    advance(1)
    return model.eval()
