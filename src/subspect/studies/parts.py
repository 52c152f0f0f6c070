"""Parts of an image set: a split by a hash of the image id, the same in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from subspect.heads.history import Part

_SPLIT = 0.8


def in_part(ids: list[str], part: Part) -> npt.NDArray[np.bool_]:
    """Tell which images lie in a part of a set: the 80/20 split is by BLAKE2b of the image id, the same in every run."""
    if part == "all":
        return np.ones(len(ids), dtype=bool)
    first = hashed(ids) < _SPLIT
    return first if part == "80 %" else ~first


def hashed(ids: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return for each image id a number from 0 to 1 that depends on nothing but the id: what splits are made by."""
    digests = (hashlib.blake2b(id.encode(), digest_size=8).digest() for id in ids)
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests], dtype=np.float64)
