"""Blocks that count how often they are gone through."""

from __future__ import annotations

from subspect.studies.blocks import Kept
from subspect.studies.rows import Block


class Passes(Kept[Block]):
    """Blocks that aren't kept, and how often all of them were read."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__(0)
        self.given, self.read = blocks, 0

    @property
    def nbytes(self) -> int:
        return sum(block.features.nbytes for block in self.given)

    @property
    def count(self) -> int:
        return len(self.given)

    @property
    def passes(self) -> float:
        return self.read / self.count

    def _read(self, index: int) -> Block:
        self.read += 1
        return self.given[index]
