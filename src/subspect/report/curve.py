"""What keeping few features costs, against their number: a small chart, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from subspect.decomposition import Decomposition
from subspect.errors import SubspectError
from subspect.files import atomic

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 108, 14, 42  # margins around the axes
_TICKS = (1, 2, 3, 5, 8, 12, 20, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Line:
    """One line of the chart: its name, whether it is after refit, and the places of its points in pixels."""

    name: str
    refit: bool
    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        """The points as an SVG polyline takes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def write_curve(decomposition: Decomposition, path: str | Path) -> None:
    """Write the curve of cost against the number of features as an SVG file.

    Raises:
        SubspectError: the decomposition has no curve, or the file's name doesn't end in .svg.
    """
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise SubspectError(f"the figure is SVG; name a file that ends in .svg, not {path.name!r}")
    if not any(point["k"] > 0 for point in decomposition.curve):
        raise SubspectError(
            f"{decomposition.name!r} has no curve of cost against k: method 'pursuit' makes one, on images held out"
        )
    with atomic(path) as file:
        file.write(curve_svg(decomposition.curve, standalone=True).encode())


def curve_svg(curve: Sequence[Mapping[str, Any]], *, standalone: bool = False) -> str:
    """Draw fidelity and accuracy against the mean number of features.

    Args:
        curve: points with k, fidelity, accuracy, dense_accuracy and refit, at least one.
        standalone: whether the picture carries its own colours, instead of a page's.

    Returns:
        The SVG; nothing where no class has any feature.
    """
    if not any(point["k"] > 0 for point in curve):
        return ""
    points = sorted((point for point in curve if point["k"] > 0), key=lambda point: float(point["k"]))
    dense = float(points[0]["dense_accuracy"])
    values = [float(point[name]) for point in points for name in ("fidelity", "accuracy")]
    low = max(0.0, floor(10 * min(*values, dense)) / 10)
    low = low if low < 1 else 0.9
    first, last = float(points[0]["k"]), max(float(points[-1]["k"]), float(points[0]["k"]) * 2)

    def x(k: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * log(k / first) / log(last / first)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value) / (1 - low)

    def line(name: str, refit: bool) -> Line:
        chosen = [point for point in points if bool(point["refit"]) == refit]
        return Line(name, refit, tuple((x(float(point["k"])), y(float(point[name]))) for point in chosen))

    gap = 20 if low < 0.5 else 10 if low < 0.8 else 5 if low < 0.9 else 2
    end = points[-1]
    labels = [("fidelity", "fidelity", y(float(end["fidelity"]))), ("accuracy", "accuracy", y(float(end["accuracy"])))]
    labels.append(("", f"dense: {100 * dense:.1f} %", y(dense)))
    environment = Environment(
        loader=PackageLoader("subspect.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("curve.svg").render(
        lines=[line(name, refit) for name in ("fidelity", "accuracy") for refit in (False, True)],
        raw=any(not point["refit"] for point in points),
        refit=any(point["refit"] for point in points),
        labels=_apart(labels),
        dense=y(dense),
        x_ticks=[(k, x(k)) for k in _TICKS if first <= k <= 1.02 * last],
        y_ticks=[(percent, y(percent / 100)) for percent in range(100, round(100 * low) - 1, -gap)],
        box=(_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
        size=(_WIDTH, _HEIGHT),
        standalone=standalone,
    )


def _apart(labels: list[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    """Keep labels (class, text, height) from lying on each other, from the top down."""
    placed: list[tuple[str, str, float]] = []
    for name, text, height in sorted(labels, key=lambda label: label[2]):
        placed.append((name, text, max(height, placed[-1][2] + 15) if placed else height))
    return placed
