"""Filters as tables for the terminal, and as a figure against depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from subspect.ground.drawing import COLOURS, as_label, drawing, headed
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.feature_names import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from subspect.tracing.result import Filters

_LISTED = 6  # filters of a layer in a row
_LAYERS = 4  # from the last, in which the filters behind a feature are listed
_TICKS = 24  # names of layers along an axis


def by_depth(found: Filters) -> Table:
    """Return a row for each layer."""
    closed = any(layer.ablated for layer in found.layers)
    essential = any(layer.essential for layer in found.layers)
    table = Table(
        title=f"{found.decomposition}: filters that hold {100 * found.share:g} % of a class's effect, layer by layer",
        caption=_caption(found, closed, essential),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    several = len(found.labels) > 1
    rest = ["needed", *(["shared", "specific"] if several else []), *(["ρ"] if closed else [])]
    for column in (*rest, *(["closed", "random"] if essential else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in zip(found.names, found.by_depth, strict=True):
        table.add_row(
            name,
            f"{one['needed']:.0f} of {one['channels']:,.0f}",
            *([f"{one['overlap']:.2f} ({one['by_chance']:.2f})", _number(one["specific"])] if several else []),
            *([_number(one["rank_correlation"])] if closed else []),
            *([_percent(one[which]) for which in ("own", "random")] if essential else []),
        )
    return table


def _caption(found: Filters, closed: bool, essential: bool) -> str:
    said = [
        f"{found.note}. Effect: what a class's margin (its decomposed logit less the strongest other) changes by, to first "
        "order, with a filter at its mean, in magnitude, mean over the class's images. Needed: how many of the layer's "
        "filters, mean over classes"
    ]
    if len(found.labels) > 1:
        said.append(
            "shared: mean Jaccard index of two classes' filters, in brackets with as many at random; specific: how much a "
            "filter tells of the class, 0 to 1"
        )
    if closed:
        mean = found.rank_correlation
        told = "" if np.isnan(mean) else f", {mean:.2f} on average"
        said.append(f"ρ: rank correlation of effects with what closing filters in earnest changes{told}")
    if essential:
        before = found.right.sum() / max(1, found.closed_on.sum())
        said.append(
            f"closed, random: class accuracy with each class's filters of the layer at their mean, and as many at random; "
            f"{100 * before:.1f} % before, on {counted(int(found.closed_on.sum()), 'image', 'images')}"
        )
    return "; ".join(said)


def of_class(found: Filters, row: int) -> list[Table]:
    """Return a class's filters in each layer, and the filters that make its features."""
    label = found.labels[row]
    name = found.class_names[label]
    table = Table(
        title=f"{name}: filters that hold {100 * found.share:g} % of its effect",
        caption="in parentheses: share of the effect in the layer; + where the filter speaks for the class, − against it",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    table.add_column("needed", justify="right", no_wrap=True)
    table.add_column("filters, largest effect first", overflow="fold")
    for place, layer in enumerate(found.layers):
        own = found.of_row(row, place)
        said = [f"{one.channel} ({'−' if one.signed > 0 else '+'}{100 * one.share:.0f} %)" for one in own[:_LISTED]]
        table.add_row(
            layer.name, f"{len(own)} of {layer.channels}", ", ".join(said) + (" …" if len(own) > _LISTED else "")
        )
    paths = Table(title=f"{name}: its features, and the filters that make them", title_justify="left")
    paths.add_column("feature", overflow="fold")
    paths.add_column(f"made by, in the last {_LAYERS} layers that make it", overflow="fold")
    for feature, layers in found.paths(label):
        paths.add_row(shown(feature, found.feature_names), made_by(layers))
    return [table, paths]


def made_by(layers: dict[str, list[int]], most: int = _LAYERS) -> str:
    """Return filters in a row: "layer4.1.conv2: 12, 200; layer4.1.conv1: 7"."""
    made = [(name, channels) for name, channels in layers.items() if channels][:most]
    return "; ".join(f"{name}: {', '.join(map(str, channels[:_LISTED]))}" for name, channels in made)


@drawing()
def figure(found: Filters) -> Figure:
    """Draw against depth what layers are to classes."""
    from subspect.ground.canvas import Figure

    figures = found.by_depth
    essential = any(not np.isnan(one["gap"]) for one in figures)
    several = len(found.labels) > 1
    count = 1 + several + essential
    made = Figure(figsize=(7.2, 1.2 + 1.8 * count), layout="constrained")
    panels: list[Axes] = list(made.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    x = np.arange(len(figures))

    def line(axes: Axes, which: str, text: str, colour: str, style: str = "-o", scale: float = 100) -> None:
        values = [scale * one[which] for one in figures]
        axes.plot(x, values, style, color=COLOURS[colour][0], markersize=3, linewidth=1.2, label=text)

    line(panels[0], "share", "filters needed, % of the layer's", "blue")
    if several:
        line(panels[1], "overlap", "shared by two classes, %", "blue")
        line(panels[1], "by_chance", "as many at random, %", "dim", "--")
        line(panels[1], "specific", "how much a filter tells of the class, %", "orange")
    if essential:
        line(panels[-1], "before", "class accuracy, %", "dim", "--")
        line(panels[-1], "random", "random filters at their mean, %", "orange")
        line(panels[-1], "own", "the class's filters at their mean, %", "blue")
    for axes in panels:
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="best")
    step = -(-len(x) // _TICKS)
    panels[-1].set_xticks(
        x[::step], [as_label(one, 22) for one in found.names[::step]], rotation=45, ha="right", rotation_mode="anchor"
    )
    panels[-1].tick_params(axis="x", labelsize=7)
    panels[-1].set_xlabel("layer, from the images to the features")
    headed(made, f"{found.decomposition}: filters that hold {100 * found.share:g} % of a class's effect; {found.note}")
    return made


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.0f} %"
