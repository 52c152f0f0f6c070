"""What keeping few features costs, against their number, as a figure of its own."""

from __future__ import annotations

from pathlib import Path

from subspect.ground.drawing import check_figure
from subspect.ground.errors import SubspectError
from subspect.ground.seals import write_sealed
from subspect.heads.decomposition import Decomposition
from subspect.report.figures import curve_figure, curve_picture


def write_curve(decomposition: Decomposition, path: str | Path) -> None:
    """Write the curve of cost against the number of features as a PNG, SVG or PDF file; SVG is light or dark as its page is.

    Raises:
        SubspectError: the decomposition has no curve, the file's name ends in none of these, or another's file is there.
    """
    path = Path(path)
    check_figure(path)
    form, curve = path.suffix[1:].lower(), decomposition.curve
    data = curve_figure(curve, standalone=True).encode() if form == "svg" else curve_picture(curve, form)
    if not data:
        raise SubspectError(
            f"{decomposition.name!r} has no curve of cost against k: method 'pursuit' makes one on images held out, unless "
            "features come from a pool; name one that has (--decomposition)"
        )
    write_sealed(path, data)
