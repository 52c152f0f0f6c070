"""How long a smaller network takes beside the one that it stands for.

Both are timed in rounds, one after the other in each, so that a slow moment of the machine meets both; the share is that of a
round, and its interval says how much the rounds differ.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from subspect.giving.formats import Run
from subspect.ground.errors import SubspectError
from subspect.shrinking.cost import SMALLEST, Spent, times_of_layers
from subspect.shrinking.folded import folded

log = logging.getLogger("subspect")

BATCHES = (1, 7)  #: images at a time when a file or a network is checked and timed
ROUNDS = 20  #: of timing, each network in turn
TIMED: tuple[int, ...] = (1, 32)  #: images at a time, where a network is to fit a budget
_LOOKS = 5  # rounds of timing many images, while it is made smaller; one image varies more, and takes less
_TURN = 0.1  # seconds, at least, that each network runs in a round
_DRAWS = 2000  # of rounds, for the interval of a ratio of times
_SMALLEST = 56  # pixels high, below which images stay as they are, if the network is trained


@dataclass(frozen=True)
class Ratio:
    """How long the small network takes, as a share of the dense network's time.

    Attributes:
        dense: median time of the dense network, in seconds.
        small: that of the small one.
        value: median over rounds of the share.
        low: 2.5th percentile of the median over redrawn rounds.
        high: 97.5th percentile.

    Example:
        >>> times = decomposition.specialise(network, classes=["cat", "dog"]).times
        >>> {images: ratio.value for images, ratio in times.items()}  # doctest: +SKIP
    """

    dense: float
    small: float
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


def ratios(
    dense: Run,
    small: Run,
    pixels: Tensor,
    rounds: int = ROUNDS,
    batches: Sequence[int] = BATCHES,
) -> dict[int, Ratio]:
    """Time two networks and return, by batch, how long the small one takes beside the dense one.

    Args:
        dense: runs the one.
        small: runs the other.
        pixels: (n, …) images as both take them, as many as the largest batch, where both run.
        rounds: how often each is timed, 1 or more.
        batches: images at a time.
    """
    found = {}
    generator = np.random.default_rng(0)
    for batch in batches:
        x = pixels[:batch]
        taken = np.array([[_seconds(run, x) for run in (dense, small)] for _ in range(rounds)])
        found[batch] = _ratio(taken, generator)
    return found


class Time:
    """The time of a network on this machine, by the runtime and the number of images for which it has fallen least.

    Networks are timed as they are handed back (`subspect.shrinking.folded`), the first one as it was given, with all its
    classes: so it is reported in the end.

    Args:
        whole: the first network.
        head: name of its head.
        pixels: (n, …) images, as many as the largest batch.
        runtimes: other ways to run networks, each of which makes a function of images from one.
        trained: whether the network is to learn in the end: then pixels of small images are missed more than branches.
    """

    unit = "time"

    def __init__(
        self,
        whole: nn.Module,
        head: str,
        pixels: Tensor,
        runtimes: Sequence[Callable[[nn.Module], Run]] = (),
        trained: bool = False,
    ) -> None:
        self.smallest = _SMALLEST if trained else SMALLEST
        self._head, self._pixels, self._slowest = head, pixels, (0, TIMED[0])  # runtime, and images at a time
        self._made: list[tuple[Run, Callable[[nn.Module], Run]]] = [(whole, lambda model: model)]
        for make in runtimes:
            try:
                self._made.append((make(whole), make))
            except SubspectError as error:
                log.warning("timed in PyTorch alone: %s", error)

    def __call__(self, model: fx.GraphModule) -> float:
        """Return its share of the first one's time."""
        found = {
            (place, batch): ratio.value
            for place in range(len(self._made))
            for batch, ratio in self._timed(model, place, TIMED).items()
        }
        self._slowest = max(found, key=lambda one: found[one])
        return found[self._slowest]

    def roughly(self, model: fx.GraphModule) -> float:
        """Return its share by that runtime and number of images alone."""
        place, batch = self._slowest
        return self._timed(model, place, [batch])[batch].value

    def _timed(self, model: fx.GraphModule, place: int, batches: Sequence[int]) -> dict[int, Ratio]:
        first, make = self._made[place]
        small = make(folded(model))
        rounds = {batch: ROUNDS if batch == 1 else _LOOKS for batch in batches}
        with torch.no_grad():
            return {batch: ratios(first, small, self._pixels, rounds[batch], [batch])[batch] for batch in batches}

    def by_layer(self, model: fx.GraphModule) -> dict[str, Spent]:
        """Return what each layer takes in PyTorch, for that number of images.

        Of other runtimes, which spend less on each layer beside its numbers, many images tell more.
        """
        place, batch = self._slowest
        return times_of_layers(folded(model), self._head, self._pixels[: max(TIMED) if place else batch])


def _ratio(taken: npt.NDArray[np.float64], generator: np.random.Generator) -> Ratio:
    """Return the medians of times (rounds, 2), in seconds, of their share, and its interval by redrawing rounds."""
    shares = taken[:, 1] / taken[:, 0]
    drawn = np.median(shares[generator.integers(0, len(shares), (_DRAWS, len(shares)))], axis=1)
    figures = (*np.median(taken, axis=0), np.median(shares), *np.percentile(drawn, [2.5, 97.5]))
    return Ratio(*(float(one) for one in figures))


def _seconds(run: Run, x: Tensor) -> float:
    """Return the median time of some runs, after one that isn't timed: threads of the other network may still be awake."""
    _run(run, x)
    taken: list[float] = []
    end = time.perf_counter() + _TURN
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        _run(run, x)
        taken.append(time.perf_counter() - start)
    return median(taken)


def _run(run: Run, x: Tensor) -> None:
    run(x)
    if x.is_cuda:
        torch.cuda.synchronize()
