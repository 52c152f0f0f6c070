"""What can be promised of a head on images that nobody has seen, and the counts that promises are made from.

The promise is a one-sided exact bound (Clopper, Pearson 1934) for fidelity, and for the loss of accuracy a bound on the
difference of two paired shares (see `most_lost`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr
from scipy.stats import beta, binom

from subspect.choosing.boundary import Affine, logits
from subspect.choosing.sizes import CONFIDENCE, Auto, Measure
from subspect.heads.history import Promised
from subspect.studies.blocks import total
from subspect.studies.rows import Block

_NUISANCE = 1e-3  # error rate spent on the share of images where exactly one network is right


class Counts(NamedTuple):
    """How a decomposed head fares on some images.

    Attributes:
        images: their number.
        agree: images on which it has the dense network's top-1 class.
        right: images on which it has the label.
        lost: images on which the dense network alone has the label.
        won: images on which it alone has the label.
    """

    images: int
    agree: int
    right: int
    lost: int
    won: int

    def loss(self, measure: Measure) -> float:
        """Return the share of images on which it disagrees, or the accuracy lost."""
        lost = self.images - self.agree if measure == "fidelity" else self.lost - self.won
        return lost / self.images

    def bound(self, measure: Measure, confidence: float = CONFIDENCE) -> float:
        """Return what the loss is at most, at a confidence."""
        if measure == "fidelity":
            return 1 - at_least(self.agree, self.images, confidence)
        return most_lost(self.lost, self.won, self.images, confidence)


def count(blocks: Iterable[Block], heads: Sequence[Affine], skip: npt.NDArray[np.uint64] | None = None) -> list[Counts]:
    """Count how each of some heads fares, in one pass; images whose row print is in ``skip`` are left out."""
    nothing = partial(np.zeros, (len(heads), 5), np.int64)
    return [Counts(*row) for row in total(blocks, nothing, partial(_count, heads, skip)).tolist()]


def _count(
    heads: Sequence[Affine], skip: npt.NDArray[np.uint64] | None, so_far: npt.NDArray[np.int64], block: Block
) -> npt.NDArray[np.int64]:
    kept = np.ones(len(block.labels), bool) if skip is None else ~np.isin(block.prints(), skip)
    dense = block.predictions == block.labels
    for place, head in enumerate(heads):
        said = logits(block, head).argmax(axis=1)
        right = said == block.labels
        hits = (kept, said == block.predictions, right, dense & ~right, right & ~dense)
        so_far[place] += [int((hit & kept).sum()) for hit in hits]
    return so_far


def at_least(successes: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return what a share is at least, at a confidence: the exact one-sided bound of Clopper and Pearson (1934)."""
    return float(beta.ppf(1 - confidence, successes, n - successes + 1)) if successes else 0.0


def most_lost(lost: int, won: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return what the difference ``P(lost) − P(won)`` of two paired shares is at most, at a confidence.

    The bound inverts the exact test on ``lost − won`` under the trinomial law. The sum of the two shares is unknown: the
    test takes the worst over a confidence interval for it, whose error rate is taken off (Berger, Boos 1994).

    Args:
        lost: pairs where only the first is a success.
        won: pairs where only the second is.
        n: all pairs.
        confidence: of the bound.
    """
    either = lost + won
    low = float(beta.ppf(_NUISANCE / 2, either, n - either + 1)) if either else 0.0
    high = float(beta.ppf(1 - _NUISANCE / 2, either + 1, n - either)) if either < n else 1.0
    least, most = (lost - won) / n, 1.0
    while most - least > 1e-6:
        middle = (least + most) / 2
        sums = np.linspace(max(low, abs(middle)), high, 33) if abs(middle) <= high else np.empty(0)
        chance = max((_chance(lost - won, n, float(total), middle) for total in sums), default=0.0)
        least, most = (middle, most) if chance + _NUISANCE > 1 - confidence else (least, middle)
    return most


def _chance(difference: int, n: int, either: float, mean: float) -> float:
    """Return the probability that lost − won is no more than ``difference``, where the shares have a sum and a mean."""
    spread = 9 * np.sqrt(n * either * (1 - either)) + 9
    ms = np.arange(max(0, int(n * either - spread)), min(n, int(n * either + spread)) + 1)
    most = np.floor((ms + difference) / 2)
    share = (either + mean) / (2 * either) if either else 0.0
    below = np.where(most < 0, 0.0, np.where(most >= ms, 1.0, bdtr(np.clip(most, 0, ms), ms, share)))
    return float((binom.pmf(ms, n, either) * below).sum())


def promised(wanted: Auto, loss: float, images: int, *, kept: bool) -> Promised:
    """Say what is promised of a head, from images that neither the network nor the choice has seen.

    Args:
        wanted: measure, confidence, and the image set that the images are from.
        loss: with that confidence no more than this share is lost.
        images: from how many images.
        kept: whether that is within the tolerance.
    """
    most = ceil(1000 * loss - 1e-9) / 10  # rounded so that no more is said than was shown
    what = (
        f"at least {100 - most:.1f} % agreement with the dense network"
        if wanted.measure == "fidelity"
        else f"at most {most:.1f} points of accuracy lost"
    )
    text = f"{what}, {100 * wanted.confidence:g} % confidence, n = {images:,}"
    return Promised(str(wanted.promise), text, wanted.measure, loss, wanted.confidence, images, kept)
