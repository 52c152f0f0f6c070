"""What keeping few features costs, against their number: the curve of a decomposition, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from subspect.ground.drawing import COLOURS, count_axis, drawing, escaped
from subspect.ground.errors import SubspectError
from subspect.ground.text import counted
from subspect.heads.history import CurvePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from subspect.heads.decomposition import Decomposition


def curve_points(decomposition: Decomposition) -> list[CurvePoint]:
    """Return the points of a decomposition's curve.

    Raises:
        SubspectError: it has none.
    """
    points = shown(decomposition.curve)
    if not points:
        raise SubspectError(
            f"{decomposition.name!r} has no curve of cost against k: method 'pursuit' makes one on images held out, unless "
            "features come from a pool; name one that has (--decomposition)"
        )
    return points


@drawing()
def curve_plot(decomposition: Decomposition) -> Figure:
    """Draw fidelity and accuracy against the mean number of features of a class.

    Raises:
        SubspectError: the decomposition has no curve.
    """
    from subspect.ground.canvas import Figure

    points = curve_points(decomposition)
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    draw_curve(axes, points, {name: pair[0] for name, pair in COLOURS.items()})
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    images = counted(points[0].images, decomposition.examples[:-1], decomposition.examples)
    axes.set_title(escaped(f"{decomposition.name}, on {images}"), fontsize=9, loc="left")
    return figure


def shown(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Return the points that can be drawn, by growing k: on a logarithmic axis there is no 0."""
    return sorted((point for point in curve if point.k > 0), key=lambda point: float(point.k))


def draw_curve(axes: Axes, points: Sequence[CurvePoint], colours: Mapping[str, str]) -> None:
    """Draw points, by growing k: a line before refit and dots after; a line with dots where all were refitted."""
    refits = {bool(point.refit) for point in points}
    ends = []
    for name, colour in (("fidelity", "blue"), ("accuracy", "orange")):
        for refit in sorted(refits):
            chosen = [point for point in points if bool(point.refit) == refit]
            ks, values = [float(point.k) for point in chosen], [100 * float(getattr(point, name)) for point in chosen]
            style = ("-o" if len(refits) == 1 else "o") if refit else "-"
            axes.plot(ks, values, style, color=colours[colour], markersize=5, linewidth=1.5, label=f"{name}, {refit}")
        ends.append((100 * float(getattr(points[-1], name)), name, colour))
    dense = 100 * float(points[0].dense_accuracy)
    axes.axhline(dense, color=colours["dim"], linestyle="--", linewidth=1)
    ends.append((dense, f"dense accuracy, {dense:.1f} %", "dim"))
    count_axis(axes, float(points[0].k), float(points[-1].k))
    axes.set_xlabel("features for each class" + (" (line: before refit, dots: after)" if len(refits) == 2 else ""))
    axes.set_ylabel("share, %")
    axes.grid(axis="y")
    low = min(axes.get_ylim()[0], 98.0)
    axes.set_ylim(low, 100 + 0.02 * (100 - low))
    step, height = 0.075 * (100 - low), 100 + 0.08 * (100 - low)
    for value, text, colour in sorted(ends, reverse=True):  # one below the other, so that none lies on another
        height = min(value, height - step)
        axes.annotate(text, (1.02, height), xycoords=("axes fraction", "data"), color=colours[colour], va="center")
