"""How much an image weighs for each class of a dense head: the more, the nearer it is to the class's decision boundary.

See `subspect.choosing.boundary`, which says why. Here is what it takes to do that while images stream past.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from subspect.ground.arrays import Integers, Wide
from subspect.statistics.moments import Moments

SHARPNESS = 0.4  #: τ, as a share of the median margin
FLOOR = 3e-4  #: ε, the weight of an image far from the boundary
PLENTY = 20_000  #: images; from here on, those are sampled that weigh less than
SAMPLED = 0.1  #: or, from
MANY = 50_000  #: images on, than as much more as there are more, so that no more are drawn however many there are
CANDIDATES = 512  #: features that stay in the running for a class; of plenty of images,
FEWEST = 128  #: as many between these two
_GRAMS = 2**29  # as these bytes hold of all classes' Gram matrices
_GOLDEN = (5**0.5 - 1) / 2  # multiples of it are spread evenly between whole numbers


class Near(NamedTuple):
    """The images near classes' boundaries.

    Attributes:
        labels: (n,) which class.
        rows: (n,) which image.
        weights: (n,) what it weighs for the class, beyond ε.
        pulls: (n,) weight times target.
    """

    labels: Integers
    rows: Integers
    weights: Wide
    pulls: Wide

    @classmethod
    def found(cls, weights: Wide, pulls: Wide, first: int = 0) -> Near:
        """Find what isn't zero in (m, C) weights and pulls; the first image has a number."""
        rows, labels = np.nonzero((weights != 0) | (pulls != 0))
        return cls(labels, first + rows, weights[rows, labels], pulls[rows, labels])

    @classmethod
    def by_class(cls, parts: Sequence[Near]) -> Near:
        """Join parts, sorted by class."""
        nothing = cls.found(*np.zeros((2, 0, 1)))
        labels, *rest = (np.concatenate(one) for one in zip(nothing, *parts, strict=True))
        order = np.argsort(labels, kind="stable")
        return cls(labels[order], *(one[order] for one in rest))

    def of(self, label: int) -> tuple[Integers, Wide, Wide]:
        """Return rows, weights and pulls of a class, sorted by class."""
        part = slice(*np.searchsorted(self.labels, (label, label + 1)).tolist())
        return self.rows[part], self.weights[part], self.pulls[part]


def sampled(images: int) -> float:
    """Return the weight below which images are sampled, and which those have that are drawn; 0 where all are taken."""
    return SAMPLED * max(1.0, images / MANY) if images >= PLENTY else 0.0


def candidates(images: int, n_classes: int) -> int:
    """Return how many features at most stay in the running for a class, of so many images."""
    room = isqrt(_GRAMS // (8 * n_classes)) if images >= PLENTY else CANDIDATES
    return min(CANDIDATES, max(FEWEST, room))


def margins(logits: Wide) -> Wide:
    """Return (m,) the largest of the logits (m, C) of some images less the second."""
    two = np.partition(logits, -2, axis=1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0])


def weigh(
    logits: Wide, margin: float, sampled: float = 0, hashes: npt.NDArray[np.uint64] | None = None
) -> tuple[Wide, Wide]:
    """Return (m, C) what images weigh beyond ε, and (m, C) their pull: weight times target; both zero far away.

    Args:
        logits: (m, C) of the dense head.
        margin: the median of the images' margins.
        sampled: the weight below which images are drawn.
        hashes: (m,) of the images, by which they are; None to take all.
    """
    two = np.partition(logits, -2, axis=1)[:, -2:]
    apart = logits - np.where(logits == two[:, 1:], two[:, :1], two[:, 1:])
    weights = np.exp(-np.abs(apart) / (SHARPNESS * margin)) if margin else np.ones_like(apart)
    weights[weights < FLOOR] = 0
    if hashes is not None:
        chance = (hashes >> np.uint64(11)).astype(np.float64)[:, None] / 2**53 + _GOLDEN * np.arange(logits.shape[1])
        weights = np.where(weights > sampled * (chance % 1), np.maximum(weights, sampled), 0)
    return weights, weights * (logits - logits.mean(axis=1, keepdims=True))


def leaning(weight: Wide, moments: Moments) -> Wide:
    """Return (C, d): the spread of what each feature adds to a class's dense logit, beyond what it adds to all."""
    return np.asarray(np.abs(weight - weight.mean(axis=0)) * moments.deviations())


def ranks(weight: Wide, moments: Moments) -> Integers:
    """Return (C, d): for each class the better of a feature's ranks in spread of contribution and in covariance."""
    mean = moments.sums / moments.images
    covariance = moments.products / moments.images - np.outer(mean, mean)
    spread = np.sqrt(np.maximum(covariance.diagonal(), 0))
    along = np.abs((weight - weight.mean(axis=0)) @ covariance) / np.where(spread > 0, spread, np.inf)
    scores = leaning(weight, moments), along
    return np.minimum(*(np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1) for score in scores))


def best(ranks: Integers, size: int) -> Integers:
    """Return (C, size): for each class the features of the best ranks (C, d), ascending."""
    return np.sort(np.argsort(ranks, axis=1, kind="stable")[:, :size], axis=1)
