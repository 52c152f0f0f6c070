"""Re-learn a head so that no weight can lean on a cue: on images, and on copies of them in which the cue is another image's.

Labels stay. A copy's cue is that of an image of another class, so that r copies of each image and the images themselves,
counted r / (C − 1) times, say nothing of the class by the cue. No new images are needed, and the backbone isn't touched.
What it holds besides the cue shows in a head on all of its features, learned in the same way, unless that overfits few images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from subspect.choosing.boundary import Affine, Boundary
from subspect.choosing.methods import in_order
from subspect.choosing.refit import refit, reselect
from subspect.choosing.seen import gathered
from subspect.giving.options import COPIES, LEARNED
from subspect.ground.errors import SubspectError
from subspect.ground.progress import progress
from subspect.heads.decomposition import Decomposition
from subspect.heads.history import Part, Refitted
from subspect.heads.supports import Supports
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Estimate, wilson
from subspect.measuring.heads_say import say
from subspect.measuring.where import Where
from subspect.networks.network import Network
from subspect.studies.rows import Block
from subspect.studies.same_network import same_network
from subspect.studies.shards import Chunk
from subspect.studies.study import Study
from subspect.swapping.copies import swapped_copies
from subspect.swapping.cue import Cue
from subspect.swapping.naming import cues_named
from subspect.swapping.options import SAMPLE
from subspect.swapping.partners import paired

log = logging.getLogger("subspect")

_WHOLE = 2**27  # numbers that the curvatures of a head on all features may take: 1 GiB
_LITTLE = 0.9  # of the accuracy on the same images as they are: below, the backbone holds too little besides the cue


@dataclass(frozen=True, kw_only=True)
class WithoutCue:
    """Which cues a head is to do without, and how copies of the images are made.

    Attributes:
        cues: names, or cues of one's own.
        network: that was observed.
        images: where the images that are copied are, if they were in memory or have been moved since.
        test: likewise the images that are measured on; without them nothing is measured on swapped images that were in memory.
        copies: of each image, with all the cues swapped, each with another partner.
        sample: images, at most, that copies are made of.
        reselect: whether features are chosen anew as well.
        seed: of samples, partners, and of what is scrambled.
        batch_size: images in a batch of the network.
        workers: processes that read images.
        device: where the network runs; where it lies unless given.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: a cue there is not, or fewer than one copy or two images.

    Example:
        >>> cue = subspect.WithoutCue(cues=["border"], network=network, sample=60, copies=1, show_progress=False)
        >>> edited = decomposition.edit(without_cue=cue)
        >>> edited.decomposition.name
        'pursuit-k5-edited'
    """

    cues: Sequence[Cue | str]
    network: Network
    images: ImageSource | None = None
    test: ImageSource | None = None
    copies: int = COPIES
    sample: int = LEARNED
    reselect: bool = False
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    device: str | torch.device | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.cues, Sequence) and not self.cues:
            raise SubspectError("no cue was named; name those that weights must not lean on, such as cues=['border']")
        object.__setattr__(self, "cues", cues_named(self.cues))
        for name, least in (("copies", 1), ("sample", 2)):
            if getattr(self, name) < least:
                raise SubspectError(f"{name} must be {least} or more, got {getattr(self, name)}")

    @property
    def named(self) -> tuple[Cue, ...]:
        """The cues."""
        return cues_named(self.cues)

    def copied(
        self, study: Study, name: str, part: Part, cues: Sequence[Sequence[Cue]], times: int, sample: int, what: str
    ) -> list[list[Block]]:
        """Return the features of a sample of images, and those of its copies with each of some groups of cues swapped."""
        network = same_network(study, self.network)
        pairs = paired(study, name, network.preprocessing, sample, self.seed, self.images, self.workers, part)
        found: list[list[Block]] = [[Block(pairs.features, pairs.labels, pairs.labels)]]
        total = times * len(cues) * len(pairs.ids)
        with network.running(self.device), progress(what, total, "images", show=self.show_progress) as advance:
            for group in cues:
                found.append([])
                for number in range(times):
                    again = pairs.paired_anew(self.seed + number)
                    found[-1] += swapped_copies(again, network, group, self.batch_size, advance)
        return found


@dataclass(frozen=True)
class SwappedAccuracy:
    """Accuracy on images with one cue swapped: of the decomposed head before and after, the dense one, and one on all features.

    Attributes:
        before: of the decomposed head.
        after: of the one that was re-learned.
        dense: of the dense head.
        limit: of a head on all features, re-learned in the same way, which may overfit where images are few; None where that
            would take too much memory.
        plain: of the dense head on the same images as they are, nothing swapped.

    Example:
        >>> cue = subspect.WithoutCue(cues=["border"], network=network, sample=60, copies=1, show_progress=False)
        >>> edited = decomposition.edit(without_cue=cue)
        >>> list(edited.swapped)
        ['border']
    """

    before: Estimate
    after: Estimate
    dense: Estimate
    limit: Estimate | None
    plain: Estimate


@dataclass(frozen=True, eq=False)
class Relearned:
    """What was learned.

    Attributes:
        decomposition: with new weights, and new features if so wanted.
        limit: weight (C, d) and bias (C,) of a head on all features; None where that would take too much memory.
    """

    decomposition: Decomposition
    limit: Affine | None


def relearned(study: Study, given: Decomposition, without: WithoutCue, refit_on: str | None, prior: float) -> Relearned:
    """Re-learn a decomposition on images and on copies without a cue.

    Args:
        study: of the images.
        given: the decomposition.
        without: which cues.
        refit_on: the image set; the one that features were chosen on unless given.
        prior: as how many images more the head before counts.

    Raises:
        SubspectError: images that can't be opened again.
    """
    chosen, part = given.chosen_on  # what was set apart to evaluate on stays apart
    name = refit_on or chosen
    images, made = without.copied(
        study, name, part if name == chosen else "all", [without.named], without.copies, without.sample, "copies"
    )
    weight, bias = (tensor.numpy() for tensor in study.head())
    dense: Affine = weight.astype(np.float64), bias.astype(np.float64)
    seen = np.unique(images[0].labels)
    rows = [*made, *_counted(images[0], without.copies / max(1, len(seen) - 1))]
    fixed = sorted({*given.unseen, *np.setdiff1d(np.arange(len(bias)), seen).tolist()})
    learn = partial(refit, rows, dense, target="labels", fixed=fixed, prior=prior)
    limit = None
    if weight.size * weight.shape[1] <= _WHOLE:
        limit = learn([np.arange(weight.shape[1])] * len(bias), dense).affine
    if without.reselect:
        edited, start = _reselected(rows, given, limit or dense)
    else:
        few = given.matrix()
        edited, start = given, (few[0].astype(np.float64), few[1].astype(np.float64))
    learned = learn(list(edited.supports), start)
    cues = tuple(cue.name for cue in without.named)
    how = learned.loss, learned.steps, learned.converged
    step = Refitted("labels", *how, name, without_cues=cues, reselected=without.reselect or None)
    edited = edited.with_head(*learned.affine, step)
    return Relearned(edited, limit)


def _counted(images: Block, times: float) -> list[Block]:
    """Return images as if each counted so many times: repeated, and a share of them once more, drawn by their features."""
    drawn = (images.prints() >> np.uint64(11)) / 2**53 < times % 1
    share = Block(images.features[drawn], images.labels[drawn], images.predictions[drawn])
    return [images] * int(times) + [share] * bool(drawn.any())


def _reselected(rows: Sequence[Block], given: Decomposition, whole: Affine) -> tuple[Decomposition, Affine]:
    """Choose as many features anew as each class has, of a head on all features; return them and a head on them."""
    centred = whole[0] - whole[0].mean(axis=0), whole[1] - whole[1].mean()  # what all logits share would count as well
    boundary = Boundary(rows, *centred, "labels")
    [choice] = boundary.choose(given.supports.sizes[None])
    choice = in_order(reselect(boundary, choice), boundary)
    supports = Supports(choice.supports, whole[0].shape[1])
    size = max(1, round(float(np.delete(supports.sizes, list(given.unseen)).mean())))
    top, sums = gathered(rows, whole[0].shape, [size])
    frequency = top.counts(size) / np.maximum(top.images, 1)[:, None]
    at = supports.rows, supports.flat
    columns = [torch.from_numpy(one[at].astype(np.float32)) for one in (frequency, sums.means())]
    return replace(given, supports=supports, frequency=columns[0], mean=columns[1], trust=None), choice.affine


def accuracies(
    study: Study, where: Where, without: WithoutCue, before: Decomposition, after: Decomposition, limit: Affine | None
) -> dict[str, SwappedAccuracy]:
    """Measure on images with each cue swapped.

    Args:
        study: of the images.
        where: which images; at most 500 of them.
        without: which cues.
        before: the decomposition before.
        after: the one that was re-learned.
        limit: a head on all features.
    """
    own = study.image_set(where.image_set).manifest
    if own.root is None and without.test is None:
        log.info("the images of %r were in memory: nothing is measured on copies of them (test=)", where.image_set)
        return {}
    groups, again = [[cue] for cue in without.named], replace(without, images=without.test)
    try:
        plain, *made = again.copied(study, where.image_set, where.part, groups, 1, SAMPLE, "measuring")
    except SubspectError as error:  # what was learned is kept all the same
        log.warning("nothing is measured on copies of %r: %s", where.image_set, error)
        return {}
    weight, bias = (tensor.numpy() for tensor in study.head())
    few = limit and (limit[0].astype(np.float32), limit[1].astype(np.float32))
    return {
        cue.name: SwappedAccuracy(
            before=share(blocks, before.matrix()),
            after=share(blocks, after.matrix()),
            dense=share(blocks, (weight, bias)),
            limit=few and share(blocks, few),
            plain=share(plain, (weight, bias)),
        )
        for cue, blocks in zip(without.named, made, strict=True)
    }


def share(blocks: Iterable[Block | Chunk], head: tuple[Any, Any]) -> Estimate:
    """Return the share of images that a head gives their class."""
    right = images = 0
    for block in blocks:
        right += int((say(block.features, *head).argmax(axis=1) == block.labels).sum())
        images += len(block.labels)
    return wilson(right, images)


def tell_of_limit(study: Study, found: Mapping[str, SwappedAccuracy]) -> None:
    """Warn where the backbone holds too little besides a cue."""
    for cue, one in found.items():
        if one.limit is not None and max(one.limit.value, one.after.value) < _LITTLE * one.plain.value:
            log.warning(
                "with %s swapped the head is right on %.1f %% of the images, and one on all features, learned in the same way, "
                "on %.1f %% (the network on %.1f %% of the same images as they are): the backbone holds too little besides it; "
                "to train it without: subspect retrain %s … --without-cue %s",
                *(cue, *(100 * share.value for share in (one.after, one.limit, one.plain)), study.path, cue),
            )
