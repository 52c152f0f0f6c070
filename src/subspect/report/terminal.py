"""Tables for the terminal: what was found for every class and what it costs, and one class's features."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from subspect.ground.errors import some
from subspect.ground.tables import Table
from subspect.ground.text import legible
from subspect.heads.decomposition import Decomposition
from subspect.measuring.fidelity import Fidelity, percent
from subspect.studies.study import Study


def summary(decomposition: Decomposition, fidelity: Fidelity, *, most: int = 20) -> Table:
    """Return a row for each class, at most ``most``, with its features and its cost, and one for all."""
    table = Table(
        title=f"{decomposition.name}: features of each class and what they cost",
        title_justify="left",
        caption="\n".join(filter(None, [fidelity.note, decomposition.settled])),
    )
    table.add_column("class", overflow="fold")
    table.add_column("features, most important first", overflow="fold")
    for column in ("accuracy, dense", "decomposed", "fidelity"):
        table.add_column(column, justify="right")
    for label, (name, cost) in enumerate(fidelity.classes.items()):
        if label == most:
            table.add_row("…", f"({len(fidelity.classes) - most} classes more)")
            break
        found = decomposition.supports[label].tolist()
        shown = "all: no images seen" if label in decomposition.unseen else " ".join(map(str, found[:10]))
        shown += " …" if len(found) > 10 and label not in decomposition.unseen else ""
        estimates = (cost.dense_accuracy, cost.accuracy, cost.fidelity) if cost else ()
        table.add_row(name, shown, *(f"{100 * estimate.value:.1f} %" for estimate in estimates))
    table.add_section()
    sizes = np.delete(decomposition.supports.sizes, list(decomposition.unseen))
    each = f"{sizes.mean() if len(sizes) else 0:.3g} of {decomposition.supports.n_features} on average"
    overall = fidelity.overall
    estimates = (overall.dense_accuracy, overall.accuracy, overall.fidelity)
    table.add_row("all", each, *(Text(percent(estimate).replace(" (", "\n(")) for estimate in estimates), style="bold")
    return table


def features(decomposition: Decomposition, label: int | str) -> Table:
    """Return a row for each feature of a class: weight, frequency, mean and mean contribution.

    Raises:
        SubspectError: there is no such class.
    """
    label = decomposition.label(label)
    name = decomposition.class_names[label]
    bias = decomposition.bias[label].item()
    table = Table(title=f"{name} (class {label}): bias {bias:.3f}", title_justify="left")
    for column in ("feature", "weight", "frequency", "mean", "contribution"):
        table.add_column(column, justify="right")
    if decomposition.trust is not None:
        table.add_column("stability", justify="right")
        table.add_column("substitutes")
        overlap = decomposition.trust.jaccard[label].item()
        table.caption = (
            f"stability: chosen again on redrawn images (two draws overlap by {overlap:.2f}, Jaccard); substitutes: which "
            "features could stand in, and the share of the feature's worth that they make good"
        )
    for row in decomposition.rows(label):
        cells = [
            str(row.feature),
            f"{row.weight:.3f}",
            f"{100 * row.frequency:.0f} %",
            f"{row.mean:.3f}",
            f"{row.contribution:.3f}",
        ]
        if row.stability is not None:
            cells += [
                f"{100 * row.stability:.0f} %",
                ", ".join(f"{f} ({100 * share:.0f} %)" for f, share in row.substitutes),
            ]
        table.add_row(*cells)
    return table


def curve_table(decomposition: Decomposition, *, width: int = 30) -> Table:
    """Return what keeping few features costs, against their number: a bar of fidelity for each size tried."""
    points = sorted(decomposition.curve, key=lambda point: (float(point.k), bool(point.refit)))
    low = min(0.9, *(float(point.fidelity) for point in points))
    table = Table(
        title=f"{decomposition.name}: what few features cost",
        title_justify="left",
        caption="\n".join(
            filter(
                None,
                [
                    f"{points[0].images:,} images; dense accuracy {100 * points[0].dense_accuracy:.2f} %",
                    decomposition.settled,
                ],
            )
        ),
    )
    for column in ("k", "fidelity", "", "accuracy", "weights"):
        table.add_column(column, justify="left" if column in ("fidelity", "weights") else "right")
    for point in points:
        bar = "█" * round(width * (point.fidelity - low) / (1 - low))
        shares = f"{100 * point.fidelity:.2f} %", f"{100 * point.accuracy:.2f} %"
        table.add_row(f"{point.k:.3g}", bar, *shares, "re-learned" if point.refit else "as pursued")
    return table


def overview(study: Study, decompositions: list[str]) -> Table:
    """Return what a study holds: network, preprocessing, image sets, decompositions."""
    identity = study.identity
    table = Table(title=str(study.path), show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("network", f"{identity.network} (weights {identity.weights[:12]}…)")
    table.add_row("head", f"{identity.head}: {identity.n_classes} classes × {identity.n_features} features")
    parts = (f"{key} {'no' if value is None else value}" for key, value in identity.preprocessing.items())
    table.add_row("preprocessing", "; ".join(parts))
    for name in study.set_names:
        manifest = study[name].manifest
        text = (
            f"{manifest.rows:,} images ({manifest.kind}, {manifest.root or 'in memory'}); labels: {manifest.matching}"
        )
        if manifest.layers:
            text += f"; {len(manifest.layers)} layers: {some(manifest.layers, 4)}"
        if manifest.failed:
            text += f"; {len(manifest.failed)} could not be used:"
        failed = [legible(f"  {id}: {reason}") for id, reason in manifest.failed[:10]]
        table.add_row(f"images {name!r}", Text("\n".join([legible(text), *failed])))
    for name in study.unfinished:
        table.add_row(f"images {name!r}", "unfinished; run the same observe command again to go on")
    table.add_row("decompositions", ", ".join(decompositions) or "none yet")
    return table
