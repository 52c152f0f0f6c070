"""Choosing by the statistics of all images, where features are kept of a sample alone (`subspect.studies.summed`).

The paper's measures need counts and sums, which are those of all images. Pursuit's first choice needs the Gram matrices at the
dense head's boundary, which are summed too; what follows it (refit, choosing anew, halves) needs the images themselves, and
so takes the sample. Images that are held out are some of the sample; what they added to the sums is taken out again. A class of
which the sample has no image keeps its dense row in all of this, from the first choice on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from subspect.choosing.boundary import Affine, Boundary, favour
from subspect.choosing.pursuit import Quadratic
from subspect.ground.errors import some
from subspect.heads.history import Part
from subspect.statistics.moments import ClassSums
from subspect.studies.image_set import ImageSet
from subspect.studies.parts import counterpart
from subspect.studies.rows import workers
from subspect.studies.summed import Sums, summed

log = logging.getLogger("subspect")
T = TypeVar("T")


class OfAll(Boundary):
    """The boundary of the dense head, by statistics of all images; there is no other head's.

    Args:
        sums: of all images.
        dense: the dense head.
        stable: whether features are favoured that it leans on.
    """

    def __init__(self, sums: Sums, dense: Affine, *, stable: bool) -> None:
        self.sums, self.dense, self.target = sums, dense, "dense"
        self.moments, self.images, self.margin = sums.moments, sums.classes.images, sums.plan.margin
        self.favour = favour(dense[0], sums.moments) if stable else None

    def each(self, work: Callable[[Quadratic], T], head: Affine | None = None) -> list[T]:
        """Do some work on every class's least squares."""
        assert head is None
        weight, bias = self.dense[0] - self.dense[0].mean(axis=0), self.dense[1] - self.dense[1].mean()
        pulls = self.moments.products @ weight.T + np.outer(self.moments.sums, bias)
        pull = weight @ self.moments.sums + self.moments.images * bias
        with workers() as pool:
            return list(
                pool.map(
                    lambda label: work(self._quadratic(label, self.sums.near, label, pulls[:, label], pull[label])),
                    range(len(weight)),
                )
            )


def of_all(image_set: ImageSet, part: Part, dense: Affine) -> Sums | None:
    """Return the statistics of all images of a set, where there are such; but for those of the sample that are held out."""
    sums = summed(image_set)
    if sums is not None and part != "all":
        held = Sums(sums.plan, sums.shape)
        for chunk in image_set.chunks(counterpart(part)):
            held.update(chunk, dense)
        sums.without(held)
    return sums


def only_sampled(sums: Sums, sample: ClassSums, names: tuple[str, ...]) -> None:
    """Leave out the classes that the sample has no images of, since nothing could be learned of them."""
    absent = np.flatnonzero((sample.images == 0) & (sums.classes.images > 0))
    if len(absent):
        log.warning(
            "classes of which the sample has no image keep their dense weights, %d in all: %s",
            len(absent),
            some(names[label] for label in absent.tolist()),
        )
    for counted in (sums.classes.images, sums.classes.sums, sums.top.images):
        counted[absent] = 0
