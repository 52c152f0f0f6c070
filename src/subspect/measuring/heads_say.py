"""What the dense and the decomposed head say of some images, block by block, in one precision: float32.

Where they choose among a few classes only, the logits of the others are too low for any probability.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from subspect.heads.decomposition import Decomposition
from subspect.measuring.where import Where
from subspect.studies.shards import Chunk
from subspect.studies.study import Study

Logits = npt.NDArray[np.float32]
_NEVER = np.float32(-1e30)  # finite, so that differences of logarithms are


@dataclass(frozen=True, eq=False)
class Said:
    """Some images, and what both heads say of them.

    Attributes:
        chunk: the images.
        dense: (m, C) logits of the dense head.
        decomposed: (m, C) logits of the decomposed head.
    """

    chunk: Chunk
    dense: Logits
    decomposed: Logits


def heads_say(study: Study, decomposition: Decomposition, where: Where) -> Iterator[Said]:
    """Go through images once with what both heads say of them."""
    both = Heads.of(study, decomposition, where)
    return map(both.say, where.chunks())


@dataclass(frozen=True, eq=False)
class Heads:
    """Both heads, weight (C, d) and bias (C,) each, and the classes that they choose among; None for all."""

    dense: tuple[Logits, Logits]
    decomposed: tuple[Logits, Logits]
    classes: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, study: Study, decomposition: Decomposition, where: Where) -> Heads:
        """Return the heads of a study and of a decomposition, for some images."""
        weight, bias = (tensor.numpy() for tensor in study.head())
        return cls((weight, bias), decomposition.matrix(), where.classes)

    def say(self, chunk: Chunk) -> Said:
        """Return what both say of some images."""
        said = say(chunk.features, *self.dense), say(chunk.features, *self.decomposed)
        if self.classes is not None:
            others = np.setdiff1d(np.arange(len(self.dense[1])), self.classes)
            for logits in said:
                logits[:, others] = _NEVER
            chunk = replace(chunk, predictions=said[0].argmax(axis=1))
        return Said(chunk, *said)


def say(features: npt.NDArray[np.float32], weight: Logits, bias: Logits) -> Logits:
    """Return (m, C), the logits of a head, weight (C, d) and bias (C,), for features (m, d)."""
    return np.asarray(features @ weight.T + bias, np.float32)
