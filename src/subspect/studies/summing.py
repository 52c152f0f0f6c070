"""Filling a set of which statistics alone are kept: of each shard's images a sample keeps its features, and all are summed.

Each shard's images are summed from nothing, and the sums are added in the order of the shards, so that neither who sums them
nor a kill in between changes a bit of the result. What was summed so far is written now and then; after a kill, the shards
since are filled again, with the same bytes.
"""

from __future__ import annotations

import io
import logging
import time
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from subspect.ground.errors import NoPicture, SubspectError, Unusable, some
from subspect.ground.files import is_file
from subspect.ground.pictures import fit
from subspect.ground.progress import progress
from subspect.images.batches import batches
from subspect.images.preprocessing import AnyPreprocessing, view, visible
from subspect.images.sources import ClassMatch, Images, Picture
from subspect.networks.network import Network
from subspect.studies.first_images import reasons, spread
from subspect.studies.image_set import SUMMED, ImageSet
from subspect.studies.manifests import SetManifest
from subspect.studies.parts import hashed
from subspect.studies.running import Runner
from subspect.studies.shards import Chunk, joined, shard_rows
from subspect.studies.summed import Affine, Plan, Sums, labelled, read_sums, write_sums

log = logging.getLogger("subspect")

RUNS = 64  #: shards at most, unless they would hold fewer images than usual
SIDE = 64  #: pixels of a thumbnail's long side
_PILOT = 2048  # images that run before the rest
_BLOCK, _LOGITS, _ROWS = 2**26, 2**28, 8192  # bytes of features and of logits, and images, that are summed at once
_OFTEN = 0.05  # share of the time that writing what was summed so far may take


def summed_rows(images: int, width: int, batch_size: int) -> int:
    """Return how many of so many images, of so many numbers each, go into a shard: a multiple of the batch size."""
    return max(shard_rows(width, batch_size), -(-images // (RUNS * batch_size)) * batch_size)


def in_sample(ids: list[str], manifest: SetManifest) -> np.ndarray:
    """Tell which images keep their features, by a hash of the id that says nothing of any part of the set."""
    return hashed(ids, b"sample") < manifest.sampled / manifest.images


@dataclass(frozen=True, eq=False)
class Summing:
    """How a shard's images are summed: by which plan, with which dense head."""

    plan: Plan
    dense: Affine
    manifest: SetManifest

    def begin(self) -> Taking:
        """Return the sum of nothing, to be filled with a shard's images."""
        return Taking(self, Sums(self.plan, self.dense[0].shape))


@dataclass
class Taking:
    """Takes in the images of a shard, batch by batch, and sums them some thousand at a time."""

    how: Summing
    sums: Sums
    _waiting: list[Chunk] = field(default_factory=list)

    def take(self, chunk: Chunk) -> Chunk:
        """Take in some images, and return those that keep their features."""
        manifest = self.how.manifest
        self._waiting.append(labelled(chunk, given=manifest.labelled))
        n_classes, n_features = self.sums.shape
        most = min(_ROWS, _BLOCK // (4 * n_features), _LOGITS // (8 * n_classes))
        if (len(self._waiting) + 1) * manifest.batch_size > most:  # whatever failed, so that it is always cut alike
            self._sum()
        return chunk.at(in_sample(chunk.ids, manifest))

    def all(self) -> Sums:
        """Return the sums of all images taken in."""
        if self._waiting:
            self._sum()
        return self.sums

    def _sum(self) -> None:
        self.sums.update(joined(self._waiting), self.how.dense)
        self._waiting = []


class Totals:
    """The sums over the first shards of an image set, as they grow.

    Args:
        image_set: begun.
        sums: what was summed so far.
        dense: the dense head.
    """

    def __init__(self, image_set: ImageSet, sums: Sums, dense: Affine) -> None:
        self.image_set, self.sums = image_set, sums
        self.summing = Summing(sums.plan, dense, image_set.manifest)
        self._waiting: dict[int, Sums] = {}
        self._written, self._took, self._kept = time.monotonic(), 0.0, sums.done

    @property
    def done(self) -> list[int]:
        """Numbers of the shards that are there, and summed."""
        return [index for index in self.image_set.done if index < self.sums.done]

    def add(self, index: int, part: Sums) -> None:
        """Take in the sums of a shard that is written; those of one that was lost, and made again, are known already."""
        if index >= self.sums.done:
            self._waiting[index] = part
        while (following := self._waiting.pop(self.sums.done, None)) is not None:
            self.sums += following
            self.sums.done += 1

    def keep(self) -> None:
        """Write what was summed since it was last written, unless that would take more of the time than it should."""
        now = time.monotonic()
        due = now - self._written >= self._took / _OFTEN or self.sums.done == self.image_set.manifest.n_shards
        if due and self.sums.done > self._kept:
            write_sums(self.image_set, self.sums)
            self._written, self._kept = time.monotonic(), self.sums.done
            self._took = self._written - now

    def close(self, source: Images, preprocessing: AnyPreprocessing | None, *, show: bool) -> None:
        """Add thumbnails of the images that activate features most."""
        self.sums.thumbnails = _thumbnails(self.sums.digests, source, preprocessing, show)
        write_sums(self.image_set, self.sums)
        log.info("%s: the study keeps thumbnails of %s images", self.image_set.name, f"{len(self.sums.thumbnails):,}")


def totals_of(
    network: Network, source: Images, match: ClassMatch, image_set: ImageSet, dense: Affine, workers: int
) -> Totals:
    """Return the sums so far; of a set that is only begun none, by a plan that some of its images, run now, give.

    Raises:
        SubspectError: none of these could be used, or the sums of before are damaged.
    """
    if is_file(image_set.folder / SUMMED):
        return Totals(image_set, read_sums(image_set), dense)
    if image_set.manifest.statistics:  # which are gone
        image_set.save(replace(image_set.manifest, statistics="", right=0, complete=False, rows=0, failed=()))
    positions = spread(source, _PILOT)
    log.info(
        "%s images spread over the set run first: they show which statistics are worth summing", f"{len(positions):,}"
    )
    size = image_set.manifest.batch_size
    cuts = [positions[start : start + size] for start in range(0, len(positions), size)]
    run = Runner(network, image_set.manifest)
    made = [run(batch) for batch in batches(source, network.preprocessing, match, cuts, workers)]
    first = joined([chunk for chunk, _ in made])
    if not len(first.ids):
        failed = [one for _, bad in made for one in bad]
        raise SubspectError(f"no image of the {len(failed)} tried could be used: {reasons(failed)}")
    plan = Plan.of(first, dense, image_set.manifest.images)
    sums = Sums(plan, dense[0].shape)
    write_sums(image_set, sums)
    return Totals(image_set, sums, dense)


def _thumbnails(
    digests: dict[str, bytes | None], source: Images, preprocessing: AnyPreprocessing | None, show: bool
) -> dict[str, bytes]:
    """Open images again, in their order, and return a small JPEG of each as the network sees it; none where it isn't one."""
    places = [place for place in range(len(source)) if source.id(place) in digests]
    found, changed = dict[str, bytes](), list[str]()
    with progress("thumbnails", len(places), "images", show=show) as advance:
        for place in places:
            advance(1)
            id = source.id(place)
            try:
                given, _, digest = source.read(place)
                if digest != digests[id]:
                    changed.append(id)
                    continue
                found[id] = _small(_seen(given, preprocessing))
            except NoPicture:
                return {}
            except Unusable:
                changed.append(id)
    if changed:
        log.warning(
            "%d images are not as they were when they were observed, and have no thumbnail: %s",
            len(changed),
            some(changed, 3),
        )
    return found


def _seen(given: Picture, preprocessing: AnyPreprocessing | None) -> Image.Image:
    if not isinstance(given, Image.Image):
        return visible(given)
    return given if preprocessing is None else view(preprocessing, given)


def _small(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    fit(picture.convert("RGB"), SIDE).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
