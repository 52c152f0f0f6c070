"""What a study holds and what a decomposition says, taken out and computed by hand."""

from __future__ import annotations

import numpy as np

from subspect import Decomposition, Study
from subspect.heads.history import Refitted


def logits_of(made: Decomposition, x: np.ndarray) -> np.ndarray:
    """The decomposed logits, by hand."""
    logits = made.bias.double().numpy().copy()
    for label in range(len(logits)):
        for row in made.rows(label):
            logits[label] += row.weight * x[row.feature]
    return logits


def refit_of(made: Decomposition) -> Refitted:
    assert made.refitted is not None and made.history[-1] is made.refitted
    return made.refitted


def stored(study: Study, name: str = "train") -> tuple[np.ndarray, np.ndarray]:
    chunks = list(study.image_set(name).chunks())
    return np.concatenate([c.features for c in chunks]), np.concatenate([c.labels for c in chunks])
