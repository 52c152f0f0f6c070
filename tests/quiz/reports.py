"""The three reports that the quiz is about: the demo, a planted shortcut, and CIFAR-10 with real weights."""

from __future__ import annotations

import importlib.util
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from safetensors.torch import save_file

import subspect
from key import Facts
from subspect.demo import DIGITS, NETWORK, run_demo, train_network, write_digits
from subspect.networks.weights import load_weights

ROOT = Path(__file__).parents[2]
NAMES = ("demo", "shortcut", "cifar10")
CIFAR = "python:subspect.resnet:cifar10_resnet20"
EACH = {"train": 100, "test": 50}  #: images of each class of CIFAR-10, of 5,000 and 1,000
EPOCHS = 6  #: through the digits with the mark, of 12 in the example: it is learned soon
SWAPPED = 200  #: images whose cues are swapped, of 500 unless told


class Report(NamedTuple):
    """A report, and what is true of its network."""

    path: Path
    facts: Facts


def make(name: str, folder: Path, data: Path | None = None) -> Report:
    """Make one of the three reports in a folder of its own, unless it is there; CIFAR-10 takes the folder of real data."""
    report = folder / "study" / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    if name == "demo":
        if not report.exists():
            run_demo(folder, show_progress=False)
        network, k = subspect.load_network(NETWORK, folder / "weights.safetensors"), 5
    elif name == "shortcut":
        network, k = _shortcut(folder), 10
    else:
        assert data is not None, "the real weights of CIFAR-10 are needed"
        network, k = _cifar10(folder, data), 5
    if not report.exists():
        _write(network, folder, k)
    study = subspect.Study.open(folder / "study")
    return Report(report, Facts(study, subspect.load_decomposition(study), network))


def _shortcut(folder: Path) -> subspect.Network:
    """Plant the mark of docs/shortcut.md, without the networks and image sets that are compared with there."""
    example, images, weights = _example(), folder / "images", folder / "weights.safetensors"
    if not weights.exists():
        write_digits(images / "train", images / "test")
        for path in (images / "train" / DIGITS[example.MARKED]).glob("*.png"):
            example.mark(path)
        model = train_network(images / "train", build=example.network, epochs=EPOCHS, show_progress=False)
        save_file(model.state_dict(), weights)
    model = example.network()
    load_weights(model, weights)
    return subspect.Network(model.eval(), name="shortcut")


def _cifar10(folder: Path, data: Path) -> subspect.Network:
    """Take a few images of each class, and the network of README.md."""
    taken, images = Counter[Path](), folder / "images"
    if not images.exists():
        with tarfile.open(data / "cifar10-jpeg.tar") as archive:
            for member in archive:
                place = Path(member.name).parent
                if member.isfile() and taken[place] < EACH.get(place.parent.name, 0):
                    archive.extract(member, folder, filter="data")
                    taken[place] += 1
        (folder / "cifar10-jpeg").rename(images)
    return subspect.load_network(CIFAR, data / "weights/resnet20-cifar10-jpeg.safetensors")


def _write(network: subspect.Network, folder: Path, k: int) -> None:
    """Observe, decompose, swap cues, and write the report."""
    for name in ("train", "test"):
        study = subspect.observe(network, folder / "images" / name, folder / "study", name, show_progress=False)
    made = subspect.decompose(study, k, show_progress=False)
    subspect.cues(study, made, network=network, sample=SWAPPED, show_progress=False)
    subspect.write_report(study, made, network=network, show_progress=False)


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shortcut", ROOT / "examples" / "shortcut.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shortcut"] = module
    spec.loader.exec_module(module)
    return module
