"""Figures for pages, drawn by matplotlib as SVG whose colours are the page's own, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from subspect.ground.drawing import COLOURS, as_label, drawing
from subspect.ground.text import legible
from subspect.heads.curve import draw_curve, shown
from subspect.heads.history import CurvePoint
from subspect.heads.supports import Supports

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from subspect.statistics.outcomes import Calibration

_MARKS = {name: f"#0102{place:02x}" for place, name in enumerate(COLOURS, 3)}  # what stands for them while drawing
_AREA = 300  # of a mark for all images, in square points
_NAMED = 40  # classes whose names fit beside a matrix


@contextmanager
def _styled() -> Iterator[None]:
    """Set matplotlib's style, with nothing of the user's: text stays text, thin lines."""
    import matplotlib as mpl

    style: Any = {
        "svg.fonttype": "none",
        "font.size": 10,
        "font.sans-serif": ["system-ui", "DejaVu Sans"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": _MARKS["line"],
        "axes.labelcolor": _MARKS["dim"],
        "axes.axisbelow": True,
        "text.color": _MARKS["ink"],
        "xtick.color": _MARKS["dim"],
        "ytick.color": _MARKS["dim"],
        "grid.color": _MARKS["line"],
        "grid.linewidth": 0.8,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    plain = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context(plain), drawing(), mpl.rc_context(style):
        yield


def _svg(figure: Figure, title: str, *, standalone: bool = False) -> str:
    """Return a figure as SVG whose colours are CSS variables; alone, it carries them along."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text: the page's own font shows it
        bare: Any = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.05, metadata=bare)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for name, mark in _MARKS.items():
        text = text.replace(mark, f"var(--{name})")
    text = text.replace("<svg ", '<svg role="img" class="figure" ', 1)
    head = f"<title>{escape(legible(title))}</title>"
    if standalone:
        light, dark = ("".join(f"--{name}:{pair[which]};" for name, pair in COLOURS.items()) for which in (0, 1))
        head += f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + head, text, count=1)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def curve_figure(curve: Sequence[CurvePoint], *, standalone: bool = False) -> str:
    """Draw fidelity and accuracy against the mean number of features of a class.

    Args:
        curve: points with k, fidelity, accuracy, dense_accuracy and refit.
        standalone: whether the picture carries its own colours, instead of a page's.

    Returns:
        The SVG; nothing where no class has any feature.
    """
    points = shown(curve)
    if not points:
        return ""
    with _styled():
        figure, axes = _axes(6, 3.2)
        draw_curve(axes, points, _MARKS)
        return _svg(figure, "Fidelity and accuracy against the number of features", standalone=standalone)


def shared_figure(supports: Supports, names: Sequence[str], unseen: Sequence[int] = ()) -> str:
    """Draw how many features every pair of classes shares, classes that share much beside each other.

    The order is that of average linkage on one less the Jaccard index, with the optimal ordering of leaves (Bar-Joseph,
    Gifford, Jaakkola 2001). Classes without images are left out.

    Returns:
        The SVG; nothing where a sentence says it all (see `shared_in_words`).
    """
    kept, shared = _shared(supports, unseen)
    if shared_in_words(supports, unseen):
        return ""
    order = order_of(shared)
    shared = shared[np.ix_(order, order)]
    np.fill_diagonal(shared, np.nan)
    with _styled():
        from matplotlib.ticker import MaxNLocator

        side = 5.0 if len(kept) > _NAMED else max(4.4, 1.6 + 0.28 * len(kept))  # a page shows no figure smaller
        figure, axes = _axes(side, side)
        drawn = axes.imshow(shared, cmap="cividis", interpolation="nearest", vmin=0)
        whole = MaxNLocator(integer=True)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.7, label="features that both classes use", ticks=whole)
        bar.outline.set_visible(False)
        axes.spines[:].set_visible(False)
        if len(kept) <= _NAMED:
            labels = [as_label(names[kept[place]]) for place in order]
            axes.set_xticks(range(len(kept)), labels, rotation=90)
            axes.set_yticks(range(len(kept)), labels)
            if len(kept) <= 20:
                middle = np.nanmax(shared) / 2
                for (row, column), value in np.ndenumerate(shared):
                    if value > 0:
                        colour = "#000000" if value > middle else "#ffffff"
                        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
        else:
            axes.set_xlabel("classes, by similarity of their features")
            axes.set_ylabel("classes, in the same order")
        axes.tick_params(length=0)
        return _svg(figure, "How many features every pair of classes shares")


def shared_in_words(supports: Supports, unseen: Sequence[int] = ()) -> str:
    """Say how many features classes share where no figure is needed for it: of two classes, or none; otherwise nothing."""
    kept, shared = _shared(supports, unseen)
    if len(kept) < 2:
        return "There are no two classes with chosen features."
    if not np.triu(shared, 1).any():
        return "No two classes share a feature."
    return f"The two classes share {shared[0, 1]:.0f} of their features." if len(kept) == 2 else ""


def _shared(supports: Supports, unseen: Sequence[int]) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Return the classes that images were seen of, and how many features every pair of them shares."""
    kept = [label for label in range(len(supports)) if label not in set(unseen)]
    used = np.zeros((len(kept), supports.n_features), np.float32)
    for row, label in enumerate(kept):
        used[row, supports[label]] = 1
    return kept, used @ used.T


def order_of(shared: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return (C,) an order in which classes that share many features are near each other; ``shared``: (C, C) counts."""
    sizes = shared.diagonal()
    union = sizes[:, None] + sizes[None] - shared
    distance = 1 - shared / np.maximum(union, 1)
    np.fill_diagonal(distance, 0)
    return np.asarray(leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)))


def calibration_figure(dense: Calibration, decomposed: Calibration) -> str:
    """Draw the share of right answers against confidence, for the dense and the decomposed network.

    A mark's area grows with the images of its bin: a bin of two images says little, and shall not look like much.
    """
    with _styled():
        figure, axes = _axes(6.4, 3.4)
        axes.set_box_aspect(1)
        axes.plot([0, 100], [0, 100], "--", color=_MARKS["dim"], linewidth=1)
        for one, name, colour, shape in ((dense, "dense", "orange", "s"), (decomposed, "decomposed", "blue", "o")):
            said, right = one.means()
            shares = one.images[one.images > 0] / max(one.images.sum(), 1)
            style: Any = {"marker": shape, "facecolors": "none", "edgecolors": _MARKS[colour], "linewidths": 1.5}
            axes.scatter(100 * said, 100 * right, s=_AREA * shares + 4, clip_on=False, **style)
            axes.scatter([], [], s=30, label=f"{name}: error {100 * one.error():.1f} points", **style)  # for the legend
        axes.set_xlabel("confidence: probability of the predicted class, %")
        axes.set_ylabel("accuracy, %")
        axes.grid()
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
        return _svg(figure, "Calibration of the dense and the decomposed network")
