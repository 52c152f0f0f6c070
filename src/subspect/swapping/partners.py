"""Which images cues are swapped in, and with which others: a sample spread over the classes, in pairs of two classes.

Where no class has more than half of the images, every image is the partner of exactly one other, so that what is swapped in is
spread over the images as it was before.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from subspect.ground.engines import Remembered, sharing
from subspect.ground.errors import SubspectError
from subspect.ground.files import fingerprint
from subspect.ground.memory import budget
from subspect.heads.history import Part
from subspect.images.batches import batches
from subspect.images.opening import ImageSource
from subspect.images.preprocessing import AnyPreprocessing
from subspect.studies.blocks import STATISTICS
from subspect.studies.image_set import ImageSet
from subspect.studies.reopen import Reopened
from subspect.studies.spread import BLOCK, block_of, check_read, source_of, spread
from subspect.studies.study import Study
from subspect.swapping.cue import Cue, swapped
from subspect.swapping.pixels import AS_THEY_ARE, Enlarged, Tones, View, checked, enlarged

Indices = npt.NDArray[np.int64]
_GREY = 1 / 512  # from 0 to 1: channels that differ by less are one grey


def partners(labels: Indices, seed: int) -> Indices:
    """Return for each image the position of another, of another class.

    Raises:
        SubspectError: there is one class only.
    """
    n, random = len(labels), np.random.default_rng([seed, 1])
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise SubspectError(
            f"a cue is swapped with an image of another class, and all {n} images are of one; give images of several"
        )
    most = int(counts.max())
    if 2 * most <= n:  # in a ring ordered by classes, an image of another class is at least `most` away
        places = {label: place for place, label in enumerate(random.permutation(classes).tolist())}
        ring = random.permutation(n)
        ring = ring[np.argsort([places[label] for label in labels[ring].tolist()], kind="stable")]
        found = np.empty(n, np.int64)
        found[ring] = np.roll(ring, -int(random.integers(most, n - most + 1)))
        return found
    return np.array([random.choice(np.flatnonzero(labels != label)) for label in labels.tolist()])


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some images, and another for each.

    Attributes:
        at: (m,) their positions in the sample.
        images: (m, channels, height, width) from 0 to 1.
        others: (m, channels, height, width) their partners.
        view: how a network gets them.
    """

    at: Indices
    images: Tensor
    others: Tensor
    view: View

    def plain(self) -> Tensor:
        """Return the images as the network gets them."""
        return self.view.pixels(self.images)

    def swapped(self, cues: Sequence[Cue], seed: int) -> Tensor:
        """Return the images with cues swapped, one after the other, as the network gets them; the same for the same seed.

        Raises:
            SubspectError: a cue failed.
        """
        images = self.images
        for cue in cues:
            random = np.random.default_rng([seed, 2, zlib.crc32(cue.name.encode()), int(self.at[0])])
            images = swapped(cue, images, self.others, random)
        return self.view.pixels(images)


def paired(
    study: Study,
    name: str,
    preprocessing: AnyPreprocessing | None,
    sample: int,
    seed: int,
    images: ImageSource | None = None,
    workers: int = 0,
    part: Part = "all",
) -> Paired:
    """Draw a sample of an image set, and a partner for each of its images.

    Args:
        study: of the images.
        name: of the image set.
        preprocessing: of the network; None for images that are ready.
        sample: at most so many images, spread over the classes.
        seed: of the sample and the partners.
        images: where the images are, if they were in memory or have been moved since.
        workers: processes that read images.
        part: of the image set, to draw from.

    Raises:
        SubspectError: no such image set, images that were in memory and aren't given, or all of one class.
    """
    image_set = study.image_set(name)
    source = source_of(images, image_set)
    about = [(chunk.ids, chunk.labels) for chunk in image_set.chunks(part)]
    ids, labels = [id for chunk in about for id in chunk[0]], np.concatenate([chunk[1] for chunk in about])
    drawn = spread(labels, sample, seed)
    features, variance = _features(image_set, part, drawn)
    own = [ids[place] for place in drawn.tolist()]
    return Paired(
        name,
        len(ids),
        len(np.unique(labels)),
        image_set.labelled,
        Reopened(image_set, own, source),
        preprocessing,
        own,
        labels[drawn],
        features,
        variance,
        partners(labels[drawn], seed),
        seed,
        image_set.called(),
        workers,
    )


def _features(
    image_set: ImageSet, part: Part, drawn: Indices
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return the stored features of some images, and the variance of each feature over all, in one pass."""
    kept, start, sums = [], 0, None
    for chunk in image_set.chunks(part):
        here = drawn[(drawn >= start) & (drawn < start + len(chunk.ids))] - start
        kept.append(np.asarray(chunk.features)[here])
        wide, start = chunk.features.astype(np.float64), start + len(chunk.ids)
        added = np.stack([wide.sum(axis=0), (wide**2).sum(axis=0)])
        sums = added if sums is None else sums + added
    assert sums is not None  # an image set that is complete has images
    return np.concatenate(kept), np.maximum(sums[1] / start - (sums[0] / start) ** 2, 0)


@dataclass(frozen=True)
class Learned:
    """What is learned of images by reading them.

    Attributes:
        failed: id → reason of what couldn't be read.
        changed: ids of those that are other files than were observed.
        same: ids of those that are the same.
        coloured: whether any of them has a colour.
    """

    failed: dict[str, str]
    changed: set[str]
    same: set[str]
    coloured: bool


@dataclass(eq=False)
class Paired(Remembered):
    """A sample of an image set with partners, block by block, any number of times; what memory doesn't hold is read again.

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
        variance: (d,) of each feature over the whole image set.
        partners: (n,) positions of the partners in the sample.
        seed: of what is scrambled.
        workers: processes that read images.
        called: its name as notes have it.
        failed: id → reason of what couldn't be read; then neither the image takes part nor the one that it is the partner of.
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
    variance: npt.NDArray[np.float64]
    partners: Indices
    seed: int
    called: str
    workers: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    _view: View | None = None
    _channels: int = 0
    _coloured: bool = False
    _kept: dict[int, Pairs | None] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """By what a sample and its pairs are known."""
        features = np.ascontiguousarray(self.features).data
        return fingerprint(self.name, str(self.seed), "\0".join(self.ids), self.partners.data, features)

    @property
    def channels(self) -> int:
        """Of the images; known once they were gone through."""
        return self._channels

    @property
    def coloured(self) -> bool:
        """Whether any of the images has a colour; known once they were gone through."""
        return self._coloured

    def paired_anew(self, seed: int) -> Paired:
        """Return the same sample with other partners."""
        return replace(self, partners=partners(self.labels, seed), seed=seed, failed={}, _kept={})

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-len(self.ids) // BLOCK)

    def described(self) -> dict[str, Any]:
        """Return it for another process, without the images that are kept here."""
        return {**vars(self), "_kept": {}}

    @property
    def learned(self) -> Learned:
        """What was learned of the images so far, by reading them."""
        return Learned(self.failed, self.images.changed, self.images.same, self._coloured)

    def learn(self, found: Learned) -> None:
        """Take in what another process learned."""
        self.failed |= found.failed
        self.images.changed |= found.changed
        self.images.same |= found.same
        self._coloured |= found.coloured

    def look(self) -> None:
        """Find out how the network gets images, by the first that can be read."""
        for number in range(self.count if self._view is None else 0):
            if next(self.blocks([number])) is not None:
                return

    def __iter__(self) -> Iterator[Pairs]:
        return (pairs for pairs in self.blocks(range(self.count)) if pairs is not None)

    def blocks(self, wanted: Iterable[int]) -> Iterator[Pairs | None]:
        """Go through some blocks; of one that can't be read there is none."""
        numbers = list(wanted)
        if all(number in self._kept for number in numbers):
            yield from (self._kept[number] for number in numbers)
            return
        memory = budget() // STATISTICS * sharing()
        for number, pairs in zip(numbers, self._read(numbers), strict=True):
            if pairs is None or 8 * pairs.images[0].numel() * len(self.ids) <= memory:
                self._kept[number] = pairs
            yield pairs

    def _read(self, numbers: Sequence[int]) -> Iterator[Pairs | None]:
        blocks = [block_of(number, len(self.ids)) for number in numbers]
        wanted = [np.concatenate([block, np.setdiff1d(self.partners[block], block)]) for block in blocks]
        self._view = self._view or enlarged(self.preprocessing, self.images, self.ids)
        prepared = AS_THEY_ARE if isinstance(self._view, Enlarged) else self.preprocessing
        read = batches(self.images, prepared, None, [one.tolist() for one in wanted], self.workers)
        for block, among, batch in zip(blocks, wanted, read, strict=True):
            self.failed |= dict(batch.failed)
            for id, digest in zip(batch.ids, batch.digests, strict=True):  # read by other processes
                self.images.compare(id, digest)
            if batch.pixels is None:
                yield None
                continue
            pixels = checked(batch.pixels)
            self._view = self._view or Tones.of(self.preprocessing, pixels)
            pictures, self._channels = self._view.pictures(pixels), pixels.shape[1]
            self._coloured |= bool((pictures.amax(dim=1) - pictures.amin(dim=1)).max() > _GREY)
            row = {id: place for place, id in enumerate(batch.ids)}
            place = {one: row.get(self.ids[one]) for one in among.tolist()}
            pairs = [(one, place[one], place[int(self.partners[one])]) for one in block.tolist()]
            kept = [(one, own, other) for one, own, other in pairs if own is not None and other is not None]
            at, own, other = (list(column) for column in zip(*kept, strict=True)) if kept else ([], [], [])
            yield Pairs(np.array(at), pictures[own], pictures[other], self._view) if kept else None

    def check_read(self, count: int) -> None:
        """Refuse a pass in which nothing could be read.

        Raises:
            SubspectError: so it was.
        """
        check_read(count, self.name, self.ids, self.failed)
