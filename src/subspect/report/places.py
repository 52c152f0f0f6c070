"""Where in its images a feature is active, in words: "mostly the top left".

The map of each image, its positive part, is summed over nine equal parts of the picture, three by three, as shares of the
whole. Averaged over the images shown, one part that holds a quarter or more is named, else a third of the picture that holds
half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_NINTHS = (
    ("the top left", "the top", "the top right"),
    ("the left", "the centre", "the right"),
    ("the bottom left", "the bottom", "the bottom right"),
)
_ROWS = ("the upper third", "across the middle", "the lower third")
_COLUMNS = ("the left third", "down the middle", "the right third")
EVERYWHERE = "the whole picture"
_PART, _THIRD = 0.25, 0.5  # a ninth holds 0.11 of a map that is the same everywhere, a third 0.33


def ninths(map: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return (3, 3), the share of a map's positive part that lies in each ninth; zeros where it is nowhere active.

    Args:
        map: (height, width), of the whole picture.
    """
    active = np.maximum(map, 0).astype(np.float64)
    parts = _thirds(active.shape[0]) @ active @ _thirds(active.shape[1]).T
    total = parts.sum()
    return np.asarray(parts / total) if total > 0 else np.zeros((3, 3))


def _thirds(n: int) -> npt.NDArray[np.float64]:
    """Return (3, n), how much of each of n equal steps lies in each third."""
    ends, thirds = np.arange(n + 1) * 3 / n, np.arange(3)[:, None]
    return np.asarray(np.maximum(np.minimum(ends[1:], thirds + 1) - np.maximum(ends[:-1], thirds), 0))


def in_words(shares: Sequence[npt.NDArray[np.float64]]) -> str:
    """Say where a feature is active in some images, each given as by `ninths`; nothing where it is in none."""
    seen = [one for one in shares if one.any()]
    if not seen:
        return ""
    mean = np.mean(seen, axis=0)
    row, column = divmod(int(mean.argmax()), 3)
    if mean[row, column] >= _PART:
        return f"mostly {_NINTHS[row][column]}"
    for names, thirds in ((_ROWS, mean.sum(axis=1)), (_COLUMNS, mean.sum(axis=0))):
        if thirds.max() >= _THIRD:
            return f"mostly {names[int(thirds.argmax())]}"
    return EVERYWHERE
