"""Cues with any figures, kept in a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from subspect import Cues, Decomposition, Study, Swapped
from subspect.studies.decompositions import made_by
from subspect.swapping.result import HEADS
from subspect.swapping.stored import keep


def keep_cues(
    study: Study,
    made: Decomposition,
    loss: Mapping[str, Mapping[int, float]],
    moved: Mapping[str, Mapping[int, float]] | None = None,
    left_out: Mapping[str, str] | None = None,
    through: Mapping[str, Mapping[tuple[int, int], float]] | None = None,
) -> Path:
    """Keep cues of a decomposition: cue → class → margin that is lost, and gained by others; cue → feature → share of its
    variance; cue → class and feature → what is lost through it. All else is 0.
    """
    n, d = len(made.class_names), study.identity.n_features

    def parts(name: str) -> tuple[csr_matrix, csr_matrix]:
        lost = np.zeros((n, d))
        for place, value in (through or {}).get(name, {}).items():
            lost[place] = value
        return csr_matrix(lost), csr_matrix((n, d))

    def filled(values: Mapping[int, float], size: int) -> np.ndarray:
        made = np.zeros(size)
        made[list(values)] = list(values.values())
        return made

    def right() -> dict[str, np.ndarray]:  # each its own memory, as the file wants
        return {head: np.full(n, 10) for head in HEADS}

    cues = [
        Swapped(
            name,
            f"the {name}",
            filled((moved or {}).get(name, {}), d),
            np.full(d, 0.01),
            filled(lost, n),
            np.full(n, 0.01),
            filled(lost, n),
            np.full(n, 0.01),
            *parts(name),
            right(),
        )
        for name, lost in loss.items()
    ]
    about = np.full(n, 10), 2.5, right(), tuple(cues), left_out or {}, f"{10 * n} of 90 images of 'train'", "sample"
    keep(study, Cues(made.name, made.class_names, *about, made_by(made)))
    return study.path / "cues" / f"{made.name}.safetensors"
