"""Statistics of all images of a set of which only a sample's features are kept: what is summed, and the file that holds it.

Images stream past once, so what decides how much an image weighs must be known before: the median margin of the dense head,
the features that stay in the running for each class, the range of each feature. A plan holds these; it is made from images
that are spread over the set and run first, and lies in the file with the sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax

from subspect.ground.arrays import Integers, Wide
from subspect.ground.errors import SubspectError, advice
from subspect.ground.files import atomic
from subspect.ground.schemas import as_type
from subspect.ground.seals import file_checksum, read_tensors, tensor_bytes
from subspect.statistics.histograms import BINS, Histograms, edges_over
from subspect.statistics.largest import TopFeatures, TopImages
from subspect.statistics.moments import ClassSums, Moments, WeightedMoments
from subspect.statistics.nearness import Near, best, candidates, margins, ranks, sampled, weigh
from subspect.statistics.outcomes import Calibration, Confusion
from subspect.studies.image_set import SUMMED, ImageSet
from subspect.studies.rows import prints, workers
from subspect.studies.shards import Chunk

SIZES = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    16,
    20,
    24,
    32,
    40,
    48,
    64,
    0.5,
    0.8,
    0.9,
)  #: of which the largest features are counted
SHOWN = 8  #: images kept of those that activate a feature most
Affine = tuple[Wide, Wide]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is known before images stream past.

    Attributes:
        margin: median over some images of the largest dense logit less the second.
        candidates: (C, m) features in the running for each class, ascending.
        edges: (d, bins + 1) of the histograms.
        sampled: the weight below which images are sampled.
    """

    margin: float
    candidates: Integers
    edges: Wide
    sampled: float

    @classmethod
    def of(cls, first: Chunk, dense: Affine, images: int) -> Plan:
        """Make a plan from images that were run first, for so many in all; ``dense`` is the dense head."""
        weight, bias = dense
        moments = Moments(weight.shape[1])
        moments.update(first.features)
        running = best(ranks(weight, moments), candidates(images, len(weight)))
        margin = float(np.median(margins(first.features @ weight.T + bias)))
        return cls(margin, running, edges_over(first.features), sampled(images))


def bytes_of_sums(n_classes: int, n_features: int, images: int) -> int:
    """Return the bytes on disk of the sums of so many images, about; without thumbnails."""
    sizes = sum(size <= n_features for size in SIZES)
    grams = n_classes * min(n_features, candidates(images, n_classes)) ** 2
    return 8 * (grams + n_features**2 + (sizes + 1) * n_classes * n_features + n_classes**2 + 200 * n_features)


class Sums:
    """The statistics of some images, which those of others can be added to.

    Attributes:
        plan: what was known before.
        top: how often each feature is among an image's largest.
        classes: images and sum of the features of each class.
        moments: second moments of all images.
        near: for each class's candidates, those of the images near its boundary, weighted.
        histograms: of each feature.
        confusion: label against prediction of the dense network.
        calibration: of the dense head.
        images: those that activate each feature most.
        digests: id → digest of the file of each of those, None where it was none.
        thumbnails: id → JPEG of each of those, once the set is complete, where there is a picture.
        done: how many shards of the set these are the images of, from the first on.
        checksum: of the file that holds them, as it was written or read; empty before.
    """

    def __init__(self, plan: Plan, shape: tuple[int, int]) -> None:
        n_classes, n_features = self.shape = shape
        self.plan, self.done = plan, 0
        self.top = TopFeatures(n_classes, n_features, [size for size in SIZES if size <= n_features])
        self.classes, self.moments = ClassSums(n_classes, n_features), Moments(n_features)
        self.near, self.histograms = WeightedMoments(plan.candidates), Histograms(plan.edges)
        self.confusion, self.calibration = Confusion(n_classes), Calibration()
        self.images = TopImages(n_features, SHOWN)
        self.digests: dict[str, bytes | None] = {}
        self.thumbnails: dict[str, bytes] = {}
        self.checksum = ""

    def update(self, chunk: Chunk, dense: Affine) -> None:
        """Take in some images; ``dense`` is the dense head, weight and bias."""
        features, labels = chunk.features, chunk.labels
        if not len(labels):
            return
        for one in (self.top, self.classes, self.moments, self.histograms):
            one.update(features, labels)
        self.images.update(features, labels, chunk.ids)
        self._know(dict(zip(chunk.ids, chunk.digests or [None] * len(chunk.ids), strict=True)))
        logits = features @ dense[0].T + dense[1]
        self.confusion.update(labels, chunk.predictions)
        self.calibration.update(softmax(logits, axis=1).max(axis=1), labels == chunk.predictions)
        drawn = prints(features) if self.plan.sampled else None
        weighed = Near.by_class([Near.found(*weigh(logits, self.plan.margin, self.plan.sampled, drawn))])

        def at(label: int) -> None:
            self.near.update(label, features, *weighed.of(label))

        with workers() as pool:
            list(pool.map(at, range(len(self.near.features))))

    def __iadd__(self, other: Sums) -> Self:
        self.classes += other.classes
        self.moments += other.moments
        self.near += other.near
        for name in ("top", "histograms", "confusion", "calibration", "images"):
            setattr(self, name, getattr(self, name).merge(getattr(other, name)))
        self._know(other.digests)
        return self

    def without(self, other: Sums) -> None:
        """Take images out that were taken in, but for those that activate a feature most."""
        for (name, array), (_, theirs) in zip(self.arrays(), other.arrays(), strict=True):
            if not name.startswith("images.") and name not in ("near.features", "histograms.edges"):
                array -= theirs
        self.moments.images -= other.moments.images

    def _know(self, digests: Mapping[str, bytes | None]) -> None:
        """Keep the digests of those images that activate a feature most."""
        known = {**self.digests, **digests}
        self.digests = {
            id: known[id] for id in np.unique(self.images.ids[self.images.labels >= 0].astype(str)).tolist()
        }

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Go through all arrays of numbers, by name; what is written into one counts."""
        parts = ("classes", "moments", "near", "histograms", "confusion", "calibration", "images")
        yield from ((f"top.{name}", array) for name, array in self.top.arrays().items())
        for part in parts:
            for name, array in vars(getattr(self, part)).items():
                if isinstance(array, np.ndarray) and array.dtype != object:
                    yield f"{part}.{name}", array


@dataclass(frozen=True)
class _Header:
    """What the file says besides its numbers."""

    of: str
    done: int
    margin: float
    sampled: float
    ids: list[str]
    digests: list[str | None]


def write_sums(image_set: ImageSet, sums: Sums) -> None:
    """Write the statistics of an image set, whole or not at all, in place of what they were.

    Raises:
        SubspectError: it cannot be written, or another file is there.
    """
    ids = sorted(sums.digests)
    places = {id: place for place, id in enumerate(ids)}
    pictures = [sums.thumbnails.get(id, b"") for id in ids]
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in sums.arrays()}
    at = [[places.get(id, -1) for id in row] for row in sums.images.ids.tolist()]
    tensors["images.ids"] = torch.tensor(at, dtype=torch.int64)
    tensors["thumbnails"] = torch.frombuffer(bytearray(b"".join(pictures)) or bytearray(1), dtype=torch.uint8)
    tensors["thumbnails.bytes"] = torch.tensor([len(one) for one in pictures], dtype=torch.int64)
    digests = [None if digest is None else digest.hex() for digest in map(sums.digests.__getitem__, ids)]
    plan = sums.plan
    header = _Header(_place(image_set), sums.done, plan.margin, plan.sampled, ids, digests)
    path = image_set.folder / SUMMED
    data, before = tensor_bytes(tensors, asdict(header)), sums.checksum
    sums.checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with atomic(path, lambda path: file_checksum(path) == before) as file:
        file.write(data)


def read_sums(image_set: ImageSet) -> Sums:
    """Read the statistics of all images of a set, or, while it is filled, of those so far.

    Raises:
        SubspectError: they are missing, damaged, or of another image set.
    """
    path = image_set.folder / SUMMED
    with advice("delete it and run the same observe command again"):
        checksum = file_checksum(path)
        if image_set.manifest.statistics not in ("", checksum):
            raise SubspectError(f"{path} is damaged: its bytes are not those that were written: their checksum differs")
        tensors, header = read_tensors(path, "statistics")
        about = as_type(_Header, header, path, "statistics")
        if about.of != _place(image_set):
            raise SubspectError(f"{path} is of another image set")
        sums = _filled(image_set, tensors, about, path)
    sums.checksum = checksum
    return sums


def _filled(image_set: ImageSet, tensors: Mapping[str, torch.Tensor], about: _Header, path: Path) -> Sums:
    """Return what a file holds.

    Raises:
        SubspectError: something is missing, or not what it must be.
    """
    given = {name: tensor.numpy() for name, tensor in tensors.items()}
    shape = image_set.shape.n_classes, image_set.shape.n_features
    try:
        plan = Plan(about.margin, given["near.features"], given["histograms.edges"], about.sampled)
        size = min(shape[1], candidates(image_set.manifest.images, shape[0]))
        if plan.candidates.shape != (shape[0], size) or plan.edges.shape != (shape[1], BINS + 1):
            raise ValueError(f"near.features is {plan.candidates.shape}, histograms.edges {plan.edges.shape}")
        sums = Sums(plan, shape)
        for name, array in sums.arrays():
            found = given[name]
            if (found.dtype, found.shape) != (array.dtype, array.shape) or np.isnan(found).any():
                raise ValueError(
                    f"{name} is {found.dtype} {found.shape}, or has NaN; expected {array.dtype} {array.shape}"
                )
            array[...] = found
        sums.moments.images = int(sums.classes.images.sum())
        sums.images.ids = np.array([*about.ids, ""], object)[given["images.ids"]]
        known = [None if one is None else bytes.fromhex(one) for one in about.digests]
        sums.digests = dict(zip(about.ids, known, strict=True))
        sums.thumbnails, sums.done = _thumbnails(about.ids, given), about.done
        _check(sums, image_set)
    except (KeyError, IndexError, ValueError) as error:
        raise SubspectError(f"{path} is not statistics of subspect: {error}") from error
    return sums


def _thumbnails(ids: list[str], given: Mapping[str, npt.NDArray[Any]]) -> dict[str, bytes]:
    sizes, data = given["thumbnails.bytes"], given["thumbnails"].tobytes()
    ends = np.cumsum(sizes)
    pairs = zip(ids, (ends - sizes).tolist(), ends.tolist(), strict=True)
    return {id: data[start:end] for id, start, end in pairs if end > start}


def _check(sums: Sums, image_set: ImageSet) -> None:
    """Check that numbers of classes and features are such.

    Raises:
        ValueError: they aren't.
    """
    n_classes, n_features = sums.shape
    features, labels = sums.plan.candidates, sums.images.labels
    if features.min() < 0 or features.max() >= n_features or labels.max() >= n_classes:
        raise ValueError("it names features or classes that there are not")
    if sums.images.ids.shape != labels.shape or not 0 <= sums.done <= image_set.manifest.n_shards:
        raise ValueError(f"images.ids is {sums.images.ids.shape}, and {sums.done} shards are done")


def _place(image_set: ImageSet) -> str:
    manifest = image_set.manifest
    return f"{manifest.fingerprint}, {manifest.network_fingerprint}, {manifest.shard_size}, {manifest.sampled}"


def summed(image_set: ImageSet) -> Sums | None:
    """Return the statistics of all images of a set, where they are kept."""
    return read_sums(image_set) if image_set.manifest.sampled else None


def labelled(chunk: Chunk, *, given: bool) -> Chunk:
    """Return images with the network's own predictions as their labels, where none were given."""
    return chunk if given else replace(chunk, labels=chunk.predictions)
