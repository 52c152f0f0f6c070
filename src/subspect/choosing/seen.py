"""What one pass over the features gathers, for the methods and for every decomposition."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from subspect.choosing.boundary import Affine
from subspect.choosing.of_all import of_all, only_sampled
from subspect.choosing.options import HOLD_OUT, Target
from subspect.choosing.sizes import Auto, Checked
from subspect.ground.errors import SubspectError, some
from subspect.heads.history import Part
from subspect.statistics.largest import TopFeatures
from subspect.statistics.moments import ClassSums
from subspect.studies.blocks import total
from subspect.studies.parts import split
from subspect.studies.rows import Block, Rows
from subspect.studies.study import Study
from subspect.studies.summed import Sums

log = logging.getLogger("subspect")
Taking = TypeVar("Taking", TopFeatures, ClassSums)


@dataclass(frozen=True)
class Seen:
    """What one pass over the features has gathered.

    Attributes:
        study: that images to promise on are taken from; None where rows were given without one.
        check: the image set, and the part of it, on which a size is chosen and the cost is measured.
        checked: its rows.
        check_labelled: whether it has labels.
        whole: the statistics of all images, where ``rows`` are a sample of them; ``top`` and ``sums`` are then of all.
    """

    image_set: str
    part: Part
    labelled: bool
    rows: Iterable[Block]
    dense: Affine
    target: Target
    top: TopFeatures
    sums: ClassSums
    check: tuple[str, Part]
    checked: Iterable[Block]
    check_labelled: bool
    study: Study | None = None
    whole: Sums | None = None

    @property
    def unseen(self) -> list[int]:
        """Classes without images."""
        return np.flatnonzero(self.sums.images == 0).tolist()

    @property
    def examples(self) -> str:
        """What to call the rows."""
        return "rows" if self.study is None else self.study.identity.examples

    def frequency(self, size: int | float) -> npt.NDArray[np.float64]:
        """Return (C, d): the share of a class's images that have each feature among their largest."""
        top = self.ranked(size)
        return top.counts(size) / np.maximum(top.images, 1)[:, None]

    def ranked(self, size: int | float) -> TopFeatures:
        """Return the counts of a size: what was gathered, or, if that isn't of this size, what another pass gathers."""
        top = self.top
        if size in top.sizes:
            return top
        return total(self.rows, partial(TopFeatures, top.n_classes, top.n_features, [size]), _taken)


def look(
    study: Study, on: str | None, sizes: Sequence[Checked], target: Target, hold_out: float, *, again: bool = True
) -> Seen:
    """Gather, in one pass over the features to choose on, what the methods and every decomposition need.

    Images that are to be promised on are neither chosen nor measured on. Where no other image set is left to measure the
    cost on, some of its images are held out for that. What is gone through ``again`` is kept where there is memory for it.

    Raises:
        SubspectError: no such image set, or labels are asked for where there are none.
    """
    promised = {size.promise for size in sizes if isinstance(size, Auto) and size.promise}
    names = [name for name in study.set_names if name not in promised or name in ("train", on)] or study.set_names
    if on is None and not names and not study.unfinished:
        raise SubspectError(f"the study {study.path} has no finished image set; observe one first")
    unfinished_train = "train" in study.unfinished and on is None
    first = "train" if unfinished_train else [*names, *study.unfinished][0]  # of an unfinished one it is said
    image_set = study.image_set(on if on is not None else first)
    if target == "labels" and not image_set.labelled:
        raise SubspectError(f"target 'labels' needs labels, and {image_set.name!r} has none; take target 'dense'")
    others = [name for name in names if name != image_set.name]
    part, held_out = split(hold_out)
    check = image_set.name, held_out
    if others and hold_out != HOLD_OUT:
        log.warning("hold_out (--hold-out) has no effect: the study has %s to measure on", some(map(repr, others)))
    if others:
        part, check = "all", ("test" if "test" in others else others[0], "all")
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    rows, measured = Rows(image_set, part, None if again else 0), study.image_set(check[0])
    top, sums = gathered(rows, weight.shape, sizes)
    whole = of_all(image_set, part, (weight, bias))
    if whole is not None:
        if again:
            only_sampled(whole, sums, study.identity.class_names)
        top, sums = whole.top, whole.classes
    checked = Rows(measured, check[1])
    about = image_set.name, part, image_set.labelled
    return Seen(*about, rows, (weight, bias), target, top, sums, check, checked, measured.labelled, study, whole)


def gathered(rows: Iterable[Block], shape: tuple[int, int], sizes: Sequence[Checked]) -> tuple[TopFeatures, ClassSums]:
    """Gather, in one pass over rows, what the methods need of C classes and d features; ``shape`` is (C, d)."""
    known = [size for size in sizes if isinstance(size, int | float)] or [1]
    return total(rows, lambda: (TopFeatures(*shape, known), ClassSums(*shape)), _both)


def _both(so_far: tuple[TopFeatures, ClassSums], block: Block) -> tuple[TopFeatures, ClassSums]:
    return _taken(so_far[0], block), _taken(so_far[1], block)


def _taken(so_far: Taking, block: Block) -> Taking:
    so_far.update(block.features, block.labels)
    return so_far
