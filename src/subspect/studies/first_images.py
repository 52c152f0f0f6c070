"""Some images spread over a source, tried before the rest: they find the head, and show what it takes to run on all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subspect.ground.errors import SubspectError, some
from subspect.images.batches import batches
from subspect.images.inputs import Pixels, concatenated, mirrored, shape_of
from subspect.images.opening import ImageSource, open_images
from subspect.images.sources import Images
from subspect.networks.finding import Head
from subspect.networks.network import Network, check_network

_TRIED = 64


def find_head(network: Network, images: ImageSource) -> Head:
    """Find the network's head with the first two usable images out of up to 64 spread over a source.

    Raises:
        SubspectError: no head, no preprocessing, or no image that can be used.
    """
    check_network(network)
    usable = sample(network, open_images(images))
    if network.head_known:  # with which every batch is compared
        return network.head
    with network.running():
        return network.find_head(usable)


def sample(network: Network, source: Images, count: int = 2) -> Pixels:
    """Return the first usable images of up to 64 spread over a source, (count, …), as the network takes them.

    If there are fewer, their mirror images follow: the same numbers, reversed along the last axis.

    Raises:
        SubspectError: no preprocessing, or no image that can be used.
    """
    usable, failed = list[Pixels](), list[tuple[str, str]]()
    for batch in batches(source, network.preprocessing, None, [[position] for position in spread(source)]):
        usable += [] if batch.pixels is None else [batch.pixels]
        failed += batch.failed
        if len(usable) == count:
            break
    if not usable:
        raise SubspectError(f"no image of the {len(failed)} tried could be used: {reasons(failed)}")
    shapes = list(dict.fromkeys(shape_of(one[0]) for one in usable))
    if len(shapes) > 1:
        raise SubspectError(
            f"images of different sizes after preprocessing: {shapes[0]} and {shapes[1]}; give resize and crop, "
            f"so that all have the same size"
        )
    while len(usable) < count:
        usable += [mirrored(one) for one in usable[: count - len(usable)]]
    return concatenated(usable)


def spread(source: Images, most: int = _TRIED) -> list[int]:
    """Pick up to so many positions spread over a source."""
    positions = np.linspace(0, len(source) - 1, min(most, len(source))).round()
    return [int(position) for position in positions]


def reasons(failed: Sequence[tuple[str, str]]) -> str:
    """Say why the first of some images could not be used."""
    return some([f"{id}: {reason}" for id, reason in failed], 3)
