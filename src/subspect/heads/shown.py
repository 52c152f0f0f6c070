"""A decomposition as tables: the features of each class, one class's features with all that is known of them, the curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspect.ground.tables import Table
from subspect.heads.feature_names import listed, shown

if TYPE_CHECKING:
    from subspect.heads.decomposition import Decomposition

_CLASSES = 60  # rows, at most
_FEATURES = 20  # named in a row


def class_table(decomposition: Decomposition) -> Table:
    """Return a row for each class, at most 60, with its features, the most important first."""
    names = decomposition.class_names
    more = len(names) - _CLASSES
    caption = "\n".join(filter(None, [decomposition.settled, *decomposition.edits]))
    table = Table(title=repr(decomposition), title_justify="left", caption=caption or None)
    table.add_column("class", overflow="fold")
    order = "in the order of the file" if decomposition.chosen.supports else "most important first"
    table.add_column(f"features, {order}", overflow="fold")
    table.add_column("bias", justify="right")
    for label, name in enumerate(names[:_CLASSES]):
        table.add_row(name, class_features(decomposition, label, _FEATURES), f"{decomposition.bias[label].item():.3f}")
    if more > 0:
        table.add_row("…", f"({more} classes more)", "")
    return table


def class_features(decomposition: Decomposition, label: int, most: int) -> str:
    """Return the features of a class in a row, at most some number of them."""
    if label in decomposition.unseen:
        return f"all: no {decomposition.examples} seen"
    found = decomposition.supports[label].tolist()
    return listed(found[:most], decomposition.feature_names) + (" …" if len(found) > most else "")


def features(decomposition: Decomposition, label: int | str) -> Table:
    """Return a row for each feature of a class: weight, frequency, mean and mean contribution; of a dense row the first 20.

    Raises:
        SubspectError: there is no such class.
    """
    label = decomposition.label(label)
    name = decomposition.class_names[label]
    bias = decomposition.bias[label].item()
    table = Table(title=f"{name} (class {label}): bias {bias:.3f}", title_justify="left")
    for column in ("feature", "weight", "frequency", "mean", "contribution"):
        table.add_column(column, justify="right")
    unseen = label in decomposition.unseen
    rows = decomposition.rows(label)
    if unseen:
        rows = rows[:_FEATURES]
        table.caption = (
            f"no {decomposition.examples} of this class were seen when features were chosen: it keeps its dense row, all "
            f"{decomposition.supports.n_features:,} features, of which {len(rows)} are shown"
        )
    elif decomposition.trust is not None:
        table.add_column("stability", justify="right")
        table.add_column("substitutes")
        overlap = decomposition.trust.jaccard[label].item()
        table.caption = (
            f"stability: chosen again on redrawn {decomposition.examples} (two draws overlap by {overlap:.2f}, Jaccard: "
            "features in both as a share of those in either); substitutes: which features could stand in, and the share of the "
            "feature's worth that they make good"
        )
    names = decomposition.feature_names
    for row in rows:
        cells = [
            shown(row.feature, names),
            f"{row.weight:.3f}",
            f"{100 * row.frequency:.0f} %",
            f"{row.mean:.3f}",
            f"{row.contribution:.3f}",
        ]
        if row.stability is not None and not unseen:
            cells += [
                f"{100 * row.stability:.0f} %",
                ", ".join(f"{shown(f, names)} ({100 * share:.0f} %)" for f, share in row.substitutes),
            ]
        table.add_row(*cells)
    return table


def curve_table(decomposition: Decomposition, *, width: int = 30) -> Table:
    """Return what keeping few features costs, against their number: a bar of fidelity for each size tried."""
    points = sorted(decomposition.curve, key=lambda point: (float(point.k), bool(point.refit)))
    table = Table(
        title=f"{decomposition.name}: what few features cost",
        title_justify="left",
        caption="\n".join(
            filter(
                None,
                [
                    f"{points[0].images:,} {decomposition.examples}; dense accuracy {100 * points[0].dense_accuracy:.2f} %",
                    decomposition.settled,
                ],
            )
        ),
    )
    for column in ("k", "fidelity", "", "accuracy", "weights"):
        table.add_column(column, justify="left" if column in ("fidelity", "weights") else "right")
    for point in points:
        bar = "█" * round(width * point.fidelity)
        shares = f"{100 * point.fidelity:.2f} %", f"{100 * point.accuracy:.2f} %"
        table.add_row(f"{point.k:.3g}", bar, *shares, "re-learned" if point.refit else "as pursued")
    return table
