"""How true is the reported stability, and what does a choice that stays cost?

- *True*: what `decompose` reports against brute force, in which as many halves of `train`, drawn by another generator, are
  decomposed from scratch: correlation and mean absolute difference over all features, mean Jaccard; beside it, draws with
  replacement (bootstrap). On ResNet-20, the demo's digits, and a small VGG with an MLP head that is trained here.
- *Time*: `decompose` with its 20 halves against `decompose --draws 0`.
- *Stays*: mean Jaccard between disjoint halves of `train`, accuracy and fidelity on `test`, free and `--stable`, and of the
  paper's frequency.
- *Lite*: figures of EfficientNet-Lite0, chosen on 1,300 photographs; cost is on one other photograph of each of 1,000 classes.
- *Ternary*: readable weights, −1, 0 and +1, with 5 features from a pool of 32 (`--ternary`).
- *Planted*: supports that are known, on 200 samples: core against planted, and what the bound on chance allows.

Needs ``cifar10-jpeg.tar``, ``imagenet-one-per-class.tar``, ``imagenet-val-1300.tar`` and ``weights/`` in the folder given by
--data or SUBSPECT_DATA. About two hours on two cores; with --work it goes on where it stopped.

Example: python benchmarks/stability.py --data DIR --work stability --json stability.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import _efficientnets
import _shortcuts
import subspect
from _archives import unpacked
from _rows import Row, publish, row
from photographs import OwnCrop
from subspect.choosing.methods import choose
from subspect.choosing.seen import Seen, look
from subspect.choosing.sizes import Checked, check_budget
from subspect.demo import train_network, write_digits
from subspect.heads.supports import Supports
from subspect.heads.trusted import falsely_chosen
from subspect.studies.rows import Block

DRAWS = 100
PARTS = ("true", "time", "stays", "lite", "ternary", "planted")
Indices = npt.NDArray[np.int64]
Sets = list[set[int]]


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--work", type=Path, help="keep networks and studies in this folder, to go on from")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--draws", type=int, default=DRAWS, help="halves in part true")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(arguments.data), arguments.work or Path(folder)
        work.mkdir(exist_ok=True)
        rows: list[Row] = []
        for part in [arguments.only] if arguments.only else PARTS:
            if part == "true":
                rows += true(data, work, arguments.draws)
            elif part == "time":
                rows += timed(data, work)
            elif part == "stays":
                rows += stays(data, work)
            elif part == "lite":
                rows += lite(data, work)
            elif part == "ternary":
                rows += ternary(data, work)
            else:
                rows += planted()
    return 0 if publish("Stability", rows, arguments.json) else 1


# Networks -------------------------------------------------------------------------------------------------------------


class Vgg(nn.Module):
    """Four convolutions, and two linear layers on all places: its features are those of the hidden one."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.hidden, self.head = nn.Linear(64 * 8 * 8, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        for place, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            x = F.max_pool2d(x, 2) if place % 2 else x
        made: torch.Tensor = self.head(F.relu(self.hidden(x.flatten(1))))
        return made


def resnet(depth: int, data: Path, work: Path) -> subspect.Study:
    """Observe one of the residual networks on all of CIFAR-10."""
    images = unpacked(data, "cifar10-jpeg", work)
    network = subspect.load_network(
        f"python:subspect.resnet:cifar10_resnet{depth}", data / f"weights/resnet{depth}-cifar10-jpeg.safetensors"
    )
    for name in ("train", "test"):
        study = subspect.observe(network, images / name, work / f"resnet{depth}", name, show_progress=False)
    return study


def vgg(data: Path, work: Path) -> subspect.Study:
    """Train the small VGG on 10,000 images of CIFAR-10, and observe it on all."""
    images = unpacked(data, "cifar10-jpeg", work)
    torch.manual_seed(0)
    model, weights = Vgg(), work / "vgg.safetensors"
    if weights.exists():
        model.load_state_dict(load_file(weights))
    else:
        found = _shortcuts.cifar10(images)
        x = torch.from_numpy(found.train).permute(0, 3, 1, 2) / 127.5 - 1
        y, optimiser = torch.from_numpy(found.labels), torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(6):
            for rows in torch.split(torch.randperm(len(x)), 64):
                flip = torch.rand(len(rows)) < 0.5
                pixels = torch.where(flip[:, None, None, None], x[rows].flip(3), x[rows])
                optimiser.zero_grad()
                F.cross_entropy(model(pixels), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        save_file(model.state_dict(), weights)
    ready = {"resize": None, "crop": None, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    network = subspect.Network(model.eval(), preprocessing=ready, name="vgg")
    for name in ("train", "test"):
        study = subspect.observe(network, images / name, work / "vgg", name, show_progress=False)
    return study


def demo(data: Path, work: Path) -> subspect.Study:
    """Train the demo's network on the digits, and observe it."""
    torch.manual_seed(0)
    if not (work / "digits").exists():
        write_digits(work / "digits/train", work / "digits/test", 0)
    weights = work / "digits.safetensors"
    model = train_network(work / "digits/train", seed=0)
    if weights.exists():
        model.load_state_dict(load_file(weights))
    else:
        save_file(model.state_dict(), weights)
    network = subspect.Network(model, name="digits")
    for name in ("train", "test"):
        study = subspect.observe(network, work / "digits" / name, work / "demo", name, show_progress=False)
    return study


# Parts ----------------------------------------------------------------------------------------------------------------


def true(data: Path, work: Path, draws: int) -> list[Row]:
    """Compare what is reported with brute force."""
    rows: list[Row] = []
    for name, study in (("ResNet-20", resnet(20, data, work)), ("demo", demo(data, work)), ("VGG", vgg(data, work))):
        for k in (5, 10, "auto"):
            made = subspect.decompose(study, k, draws=draws, show_progress=False)
            assert made.trust is not None
            rows += row(f"{name}, k = {k}: mean Jaccard as reported", float(made.trust.jaccard.mean()), "")
            for how in ("halves",) if k == "auto" else ("halves", "bootstraps"):
                again = [_supports(seen, k) for seen in _redrawn(_seen(study, k), draws, how == "bootstraps")]
                rows += _agreement(made, again, f"{name}, k = {k}", f"{draws} {how}", barred=how == "halves")
                print(rows[-3:], file=sys.stderr, flush=True)
    return rows


def _agreement(made: subspect.Decomposition, again: list[Sets], where: str, what: str, *, barred: bool) -> list[Row]:
    """Compare reported stability with how often features come back where the choice was made again."""
    assert made.trust is not None
    often = [
        np.mean([feature in one[label] for one in again])
        for label, support in enumerate(made.supports)
        for feature in support.tolist()
    ]
    reported = made.trust.stability.numpy()
    told = f"{where}: reported stability against {what} decomposed from scratch"
    rows = row(f"{told}, correlation", float(np.corrcoef(reported, often)[0, 1]), "", *[">= 0.95"] * barred)
    difference = 100 * float(np.abs(reported - often).mean())
    rows += row(f"{told}, mean absolute difference", difference, "points", *["<= 5"] * barred)
    overlap = np.mean([_jaccard(one, other) for one, other in combinations(again, 2)])
    return rows + row(f"{where}: mean Jaccard of two of {what}", float(overlap), "")


def timed(data: Path, work: Path) -> list[Row]:
    """Take the time of `decompose` with and without halves."""
    rows: list[Row] = []
    study = resnet(20, data, work)
    for k in (5, 10, "auto"):
        ratios = []
        for _ in range(3):
            started = time.perf_counter()
            subspect.decompose(study, k, draws=0, show_progress=False)
            between = time.perf_counter()
            subspect.decompose(study, k, show_progress=False)
            ratios.append((time.perf_counter() - between) / (between - started))
        rows += row(f"ResNet-20, k = {k}: decompose, times decompose --draws 0", float(np.median(ratios)), "×", "<= 10")
    return rows


def stays(data: Path, work: Path, parts: int = 10) -> list[Row]:
    """Measure what a stable choice gains and costs, and how stable the paper's features are."""
    rows: list[Row] = []
    for name, study in (
        ("ResNet-20", resnet(20, data, work)),
        ("ResNet-56", resnet(56, data, work)),
        ("VGG", vgg(data, work)),
    ):
        for k in (5, 10):
            first = name == "ResNet-20" and k == 5
            free, stable = (_stays(study, k, parts, stable=stable) for stable in (False, True))
            half_way = f">= {(1 + free[0]) / 2:.3f}"
            bars: dict[str, str] = {"Jaccard": half_way, "fidelity": ">= 94.3", "accuracy": ">= 86.7"} if first else {}
            for how, figures in (("free", free), ("stable", stable)):
                for (what, unit), value in zip(
                    (("Jaccard", ""), ("fidelity", "%"), ("accuracy", "%")), figures, strict=True
                ):
                    bar = [bars[what]] if bars and how == "stable" else []
                    told = f"{name}, k = {k}, {how}: {'of disjoint halves, ' if what == 'Jaccard' else ''}{what}"
                    rows += row(told, value, unit, *bar)
            paper = np.mean([_jaccard(*pair) for pair in _pairs(study, k, parts, "frequency")])
            rows += row(f"{name}, k = {k}, the paper's frequency: of disjoint halves, Jaccard", float(paper), "")
            if name == "ResNet-20":
                middle = "" if k == 5 else f"_{k}_{k}"
                published = Supports.read(data / f"paper/resnet20_cifar-10{middle}_indices.json", 10, 64)
                given = [set(row.tolist()) for row in published]
                sides = [side for pair in _pairs(study, k, parts, "frequency") for side in pair]
                overlap = float(np.mean([_jaccard(given, side) for side in sides]))
                rows += row(f"{name}, k = {k}: the published features and frequency on halves, Jaccard", overlap, "")
    return rows


def lite(data: Path, work: Path) -> list[Row]:
    """The same figures of EfficientNet-Lite0."""
    network = subspect.Network(_efficientnets.lite0()[0], preprocessing=OwnCrop())
    for name, archive in (("train", "imagenet-val-1300"), ("test", "imagenet-one-per-class")):
        study = subspect.observe(network, unpacked(data, archive, work), work / "lite0", name, show_progress=False)
    rows: list[Row] = []
    for how in ("free", "stable", "ternary"):
        made = subspect.decompose(
            study, 10, stable=how == "stable", ternary=how == "ternary", draws=4, show_progress=False
        )
        cost = subspect.evaluate(study, made).overall
        assert made.trust is not None
        rows += row(f"EfficientNet-Lite0, k = 10, {how}: fidelity", 100 * cost.fidelity.value, "%")
        rows += row(f"EfficientNet-Lite0, k = 10, {how}: accuracy", 100 * cost.accuracy.value, "%")
        known = made.trust.draws.numpy() > 2
        overlap = float(made.trust.jaccard.numpy()[known].mean())
        rows += row(f"EfficientNet-Lite0, k = 10, {how}: Jaccard of two halves, {known.sum()} classes", overlap, "")
    return rows


def ternary(data: Path, work: Path) -> list[Row]:
    """Measure what readable weights keep."""
    rows: list[Row] = []
    for depth, pool in ((20, 32), (20, None), (56, 32), (56, None)):
        study = resnet(depth, data, work)
        started = time.perf_counter()
        made = subspect.decompose(study, 5, pool=pool, ternary=True, draws=0, show_progress=False)
        seconds = time.perf_counter() - started
        cost = subspect.evaluate(study, made, on="test").overall
        kept = 100 * cost.accuracy.value / cost.dense_accuracy.value
        what, barred = f"ResNet-{depth}, k = 5{f' from a pool of {pool}' if pool else ''}, ternary", pool is not None
        rows += row(f"{what}: accuracy", 100 * cost.accuracy.value, "%", *[">= 86.85"] * (barred and depth == 20))
        rows += row(f"{what}: of the dense accuracy", kept, "%", *[">= 98.5"] * barred)
        rows += row(f"{what}: fidelity", 100 * cost.fidelity.value, "%", *[">= 94.4"] * barred)
        rows += row(f"{what}: made in", seconds, "s")
    return rows


def planted(samples: int = 200) -> list[Row]:
    """Choose from 20 features, of which each of four classes is made of two, on 200 samples of 400 images."""
    hits = named = 0
    false, share, size, d = 0, 0.9, 3, 20
    weight = 0.02 * np.random.default_rng(9).standard_normal((4, d))
    for label in range(4):
        weight[label, [2 * label, 2 * label + 1]] = 2, -2
    for seed in range(samples):
        x = np.random.default_rng([9, seed]).standard_normal((400, d)).astype(np.float32)
        said = np.asarray((x @ weight.T).argmax(axis=1))
        with tempfile.TemporaryDirectory() as folder:
            features = subspect.from_features(
                x, weight, np.zeros(4), Path(folder) / "study", labels=said, show_progress=False
            )
            two = subspect.decompose(features, 2, draws=0, hold_out=0, show_progress=False)
            three = subspect.decompose(features, size, hold_out=0, show_progress=False)
        assert two.trust is not None and three.trust is not None
        for label in range(4):
            own = {2 * label, 2 * label + 1}
            core = {one.feature for one in two.rows(label) if one.core}
            hits, named = hits + len(core & own), named + len(core)
            often = {one.feature for one in three.rows(label) if (one.stability or 0) >= share}
            false += len(often - own)
    rows = row("planted: core features that were planted", hits / named, "", ">= 0.98")
    rows += row("planted: planted features in the core", hits / (8 * samples), "", ">= 0.98")
    bound = falsely_chosen(size, d, share)
    what = f"planted, k = 3: features that weren't, in {100 * share:.0f} % of the halves or more, a class"
    return rows + row(what, false / (4 * samples), "features", f"<= {bound:.3f}")


# Choosing again -------------------------------------------------------------------------------------------------------


def _seen(study: subspect.Study, k: int | str) -> Seen:
    """Return what was gathered of `train`, in one block."""
    size = check_budget(k, study.identity.n_features)
    seen = look(study, "train", [size], "dense", 0.2)
    blocks = list(seen.rows)
    joined = [np.concatenate([getattr(one, name) for one in blocks]) for name in ("features", "labels", "predictions")]
    return replace(seen, rows=[Block(*joined)], checked=list(seen.checked))


def _part(seen: Seen, rows: Indices) -> Seen:
    [whole] = seen.rows
    return replace(seen, rows=[Block(whole.features[rows], whole.labels[rows], whole.predictions[rows])])


def _redrawn(seen: Seen, draws: int, replaced: bool) -> Iterator[Seen]:
    n = sum(len(block.labels) for block in seen.rows)
    for draw in range(draws):
        random = np.random.default_rng([17, draw])
        rows = random.integers(n, size=n) if replaced else random.permutation(n)[: n // 2]
        yield _part(seen, np.sort(rows))


def _supports(seen: Seen, k: int | str, method: str = "pursuit", *, stable: bool = False) -> Sets:
    size: Checked = check_budget(k, seen.dense[0].shape[1])
    if method == "frequency":
        top = type(seen.top)(seen.top.n_classes, seen.top.n_features, [k])  # type: ignore[list-item]
        for block in seen.rows:
            top.update(block.features, block.labels)
        seen = replace(seen, top=top)
    [result] = choose(seen, [size], method, method == "pursuit", None, stable=stable, judge=False)
    return [set(support.tolist()) for support in result.choice.supports]


def _pairs(
    study: subspect.Study, k: int, parts: int, method: str = "pursuit", *, stable: bool = False
) -> Iterator[tuple[Sets, Sets]]:
    """Choose on both sides of some cuts in two."""
    seen = _seen(study, k)
    n = sum(len(block.labels) for block in seen.rows)
    for cut in range(parts):
        order = np.random.default_rng([18, cut]).permutation(n)
        one, other = (
            _supports(_part(seen, np.sort(side)), k, method, stable=stable) for side in np.array_split(order, 2)
        )
        yield one, other


def _stays(study: subspect.Study, k: int, parts: int, *, stable: bool) -> tuple[float, float, float]:
    """Return the mean Jaccard of disjoint halves, fidelity and accuracy in percent."""
    overlap = np.mean([_jaccard(*pair) for pair in _pairs(study, k, parts, stable=stable)])
    made = subspect.decompose(study, k, stable=stable, draws=0, show_progress=False)
    cost = subspect.evaluate(study, made, on="test").overall
    return float(overlap), 100 * cost.fidelity.value, 100 * cost.accuracy.value


def _jaccard(one: Sequence[set[int]], other: Sequence[set[int]]) -> float:
    return float(np.mean([len(a & b) / max(1, len(a | b)) for a, b in zip(one, other, strict=True)]))


if __name__ == "__main__":
    sys.exit(main())
