"""A random sample of a source: each image is drawn by a hash of its id, so the draw does not depend on the images' order.

With more images asked for, those of the smaller sample stay in it. The images keep the order of their source.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

from subspect.ground.errors import SubspectError
from subspect.ground.files import fingerprint
from subspect.images.sources import ClassMatch, Example, Images

log = logging.getLogger("subspect")


class Sampled(Images):
    """Some images of a source.

    Args:
        source: all of them.
        limit: how many, over all classes; None for all.
        per_class: at most how many of each class; None for all.
        seed: draws another sample.

    Raises:
        SubspectError: a number below 1, or images per class of a source without labels, or whose labels aren't known.
    """

    def __init__(self, source: Images, limit: int | None, per_class: int | None, seed: int) -> None:
        for name, number in (("limit", limit), ("limit_per_class", per_class)):
            if number is not None and number < 1:
                raise SubspectError(f"{name} must be at least 1; got {number}")
        if per_class is not None and not source.labelled:
            raise SubspectError("limit_per_class needs labels, and these images have none; give limit")
        self._source = source
        order = sorted(range(len(source)), key=lambda index: (_lot(source.id(index), seed), index))
        if per_class is not None:
            order = _of_each_class(source, order, per_class)
        self._positions = sorted(order[:limit])
        self.kind, self.labelled, self.classes = source.kind, source.labelled, source.classes
        self.ready, self.image_column = source.ready, source.image_column
        self.root: Path | None = source.root
        self.table = source.table
        if len(self) < len(source):
            self.sample = f"{len(self):,} of {len(source):,}, drawn with seed {seed}"
        log.info("%s of %s images are taken, drawn with seed %d", f"{len(self):,}", f"{len(source):,}", seed)

    @property
    def place(self) -> str | None:
        """Where the source can be opened again."""
        return self._source.place

    def __len__(self) -> int:
        return len(self._positions)

    def id(self, index: int) -> str:
        """Return the id that the image has in the source."""
        return self._source.id(self._positions[index])

    def position(self, id: str) -> int:
        """Return the position of an id in the sample."""
        wanted = self._source.position(id)
        found = bisect_left(self._positions, wanted)
        if found == len(self) or self._positions[found] != wanted:
            raise self._unknown(id)
        return found

    def label(self, index: int) -> int | str | None:
        """Return the raw label at a position."""
        return self._source.label(self._positions[index])

    def read(self, index: int) -> Example:
        """Read the image at a position."""
        return self._source.read(self._positions[index])

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash the source's list and the positions taken."""
        return fingerprint("sample", self._source.fingerprint(match), str(self._positions))


def _lot(id: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{id}".encode(errors="surrogatepass"), digest_size=8).digest()


def _of_each_class(source: Images, order: Iterable[int], most: int) -> list[int]:
    counts: dict[int | str | None, int] = {}
    taken = list[int]()
    for index in order:
        label = source.label(index)
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= most:
            taken.append(index)
    return taken
