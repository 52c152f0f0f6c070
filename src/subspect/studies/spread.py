"""A sample of an image set that is spread over its classes, whose images are opened again in blocks that never change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from subspect.ground.errors import SubspectError, some
from subspect.images.opening import ImageSource
from subspect.images.sources import Images
from subspect.studies.image_set import ImageSet
from subspect.studies.reopen import open_again

Indices = npt.NDArray[np.int64]
BLOCK = 64  #: images that are run at a time; chance is drawn for a block, so it depends on nothing else


def spread(labels: Indices, most: int, seed: int) -> Indices:
    """Return positions of at most so many images, in order: as many of each class as there are, or nearly."""
    random = np.random.default_rng([seed, 0])
    shuffled = random.permutation(len(labels))
    ranks = np.empty(len(labels), np.int64)
    for label in np.unique(labels).tolist():
        own = shuffled[labels[shuffled] == label]
        ranks[own] = np.arange(len(own))
    order = shuffled[
        np.argsort(ranks[shuffled], kind="stable")
    ]  # every class's first, in random order, then the seconds
    return np.sort(order[:most])


def block_of(number: int, count: int) -> Indices:
    """Return the positions of a block among so many images."""
    return np.arange(BLOCK * number, min(BLOCK * (number + 1), count))


def source_of(images: ImageSource | None, image_set: ImageSet) -> Images | None:
    """Open the images that the user says were observed; None where they are where the study says.

    Raises:
        SubspectError: they were in memory, and aren't given.
    """
    source = open_again(images, image_set)
    if source is None and image_set.manifest.root is None:
        raise SubspectError(
            f"the images of {image_set.name!r} were in memory ({image_set.manifest.kind}), so they can't be opened again; give "
            "them: in Python images=x, with x as it was observed"
        )
    return source


def check_read(count: int, name: str, ids: Sequence[str], failed: Mapping[str, str]) -> None:
    """Refuse a pass over the images of an image set in which none could be read.

    Raises:
        SubspectError: so it was.
    """
    if not count:
        reasons = some((f"{id}: {why}" for id, why in failed.items()), 2)
        raise SubspectError(
            f"none of the {len(ids)} images of {name!r} could be opened again ({reasons}); say where they are: "
            "images='FOLDER' in Python, --images FOLDER on the command line"
        )
