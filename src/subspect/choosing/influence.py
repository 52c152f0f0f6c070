"""Which features matter to a class: the paper's measures (arXiv 2112.07719, section 3).

*Frequency*: for each image of the class, its k largest features; the influential features of the class are the k that
are among them most often. In the fractional form, for a share s of the mass, n_c is the mean number of features that an
image of the class needs to reach s, rounded, and the n_c that are needed most often are kept.

*Contribution*: the k largest of ``W[c, i] · mean(x_i | class c)``: what a feature adds to the logit on average.

Ties go to the lower index. A class without images has no influential features to find: it keeps all of its row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from subspect.heads.supports import Supports
from subspect.statistics.largest import TopFeatures
from subspect.statistics.moments import ClassSums


def frequency(top: TopFeatures, size: int | float) -> Supports:
    """Keep the most frequent of each class's largest features; a size below 1 is a share of the mass.

    Args:
        top: statistics that hold ``size``.
        size: k, or a share between 0 and 1.
    """
    scores = top.counts(size).astype(np.float64)
    wanted = np.full(top.n_classes, size) if isinstance(size, int) else np.floor(top.used(size) + 0.5)
    return _best(scores, np.maximum(wanted, 1).astype(np.int64), top.images)


def contribution(weight: npt.NDArray[np.floating], sums: ClassSums, k: int) -> Supports:
    """Keep the k features of each class with the largest ``W[c, i] · mean(x_i | class c)``, signs included.

    Args:
        weight: (C, d), the dense head's.
        sums: of the features of each class.
        k: how many for each class.
    """
    return _best(weight * sums.means(), np.full(len(weight), k), sums.images)


def _best(scores: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], images: npt.NDArray[np.int64]) -> Supports:
    """Take the features with the largest scores, as many as the class's size; all for a class without images."""
    width = scores.shape[1]
    rows = [
        np.argsort(-row, kind="stable")[:size] if seen else np.arange(width)
        for row, size, seen in zip(scores, sizes, images, strict=True)
    ]
    return Supports(rows, width)
