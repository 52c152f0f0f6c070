"""A decomposition as tables: the features of each class, one class's features with all that is known of them, the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from subspect.ground.errors import some
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.feature_names import listed, shown
from subspect.heads.ternary import sign, signed
from subspect.heads.trusted import FOUND, FeatureRow, falsely_chosen

if TYPE_CHECKING:
    from subspect.heads.decomposition import Decomposition

_CLASSES = 60  # rows, at most
_FEATURES = 20  # named in a row
_OFTEN = 0.9  # of the halves
_STABILITY = (
    "stability: share of halves of the {} on which the choice, repeated, gives the feature again, with its 95 % interval; "
    "what two halves share, which have half of their images in common: features in both, of those in either (Jaccard); "
)
_SUBSTITUTES = "substitutes: features that could stand in, and the share of the feature's work that each would do"
_FREE = "; these, and sets that explain as much, are of free weights"
_FAVOURED = "ties are broken by the dense head's weights, alike on all halves, which is part of these shares; "


def class_table(decomposition: Decomposition) -> Table:
    """Return a row for each class, at most 60, with its features, the most important first."""
    names = decomposition.class_names
    more = len(names) - _CLASSES
    caption = "\n".join(filter(None, [decomposition.settled, *decomposition.edits, stays(decomposition)]))
    table = Table(title=repr(decomposition), title_justify="left", caption=caption or None)
    table.add_column("class", overflow="fold")
    order = "in the order of the file" if decomposition.chosen.supports else "most important first"
    table.add_column(f"features, {order}", overflow="fold")
    table.add_column("bias", justify="right")
    for label, name in enumerate(names[:_CLASSES]):
        table.add_row(name, class_features(decomposition, label, _FEATURES), f"{decomposition.bias[label].item():.3f}")
    if more > 0:
        table.add_row("…", f"({counted(more, 'class', 'classes')} more)", "")
    return table


def class_features(decomposition: Decomposition, label: int, most: int) -> str:
    """Return the features of a class in a row, at most some number of them."""
    if label in decomposition.unseen:
        return f"all: no {decomposition.examples} seen"
    found, names = decomposition.supports[label].tolist(), decomposition.feature_names
    rows = decomposition.rows(label)[:most] if decomposition.ternary else []
    said = signed(rows, names) if rows else listed(found[:most], names)
    return said + (" …" if len(found) > most else "")


def features(decomposition: Decomposition, label: int | str, *, legend: bool = True) -> Table:
    """Return a row for each feature of a class: weight, frequency, mean and mean contribution; of a dense row the first 20.

    Where weights are readable, sign and scale take the place of the weight. The legend says what the last columns mean.

    Raises:
        SubspectError: there is no such class.
    """
    label = decomposition.label(label)
    name = decomposition.class_names[label]
    bias = decomposition.bias[label].item()
    table = Table(title=f"{name} (class {label}): bias {bias:.3f}", title_justify="left")
    unseen = label in decomposition.unseen
    scales = None if unseen else decomposition.ternary
    weights = ("weight",) if scales is None else ("sign", "scale")
    for column in ("feature", *weights, "frequency", "mean", "contribution"):
        table.add_column(column, justify="right")
    rows = decomposition.rows(label)
    said = [scales.formula(label, rows, bias)] if scales else []
    if unseen:
        rows = rows[:_FEATURES]
        said = [
            f"no {decomposition.examples} of this class were seen when features were chosen: it keeps its dense row, all "
            f"{decomposition.supports.n_features:,} features, of which {len(rows)} are shown"
        ]
    trust = None if unseen else decomposition.trust
    if trust is not None:
        rows = core_first(rows)
        drawn = bool(trust.draws[label])
        if drawn:
            table.add_column("stability", justify="right")
        table.add_column("substitutes")
        said += [trusted(decomposition, label), _legend(decomposition, drawn) if legend else ""]
    table.caption = "\n".join(filter(None, said)) or None
    names = decomposition.feature_names
    for row in rows:
        cells = [
            one_of(row, names),
            *((sign(row), f"{row.scale:.3g}") if scales else (f"{row.weight:.3f}",)),
            f"{100 * row.frequency:.0f} %",
            f"{row.mean:.3f}",
            f"{row.contribution:.3f}",
        ]
        if trust is not None and row.stability is not None and row.interval is not None:
            low, high = row.interval
            cells.append(f"{100 * row.stability:.0f} % ({100 * low:.0f}–{100 * high:.0f})")
        if trust is not None:
            cells.append(", ".join(f"{shown(f, names)} ({100 * share:.0f} %)" for f, share in row.substitutes))
        table.add_row(*cells)
    return table


def _legend(decomposition: Decomposition, drawn: bool) -> str:
    """Say what stability, where halves were drawn, and substitutes are."""
    stability = _STABILITY.format(decomposition.examples) + _FAVOURED * bool(decomposition.chosen.stable)
    return stability * drawn + _SUBSTITUTES + _FREE * bool(decomposition.ternary)


def core_first(rows: Sequence[FeatureRow]) -> list[FeatureRow]:
    """Put features that all near-equal supports have before those that only some have."""
    return sorted(rows, key=lambda row: row.core is False)


def one_of(row: FeatureRow, names: Mapping[int, str]) -> str:
    """Return the feature, and with it those that are as good in its place: "one of 12, 40"."""
    if not row.equals:
        return shown(row.feature, names)
    return f"one of {', '.join(shown(one, names) for one in (row.feature, *row.equals))}"


def near_equals(decomposition: Decomposition, label: int, rows: Sequence[FeatureRow]) -> str:
    """Say which supports are as good as the one of a class, and what they have in common; nothing where that isn't known."""
    trust = decomposition.trust
    if trust is None or not rows or not trust.near_equal[label]:
        return ""
    count, nats = int(trust.near_equal[label]), float(trust.tolerance[label])
    if count == 1:
        other = counted(len(rows), "feature was", "features were")
        return f"no other {other} found that explain{'s' * (len(rows) == 1)} as much (to {nats:.2g} nats)"
    core = [shown(row.feature, decomposition.feature_names) for row in rows if row.core]
    common = f"all of them have {some(core, 10)}" if core else "no feature is in all of them"
    found = f"{FOUND} sets or more" if count >= FOUND else f"{count} sets"
    return (
        f"{found} of {counted(len(rows), 'feature', 'features')} were found that explain as much (to {nats:.2g} nats): "
        f"{common}"
    )


def by_chance(decomposition: Decomposition, label: int, rows: Sequence[FeatureRow]) -> str:
    """Say how many of the features that nearly all halves give may be there by chance; nothing where no bound is of use.

    It is of a choice that images alone made, of as many features on each half; not of a stable one, nor of one that was edited.
    """
    k, trust = decomposition.k, decomposition.trust
    if not isinstance(k, int) or decomposition.chosen.stable or trust is None or not trust.near_equal[label]:
        return ""
    often = [row for row in rows if row.stability is not None and row.stability >= _OFTEN]
    most = falsely_chosen(k, decomposition.supports.n_features, _OFTEN)
    if not often or most > len(often) / 2:
        return ""
    which = "the one" if len(often) == 1 else f"the {len(often)}"
    return (
        f"of {which} that {100 * _OFTEN:.0f} % of the halves or more give, at most {most:.1g} "
        f"{'is' if len(often) == 1 else 'are'} there by chance, on average (Shah & Samworth 2013)"
    )


def stays(decomposition: Decomposition) -> str:
    """Say how many of all features are chosen again on halves of the images; nothing where that wasn't measured."""
    trust = decomposition.trust
    if trust is None or not len(known := np.flatnonzero(trust.draws.numpy()[decomposition.supports.rows])):
        return ""
    share, draws = float(trust.stability.numpy()[known].mean()), int(trust.draws.max())
    return (
        f"stability: on halves of the {decomposition.examples}, {100 * share:.0f} % of these features are chosen again, on "
        f"average over {draws}; `subspect show --class` says which, and which others would do"
    )


def trusted(decomposition: Decomposition, label: int) -> str:
    """Say how far a class's choice can be trusted: what is as good, and how often it comes back; nothing where unknown."""
    trust, rows = decomposition.trust, decomposition.rows(label)
    if trust is None or label in decomposition.unseen:
        return ""
    said = [near_equals(decomposition, label, rows)]
    if drawn := int(trust.draws[label]):
        overlap = float(trust.jaccard[label])
        sets = int(trust.distinct[label])
        distinct = f"{drawn} halves of the {decomposition.examples} gave {sets} different sets"
        distinct = distinct if sets > 1 else f"all {drawn} halves of the {decomposition.examples} gave one set"
        said.append(
            distinct
            + (
                f"; two halves share {100 * overlap:.0f} % of the features, on average"
                if drawn > 2 and sets > 1
                else ""
            )
        )
        said.append(by_chance(decomposition, label, rows))
    return "; ".join(filter(None, said))


def curve_table(decomposition: Decomposition, *, width: int = 30) -> Table:
    """Return what keeping few features costs, against their number: a bar of fidelity for each size tried."""
    points = sorted(decomposition.curve, key=lambda point: (float(point.k), bool(point.refit)))
    images = counted(points[0].images, decomposition.examples[:-1], decomposition.examples)
    table = Table(
        title=f"{decomposition.name}: what few features cost",
        title_justify="left",
        caption="\n".join(
            filter(
                None,
                [
                    f"{images}; dense accuracy {100 * points[0].dense_accuracy:.2f} %",
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
