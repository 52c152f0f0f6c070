"""Which features each class uses: for class c its influential features S_c, the most important first.

Index files have the form in which the authors of arXiv 2112.07719 published theirs: a JSON object, class index → list of
feature indices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from subspect.ground.errors import SubspectError, some
from subspect.ground.files import atomic, read_json
from subspect.ground.text import counted


class Supports:
    """The influential features of every class.

    Args:
        indices: for each class the feature indices, the most important first.
        n_features: number of features d of the network.

    Attributes:
        flat: (nnz,) int64, the indices of class 0, then those of class 1, …
        offsets: (C + 1,) int64; class c holds ``flat[offsets[c]:offsets[c + 1]]``.

    Raises:
        SubspectError: an index outside 0…d−1, or twice in a class.

    Example:
        >>> supports = subspect.Supports([[3, 1], [0]], n_features=5)
        >>> supports.flat, supports.offsets
        (array([3, 1, 0]), array([0, 2, 3]))
    """

    def __init__(self, indices: Sequence[Sequence[int] | npt.NDArray[np.int64]], n_features: int) -> None:
        rows = [np.asarray(row, dtype=np.int64).reshape(-1) for row in indices]
        for label, row in enumerate(rows):
            if len(row) and (row.min() < 0 or row.max() >= n_features):
                raise SubspectError(
                    f"class {label} has feature indices from {row.min()} to {row.max()}; the network's {n_features} "
                    f"features go from 0 to {n_features - 1}"
                )
            if len(np.unique(row)) < len(row):
                raise SubspectError(f"class {label} has a feature twice: {some(row.tolist(), 20)}; name it once")
        self.n_features = n_features
        self.flat = np.concatenate([np.empty(0, np.int64), *rows])
        self.offsets = np.cumsum([0, *map(len, rows)])

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.offsets) - 1

    def __getitem__(self, label: int) -> npt.NDArray[np.int64]:
        """Return the features of a class, (k,) int64."""
        if not 0 <= label < len(self):
            raise IndexError(f"class {label} of {len(self)}")
        return self.flat[self.offsets[label] : self.offsets[label + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        return (self[label] for label in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Supports)
            and self.n_features == other.n_features
            and np.array_equal(self.flat, other.flat)
            and np.array_equal(self.offsets, other.offsets)
        )

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of features of each class, (C,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Class of each entry of ``flat``, (nnz,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def write(self, path: str | Path) -> None:
        """Write an index file: class index → feature indices.

        Raises:
            SubspectError: the file is there already, or cannot be written.
        """
        table = {str(label): row.tolist() for label, row in enumerate(self)}
        with atomic(Path(path)) as file:
            file.write(json.dumps(table).encode())

    @classmethod
    def read(cls, path: str | Path, n_classes: int, n_features: int) -> Supports:
        """Read an index file.

        Raises:
            SubspectError: it isn't one, doesn't write class indices plainly, doesn't hold every class, or isn't for this
                many features.
        """
        table = read_json(Path(path))
        try:
            rows = {int(label): [_index(index) for index in row] for label, row in table.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise SubspectError(
                f'{path} is not an index file: expected {{"0": [3, 17, …], "1": …}}, class index → feature indices'
            ) from error
        odd = [label for label in table if label != str(int(label))]
        if odd:  # "0" and "00" would be one class
            raise SubspectError(
                f"{path} has class indices that are not written plainly: {some(map(repr, odd))}; write 0, 1, 2, … without "
                "signs, spaces, underscores or leading zeros"
            )
        if sorted(rows) != list(range(n_classes)):
            raise SubspectError(
                f"{path} contains {counted(len(rows), 'class', 'classes')} ({some(sorted(rows))}); the network has "
                f"{n_classes:,}: 0 to "
                f"{n_classes - 1}"
            )
        return cls([rows[label] for label in range(n_classes)], n_features)


def _index(value: object) -> int:
    if type(value) is not int or abs(value) >= 2**63:
        raise TypeError(f"{value!r} is not a feature index")
    return value
