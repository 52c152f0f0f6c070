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
    dense = tuple(tensor.numpy() for tensor in study.head())
    few = decomposition.matrix()
    for chunk in where.chunks():
        said = say(chunk.features, *dense), say(chunk.features, *few)
        if where.classes is not None:
            others = np.setdiff1d(np.arange(len(dense[1])), where.classes)
            for logits in said:
                logits[:, others] = _NEVER
            chunk = replace(chunk, predictions=said[0].argmax(axis=1))
        yield Said(chunk, *said)


def say(features: npt.NDArray[np.float32], weight: Logits, bias: Logits) -> Logits:
    """Return (m, C), the logits of a head, weight (C, d) and bias (C,), for features (m, d)."""
    return np.asarray(features @ weight.T + bias, np.float32)
