"""The images that filters are scored on: a sample of an image set, spread over the classes, read block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from subspect.ground.engines import Remembered, sharing
from subspect.ground.errors import SubspectError, some
from subspect.ground.files import fingerprint
from subspect.ground.memory import budget
from subspect.images.batches import batches
from subspect.images.inputs import Inputs, Pixels
from subspect.images.opening import ImageSource
from subspect.images.preprocessing import AnyPreprocessing
from subspect.studies.blocks import STATISTICS
from subspect.studies.image_set import ImageSet
from subspect.studies.reopen import Reopened
from subspect.studies.spread import BLOCK, block_of, source_of, spread
from subspect.studies.study import Study

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """The images of a block that could be read.

    Attributes:
        at: (m,) their positions in the sample.
        pixels: (m, …) as the network takes them.
        labels: (m,) their classes.
    """

    at: Indices
    pixels: Pixels
    labels: Indices


@dataclass(eq=False)
class Sampled(Remembered):
    """A sample of an image set, block by block, any number of times; what memory doesn't hold is read again.

    Attributes:
        name: of the image set.
        total: how many images it has.
        classes: of how many classes it has images.
        labelled: whether it has labels; else the network's predictions stand in for them.
        images: to be opened again.
        preprocessing: of the network; None for images that are ready.
        ids: the n images of the sample.
        labels: (n,) their classes.
        features: (n, d) as they were stored.
        seed: of the sample.
        called: the image set's name as notes have it.
        workers: processes that read images.
        failed: id → reason of what couldn't be read.
    """

    name: str
    total: int
    classes: int
    labelled: bool
    images: Reopened
    preprocessing: AnyPreprocessing | None
    ids: list[str]
    labels: Indices
    features: npt.NDArray[np.float32]
    seed: int
    called: str
    workers: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    _kept: dict[int, Block | None] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """By what a sample is known."""
        features = np.ascontiguousarray(self.features).data
        return fingerprint(self.name, str(self.seed), "\0".join(self.ids), features)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-len(self.ids) // BLOCK)

    def fewer(self, most: int) -> Sampled:
        """Return at most so many of the same images, spread over the classes."""
        kept = spread(self.labels, most, self.seed)
        ids = [self.ids[place] for place in kept.tolist()]
        images = self.images.only(ids)
        return replace(
            self, ids=ids, images=images, labels=self.labels[kept], features=self.features[kept], failed={}, _kept={}
        )

    def described(self) -> dict[str, Any]:
        """Return it for another process, without the images that are kept here."""
        return {**vars(self), "_kept": {}}

    def learned(self) -> tuple[dict[str, str], set[str], set[str]]:
        """Return what was learned by reading: what failed and why, what has changed, what is the same."""
        return self.failed, self.images.changed, self.images.same

    def learn(self, found: tuple[dict[str, str], set[str], set[str]]) -> None:
        """Take in what another process learned."""
        self.failed |= found[0]
        self.images.changed |= found[1]
        self.images.same |= found[2]

    def blocks(self, wanted: Iterable[int]) -> Iterator[Block | None]:
        """Go through some blocks; of one that can't be read there is none."""
        numbers = list(wanted)
        if all(number in self._kept for number in numbers):
            yield from (self._kept[number] for number in numbers)
            return
        memory = budget() // STATISTICS * sharing()
        for number, block in zip(numbers, self._read(numbers), strict=True):
            if block is None or _bytes(block.pixels) // len(block.at) * len(self.ids) <= memory:
                self._kept[number] = block
            yield block

    def check_same(self, first: Indices, then: Indices) -> None:
        """Refuse a pass that read other images than the first one did.

        Raises:
            SubspectError: so it was.
        """
        if not np.array_equal(first, then):
            other = some((self.ids[place] for place in sorted({*first.tolist()} ^ {*then.tolist()})), 3)
            raise SubspectError(
                f"filters: of {self.name!r}, {other} could be read in one pass over the images and not in another; see that "
                "the images stay as they are, and run the same again"
            )

    def _read(self, numbers: Sequence[int]) -> Iterator[Block | None]:
        blocks = [block_of(number, len(self.ids)) for number in numbers]
        read = batches(self.images, self.preprocessing, None, [one.tolist() for one in blocks], self.workers)
        for block, batch in zip(blocks, read, strict=True):
            self.failed |= dict(batch.failed)
            for id, digest in zip(batch.ids, batch.digests, strict=True):  # read by other processes
                self.images.compare(id, digest)
            there = set(batch.ids)
            at = np.array([one for one in block.tolist() if self.ids[one] in there], np.int64)
            yield None if batch.pixels is None else Block(at, batch.pixels, self.labels[at])


def sampled(
    study: Study,
    name: str,
    preprocessing: AnyPreprocessing | None,
    sample: int,
    seed: int,
    images: ImageSource | None = None,
    workers: int = 0,
    labels: Sequence[int] = (),
    names: Sequence[str] = (),
) -> Sampled:
    """Draw a sample of an image set.

    Args:
        study: of the images.
        name: of the image set.
        preprocessing: of the network; None for images that are ready.
        sample: at most so many images, spread over the classes.
        seed: of the sample.
        images: where the images are, if they were in memory or have been moved since.
        workers: processes that read images.
        labels: the classes whose images are wanted; all unless given.
        names: of all classes.

    Raises:
        SubspectError: no such image set, images that were in memory and aren't given, or a class without images.
    """
    image_set = study.image_set(name)
    source = source_of(images, image_set)
    about = [(chunk.ids, chunk.labels) for chunk in image_set.chunks()]
    ids, own = [id for chunk in about for id in chunk[0]], np.concatenate([chunk[1] for chunk in about])
    there = np.unique(own)
    without = [names[label] for label in labels if label not in there]
    if without:
        said = "labels" if image_set.labelled else "the network's predictions"
        raise SubspectError(
            f"there are no images of {some(without, 5)} in {name!r} (by {said}); measure on another image set (on=, --on), or "
            f"ask about others: {some((names[label] for label in there.tolist()), 5)}"
        )
    among = np.flatnonzero(np.isin(own, list(labels))) if labels else np.arange(len(own))
    drawn = among[spread(own[among], sample, seed)]
    kept = [ids[place] for place in drawn.tolist()]
    return Sampled(
        name,
        len(ids),
        len(there),
        image_set.labelled,
        Reopened(image_set, kept, source),
        preprocessing,
        kept,
        own[drawn],
        _features(image_set, drawn),
        seed,
        image_set.called(),
        workers,
    )


def _features(image_set: ImageSet, drawn: Indices) -> npt.NDArray[np.float32]:
    """Return the stored features of some images."""
    kept, start = [], 0
    for chunk in image_set.chunks():
        here = drawn[(drawn >= start) & (drawn < start + len(chunk.ids))] - start
        kept.append(np.asarray(chunk.features)[here])
        start += len(chunk.ids)
    return np.concatenate(kept)


def _bytes(pixels: Pixels) -> int:
    tensors = pixels.tensors.values() if isinstance(pixels, Inputs) else [pixels]
    return sum(one.nbytes for one in tensors)
