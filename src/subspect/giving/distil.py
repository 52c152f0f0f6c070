"""Distillation: a small network learns to say of images what a teacher says, the dense network or the decomposed one.

Its loss is the cross-entropy to the probabilities that the teacher gives the wanted classes (Hinton et al. 2015, arXiv
1503.02531), and how far its features are from the teacher's (`subspect.giving.answers`), so labels are not needed; a share of
the images is held out, and the epoch is kept that agrees with the teacher on most of them. The loop, and how it goes on where
it was stopped, are those of `subspect.retrain`. What was taken out of the network is kept beside the state, so that the same
call goes on with the same small network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from subspect.giving.answers import Answers, Shared
from subspect.giving.training import BEST, LOG, Run, Settings, Trained, refuse_study, split
from subspect.ground.errors import SubspectError
from subspect.ground.files import check_free, make_folder, read_json
from subspect.ground.locks import locked
from subspect.ground.seals import is_sealed, open_json, write_json
from subspect.images.batches import Batch, batches
from subspect.images.labels import match_classes
from subspect.images.opening import ImageSource, open_images
from subspect.images.sources import Images
from subspect.networks.finding import Head
from subspect.networks.network import Network
from subspect.shrinking.shrink import Plan, Round

_PLAN = "plan.json"
_FOLLOW = (
    0.1  # of the way that batch norm's averages go with each step, at least: networks made for long trainings go less
)


def opened_to_train(
    images: ImageSource, network: Network, labels: Sequence[int], class_map: Mapping[str, int] | str | Path | None
) -> tuple[Images, list[int]]:
    """Open images to learn from; return them, and the positions of those that are of the wanted classes, all without labels.

    Raises:
        SubspectError: they can't be opened, their labels don't fit the network, or none is of these classes.
    """
    source = open_images(images)
    if not source.labelled:
        return source, list(range(len(source)))
    match, wanted = match_classes(source, network.head.n_classes, network.class_names, class_map), set(labels)
    found = [at for at in range(len(source)) if (raw := source.label(at)) is not None and match(raw) in wanted]
    if not found:
        raise SubspectError(
            f"none of the {len(source):,} images to train on is of the classes that are wanted; give "
            "images of these classes, or without labels"
        )
    return source, found


def distilled(
    model: nn.Module,
    teacher: nn.Module,
    shared: Shared,
    head: Head,
    network: Network,
    source: Images,
    positions: Sequence[int],
    folder: Path,
    settings: Settings,
    about: Mapping[str, Any],
    workers: int,
    show: bool,
) -> Trained:
    """Train a small network to say what another says; the same call goes on where it was stopped.

    Args:
        model: the small network; its head is a `DecomposedHead`.
        teacher: the other, with the same classes.
        shared: the features that both have.
        head: of both.
        network: that was observed, whose preprocessing images get.
        source: of images.
        positions: of those to learn from.
        folder: for state, log and weights.
        settings: how to train.
        about: what else the run is known by.
        workers: processes that read images.
        show: whether to draw a progress bar.

    Raises:
        SubspectError: too few images, a folder with another run or files that aren't a run's, or a loss that is no number.
    """
    kept, held = split(source, positions, settings)
    for one in model.modules():
        if isinstance(one, _BatchNorm) and one.momentum is not None:
            one.momentum = max(one.momentum, _FOLLOW)
    if not any(isinstance(one, nn.Conv3d) for one in model.modules()):
        for each in (model, teacher):  # as processors, and cards, train it faster
            each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def read(wanted: Sequence[Sequence[int]]) -> Iterator[Batch]:
        return batches(source, network.preprocessing, None, wanted, workers)

    known = {**asdict(settings), "layers": list(settings.layers), "without_cues": list(settings.without_cues), **about}
    known["images"] = [source.id(at) for at in (*kept.tolist(), *held.tolist())]
    with locked(folder, f"training in {folder}", wait=0):
        for name in (BEST, LOG):
            check_free(folder / name, is_sealed)
        run = Run(
            model, head, (), settings, folder, json.dumps(known, sort_keys=True), teacher=Answers(teacher, head, shared)
        )
        run.train(kept, held, read, show)
        run.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return run.finish(lambda trained: trained, len(held))


def kept_plan(folder: Path, about: Mapping[str, Any]) -> Plan | None:
    """Return what an earlier call took out, kept in a folder; None where there is none.

    Raises:
        SubspectError: it is of another network, or of other classes or budgets, or damaged.
    """
    path = folder / _PLAN
    refuse_study(folder)
    make_folder(folder)
    if not path.exists():
        return None
    found = open_json(path, read_json(path))
    if found.get("about") != json.loads(json.dumps(about)):
        raise SubspectError(
            f"{folder} holds the training of another small network (other classes, another budget, decomposition or network); "
            "choose another folder"
        )
    rounds = [
        Round(
            tuple((str(one), str(other)) for one, other in made["branches"]),
            {name: tuple(int(channel) for channel in channels) for name, channels in made["channels"].items()},
            None if made["size"] is None else (int(made["size"][0]), int(made["size"][1])),
        )
        for made in found["rounds"]
    ]
    return Plan(tuple(rounds))


def keep_plan(folder: Path, plan: Plan, about: Mapping[str, Any]) -> None:
    """Keep what was taken out of a network."""
    rounds = [{"branches": one.branches, "channels": dict(one.channels), "size": one.size} for one in plan.rounds]
    write_json(folder / _PLAN, {"about": dict(about), "rounds": rounds})
