"""Other ways to choose which channels go, at the same budget of multiplications, all by torch-pruning.

Its own importances over all layers at once, group magnitude (Li et al. 2017, Fang et al. 2023) and group Taylor on the
cross-entropy with labels (Molchanov et al. 2019), channels drawn at random, and every layer narrowed by the same share, by
magnitude. Channels go in many small steps until the network is within its budget; after each importances are taken anew, and
in the end batch norm and the scale of the logits are adjusted on the same images as ours.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch_pruning
from scipy.stats import t as student
from torch import Tensor, fx, nn
from torch.nn import functional as F

import subspect
from _rows import Row, row
from subspect.giving.answers import Shared
from subspect.giving.budget import (
    RECOVERED,
    Budget,
    Narrowed,
    accuracy,
    decomposed_head,
    mark,
    narrowed,
    recovered,
    shared_by,
)
from subspect.giving.distil import Learning, distilled, lessons
from subspect.giving.images_of_classes import ImagesOfClasses
from subspect.giving.options import WEIGHED
from subspect.giving.settings import Settings
from subspect.networks.finding import Head
from subspect.networks.summands import with_layers
from subspect.shrinking.cost import Cost, Multiplications
from subspect.shrinking.recover import readjust, said_of
from subspect.shrinking.shrink import WIDTH, Plan
from subspect.shrinking.tied import tell_sizes
from subspect.shrinking.worth import Images
from subspect.studies.same_network import head_of

TAKEN = 50  #: steps of taking channels out, from all to none
_MOST = 0.95  # of the channels of a layer, that may go


@dataclass(frozen=True)
class Way:
    """A way to choose channels.

    Attributes:
        importance: torch-pruning's, by name.
        anywhere: whether layers lose channels as they come, or all the same share.
        asks: whether it takes gradients of the loss.
    """

    importance: str
    anywhere: bool = True
    asks: bool = False


WAYS: Mapping[str, Way] = {
    "magnitude": Way("GroupMagnitudeImportance"),
    "Taylor": Way("GroupTaylorImportance", asks=True),
    "random": Way("RandomImportance"),
    "uniform": Way("GroupMagnitudeImportance", anywhere=False),
}

OURS, SCRATCH = "ours", "from scratch"
SHARES = (0.5, 0.25)  #: of the multiplications
SEEDS = 3
TRAINED = 6000  #: images, at most, that each network learns from, twice
STAGES = ("as cut", "head refitted", "trained")
LEFT = "left"  # of the multiplications


def compared(
    study: subspect.Study,
    made: subspect.Decomposition,
    network: subspect.Network,
    several: Sequence[Sequence[int]],
    train: Path,
    work: Path,
) -> list[Row]:
    """Return how often networks made in each of these ways are right, and how far ours are ahead.

    Args:
        study: of the network, with image sets "train" and "test".
        made: its decomposition.
        network: that was observed.
        several: the wanted classes, one case after the other.
        train: images to learn from.
        work: folder for states and results, to go on from.
    """
    head = head_of(network, torch.zeros(2, 3, 32, 32))
    rows: list[Row] = []
    ahead = count = 0
    for labels in several:
        for share in SHARES:
            found = [_measured(study, made, network, head, labels, share, train, work, seed) for seed in range(SEEDS)]
            case = f"{len(labels)} classes, {share:g} of the multiplications"
            for name in (OURS, *WAYS):
                rows += row(f"{case}, left: {name}", float(np.mean([one[name][LEFT] for one in found])), "")
            for stage in STAGES:
                for name in (OURS, *WAYS, SCRATCH):
                    rows += row(f"{case}, {stage}: {name}", float(np.mean([one[name][stage] for one in found])), "%")
            for stage in STAGES:
                for name in WAYS:
                    gaps = [one[OURS][stage] - one[name][stage] for one in found]
                    room = float(student.ppf(0.975, SEEDS - 1)) * float(np.std(gaps, ddof=1)) / SEEDS**0.5
                    mean = float(np.mean(gaps))
                    rows += row(
                        f"{case}, {stage}: ours ahead of {name}, ± {room:.2f}", mean, "points", f">= {-room:.2f}"
                    )
                    if stage == STAGES[0]:
                        ahead, count = ahead + (mean > room), count + 1
    return [
        *rows,
        *row(f"of {count} rows before recovery, ours ahead beyond the interval in", ahead, "", f">= {count // 2 + 1}"),
    ]


def _measured(
    study: subspect.Study,
    made: subspect.Decomposition,
    network: subspect.Network,
    head: Head,
    labels: Sequence[int],
    share: float,
    train: Path,
    work: Path,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return accuracy in percent by way and stage, and what is left of the multiplications; kept in the folder."""
    case = f"{len(labels)}-{share:g}-{seed}"
    kept = work / f"pruning-{case}.json"
    if kept.exists():
        return cast(dict[str, dict[str, float]], json.loads(kept.read_text()))
    train_set, test_set = (study.image_set(name).chunks() for name in ("train", "test"))
    drawn = ImagesOfClasses(study, network, labels, "train", train_set).drawn(RECOVERED, seed)
    few = Images(drawn.pixels[:WEIGHED], drawn.own[:WEIGHED])
    ours = narrowed(network, head, made, labels, Budget(share, False), few, False)
    cost = Multiplications(ours.whole, head.name, few.pixels)
    models, shared = {OURS: ours.model}, {OURS: ours.shared, SCRATCH: ours.shared}
    for name, way in WAYS.items():
        models[name], shared[name] = pruned(
            copy.deepcopy(ours.whole), ours.teacher, head.name, few, share, cost, way, seed
        )
    models[SCRATCH] = forgotten(copy.deepcopy(ours.model), seed)
    test = list(ImagesOfClasses(study, network, labels, "test", test_set).read())
    settings = Settings(epochs=2, batch_size=64, rate=0.02, flip=True, shift=2, seed=seed)
    source = subspect.open_images(train, limit_per_class=TRAINED // len(labels))
    given = lessons(network, labels, Learning(source, work, settings))
    found: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        [at_once] = accuracy([model], test)
        if name != SCRATCH:
            recovered(Narrowed(model, ours.whole, ours.teacher, Plan(), shared[name]), head.name, drawn.pixels)
        [refitted] = accuracy([model], test)
        small = with_layers(model, {head.name: decomposed_head})
        mine = replace(settings, rate=0.1) if name == SCRATCH else settings
        folder = work / f"pruning-{case}-{name.replace(' ', '-')}"
        trained = distilled(
            small, ours.teacher, shared[name], head, network, given, folder, mine, {"way": name}, 0, False
        )
        [in_the_end] = accuracy([trained.model], test)
        shares = (at_once, refitted, in_the_end)
        found[name] = {stage: 100 * one.value for stage, one in zip(STAGES, shares, strict=True)} | {LEFT: cost(model)}
        print(case, name, found[name], flush=True)
    kept.write_text(json.dumps(found))
    return found


def pruned(
    model: fx.GraphModule,
    teacher: nn.Module,
    head: str,
    images: Images,
    share: float,
    cost: Cost,
    way: Way,
    seed: int,
) -> tuple[fx.GraphModule, Shared]:
    """Narrow a network in one of these ways until it costs no more than a share, in place; return it and what it shares.

    Args:
        model: a traced network.
        teacher: by what batch norm and the scale of the logits are adjusted.
        head: name of its head, whose classes stay.
        images: of the wanted classes, for gradients and batch norm.
        share: of the cost.
        cost: of a network, as a share of the first one's.
        way: how channels are chosen.
        seed: of what is random.
    """
    torch.manual_seed(seed)
    marked = copy.deepcopy(model)
    mark(marked, head)
    model.requires_grad_(True)
    pruner = _pruner(model, head, images.pixels[:1], way)
    for _ in range(TAKEN):
        if cost(model) <= share:
            break
        if way.asks:
            model.zero_grad()
            for part in images.parts():
                loss = F.cross_entropy(model(part.pixels), part.own, reduction="sum") / len(images.own)
                loss.backward()  # type: ignore[no-untyped-call]
        pruner.step()
        tell_sizes(model.modules())
    else:
        raise RuntimeError(f"{way} did not reach {share}")
    model.requires_grad_(False)
    readjust(model, head, images.pixels, said_of(teacher, images.pixels))
    _pruner(marked.requires_grad_(True), head, images.pixels[:1], way).load_pruning_history(pruner.pruning_history())
    return model, shared_by(marked, teacher, head, images.pixels)


def _pruner(model: fx.GraphModule, head: str, pixels: Tensor, way: Way) -> Any:
    return torch_pruning.pruner.BasePruner(
        model,
        cast(Any, (pixels,)),
        getattr(torch_pruning.importance, way.importance)(),
        global_pruning=way.anywhere,
        pruning_ratio=_MOST,
        max_pruning_ratio=_MOST,
        iterative_steps=TAKEN,
        ignored_layers=[model.get_submodule(head)],
        round_to=WIDTH,
    )


def forgotten(model: fx.GraphModule, seed: int) -> fx.GraphModule:
    """Draw all weights of a network anew, in place, to train it from scratch."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    return model
