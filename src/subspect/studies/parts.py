"""Parts of an image set: a split by a hash of the image id, the same in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from subspect.ground.errors import SubspectError
from subspect.heads.history import Part


def split(hold_out: float) -> tuple[Part, Part]:
    """Return the part to choose features on and the part to measure on; if nothing is held out, both are all images.

    Raises:
        SubspectError: the share is not at least 0 and below 1.
    """
    if not isinstance(hold_out, int | float) or not 0 <= hold_out < 1:
        raise SubspectError(
            f"hold_out (--hold-out) must be a share of at least 0 (nothing held out) and below 1; got {hold_out!r}"
        )
    if not hold_out:
        return "all", "all"
    percent = f"{Decimal(f'{100 * hold_out:.10g}'):f} %"  # never as 1e-06, which isn't read as a part
    return f"all but {percent}", f"held out {percent}"


def counterpart(part: Part) -> Part:
    """Return the part that was held out from another; for all images, all images."""
    return part.replace("all but", "held out")


def in_words(part: Part, examples: str = "images") -> str:
    """Name a part of an image set, to follow the set's name; empty for all of it."""
    how = f"the {part.split()[2]} % of it held out" if part != "all" else ""
    return (
        f", {'all but ' if part.startswith('all but') else ''}{how} by a hash of the {examples[:-1]}'s id"
        if how
        else ""
    )


def share_of(part: Part) -> float:
    """Return the share of an image set that a part is, about."""
    if part == "all":
        return 1.0
    share = float(part.split()[2]) / 100
    return share if part.startswith("held out") else 1 - share


def in_part(ids: Sequence[str], part: Part) -> npt.NDArray[np.bool_]:
    """Tell which images lie in a part of a set: (n,), by BLAKE2b of the image id, the same in every run."""
    if part == "all":
        return np.ones(len(ids), dtype=bool)
    share = float(part.split()[2]) / 100
    held_out = hashed(ids) >= 1 - share
    return held_out if part.startswith("held out") else ~held_out


def hashed(ids: Sequence[str], salt: bytes = b"") -> npt.NDArray[np.float64]:
    """Return for each image id a number from 0 to 1, by nothing but the id and the salt: what splits are made by."""
    digests = (hashlib.blake2b(id.encode(), digest_size=8, salt=salt).digest() for id in ids)
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests], dtype=np.float64)
