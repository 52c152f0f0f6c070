"""Measuring a cue: images are run as they are and swapped, and what changes is summed class by class."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.special import stdtrit

from subspect.ground.errors import SubspectError, some
from subspect.heads.decomposition import Decomposition
from subspect.studies.decompositions import made_by
from subspect.studies.same_network import not_as_observed
from subspect.studies.study import Study
from subspect.swapping.cue import Cue
from subspect.swapping.margins import through
from subspect.swapping.result import HEADS, Cues, Swapped, at_places
from subspect.swapping.through import Reader

log = logging.getLogger("subspect")

_Z = 1.959963984540054
Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Measure:
    """The images as they are, run once, and what each cue is compared with.

    Args:
        study: of the images.
        decomposition: whose classes are asked.
        reader: of the images and their partners, with the study's network.
        advance: called with the number of images that ran.

    Raises:
        SubspectError: no image can be opened again, or they are no pictures.
    """

    def __init__(
        self,
        study: Study,
        decomposition: Decomposition,
        reader: Reader,
        advance: Callable[[int], None],
    ) -> None:
        self.study, self.decomposition, self.reader, self.advance = study, decomposition, reader, advance
        self.pairs = pairs = reader.pairs
        self.weight, self.bias = (array.astype(np.float64) for array in decomposition.matrix())
        blocks = list(reader.through((), advance))
        self.at = np.concatenate([block.at for block in blocks])
        self.labels = pairs.labels[self.at]
        self.x = np.concatenate([block.features for block in blocks]).astype(np.float64)
        self.images = np.bincount(self.labels, minlength=len(self.bias))
        self.right = {"dense": self._counts(np.concatenate([block.said for block in blocks]) == self.labels)}
        logits = self.x @ self.weight.T + self.bias
        self.right["decomposed"] = self._counts(logits.argmax(axis=1) == self.labels)
        largest = np.partition(logits, -2, axis=1)
        self.margin = float(np.median(largest[:, -1] - largest[:, -2])) or 1.0
        self._check_same()

    def nothing(self) -> Cues:
        """Return what is known before any cue was swapped."""
        return Cues(
            self.decomposition.name,
            self.decomposition.class_names,
            self.images,
            self.margin,
            self.right,
            (),
            {},
            self._note(),
            self.pairs.fingerprint,
            made_by(self.decomposition),
            self.study.feature_names,
        )

    def swapped(self, cue: Cue) -> Swapped:
        """Measure a cue.

        Raises:
            SubspectError: it failed, or the network did on what it made, or images can't be read any more.
        """
        n_classes, d = self.weight.shape
        moved, right = _Mean((d,)), {head: np.zeros(n_classes, np.int64) for head in HEADS}
        pull = _Pull(n_classes) if cue.exchanged else None
        loss, lost = np.zeros((2, n_classes)), [csr_matrix((n_classes, d)) for _ in range(2)]
        row = 0
        for one in self.reader.through([cue], self.advance):
            here = slice(row, row := row + len(one.at))
            self._check_still_there(here, one.at)
            x, own = self.x[here], self.labels[here]
            changed, dense = one.features.astype(np.float64), one.said
            moved.update((x - changed) ** 2 / 2)
            parts = through(x, changed, own, self.weight, self.bias) / self.margin
            of_class = csr_matrix((np.ones(len(own)), (own, np.arange(len(own)))), (n_classes, len(own)))
            for power in (1, 2):
                loss[power - 1] += np.bincount(own, parts.sum(axis=1) ** power, n_classes)
                lost[power - 1] += of_class @ csr_matrix(parts**power)
            logits = changed @ self.weight.T + self.bias
            if pull is not None:
                before = x @ self.weight.T + self.bias
                pull.update((logits - before) / self.margin, own, self.pairs.labels[self.pairs.partners[one.at]])
            said = logits.argmax(axis=1)
            for head, predicted in zip(HEADS, (dense, said), strict=True):
                right[head] += np.bincount(own[predicted == own], minlength=n_classes)
        self._check_still_there(slice(row, None), self.at[:0])
        variance = self.pairs.variance
        scale = np.divide(1, variance, out=np.zeros(d), where=variance > 0)
        mean, half = _mean_and_half(loss, self.images)
        lost_mean, lost_half = _sparse_mean_and_half(lost, self.images)
        far, far_half = pull.mean_and_half(self.images) if pull is not None else np.full((2, n_classes), np.nan)
        return Swapped(
            name=cue.name,
            what=cue.what,
            moved=moved.mean * scale,
            moved_half=moved.half * scale,
            loss=mean,
            loss_half=half,
            pull=far,
            pull_half=far_half,
            through=lost_mean,
            through_half=lost_half,
            right=right,
        )

    def _counts(self, hits: npt.NDArray[np.bool_]) -> Counts:
        return np.bincount(self.labels[hits], minlength=len(self.bias))

    def _check_same(self) -> None:
        """Warn where images have other features than those that were stored."""
        stored = self.pairs.features[self.at]
        other = ~np.isclose(self.x, stored, rtol=0.01, atol=0.01).all(axis=1)
        ids = [self.pairs.ids[place] for place in self.at[other].tolist()]
        for text, do in not_as_observed(self.pairs.images, self.pairs.name, ids, len(self.at)):
            log.warning("cues: %s; %s", text, do)

    def _check_still_there(self, here: slice, at: Counts) -> None:
        """Refuse a pass that reads other images than the first one did."""
        if not np.array_equal(self.at[here], at):
            other = some((self.pairs.ids[place] for place in sorted({*self.at[here].tolist()} ^ {*at.tolist()})), 3)
            raise SubspectError(
                f"cues: of {self.pairs.name!r}, {other} could be read in one pass over the images and not in another; see that "
                "the images stay as they are, and run the same again: cues that are done are kept"
            )

    def _note(self) -> str:
        pairs = self.pairs
        note = f"{len(self.at):,} of {pairs.total:,} images of {pairs.called}" + f", seed {pairs.seed}" * bool(
            pairs.seed
        )
        few, with_images = int((self.images > 0).sum()), pairs.classes
        if few < with_images:
            note += f" ({few:,} of the {with_images:,} classes that have images)"
        if len(self.at) < len(pairs.ids):
            note += f"; {len(pairs.ids) - len(self.at):,} more couldn't be opened again, or their partners"
        if not pairs.labelled:
            note += "; no labels: the dense network's own predictions stand in"
        return note


class _Mean:
    """Mean of rows, and half the width of its 95 % interval."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n, self.sums = 0, np.zeros((2, *shape))

    def update(self, rows: Array) -> None:
        self.n += len(rows)
        self.sums += rows.sum(axis=0), (rows**2).sum(axis=0)

    @property
    def mean(self) -> Array:
        return np.asarray(self.sums[0] / self.n)

    @property
    def half(self) -> Array:
        return np.asarray(_Z * np.sqrt(np.maximum(self.sums[1] / self.n - self.mean**2, 0) / self.n))


class _Pull:
    """By how much more images come nearer to a class when the cue comes from it than when it comes from a third one."""

    def __init__(self, n_classes: int) -> None:
        self.sums = np.zeros((2, n_classes))  # and squares, over images of other classes
        self.own = np.zeros((2, n_classes))  # the same where the cue comes from the class
        self.given = np.zeros(n_classes, np.int64)

    def update(self, change: Array, own: Counts, partner: Counts) -> None:
        """Take in changes of logits (m, C) of images of classes ``own`` whose cue came from classes ``partner``."""
        rows = np.arange(len(own))
        nearer = change - change[rows, own][:, None]  # zero for an image's own class
        given = nearer[rows, partner]
        for power in (1, 2):
            self.sums[power - 1] += (nearer**power).sum(axis=0)
            self.own[power - 1] += np.bincount(partner, given**power, len(self.given))
        self.given += np.bincount(partner, minlength=len(self.given))

    def mean_and_half(self, images: Counts) -> tuple[Array, Array]:
        """Return (C,): the mean, and half the width of its 95 % interval."""
        counts = np.stack([self.given, images.sum() - images - self.given])
        with np.errstate(divide="ignore", invalid="ignore"):
            means, squares = np.stack([self.own, self.sums - self.own], axis=1) / counts
            mean = means[0] - means[1]
            variance = np.maximum((squares - means**2) / (counts - 1), 0).sum(axis=0)
            half = stdtrit(self.given - 1, 0.975) * np.sqrt(variance)
        return np.where(np.isfinite(mean), mean, np.nan), np.where(np.isfinite(half), half, np.nan)


def _factors(images: Counts) -> tuple[Array, Array]:
    """Return (C,): 1 / n of each class, and what the standard deviation of its images times ``t / √(n − 1)`` is."""
    n = np.maximum(images, 1)
    factor = np.full(len(images), np.nan)
    several = images > 1
    factor[several] = stdtrit(images[several] - 1, 0.975) / np.sqrt(images[several] - 1)
    return 1 / n, factor


def _mean_and_half(sums: Array, images: Counts) -> tuple[Array, Array]:
    """Return (C,): the mean of each class's images by sums and sums of squares (2, C), and half its interval."""
    share, factor = _factors(images)
    mean = np.where(images > 0, sums[0] * share, np.nan)
    return mean, factor * np.sqrt(np.maximum(sums[1] * share - (sums[0] * share) ** 2, 0))


def _sparse_mean_and_half(sums: list[csr_matrix], images: Counts) -> list[csr_matrix]:
    """Return the same of sparse sums (C, d), at the same places."""
    share, factor = _factors(images)
    rows, columns = sums[0].nonzero()
    first, second = (at_places(one, rows, columns) * share[rows] for one in sums)
    half = factor[rows] * np.sqrt(np.maximum(second - first**2, 0))
    return [csr_matrix((values, (rows, columns)), sums[0].shape) for values in (first, half)]
