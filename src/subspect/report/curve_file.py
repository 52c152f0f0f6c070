"""What keeping few features costs, against their number, as a figure of its own."""

from __future__ import annotations

from pathlib import Path

from subspect.ground.errors import SubspectError
from subspect.ground.files import check_free
from subspect.ground.seals import is_sealed, write_sealed
from subspect.heads.decomposition import Decomposition
from subspect.report.figures import curve_figure


def write_curve(decomposition: Decomposition, path: str | Path) -> None:
    """Write the curve of cost against the number of features as an SVG file.

    Raises:
        SubspectError: the decomposition has no curve, the file's name doesn't end in .svg, or another's file is there.
    """
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise SubspectError(f"the figure is SVG; name a file that ends in .svg, not {path.name!r}")
    check_free(path, is_sealed)
    svg = curve_figure(decomposition.curve, standalone=True)
    if not svg:
        raise SubspectError(
            f"{decomposition.name!r} has no curve of cost against k: method 'pursuit' makes one on images held out, unless "
            "features come from a pool; name one that has (--decomposition)"
        )
    write_sealed(path, svg.encode())
