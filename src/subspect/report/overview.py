"""What the report's first page says of a decomposition: confusions and the features behind them, calibration, losses.

Two passes over the stored features of the images that the cost is measured on: the first counts, the second averages the
features of the images that are confused most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from subspect.heads.decomposition import Decomposition
from subspect.heads.terms import Term, terms
from subspect.measuring.fidelity import Fidelity
from subspect.measuring.heads_say import heads_say
from subspect.statistics.outcomes import Calibration, Confusion
from subspect.studies.study import Study

_PAIRS = 12  # confusions that are shown
_BEHIND = 3  # features named for each


@dataclass(frozen=True)
class Confused:
    """Images of one class that the decomposed network takes for another.

    Attributes:
        label: class index of the images.
        predicted: class index that the decomposed network predicts.
        images: their number.
        dense: how many images of the class the dense network takes for that other.
        of: number of images of the class.
        terms: the features that speak most for the wrong class, on average over these images.
        bias: what the difference of the biases says for it, in logits.
        lacking: features of the right class and how much less than on its images on average they say for it, in logits;
            those that lack most.
    """

    label: int
    predicted: int
    images: int
    dense: int
    of: int
    terms: tuple[Term, ...]
    bias: float
    lacking: tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class Overview:
    """Confusions, most images first; calibration of the dense and the decomposed network."""

    confused: tuple[Confused, ...]
    dense: Calibration
    decomposed: Calibration


def overview_of(study: Study, decomposition: Decomposition, fidelity: Fidelity) -> Overview:
    """Count confusions and calibration on the images of ``fidelity``."""
    n_classes = study.identity.n_classes
    confusions = Confusion(n_classes), Confusion(n_classes)
    calibrations = Calibration(), Calibration()
    for said in heads_say(study, decomposition, fidelity.where):
        for logits, confusion, calibration in zip((said.dense, said.decomposed), confusions, calibrations, strict=True):
            top, labels = logits.argmax(axis=1), said.chunk.labels
            confusion.update(labels, top)
            calibration.update(softmax(logits, axis=1).max(axis=1), top == labels)
    dense, decomposed = (confusion.counts for confusion in confusions)
    wrong = decomposed - np.diag(decomposed.diagonal())
    pairs = [divmod(int(place), n_classes) for place in np.argsort(-wrong.ravel(), kind="stable")[:_PAIRS]]
    pairs = [pair for pair in pairs if wrong[pair]]
    sums = {pair: np.zeros(study.identity.n_features) for pair in pairs}
    for said in heads_say(study, decomposition, fidelity.where) if pairs else ():
        chunk, top = said.chunk, said.decomposed.argmax(axis=1)
        for (label, other), total in sums.items():
            total += chunk.features[(chunk.labels == label) & (top == other)].sum(axis=0, dtype=np.float64)
    confused = tuple(_confused(decomposition, pair, total, (dense, decomposed)) for pair, total in sums.items())
    return Overview(confused, *calibrations)


def _confused(
    decomposition: Decomposition,
    pair: tuple[int, int],
    total: npt.NDArray[np.float64],
    counts: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> Confused:
    """Say of one class taken for another how often, and by which features; ``total``: (d,) features summed over the images."""
    (label, said), (dense, decomposed) = pair, counts
    images = int(decomposed[pair])
    found, bias = terms(decomposition, total / images, said, label)
    behind = sorted(found, key=lambda term: -term.contribution)[:_BEHIND]
    tipped = tuple(term for term in behind if term.contribution > 0)
    lacking = _lacking(decomposition, label, total / images)
    return Confused(label, said, images, int(dense[pair]), int(decomposed[label].sum()), tipped, bias, lacking)


def _lacking(
    decomposition: Decomposition, label: int, features: npt.NDArray[np.float64]
) -> tuple[tuple[int, float], ...]:
    """Return the features of a class that say less for it on some images than on its images on average; the most first."""
    rows = decomposition.rows(label) if label not in decomposition.unseen else []
    short = [(row.feature, row.weight * (row.mean - float(features[row.feature]))) for row in rows]
    return tuple(sorted((one for one in short if one[1] > 0), key=lambda one: -one[1])[:_BEHIND])
