"""What keeping few features costs, against their number, as a figure of its own."""

from __future__ import annotations

from pathlib import Path

from subspect.ground.drawing import check_figure, save_figure
from subspect.ground.seals import write_sealed
from subspect.heads.curve import curve_points
from subspect.heads.decomposition import Decomposition
from subspect.report.figures import curve_figure


def write_curve(decomposition: Decomposition, path: str | Path) -> None:
    """Write the curve of cost against the number of features as a PNG, SVG or PDF file; SVG is light or dark as its page is.

    Raises:
        SubspectError: the decomposition has no curve, the file's name ends in none of these, or another's file is there.
    """
    path = Path(path)
    check_figure(path)
    points = curve_points(decomposition)
    if path.suffix.lower() == ".svg":
        write_sealed(path, curve_figure(points, standalone=True).encode())
    else:
        save_figure(decomposition.plot(), path)
