"""Pursuit against other sparse solvers: the same features, the same mean number of features a class.

Four parts. `cifar`: the published residual networks, supports and weights from `train`, figures on `test`. `matched`: ResNet-20
alone, glm_saga and pursuit with as many features in all, image by image; two minutes. `planted`: made-up features whose true
supports are known. `large`: 1,000 classes × 2,048 features. The others are glm_saga, the L1
multinomial of scikit-learn, skglm's L1 logistic regression of one class against the rest, the largest |W|, and the
largest W × class mean, each with its own weights and with our refit. A solver works in a process of its own, along a path
from a strong penalty to a weak one, until classes have k features on average; after five minutes it is stopped.

Needs the extra "benchmarks" (pip install -c constraints.txt '.[benchmarks]'), and for `cifar` a folder with
``cifar10-jpeg.tar`` and ``weights/``, given by --data or the environment variable SUBSPECT_DATA. Some 20 minutes on two cores;
with --full, which takes planted data at full size and three seeds, about 90.

Example: python benchmarks/solvers.py --data DIR --full --studies FOLDER --json solvers.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import subspect
from _archives import unpacked
from _planted import Features, clustered, dense_head, discriminant_head, plant
from _rows import Row, publish, row
from subspect.choosing.boundary import Affine, Boundary, Choice
from subspect.choosing.influence import contribution
from subspect.choosing.options import Target
from subspect.choosing.pursuit import Array, Indices, pursue
from subspect.choosing.refit import refit, reselect
from subspect.statistics.moments import ClassSums
from subspect.studies.rows import Block, Rows, workers

PARTS = ("cifar", "matched", "planted", "large")
CAP = 300.0  # seconds that a solver may take
PATH = np.logspace(0, -3, 100)  # glm_saga's penalties, as shares of the one that leaves no feature
COARSE = PATH[::3]  # the other solvers'
GOOD = 0.95  # precision and recall at which a solver has found the planted supports
SMALL, FULL = (20_000, 512, 20, 10), (100_000, 2048, 100, 20)  # planted images, features, classes, active features

Figures = dict[str, tuple[float, str]]  # what → value and unit
Wide = npt.NDArray[np.float32]
Solver = Callable[[Wide, Indices, float], Iterator[Affine]]
Learn = Callable[[Boundary, Choice], Affine]

BARS = {
    "cifar resnet20 k=5, pursuit: fidelity": ">= 94.2",
    "cifar resnet20 k=5, pursuit: accuracy": ">= 86.5",
    "cifar resnet20 k=10, pursuit: fidelity": ">= 96.7",
    "cifar resnet20 k=10, pursuit: accuracy": ">= 87.6",
    "cifar resnet32 k=5, pursuit: fidelity": ">= 94.9",
    "cifar resnet56 k=5, pursuit: fidelity": ">= 95.2",
    "matched pursuit -k mean:5: accuracy": ">= 87.3",
    "matched pursuit -k mean:5: fidelity": ">= 95.1",
    "cifar resnet20, pursuit of k=1…32: time": "<= 1",
    "cifar resnet20, pursuit of k=1…32 and refit of k=5: time / glm_saga's": "<= 0.05",
    "planted pursuit: precision": ">= 95",
    "planted pursuit: recall": ">= 95",
    "planted, small: pursuit: precision": ">= 95",
    "planted, small: pursuit: recall": ">= 95",
    "planted pursuit: accuracy beyond the best of the others": ">= 0",
    "planted pursuit: time / the fastest that finds the supports": "<= 0.1",
    "planted pursuit: time / the cap, as no solver finds the supports": "<= 0.3333",
    "large 1000 paths to k=64, without swaps: time": "<= 10",
    "large 1000 paths to k=64, with swaps: time": "<= 60",
    "large 1000 paths to k=64, without swaps: memory": "<= 2",
    "large 1000 paths to k=64, with swaps: memory": "<= 2",
}


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--full", action="store_true", help="planted data at full size")
    parser.add_argument("--seeds", type=int, help="draws of planted data (default: 3 with --full, else 1)")
    parser.add_argument("--only", choices=PARTS, help="only this part")
    parser.add_argument("--studies", type=Path, help="keep the studies of CIFAR-10 in this folder, and use those there")
    given = parser.parse_args()
    parts = [given.only] if given.only else list(PARTS)
    if {"cifar", "matched"} & set(parts) and given.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    missing = [name for name in ("glm_saga", "tqdm", "skglm", "sklearn") if find_spec(name) is None]
    if missing and parts != ["large"]:
        parser.error(f"not installed: {', '.join(missing)}; pip install -c constraints.txt '.[benchmarks]'")
    rows: list[Row] = []
    if "cifar" in parts:
        with tempfile.TemporaryDirectory() as folder:
            rows += table("cifar", [cifar(Path(given.data), given.studies or Path(folder))])
    if "matched" in parts:
        with tempfile.TemporaryDirectory() as folder:
            rows += table("matched", [matched(Path(given.data), given.studies or Path(folder))])
    if "planted" in parts:
        seeds = range(given.seeds or (3 if given.full else 1))
        size = FULL if given.full else SMALL
        rows += table("planted" if given.full else "planted, small:", [planted(*size, seed) for seed in seeds])
    if "large" in parts:
        rows += table("large", [large()])
    met = publish("Sparse solvers on the same features", rows, given.json)
    options = ["--data", shlex.quote(str(given.data))] * (given.data is not None) + ["--full"] * given.full
    options += ["--seeds", str(given.seeds)] * (given.seeds is not None)
    for part in parts:
        print(f"rows “{part} …”: python benchmarks/solvers.py {' '.join([*options, '--only', part])}")
    return 0 if met else 1


# --- the three parts


def cifar(data: Path, folder: Path) -> Figures:
    """Compare on the features of the published networks."""
    figures: Figures = {}
    for name, study in studies(data, folder).items():
        weight, bias = (tensor.double().numpy() for tensor in study.head())
        own = Data(stored(study, "train"), stored(study, "test"), (weight, bias))
        everything = [np.arange(weight.shape[1])] * len(weight)
        relearned = refit(own.blocks, own.dense, everything, own.dense, "labels").affine
        figures |= own.figures(f"{name}, dense", own.dense) | own.figures(f"{name}, dense, re-learned", relearned)
        for k in (5, 10):
            solvers = SOLVERS | SLICED if (name, k) == ("resnet20", 5) else {}
            found, runs = compare(own, "dense", solvers, k, least=4, learn=reselected)
            figures |= {f"{name} k={k}, {what}": figure for what, figure in found.items()}
            if runs:
                figures |= timed(name, study, own.dense, until(runs["glm_saga"], 4))
    return figures


def timed(name: str, study: subspect.Study, dense: Affine, glm_saga: float) -> Figures:
    """Time all classes' paths from the stored features on, with a refit, and with choosing anew; medians of three."""
    paths, both, anew = [], [], []
    for _ in range(3):
        start = time.perf_counter()
        boundary = Boundary(Rows(study.image_set("train")), *dense)
        choices = boundary.choose(np.arange(1, 33)[:, None].repeat(len(dense[0]), axis=1))
        paths.append(time.perf_counter() - start)
        refitted(boundary, choices[5 - 1])
        both.append(time.perf_counter() - start)
        reselected(boundary, choices[5 - 1])
        anew.append(paths[-1] + time.perf_counter() - start - both[-1])
    figures = Figures()
    for what, times in {"": paths, " and refit of k=5": both, " and refit of k=5, chosen anew": anew}.items():
        figures[f"{name}, pursuit of k=1…32{what}: time"] = statistics.median(times), "s"
        figures[f"{name}, pursuit of k=1…32{what}: time / glm_saga's"] = statistics.median(times) / glm_saga, "×"
    return figures


def matched(data: Path, folder: Path, k: int = 5) -> Figures:
    """Compare pursuit with glm_saga at the same number of features in all, image by image, on ResNet-20.

    glm_saga's path may pass k by: the head nearest to k is taken, and the first with k or more. Each comes with its own
    weights, which its penalty shrinks, and with weights re-learned on its supports, towards the network and the labels.
    """
    study = studies(data, folder, (20,))["resnet20"]
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    own = Data(stored(study, "train"), stored(study, "test"), (weight, bias))
    steps = [step.head for step in solve("glm_saga", glm_saga, own.train, k)]
    theirs: dict[str, Affine] = {}
    for head in (min(steps, key=lambda one: abs(mean_size(one) - k)), steps[-1]):
        name, supports = f"glm_saga, {mean_size(head):.3g} features", [np.flatnonzero(weights) for weights in head[0]]
        theirs[name] = head
        theirs[f"{name}, refit"] = refit(own.blocks, own.dense, supports, head).affine
        theirs[f"{name}, refit on the labels"] = refit(own.blocks, own.dense, supports, head, "labels").affine
    nearest = subspect.Mean(mean_size(next(iter(theirs.values()))))
    wanted: dict[str, tuple[subspect.Mean | int, bool]] = {
        f"-k {k}": (k, True),
        f"-k mean:{k}": (subspect.Mean(k), True),
        f"-k mean:{k}, not chosen anew": (subspect.Mean(k), False),
        f"-k mean:{nearest.k:.3g}": (nearest, True),
    }
    figures = Figures()
    for name, head in theirs.items():
        figures |= own.figures(name, head)
    for what, (size, anew) in wanted.items():
        [made] = subspect.decompose_each(study, [size], on="train", refit=anew, keep_files=False)
        weights, biases = (array.astype(np.float64) for array in made.matrix())
        head = weights, biases
        if not anew:
            head = refit(own.blocks, own.dense, list(made.supports), head).affine
        figures |= own.figures(f"pursuit {what}", head)
        for name, other in theirs.items():
            if "labels" not in name:
                figures |= own.apart(f"pursuit {what}, less {name}", head, other)
    return figures


def planted(images: int, features: int, classes: int, k: int, seed: int) -> Figures:
    """Compare where the true supports are known."""
    say(f"planted: {images:,} × {features:,}, {classes} classes, {k} active features each, seed {seed}")
    train, test, truth, head = plant(images, features, classes, k, seed)
    data = Data(train, test, dense_head(train, classes, seed, say), truth)
    figures = data.figures("planted head", head) | data.figures("dense, learned", data.dense)
    found, runs = compare(data, "labels", SOLVERS, k, least=k, learn=refitted)
    figures |= found
    times = [step.seconds for steps in runs.values() for step in steps if data.finds(step.head, k)]
    rival = "the fastest that finds the supports" if times else "the cap, as no solver finds the supports"
    figures[f"pursuit: time / {rival}"] = found["pursuit: time"][0] / min(times, default=CAP), "×"
    repeated, seconds = pursuit(data, "dense", {"pursuit, towards the dense head": k}, refitted)
    return figures | repeated | {"pursuit, towards the dense head: time": (seconds, "s")}


def large(images: int = 100_000, features: int = 2048, classes: int = 1000, k: int = 64) -> Figures:
    """Measure time and memory with very many classes, each in a process of its own."""
    say(f"large: {images:,} × {features:,}, {classes:,} classes")
    (x, y), figures = clustered(images, features, classes, seed=0), Figures()
    weight, bias = discriminant_head(Features(x, y), classes)
    gram = np.cov(x, rowvar=False, dtype=np.float64)
    with tempfile.TemporaryDirectory() as name:
        np.savez(Path(name) / "moments.npz", gram=gram, moments=(weight - weight.mean(axis=0)) @ gram)
        np.savez(Path(name) / "rows.npz", x=x, y=y, weight=weight, bias=bias)
        measures = {
            f"{classes} paths to k={k}, without swaps": partial(paths, Path(name), k, False),
            f"{classes} paths to k={k}, with swaps": partial(paths, Path(name), k, True),
            f"{classes} classes, Boundary and choose, k={k}": partial(boundaries, Path(name), k),
        }
        for what, measure in measures.items():
            say(what)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                seconds, memory = pool.submit(measure).result()
            figures |= {f"{what}: time": (seconds, "s"), f"{what}: memory": (memory, "GiB, all of the process")}
    return figures


def paths(folder: Path, k: int, swaps: bool) -> tuple[float, float]:
    """Return seconds and GiB that the paths of all classes take, on one Gram matrix, with a thread for each core."""
    given = np.load(folder / "moments.npz")
    gram, moments, start = given["gram"], given["moments"], time.perf_counter()
    with workers() as pool:
        list(pool.map(lambda one: pursue(gram, one, k, swaps=swaps), moments))
    return time.perf_counter() - start, peak_memory()


def boundaries(folder: Path, k: int) -> tuple[float, float]:
    """Return seconds and GiB that it takes to weigh images near every class's boundary, and to choose there."""
    given = np.load(folder / "rows.npz")
    blocks, weight, bias = cut_up(Features(given["x"], given["y"])), given["weight"], given["bias"]
    start = time.perf_counter()
    Boundary(blocks, weight, bias).choose(np.full((1, len(weight)), k))
    return time.perf_counter() - start, peak_memory()


# --- features and figures


class Data:
    """Features to learn from and to test on, the dense head, and the true supports where they are known."""

    def __init__(self, train: Features, test: Features, dense: Affine, truth: Sequence[Indices] = ()) -> None:
        self.train, self.test, self.dense, self.blocks = train, test, dense, cut_up(train)
        self.deviations, self.said = train.x.std(axis=0), top1(test.x, dense)
        self.truth = keep((np.ones_like(dense[0]), dense[1]), truth)[0] != 0

    def figures(self, what: str, head: Affine, *, supports: bool = True) -> Figures:
        """Return accuracy, fidelity and, where asked and the true supports are known, precision and recall of a head."""
        said = top1(self.test.x, head)
        figures = {"accuracy": float(np.mean(said == self.test.y)), "fidelity": float(np.mean(said == self.said))}
        if supports and self.truth.any():
            figures |= dict(zip(("precision", "recall"), self.overlap(head), strict=True))
        return {f"{what}: {name}": (100 * value, "%") for name, value in figures.items()}

    def apart(self, what: str, head: Affine, other: Affine) -> Figures:
        """Return by how much a head is ahead of another on the same images, with the 95 % interval of paired differences."""
        said, theirs = top1(self.test.x, head), top1(self.test.x, other)
        figures = Figures()
        for name, wanted in {"accuracy": self.test.y, "fidelity": self.said}.items():
            ahead = (said == wanted).astype(np.float64) - (theirs == wanted)
            half = 1.96 * float(ahead.std(ddof=1)) / len(ahead) ** 0.5
            figures[f"{what}: {name}"] = 100 * float(ahead.mean()), f"± {100 * half:.2f} points"
        return figures

    def overlap(self, head: Affine) -> tuple[float, float]:
        """Return precision and recall of a head's supports."""
        chosen = head[0] != 0
        hits, made, true = (int(np.count_nonzero(one)) for one in (chosen & self.truth, chosen, self.truth))
        return hits / max(made, 1), hits / true

    def finds(self, head: Affine, k: int) -> bool:
        """Tell whether a head has the true supports, as it is or cut to k features a class."""
        return any(min(self.overlap(one)) >= GOOD for one in (head, self.cut(head, k)))

    def compared(self, what: str, head: Affine, target: Target, k: int) -> Figures:
        """Return the figures of a head, of its refit, and of the refit of its k features with most say, if it has more."""
        figures, ways = self.figures(what, head), {"refit": head}
        if np.count_nonzero(head[0], axis=1).max() > k:
            ways[f"cut to {k} and refit"] = self.cut(head, k)
        for way, one in ways.items():
            supports = [np.flatnonzero(weights) for weights in one[0]]
            learned = refit(self.blocks, self.dense, supports, one, target).affine
            figures |= self.figures(f"{what}, {way}", learned, supports=one is not head)
        return figures

    def cut(self, head: Affine, k: int) -> Affine:
        """Keep the k features of each class whose contribution varies most."""
        return keep(head, np.argsort(-np.abs(head[0]) * self.deviations, axis=1, kind="stable")[:, :k])

    def read_off(self, k: int) -> dict[str, Affine]:
        """Return the dense head with the largest |W| only, and with the largest W × class mean."""
        weight, sums = self.dense[0], ClassSums(*self.dense[0].shape)
        sums.update(*self.train)
        means = contribution(weight, sums, k)
        return {
            "largest |W|": keep(self.dense, np.argsort(-np.abs(weight), axis=1, kind="stable")[:, :k]),
            "largest W × class mean": keep(self.dense, [means[label] for label in range(len(weight))]),
        }


def compare(
    data: Data, target: Target, solvers: Mapping[str, Solver], k: int, *, least: int, learn: Learn
) -> tuple[Figures, dict[str, list[Step]]]:
    """Compare pursuit with what can be read off the dense head, and with solvers; return figures and solvers' paths."""
    figures, wanted = Figures(), {"pursuit": float(k)}
    rivals: dict[str, str] = {}  # which of ours each is held against, of those that have k features a class
    for name, head in data.read_off(k).items():
        figures |= data.compared(name, head, target, k)
        rivals |= {name: "pursuit", f"{name}, refit": "pursuit"}
    runs = {name: solve(name, solver, data.train, k) for name, solver in solvers.items()}
    for name, steps in runs.items():
        head = min((step.head for step in steps), key=lambda one: abs(mean_size(one) - k))
        ours = f"pursuit, as many as {name}"
        figures[f"{name}: time until {least} features a class ({CAP:.0f}: never)"] = until(steps, least), "s"
        figures[f"{name}: features a class"] = mean_size(head), ""
        figures |= data.compared(name, head, target, k)
        wanted[ours] = mean_size(head)
        if until(steps, k) < CAP:
            rivals |= {name: ours, f"{name}, refit": ours, f"{name}, cut to {k} and refit": "pursuit"}
    found, seconds = pursuit(data, target, wanted, learn)
    figures |= found | {"pursuit: time": (seconds, "s")}
    gains = [
        figures[f"{ours}: accuracy"][0] - figures[f"{name}: accuracy"][0]
        for name, ours in rivals.items()
        if f"{name}: accuracy" in figures
    ]
    return figures | {"pursuit: accuracy beyond the best of the others": (min(gains), "points")}, runs


def pursuit(data: Data, target: Target, wanted: Mapping[str, float], learn: Learn) -> tuple[Figures, float]:
    """Pursue some mean numbers of features a class; also return how long the first takes, with its weights."""
    say(f"pursuit, target {target}")
    start = time.perf_counter()
    boundary = Boundary(data.blocks, *data.dense, target)
    choices = boundary.choose(np.array([sizes(mean, len(data.dense[0])) for mean in wanted.values()]))
    heads = [learn(boundary, choices[0])]
    seconds = time.perf_counter() - start
    heads += [learn(boundary, choice) for choice in choices[1:]]
    figures: Figures = {}
    for what, head in zip(wanted, heads, strict=True):
        figures |= data.figures(what, head)
    return figures, seconds


def refitted(boundary: Boundary, choice: Choice) -> Affine:
    """Re-learn the weights."""
    return refit(boundary.blocks, boundary.dense, choice.supports, choice.affine, boundary.target).affine


def reselected(boundary: Boundary, choice: Choice) -> Affine:
    """Re-learn the weights, and choose anew a few times, as `subspect.decompose` does."""
    return reselect(boundary, choice).affine


def table(part: str, draws: Sequence[Figures]) -> list[Row]:
    """Return a row for each figure: the mean over draws, with the least and the largest, held to its bar."""
    rows: list[Row] = []
    for what in dict.fromkeys(what for draw in draws for what in draw):
        values, units = zip(*(draw[what] for draw in draws if what in draw), strict=True)
        ends = f" ({min(values):.4g}–{max(values):.4g}, {len(values)} of {len(draws)} seeds)" if len(draws) > 1 else ""
        bars = [BARS[f"{part} {what}"]] if f"{part} {what}" in BARS else []
        rows += row(f"{part} {what}{ends}", statistics.mean(values), units[0], *bars)
    return rows


def keep(head: Affine, supports: Sequence[Indices] | Indices) -> Affine:
    """Keep some features' weights."""
    weight = np.zeros_like(head[0])
    for label, support in enumerate(supports):
        weight[label, support] = head[0][label, support]
    return weight, head[1]


def sizes(mean: float, classes: int) -> Indices:
    """Return a number of features for each class, as equal as can be, with this mean; at least one."""
    each, more = divmod(max(round(mean * classes), classes), classes)
    return each + (np.arange(classes) < more)


def mean_size(head: Affine) -> float:
    """Return how many features a class has on average."""
    return float(np.count_nonzero(head[0])) / len(head[0])


def top1(x: Wide, head: Affine) -> Indices:
    """Return each image's class."""
    said = x @ head[0].T.astype(np.float32) + head[1].astype(np.float32)
    return np.asarray(said.argmax(axis=1), np.int64)


def cut_up(data: Features) -> list[Block]:
    """Cut features into blocks."""
    cuts = [slice(start, start + 8192) for start in range(0, len(data.y), 8192)]
    return [Block(data.x[cut], data.y[cut], data.y[cut]) for cut in cuts]


def studies(data: Path, folder: Path, depths: Sequence[int] = (20, 32, 56)) -> dict[str, subspect.Study]:
    """Observe the published networks, but for those whose finished study is in the folder."""
    made = {f"resnet{depth}": folder / f"resnet{depth}" for depth in depths}
    with tempfile.TemporaryDirectory() as images:
        for name, path in made.items():
            if (path / "study.json").exists() and {"train", "test"} <= set(subspect.Study.open(path).set_names):
                continue
            unpacked(data, "cifar10-jpeg", Path(images))
            weights = data / f"weights/{name}-cifar10-jpeg.safetensors"
            network = subspect.load_network(f"python:subspect.resnet:cifar10_{name}", weights)
            for image_set in ("train", "test"):
                say(f"observing {image_set} with {name}")
                subspect.observe(network, Path(images) / "cifar10-jpeg" / image_set, path, image_set, batch_size=256)
    return {name: subspect.Study.open(path) for name, path in made.items()}


def stored(study: subspect.Study, image_set: str) -> Features:
    """Read features and labels."""
    chunks = list(study.image_set(image_set).chunks())
    return Features(np.concatenate([one.features for one in chunks]), np.concatenate([one.labels for one in chunks]))


# --- the other solvers: each goes along a path of heads on standardised features, and begins with none, once it is loaded


def glm_saga(x: Wide, y: Indices, k: float, *, sliced: bool = False) -> Iterator[Affine]:
    """glm_saga as its README and DebuggableDeepNetworks' main.py call it, without the losses that it reports in between.

    The documented loader collates image by image; with ``sliced``, one slices whole batches.
    """
    from glm_saga.elasticnet import IndexedTensorDataset, train_saga
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    torch.manual_seed(0)
    data = IndexedTensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = DataLoader(data, batch_size=256, shuffle=True)
    if sliced:
        loader = DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), 256, drop_last=False))
    weight, bias = nothing(x, y)
    linear, state, alpha = torch.nn.Linear(*weight.T.shape), None, 0.99
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    options = {"group": False, "n_ex": len(y), "n_classes": len(weight), "tol": 1e-4, "lookbehind": 3, "logger": str}
    yield weight, bias
    for penalty in PATH * strongest(x, y).max() / alpha:
        state = train_saga(linear, loader, 0.1, 2000, float(penalty), alpha, state=state, **options)
        yield linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()


def scikit_learn(x: Wide, y: Indices, k: float) -> Iterator[Affine]:
    """scikit-learn's multinomial logistic regression with an L1 penalty, each from where the last ended."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(l1_ratio=1, solver="saga", warm_start=True, random_state=0)
    yield nothing(x, y)
    for penalty in COARSE * strongest(x, y).max():
        model.set_params(C=1 / (len(y) * penalty)).fit(x, y)
        yield model.coef_.astype(np.float64), model.intercept_.astype(np.float64)


def skglm(x: Wide, y: Indices, k: float) -> Iterator[Affine]:
    """skglm's sparse logistic regression, one class against the rest; a class that has k features stays as it is."""
    from skglm import SparseLogisticRegression

    x = np.asfortranarray(x)
    SparseLogisticRegression(alpha=0.1).fit(np.asfortranarray(x[:100]), np.arange(100) % 2)  # compiles
    weight, bias = nothing(x, y)
    models = [SparseLogisticRegression(warm_start=True) for _ in bias]
    yield weight, bias
    top = strongest(x, y)
    for share in COARSE:
        for label, model in enumerate(models):
            if np.count_nonzero(weight[label]) < k:
                model.set_params(alpha=float(share * top[label])).fit(x, np.where(y == label, 1, -1))
                weight[label], bias[label] = model.coef_.ravel(), np.ravel(model.intercept_)[0]
        yield weight, bias


SOLVERS: dict[str, Solver] = {"glm_saga": glm_saga, "scikit-learn": scikit_learn, "skglm": skglm}
SLICED: dict[str, Solver] = {"glm_saga, sliced batches": partial(glm_saga, sliced=True)}


def strongest(x: Wide, y: Indices) -> Array:
    """Return (C,): the least penalty that leaves a class no feature."""
    classes = np.eye(int(y.max()) + 1, dtype=np.float32)[y]
    return np.asarray(np.abs(x.T @ (classes - classes.mean(axis=0))).max(axis=0) / len(y), np.float64)


def nothing(x: Wide, y: Indices) -> Affine:
    """Return a head without features."""
    return np.zeros((int(y.max()) + 1, x.shape[1])), np.zeros(int(y.max()) + 1)


# --- processes of their own


class Step(NamedTuple):
    """What a solver had after so many seconds."""

    seconds: float
    head: Affine


def until(steps: Sequence[Step], size: float) -> float:
    """Return when classes had so many features on average; the cap if they never had."""
    return next((step.seconds for step in steps if mean_size(step.head) >= size), CAP)


def solve(name: str, solver: Solver, train: Features, k: float, cap: float = CAP) -> list[Step]:
    """Run a solver in a process of its own until classes have k features on average, or to the cap; return its path."""
    mean, deviations = train.x.mean(axis=0), np.maximum(train.x.std(axis=0), 1e-12)
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    steps: list[Step] = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", (train.x - mean) / deviations)
        np.save(Path(folder) / "y.npy", train.y)
        process = context.Process(target=follow, args=(solver, Path(folder), k, send), daemon=True)
        process.start()
        send.close()
        end = float("inf")  # until it is loaded
        try:
            while receive.poll(None if not steps else max(end - time.perf_counter(), 0)):
                seconds, (weight, bias) = receive.recv()
                if seconds > cap:  # found too late, though it waited here
                    break
                end = end if steps else time.perf_counter() + cap
                weight = weight / deviations
                steps.append(Step(seconds, (weight, bias - weight @ mean)))
                say(f"{name}: {seconds:.1f} s, {mean_size(steps[-1].head):.2f} features a class")
        except EOFError:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{name} failed; see above") from None
        process.terminate()
        process.join()
    return steps


def follow(solver: Solver, folder: Path, k: float, pipe: Connection) -> None:
    """Send every head of a solver's path until classes have k features on average."""
    warnings.simplefilter("ignore")
    path = solver(np.load(folder / "x.npy"), np.load(folder / "y.npy"), k)
    pipe.send((0.0, next(path)))
    start = time.perf_counter()
    for head in path:
        pipe.send((time.perf_counter() - start, head))
        if mean_size(head) >= k:
            break


def peak_memory() -> float:
    """Return the most that this process has had in memory, in GiB; Linux only (ru_maxrss begins with the parent's)."""
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 2**20


def say(text: str) -> None:
    """Show on stderr that the work goes on."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
