"""The features of copies of a study's images in which cues were swapped: what a head that can't lean on them learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from subspect.networks.network import Network
from subspect.studies.rows import Block
from subspect.swapping.cue import Cue
from subspect.swapping.partners import Paired
from subspect.swapping.through import Reader


def swapped_copies(
    pairs: Paired, network: Network, cues: Sequence[Cue], batch_size: int, advance: Callable[[int], object]
) -> Iterator[Block]:
    """Go through the images once, with all of some cues swapped; labels stay.

    Args:
        pairs: images and their partners.
        network: of the study; it runs where it is now.
        cues: swapped one after the other, with the same partner.
        batch_size: images in a batch of the network.
        advance: called with the number of images that ran.

    Raises:
        SubspectError: none can be opened again, they are no pictures, or a cue failed.
    """
    for one in Reader(network, pairs, batch_size).through(cues, advance):
        yield Block(one.features, pairs.labels[one.at], one.said)
