"""Passes of the network over a sample: how active channels are, what taking them away would change, and what it does change.

Each is a work on the blocks of the sample, done by the engine in use; whoever asks for a pass gets the blocks in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subspect.ground.engines import Remembered, in_order, on_gpu
from subspect.ground.errors import SubspectError
from subspect.images.batches import lost_workers
from subspect.images.inputs import Pixels, split
from subspect.networks.gates import Gates
from subspect.networks.network import Network
from subspect.studies.same_network import head_of
from subspect.studies.spread import check_read
from subspect.tracing.margins import Margins
from subspect.tracing.sampled import Block, Sampled

Small = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
R = TypeVar("R")
#: layer → passes, each a class → the channels that are closed for its images
Plan = Mapping[str, Sequence[Mapping[int, Indices]]]


@dataclass(frozen=True, eq=False)
class Leveled:
    """How active channels are in the images of a block.

    Attributes:
        at: (m,) the images' positions in the sample.
        features: (m, d) float32.
        levels: layer → (m, channels) float32.
    """

    at: Indices
    features: Small
    levels: dict[str, Small]


@dataclass(frozen=True, eq=False)
class Effects:
    """What taking channels away would change, to first order, in the images of a block.

    Attributes:
        at: (m,) the images' positions in the sample.
        margin: layer → (m, channels) float32, of the margin of each image's class.
        features: for each rank: layer → (m, channels), of the feature of that rank in the image's class.
    """

    at: Indices
    margin: dict[str, Small]
    features: list[dict[str, Small]]


@dataclass(frozen=True, eq=False)
class Closed:
    """The margins of a block's images with channels of a layer closed.

    Attributes:
        at: (m,) the images' positions in the sample.
        margins: (passes, m) float32.
    """

    at: Indices
    margins: Small


class Tracer(Remembered):
    """A network, and images for it.

    Args:
        network: of the study; it runs where it is now.
        sample: of its images.
        margins: of the decomposed head.
        batch_size: images in a batch of the network.
        device: where the network runs in other processes.
    """

    def __init__(
        self,
        network: Network,
        sample: Sampled,
        margins: Margins,
        batch_size: int,
        device: str | torch.device | None = None,
    ) -> None:
        self.network, self.sample, self.margins = network, sample, margins
        self.batch_size, self.device = batch_size, device
        self.away = False  # whether this is another process than the one that asks
        self._gates: Gates | None = None

    def described(self) -> dict[str, Any]:
        """Return it for another process."""
        return {**vars(self), "_gates": None, "away": True}

    def of(self, sample: Sampled) -> Tracer:
        """Return the same for another sample."""
        made = Tracer(self.network, sample, self.margins, self.batch_size, self.device)
        made._gates = self._gates
        return made

    def gates(self, pixels: Pixels) -> Gates:
        """Return the network's gates, by a batch of images.

        Raises:
            SubspectError: it has no layer that could be gated.
        """
        if self._gates is None:
            head_of(self.network, pixels)
            self._gates = Gates(self.network, pixels[: min(2, len(pixels))])
        if not self._gates.layers:
            raise SubspectError(
                f"{self.network.name} has no filters to look at: besides the head, no convolution or linear layer of it "
                "returns numbers (images, channels, …), as are needed"
            )
        return self._gates

    def look(self) -> Gates:
        """Return the network's gates, by the first images that can be read.

        Raises:
            SubspectError: there are none, or it has no layer that could be gated.
        """
        sample = self.sample
        for number in range(sample.count if self._gates is None else 0):
            block = next(sample.blocks([number]))
            if block is not None:
                return self.gates(block.pixels)
        if self._gates is None:
            check_read(0, sample.name, sample.ids, sample.failed)
        assert self._gates is not None
        return self._gates

    def levels(self, advance: Callable[[int], object]) -> Iterator[Leveled]:
        """Go through the images once without gates, block by block, in order.

        Raises:
            SubspectError: none can be opened again.
        """
        self.look()
        count = 0
        for found in self._done(_Levels(self), range(self.sample.count)):
            advance(len(found.at))
            count += len(found.at)
            yield found
        check_read(count, self.sample.name, self.sample.ids, self.sample.failed)

    def effects(
        self, means: Mapping[str, Small], supports: Indices, advance: Callable[[int], object]
    ) -> Iterator[Effects]:
        """Go through the images once with gradients, block by block, in order.

        Args:
            means: layer → (channels,) of each channel.
            supports: (C, ranks) features of each class; −1 where it has fewer.
            advance: called with the number of images that ran.
        """
        for found in self._done(_Effects(self, means, supports), range(self.sample.count)):
            advance(len(found.at))
            yield found

    def closed(
        self, means: Mapping[str, Small], plan: Plan, advance: Callable[[int], object]
    ) -> Iterator[tuple[str, Closed]]:
        """Go through the images with channels closed: all blocks for the plan's first layer, then for the second, and so on.

        Args:
            means: layer → (channels,) of each channel.
            plan: which channels are closed.
            advance: called with the number of times that images ran.
        """
        for found in self._done(_Closing(self, means, plan), range(len(plan) * self.sample.count)):
            advance(found[1].margins.size)
            yield found

    def _done(self, work: _OnBlocks[R], pieces: Sequence[int]) -> Iterator[R]:
        for found, learned in in_order(work, pieces):
            self.sample.learn(learned)
            if found is not None:
                yield found


class _OnBlocks(Generic[R]):
    """Something that is done for each block, as a work; it hands back what was learned of images as well."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.gpu = on_gpu(tracer.device)

    def __call__(self, pieces: Iterable[int]) -> Iterator[tuple[R | None, Any]]:
        tracer, numbers = self.tracer, list(pieces)
        if tracer.away:
            tracer.network.stay(tracer.device)
        with lost_workers(), tracer.network.running():
            for piece, block in zip(numbers, self.blocks(numbers), strict=True):
                yield None if block is None else self.of(block, piece), tracer.sample.learned()

    def blocks(self, pieces: Sequence[int]) -> Iterator[Block | None]:
        return self.tracer.sample.blocks(pieces)

    def of(self, block: Block, piece: int) -> R:
        raise NotImplementedError

    def batches(self, block: Block) -> Iterator[tuple[Pixels, Indices]]:
        start = 0
        for pixels in split(block.pixels, self.tracer.batch_size):
            yield pixels, block.labels[start : start + len(pixels)]
            start += len(pixels)


class _Levels(_OnBlocks[Leveled]):
    def of(self, block: Block, piece: int) -> Leveled:
        gates = self.tracer.gates(block.pixels)
        found = [gates.levels(pixels) for pixels, _ in self.batches(block)]
        features = torch.cat([one for one, _ in found])
        return Leveled(block.at, features.cpu().numpy(), _joined([levels for _, levels in found]))


class _Effects(_OnBlocks[Effects]):
    def __init__(self, tracer: Tracer, means: Mapping[str, Small], supports: Indices) -> None:
        super().__init__(tracer)
        self.means, self.supports = means, supports

    def of(self, block: Block, piece: int) -> Effects:
        gates, means = self.tracer.gates(block.pixels), _tensors(self.means)
        parts: list[list[dict[str, Tensor]]] = []
        for pixels, labels in self.batches(block):
            parts.append(gates.effects(pixels, means, self._asked(labels)))
        margin, *features = (_joined(list(one)) for one in zip(*parts, strict=True))
        return Effects(block.at, margin, features)

    def _asked(self, labels: Indices) -> Callable[[Tensor], list[Tensor]]:
        own, ranked = torch.from_numpy(labels), torch.from_numpy(self.supports[labels])

        def asked(features: Tensor) -> list[Tensor]:
            there = ranked.to(features.device)
            values = features.gather(1, there.clamp_min(0)) * (there >= 0)
            return [self.tracer.margins(features, own), *values.unbind(1)]

        return asked


class _Closing(_OnBlocks[tuple[str, Closed]]):
    def __init__(self, tracer: Tracer, means: Mapping[str, Small], plan: Plan) -> None:
        super().__init__(tracer)
        self.means, self.plan, self.names = means, plan, list(plan)

    def blocks(self, pieces: Sequence[int]) -> Iterator[Block | None]:
        sample = self.tracer.sample
        return (next(sample.blocks([piece % sample.count])) for piece in pieces)

    def of(self, block: Block, piece: int) -> tuple[str, Closed]:
        tracer, name = self.tracer, self.names[piece // self.tracer.sample.count]
        gates, means = tracer.gates(block.pixels), _tensors({name: self.means[name]})
        rows = []
        for shut in self.plan[name]:
            margins = []
            for pixels, labels in self.batches(block):
                gate = torch.ones(len(labels), len(self.means[name]))
                for row, label in enumerate(labels.tolist()):
                    gate[row, torch.from_numpy(shut[label])] = 0
                features = gates.without(pixels, means, {name: gate.to(tracer.network.device)})
                margins.append(tracer.margins(features, torch.from_numpy(labels)).cpu())
            rows.append(torch.cat(margins).numpy())
        return name, Closed(block.at, np.stack(rows))


def _tensors(arrays: Mapping[str, Small]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(one) for name, one in arrays.items()}


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Small]:
    """Return layer → (m, channels), of batches one after the other."""
    return {name: torch.cat([part[name] for part in parts]).float().cpu().numpy() for name in parts[0]}
