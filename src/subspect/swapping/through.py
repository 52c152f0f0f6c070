"""Images as they are, or with cues swapped, through the network: block by block, wherever the engine has that done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from subspect.ground.engines import Remembered, in_order, on_gpu
from subspect.images.batches import lost_workers
from subspect.images.inputs import split
from subspect.networks.network import Network
from subspect.studies.same_network import head_of
from subspect.swapping.cue import Cue
from subspect.swapping.partners import Learned, Paired, Pairs

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Read:
    """The images of a block that could be read.

    Attributes:
        at: (m,) their positions in the sample.
        features: (m, d) float32.
        said: (m,) the classes that the network gives them.
        learned: what was learned of images so far, by the process that read them.
    """

    at: Counts
    features: npt.NDArray[np.float32]
    said: Counts
    learned: Learned


class Reader(Remembered):
    """A network, and pairs of images for it.

    Args:
        network: of the study; it runs where it is now.
        pairs: the images and their partners.
        batch_size: images in a batch of the network.
        device: where the network runs in other processes.
    """

    def __init__(
        self, network: Network, pairs: Paired, batch_size: int, device: str | torch.device | None = None
    ) -> None:
        self.network, self.pairs, self.batch_size, self.device = network, pairs, batch_size, device
        self.away = False  # whether this is another process than the one that asks

    def described(self) -> dict[str, Any]:
        """Return it for another process."""
        return {**super().described(), "away": True}

    def through(self, cues: Sequence[Cue], advance: Callable[[int], object]) -> Iterator[Read]:
        """Go through the images once with some cues swapped, block by block, in order.

        Args:
            cues: swapped one after the other, with the same partner.
            advance: called with the number of images that ran.

        Raises:
            SubspectError: none can be opened again, a cue failed, or the network did on what it made.
        """
        self.pairs.look()
        count = 0
        for found in in_order(_Through(self, cues), range(self.pairs.count)):
            self.pairs.learn(found.learned)
            advance(len(found.at))
            count += len(found.at)
            if len(found.at):
                yield found
        self.pairs.check_read(count)

    def read(self, pairs: Pairs | None, cues: Sequence[Cue]) -> Read:
        """Run a block of images with some cues swapped, or none that can be read."""
        learned = self.pairs.learned
        if pairs is None:
            nothing = np.empty(0, np.int64)
            return Read(nothing, self.pairs.features[:0], nothing, learned)
        pixels = pairs.swapped(cues, self.pairs.seed) if cues else pairs.plain()
        return Read(pairs.at, *read(self.network, pixels, self.batch_size), learned)


def read(network: Network, pixels: torch.Tensor, batch_size: int) -> tuple[npt.NDArray[np.float32], Counts]:
    """Run images; return features (m, d) and the classes (m,) that the network gives them."""
    head_of(network, pixels)
    parts = [network.read(one) for one in split(pixels, batch_size)]
    features, logits = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    return features.cpu().numpy(), logits.argmax(dim=1).cpu().numpy()


class _Through:
    """Blocks with some cues swapped, as a work."""

    def __init__(self, reader: Reader, cues: Sequence[Cue]) -> None:
        self.reader, self.cues = reader, cues
        self.gpu = on_gpu(reader.device)

    def __call__(self, pieces: Iterable[int]) -> Iterator[Read]:
        reader = self.reader
        if reader.away:
            reader.network.stay(reader.device)
        with lost_workers(), reader.network.running():
            for pairs in reader.pairs.blocks(pieces):
                yield reader.read(pairs, self.cues)
