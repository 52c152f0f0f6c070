"""Distillation: a small network learns to say of images what a teacher says, the dense network or the decomposed one.

Its loss is the cross-entropy to the probabilities that the teacher gives the wanted classes (Hinton et al. 2015, arXiv
1503.02531), and how far its features are from the teacher's (`subspect.giving.answers`), so labels are not needed; a share of
the images is held out, and the epoch is kept that agrees with the teacher on most of them, of equals the last. The loop, and
how it goes on where it was stopped, are those of `subspect.retrain`. What was taken out of the network is kept beside the
state, so that the same call goes on with the same small network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from subspect.giving.answers import Answers, Shared
from subspect.giving.settings import Settings
from subspect.giving.training import BEST, LOG, Run, Trained, refuse_study, split
from subspect.ground.errors import SubspectError, some
from subspect.ground.files import check_free, make_folder, read_json
from subspect.ground.locks import locked
from subspect.ground.seals import is_sealed, open_json, write_json
from subspect.images.batches import Batch, batches
from subspect.images.labels import match_classes
from subspect.images.opening import ImageSource, open_images
from subspect.images.sources import Images
from subspect.networks.finding import Head
from subspect.networks.network import Network
from subspect.shrinking.shrink import Plan

_PLAN = "plan.json"
_FOLLOW = (
    0.1  # of the way that batch norm's averages go with each step, at least: networks made for long trainings go less
)


@dataclass(frozen=True)
class Learning:
    """How a small network is to learn.

    Attributes:
        train: images of the wanted classes; labels aren't needed.
        folder: for state, log and weights.
        settings: how to train.
        class_map: folder name → class index, or a JSON file with it.
    """

    train: ImageSource
    folder: Path
    settings: Settings
    class_map: Mapping[str, int] | str | Path | None = None


@dataclass(frozen=True, eq=False)
class Lessons:
    """Images to learn from.

    Attributes:
        source: where they are.
        kept: positions of those that are learned from.
        held: positions of those that are held out.
    """

    source: Images
    kept: npt.NDArray[np.int64]
    held: npt.NDArray[np.int64]

    @property
    def ids(self) -> list[str]:
        """Return the ids of all, those that are held out last."""
        return [self.source.id(at) for at in (*self.kept.tolist(), *self.held.tolist())]


def lessons(network: Network, labels: Sequence[int], learning: Learning) -> Lessons:
    """Open images to learn from: those of the wanted classes; all, without labels.

    Raises:
        SubspectError: they can't be opened, their labels don't fit the network, none is of these classes, or they are too few.
    """
    source = open_images(learning.train)
    if not source.labelled:
        return Lessons(source, *split(source, range(len(source)), learning.settings))
    match = match_classes(source, network.head.n_classes, network.class_names, learning.class_map)
    wanted = set(labels)
    found = [at for at in range(len(source)) if (raw := source.label(at)) is not None and match(raw) in wanted]
    if not found:
        raise SubspectError(
            f"none of the {len(source):,} images to train on is of the classes that are wanted; give "
            "images of these classes, or without labels"
        )
    return Lessons(source, *split(source, found, learning.settings))


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """While the block runs, keep every other training out of a folder.

    Raises:
        SubspectError: another training runs in it, it lies in a study, or holds files that aren't a training's.
    """
    refuse_study(folder)
    make_folder(folder)
    with locked(folder, f"training in {folder}", wait=0):
        for name in (BEST, LOG):
            check_free(folder / name, is_sealed)
        yield


def distilled(
    model: nn.Module,
    teacher: nn.Module,
    shared: Shared,
    head: Head,
    network: Network,
    images: Lessons,
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
        images: to learn from.
        folder: for state, log and weights, from which other trainings are kept out (`kept_in`).
        settings: how to train.
        about: what else the run is known by.
        workers: processes that read images.
        show: whether to draw a progress bar.

    Raises:
        SubspectError: a folder with another run, or a loss that is no number.
    """
    for one in model.modules():
        if isinstance(one, _BatchNorm) and one.momentum is not None:
            one.momentum = max(one.momentum, _FOLLOW)
    if not any(isinstance(one, nn.Conv3d) for one in model.modules()):
        for each in (model, teacher):  # as processors, and cards, train it faster
            each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def read(wanted: Sequence[Sequence[int]]) -> Iterator[Batch]:
        return batches(images.source, network.preprocessing, None, wanted, workers)

    known = known_of(settings, images, about)
    run = Run(
        model, head, (), settings, folder, json.dumps(known, sort_keys=True), teacher=Answers(teacher, head, shared)
    )
    run.train(images.kept, images.held, read, show)
    run.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return run.finish(lambda trained: trained, len(images.held))


def known_of(settings: Settings, images: Lessons, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training is known by, so that another doesn't go on with it."""
    plain = {**asdict(settings), "layers": list(settings.layers), "without_cues": list(settings.without_cues)}
    return {**plain, **about, "images": images.ids}


@dataclass(frozen=True)
class Plans:
    """What was taken out of a network, kept in the folder of its training round by round.

    Attributes:
        folder: of the training.
        about: what the small network is known by.
    """

    folder: Path
    about: Mapping[str, Any]

    def read(self) -> tuple[Plan, bool]:
        """Return what earlier calls took out, and whether that was all.

        Raises:
            SubspectError: it is of another network, or of other classes or budgets, or damaged.
        """
        path = self.folder / _PLAN
        if not path.exists():
            return Plan(), False
        found = open_json(path, read_json(path))
        old, new = found.get("about", {}), json.loads(json.dumps(self.about))
        if differ := [name for name in dict.fromkeys([*new, *old]) if old.get(name) != new.get(name)]:
            raise SubspectError(
                f"{self.folder} holds the training of another small network, with other {some(differ)}; choose another folder"
            )
        return Plan.from_json(found["rounds"]), bool(found["done"])

    def write(self, plan: Plan, done: bool = False) -> None:
        """Keep what was taken out so far, or in all."""
        write_json(self.folder / _PLAN, {"about": dict(self.about), "rounds": plan.to_json(), "done": done})
