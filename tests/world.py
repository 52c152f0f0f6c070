"""A small world in which the examples of README.md, docs/, docstrings and help can run: a network, weights, images, studies.

Names are those that the examples use. The network is untrained, but cat's features 12 and 40 are planted, since examples drop
them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

import subspect
from subspect import demo, resnet
from subspect.cli import app

ROOT = Path(__file__).parent.parent
CLASSES = ("bird", "cat", "dog", "horse")
PLANTED = (12, 40)  # features of class 1, cat
#: pages with commands: those that run in a world whose study is still to be made, and those that need one
FRESH = (
    "README.md",
    "docs/index.md",
    "docs/start.md",
    "docs/agents.md",
    "docs/howto/network.md",
    "docs/howto/labels.md",
    "docs/howto/classes.md",
    *(f"docs/{name}.md" for name in ("compare", "cues", "scale", "shortcut", "stability")),
)
FULL = tuple(f"docs/howto/{name}.md" for name in ("deploy", "edit", "features", "gpu", "images", "k", "research"))
SETS = {"train": 33, "test": 15, "unseen": 14, "unmarked": 13}  # images of each class; retrain wants a batch of 128
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 256, 8, stride=32)
        self.fc = nn.Linear(256, 4)
        self.preprocessing = dict(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


def make():
    return Net()
"""
LITE = """
import torch
from torch import nn


def lite0():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 64, 8, stride=8), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU())
    made = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    made.preprocessing = dict(resize=64, crop=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    made.class_names = ["bird", "cat", "dog", "horse"]
    return made
"""
NETS = """
from torch import nn


def small():
    return net(nn.Conv2d(3, 32, 8, stride=8))


def large():
    return net(nn.Conv2d(3, 32, 8, stride=8), nn.ReLU(), nn.Conv2d(32, 32, 1))


def net(*layers):
    made = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    made.preprocessing = dict(resize=64, crop=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return made
"""


def picture(generator: np.random.Generator, side: int, label: int) -> Image.Image:
    """Return an image of blobs, with more of one colour."""
    pixels = generator.integers(0, 256, (side, side, 3))
    pixels[..., label % 3] = pixels[..., label % 3] // 2 + 64 * (label // 3 % 3)
    return Image.fromarray(pixels.astype(np.uint8))


def write_images(folder: Path, classes: tuple[str, ...], each: int, seed: int, side: int = 14) -> None:
    """Write class folders of made-up images."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            picture(generator, side, label).save(folder / name / f"{index:03d}.png")


def network_of(folder: Path, weights: str = "model.safetensors") -> subspect.Network:
    """Return the network of a world."""
    with inside(folder):
        return subspect.load_network("python:model.py:make", weights)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, which is also where modules are looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def build(folder: Path) -> Path:
    """Write the world: ``study`` has the images "unmarked" alone, ``another`` (another network's) those of train and test."""
    (folder / "model.py").write_text(MODEL)
    (folder / "nets.py").write_text(NETS)
    for seed, (name, each) in enumerate(SETS.items()):
        write_images(folder / "images" / name, CLASSES, each, seed)
    picture(np.random.default_rng(9), 14, 1).save(folder / "cat.jpg")
    (folder / "indices.json").write_text(json.dumps({str(label): [label, 12, 40, 60 + label] for label in range(4)}))
    (folder / "names.json").write_text(json.dumps({"12": "whiskers", "40": "paws"}))
    write_features(folder)
    for seed, name in enumerate(("model", "another")):
        save_file(weights(seed), folder / f"{name}.safetensors")
    with inside(folder):
        for name in ("small", "large"):
            save_file(subspect.load_network(f"python:nets.py:{name}").model.state_dict(), f"{name}.safetensors")
    observed(folder, "study", "model.safetensors", "unmarked")
    for name in ("train", "test"):
        observed(folder, "another", "another.safetensors", name)
    subspect.decompose(folder / "another", 5, show_progress=False)
    return folder


def build_full(folder: Path) -> Path:
    """Write the world with all image sets in ``study``, and with decompositions."""
    build(folder)
    for name in ("train", "test", "unseen"):
        observed(folder, "study", "model.safetensors", name)
    subspect.decompose(folder / "study", 5, method="frequency", show_progress=False)
    subspect.decompose(folder / "study", 10, show_progress=False)
    return folder


def write_features(folder: Path) -> None:
    """Write features of no network, their head, labels, and names of the classes."""
    generator = np.random.default_rng(5)
    topics, features = generator.normal(size=(3, 30)), generator.normal(size=(120, 30))
    labels = (features @ topics.T).argmax(1)
    np.save(folder / "features.npy", features)
    np.savez(folder / "head.npz", weight=topics, bias=np.zeros(3))
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    (folder / "topics.txt").write_text("cooking\nsailing\nmusic\n")


def observed(folder: Path, study: str, weights: str, name: str) -> None:
    """Observe one of the world's image sets."""
    with inside(folder):
        subspect.observe(network_of(folder, weights), f"images/{name}", study, name, show_progress=False)


def weights(seed: int) -> dict[str, torch.Tensor]:
    """Return weights of the world's network, drawn, but for what is planted: large features that cat's logit hangs on."""
    generator, places = torch.Generator().manual_seed(seed), list(PLANTED)
    conv, fc = torch.randn(256, 3, 8, 8, generator=generator) / 14, torch.randn(4, 256, generator=generator) / 16
    bias = torch.zeros(256)
    conv[places] *= 3
    bias[places] = 9
    fc[:, places] = 0
    fc[1, places] = torch.tensor([4.0, -4.0])
    return {"conv.weight": conv, "conv.bias": bias, "fc.weight": fc, "fc.bias": torch.zeros(4)}


def build_cifar(folder: Path) -> Path:
    """Write a folder ``DIR`` with images and weights called as those of docs/compare.md."""
    names = resnet.cifar10_resnet20().class_names
    assert names is not None
    for seed, (name, each) in enumerate((("train", 6), ("test", 5))):
        write_images(folder / "DIR" / name, names, each, seed, side=32)
    (folder / "DIR" / "weights").mkdir()
    for depth in (20, 56):
        torch.manual_seed(depth)
        model: nn.Module = getattr(resnet, f"cifar10_resnet{depth}")()
        save_file(model.state_dict(), folder / "DIR" / "weights" / f"resnet{depth}-cifar10-jpeg.safetensors")
    return folder


def build_imagenette(folder: Path) -> Path:
    """Write images, a network and a list of classes called as those of docs/howto/classes.md, of two of four classes."""
    for seed, (name, each) in enumerate((("train", 90), ("val", 10))):
        write_images(folder / "imagenette" / name, CLASSES[:2], each, seed)
    (folder / "ten.txt").write_text("bird\ncat\n")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "_efficientnets.py").write_text(LITE)
    return folder


def build_shortcut(folder: Path, dropped: list[int]) -> Path:
    """Write ``shortcut-demo`` as examples/shortcut.py does, of an untrained network; class 3 has the features to drop."""
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "shortcut.py", folder / "examples")
    made = folder / "shortcut-demo"
    with inside(folder):
        torch.manual_seed(0)
        model = subspect.load_network("python:examples/shortcut.py:network").model
        made.mkdir()
        save_file(model.state_dict(), made / "weights.safetensors")
        network = subspect.load_network("python:examples/shortcut.py:network", made / "weights.safetensors")
        for seed, (name, each) in enumerate((("train", 15), ("unmarked", 5), ("test", 4), ("marked", 4))):
            write_images(made / "images" / name, demo.DIGITS, each, seed, side=8)
            subspect.observe(network, made / "images" / name, made / "study", name, show_progress=False)
        picture(np.random.default_rng(9), 8, 3).save(made / "marked.png")
        (folder / "indices.json").write_text(json.dumps({str(label): [*dropped, 7, 9] for label in range(10)}))
        subspect.decompose_by_file(made / "study", folder / "indices.json", name="pursuit-k10", refit=True)
    return folder


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of a page that are in one of some languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text for language, text in found if language in languages]


def lines(page: Path) -> Iterator[str]:
    """Go through the commands of a page's shell blocks, with loops rolled out; comments are left out."""
    for block in blocks(page, "sh", "bash", "console"):
        text = re.sub(r"\\\n\s*", "", block)
        for loop, name, values, body in re.findall(r"(^for (\w+) in ([^;\n]*); do\n(.*?)^done$)", text, re.M | re.S):
            text = text.replace(loop, "".join(body.replace(f"${name}", value) for value in values.split()))
        yield from filter(None, (re.sub(r"(^|\s+)#( .*)?$", "", line).strip() for line in text.splitlines()))


def run(line: str) -> Result:
    """Run a line of a shell that starts with ``subspect``; it has to end well."""
    word, *arguments = shlex.split(line, comments=True)
    assert word == "subspect", line
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{line}\n{result.output}{result.exception!r}"
    return result


@contextmanager
def few_digits() -> Iterator[None]:
    """Make what trains on handwritten digits quick: 240 of them to learn from, one pass, two depths, one seed."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    fewer = SimpleNamespace(images=digits.images[:600], target=digits.target[:600])  # 360 of them to test on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", lambda: fewer)
        patch.setattr(demo, "train_network", partial(demo.train_network, epochs=1))
        patch.setattr(demo, "digits_family", partial(demo.digits_family, depths=(8, 14), seeds=1))
        yield
