"""Which classes share which features: a row for each class, a column for each feature that at least two of them use."""

from __future__ import annotations

import numpy as np

from subspect.heads.decomposition import Decomposition
from subspect.report.figures import order_of

Cell = tuple[
    float, str
]  #: a weight, and the shade of it: gain1 … for the class, loss1 … against it; 0 and none without
SharedMap = tuple[list[tuple[int, list[Cell]]], list[int]]  #: class and its cells; the features of the columns


def shared_map(decomposition: Decomposition, shades: int) -> SharedMap | None:
    """Return the map, classes that share many features beside each other, and features that the same classes use.

    Args:
        decomposition: whose features they are; classes without images are left out.
        shades: how many there are.

    Returns:
        None where no two classes share a feature.
    """
    kept = [label for label in range(len(decomposition.class_names)) if label not in set(decomposition.unseen)]
    weights = decomposition.matrix()[0][kept]
    columns = np.flatnonzero((weights != 0).sum(axis=0) > 1)
    if len(kept) < 2 or not len(columns):
        return None
    used = (weights != 0).astype(np.float32)
    rows = order_of(used @ used.T) if len(kept) > 2 else np.arange(2)
    used = used[:, columns]
    if len(columns) > 2:
        columns = columns[order_of(used.T @ used)]
    top = float(np.abs(weights[:, columns]).max())
    cells = [[_cell(float(weights[row, column]), top, shades) for column in columns] for row in rows]
    return [(kept[row], own) for row, own in zip(rows.tolist(), cells, strict=True)], columns.tolist()


def _cell(weight: float, top: float, shades: int) -> Cell:
    if weight == 0:
        return 0.0, ""
    return weight, f"{'gain' if weight > 0 else 'loss'}{max(1, round(shades * abs(weight) / top))}"
