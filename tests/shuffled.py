"""An engine that does pieces in any order, as a cluster may; and the files of a study, to be compared."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

import ray

from subspect.ground.engines import Work

R = TypeVar("R")


class Shuffled:
    """An engine that sends each piece as bytes, in an order of its own, some of them twice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def map(self, work: Work[R], pieces: Sequence[int]) -> Iterator[tuple[int, R]]:
        sent = ray.cloudpickle.dumps(work)
        order = list(pieces)
        self.random.shuffle(order)
        for piece in order:
            for _ in range(self.random.choice((1, 1, 2))):  # the first time, its actor was lost
                [result] = ray.cloudpickle.loads(sent)([piece])
            yield piece, pickle.loads(pickle.dumps(result))

    def soon(self, pieces: int, *, gpu: bool) -> None:
        """Start nothing: it is here."""
