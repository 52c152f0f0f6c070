"""A table for the terminal: what was found for every class and what it costs."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.shown import class_features, stays
from subspect.measuring.fidelity import Fidelity, percent

_FEATURES = 10  # named in a row


def summary(decomposition: Decomposition, fidelity: Fidelity, *, most: int = 20) -> Table:
    """Return a row for each class, at most ``most``, with its features and its cost, and one for all.

    If there are images of only some of the classes, those are the rows.
    """
    table = Table(
        title=f"{decomposition.name}: features of each class and what they cost",
        title_justify="left",
        caption="\n".join(filter(None, [fidelity.note, decomposition.settled, stays(decomposition)])),
    )
    table.add_column("class", overflow="fold")
    order = "in the order of the file" if decomposition.chosen.supports else "most important first"
    table.add_column(f"features, {order}", overflow="fold")
    for column in ("accuracy, dense", "decomposed", "fidelity"):
        table.add_column(column, justify="right")
    where, costs = fidelity.where, list(enumerate(fidelity.classes.items()))
    seen = [one for one in costs if one[1][1] is not None] if where.given < len(costs) else costs
    for label, (name, cost) in seen[:most]:
        shown = class_features(decomposition, label, _FEATURES)
        estimates = (cost.dense_accuracy, cost.accuracy, cost.fidelity) if cost else ()
        table.add_row(name, shown, *(f"{100 * estimate.value:.1f} %" for estimate in estimates))
    if len(seen[:most]) < len(costs):
        table.add_row("…", f"({counted(len(costs) - len(seen[:most]), 'class', 'classes')} more)")
    table.add_section()
    sizes = np.delete(decomposition.supports.sizes, list(decomposition.unseen))
    without = counted(len(decomposition.unseen), "class", "classes")
    unseen = f"; all for {without} without {decomposition.examples}" if decomposition.unseen else ""
    pool = decomposition.chosen.pool
    of = f"{decomposition.supports.n_features}{f' (from a pool of {pool})' if pool else ''}"
    varied = " on average" * (len(np.unique(sizes)) > 1)
    each = f"{sizes.mean() if len(sizes) else 0:.3g} of {of}{varied}{unseen}"
    overall = fidelity.overall
    estimates = (overall.dense_accuracy, overall.accuracy, overall.fidelity)
    table.add_row(
        "all" if len(seen) == len(costs) else where.among_in_words,
        each,
        *(Text(percent(estimate).replace(" (", "\n(")) for estimate in estimates),
        style="bold",
    )
    return table
