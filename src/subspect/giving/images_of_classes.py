"""The images of some classes of a study, read again: to weigh channels by, to learn from, and to measure on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

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
from subspect.studies.spread import check_read, spread
from subspect.studies.study import Study

log = logging.getLogger("subspect")


def images_of(
    study: Study,
    network: Network,
    labels: Sequence[int],
    name: str,
    most: int,
    *,
    given: ImageSource | None = None,
    seed: int = 0,
    workers: int = 0,
) -> Images:
    """Return images of some classes of an image set, spread over these, at most so many, in random order.

    In order of their classes, batches would be of one class each, and their variances not those of the images.

    Args:
        study: of the network.
        network: as the study knows it.
        labels: the classes.
        name: of the image set.
        most: how many; fewer where memory is short.
        given: where the images are, if they were in memory or have been moved since.
        seed: of the draw.
        workers: processes that read images.

    Raises:
        SubspectError: there are none of one of the classes, or they can't be opened again.
    """
    chunks = study.image_set(name).chunks()
    found = [pair for one in chunks for pair in zip(one.ids, one.labels.tolist(), strict=True) if pair[1] in labels]
    there = {label for _, label in found}
    if lacking := [study.identity.class_names[label] for label in labels if label not in there]:
        raise SubspectError(
            f"there are no images of {some(lacking)} in {name!r}, by which channels are weighed; observe some, or name classes "
            "that have images"
        )
    drawn = [found[at] for at in spread(np.array([label for _, label in found], np.int64), most, seed).tolist()]
    drawn = [drawn[at] for at in np.random.default_rng([seed, 1]).permutation(len(drawn)).tolist()]
    parts, room = list[Images](), budget() // 2  # the other half for putting them together
    for part in read_again(study, network, labels, name, drawn, given, workers):
        parts.append(part)
        room -= part.pixels.nbytes
        if room < part.pixels.nbytes:
            count = sum(len(one.own) for one in parts)
            log.info("%d of %d images are taken, as many as memory has room for", count, len(drawn))
            break
    return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.own for part in parts]))


def read_again(
    study: Study,
    network: Network,
    labels: Sequence[int],
    name: str,
    wanted: Sequence[tuple[str, int]],
    given: ImageSource | None = None,
    workers: int = 0,
) -> Iterator[Images]:
    """Read images of an image set again, batch by batch.

    Args:
        study: of the network.
        network: as the study knows it.
        labels: the wanted classes.
        name: of the image set.
        wanted: id and class of each image.
        given: where the images are, if they were in memory or have been moved since.
        workers: processes that read images.

    Raises:
        SubspectError: none can be opened again.
    """
    image_set = study.image_set(name)
    source = open_again(given, image_set)
    own = {id: list(labels).index(label) for id, label in wanted}
    cuts = [list(range(start, min(start + BATCH, len(wanted)))) for start in range(0, len(wanted), BATCH)]
    again, failed, count = Reopened(image_set, list(own), source), dict[str, str](), 0
    for batch in batches(again, network.preprocessing, None, cuts, workers):
        failed |= dict(batch.failed)
        if isinstance(batch.pixels, Tensor):
            count += len(batch.ids)
            yield Images(batch.pixels, torch.tensor([own[id] for id in batch.ids]))
    check_read(count, name, list(own), failed)


def readable(
    study: Study,
    network: Network,
    labels: Sequence[int],
    name: str,
    wanted: Sequence[tuple[str, int]],
    given: ImageSource | None = None,
) -> bool:
    """Tell whether images of an image set can be opened again, of which a few are tried; if not, that is logged."""
    few = [wanted[at] for at in sorted({round(at) for at in np.linspace(0, len(wanted) - 1, BATCH)})] if wanted else []
    try:
        return any(len(one.own) for one in read_again(study, network, labels, name, few, given)) if few else False
    except SubspectError:
        root = study.image_set(name).manifest.root
        log.warning(
            "the images of %r can't be opened again, so the small network's accuracy isn't measured on them; %s",
            *(
                name,
                f"put them back where they were: {root}" if root else "they were in memory: observe them from files",
            ),
        )
        return False
