"""The images of some classes of a study, read again: to weigh channels by, to learn from, and to measure on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from subspect.ground.errors import SubspectError, some
from subspect.ground.memory import budget
from subspect.images.batches import batches
from subspect.images.opening import ImageSource
from subspect.networks.network import Network
from subspect.shrinking.recover import BATCH
from subspect.shrinking.worth import Images
from subspect.studies.reopen import Reopened, open_again
from subspect.studies.shards import Chunk
from subspect.studies.spread import check_read, spread
from subspect.studies.study import Study

log = logging.getLogger("subspect")


@dataclass(frozen=True, eq=False)
class ImagesOfClasses:
    """Images of an image set that are of some classes.

    Attributes:
        study: of the network.
        network: as the study knows it.
        labels: the classes.
        name: of the image set.
        chunks: those of its images that count.
        given: where the images are, if they were in memory or have been moved since.
        workers: processes that read images.
    """

    study: Study
    network: Network
    labels: Sequence[int]
    name: str
    chunks: Iterable[Chunk]
    given: ImageSource | None = None
    workers: int = 0

    @cached_property
    def all(self) -> list[tuple[str, int]]:
        """Id and class of each."""
        pairs = (pair for one in self.chunks for pair in zip(one.ids, one.labels.tolist(), strict=True))
        return [pair for pair in pairs if pair[1] in self.labels]

    def drawn(self, most: int, seed: int = 0) -> Images:
        """Read some, spread over the classes, in random order.

        In order of their classes, batches would be of one class each, and their variances not those of the images.

        Args:
            most: how many; fewer where memory is short.
            seed: of the draw.

        Raises:
            SubspectError: there are none of one of the classes, or they can't be opened again.
        """
        there = {label for _, label in self.all}
        if lacking := [self.study.identity.class_names[label] for label in self.labels if label not in there]:
            raise SubspectError(
                f"there are no images of {some(lacking)} in {self.name!r}, by which channels are weighed; observe some, or "
                "name classes that have images"
            )
        places = spread(np.array([label for _, label in self.all], np.int64), most, seed)
        wanted = [self.all[at] for at in np.random.default_rng([seed, 1]).permutation(places).tolist()]
        parts, room = list[Images](), budget() // 2  # the other half for putting them together
        for part in self.read(wanted):
            parts.append(part)
            room -= part.pixels.nbytes
            if room < part.pixels.nbytes:
                count = sum(len(one.own) for one in parts)
                log.info("%d of %d images are taken, as many as memory has room for", count, len(wanted))
                break
        return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.own for part in parts]))

    def read(self, wanted: Sequence[tuple[str, int]] | None = None) -> Iterator[Images]:
        """Read some, all unless given, batch by batch.

        Raises:
            SubspectError: none can be opened again.
        """
        wanted, image_set = self.all if wanted is None else wanted, self.study.image_set(self.name)
        own = {id: list(self.labels).index(label) for id, label in wanted}
        cuts = [list(range(start, min(start + BATCH, len(wanted)))) for start in range(0, len(wanted), BATCH)]
        again, failed, count = Reopened(image_set, list(own), open_again(self.given, image_set)), dict[str, str](), 0
        for batch in batches(again, self.network.preprocessing, None, cuts, self.workers):
            failed |= dict(batch.failed)
            if isinstance(batch.pixels, Tensor):
                count += len(batch.ids)
                yield Images(batch.pixels, torch.tensor([own[id] for id in batch.ids]))
        check_read(count, self.name, list(own), failed)

    def readable(self) -> bool:
        """Tell whether there are any that can be opened again, of which a few are tried; if they can't, that is logged."""
        few = self.all[:: max(1, len(self.all) // BATCH)]
        try:
            return bool(few) and any(len(one.own) for one in self.read(few))
        except SubspectError:
            root = self.study.image_set(self.name).manifest.root
            how = f"put them back where they were: {root}" if root else "they were in memory: observe them from files"
            log.warning(
                "the images of %r can't be opened again, so the small network's accuracy isn't measured on them; %s",
                *(self.name, how),
            )
            return False
