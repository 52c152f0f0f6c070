"""Accuracy against multiplications: the network with ever fewer features for all classes together, the dense one at one end.

For each size of a shared pool (`subspect.decompose` with ``pool``) the decomposed network is made, its cost is measured on
images that took no part in the choice, and the channels that nothing uses any more are removed (`subspect.specialise`); the
multiplications are those of the whole network for one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import torch

from subspect.choosing.decompose import decompose_each
from subspect.giving.export import exportable
from subspect.giving.specialise import check_pruning, specialise
from subspect.ground.drawing import COLOURS, drawing, escaped
from subspect.ground.errors import SubspectError
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.heads.cost import NetworkSize, size_of
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Estimate, evaluate
from subspect.networks.network import Network
from subspect.studies.study import StudyLike, open_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeoffPoint:
    """One network of the curve.

    Attributes:
        pool: features there are for all classes together; None for the dense network.
        size: of the whole network.
        accuracy: on images that took no part in the choice; None without labels.
        fidelity: None for the dense network.

    Example:
        >>> dense, *pools = study.tradeoff(network, [16, 32], k=5, show_progress=False).points
        >>> all(point.size.multiplications <= dense.size.multiplications for point in pools)
        True
    """

    pool: int | None
    size: NetworkSize
    accuracy: Estimate | None
    fidelity: Estimate | None


@dataclass(frozen=True)
class Tradeoff(Result):
    """The curve.

    Attributes:
        points: the dense network, then the pools, the largest first.
        k: features for each class.
        why: why channels of features that no class uses stay; empty where none do.
        note: on which images this was measured.

    Example:
        >>> tradeoff = study.tradeoff(network, [16, 32], k=5, show_progress=False)
        >>> [point.pool for point in tradeoff.points]
        [None, 32, 16]
    """

    points: tuple[TradeoffPoint, ...]
    k: int
    why: str
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "points": [asdict(point) for point in self.points]}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for the dense network and one for each pool."""
        return [
            {
                "pool": one.pool,
                **asdict(one.size),
                "accuracy": None if one.accuracy is None else one.accuracy.value,
                "fidelity": None if one.fidelity is None else one.fidelity.value,
            }
            for one in self.points
        ]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each pool."""
        dense = self.points[0].size
        caption = f"{self.note}; k = {self.k}; multiplications of the whole network for one image"
        if self.why:
            caption += f". Features that no class uses stay, {self.why}"
        table = Table(title="accuracy against multiplications", caption=caption)
        table.title_justify = table.caption_justify = "left"
        for column in ("pool", "features", "accuracy", "fidelity", "multiplications", "parameters"):
            table.add_column(column, justify="right")
        for one in self.points:
            table.add_row(
                "dense" if one.pool is None else f"{one.pool:,}",
                f"{one.size.features:,}",
                "–" if one.accuracy is None else f"{100 * one.accuracy.value:.2f} %",
                "" if one.fidelity is None else f"{100 * one.fidelity.value:.2f} %",
                f"{_counted(one.size.multiplications, 1)} ({one.size.multiplications / dense.multiplications:.3f})",
                _counted(one.size.parameters, 2),
            )
        return [table]

    @drawing()
    def plot(self) -> Figure:
        """Draw accuracy (without labels fidelity) against multiplications, with 95 % intervals."""
        from subspect.ground.canvas import Figure

        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        labelled = self.points[0].accuracy is not None
        counts = [one.size.multiplications for one in self.points]
        flat = min(counts) > 0.99 * max(counts)  # nothing could be removed: their curve would be one vertical line
        unit = 1e6 if max(counts) >= 1e6 else 1
        called: dict[tuple[float, float], str] = {}
        for one in self.points:
            share = one.accuracy if labelled else one.fidelity
            if share is None:
                continue
            features = self.points[0].size.features if one.pool is None else one.pool
            x, y = features if flat else one.size.multiplications / unit, 100 * share.value
            room = [[y - 100 * share.low], [100 * share.high - y]]
            colour = COLOURS["orange" if one.pool is None else "blue"][0]
            axes.errorbar([x], [y], yerr=room, fmt="o", color=colour, markersize=4, linewidth=1)
            name = "dense" if one.pool is None else f"{one.pool:,}"
            called[x, y] = f"{called[x, y]}, {name}" if (x, y) in called else name
        for point, name in called.items():
            place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(name, point, fontsize=8, zorder=1, **place)  # type: ignore[arg-type]
        axes.margins(x=0.12, y=0.1)
        axes.ticklabel_format(useOffset=False)
        whole = "multiplications of the whole network for one image"
        axes.set_xlabel(
            f"pool: features for all classes together\n{whole}: {_counted(counts[0], 1)}, whatever the pool"
            if flat
            else f"{whole}{', millions' if unit > 1 else ''}; at the points: the pool",
            fontsize=8,
        )
        axes.set_ylabel(f"{'accuracy' if labelled else 'fidelity'}, %", fontsize=8)
        title = f"on {self.note}; 95 % intervals"
        title = escaped(title + (f"\nfeatures that no class uses stay, {self.why}" if self.why else ""))
        axes.set_title("\n".join(line for part in title.split("\n") for line in wrap(part, 95)), fontsize=8, loc="left")
        axes.grid(alpha=0.3)
        return figure


def _counted(number: int, digits: int) -> str:
    """Return a count as text, in millions from a tenth of one on."""
    return f"{number / 1e6:,.{digits}f} M" if number >= 1e5 else f"{number:,}"


def tradeoff(
    study: StudyLike,
    *,
    network: Network,
    pools: Sequence[int],
    k: int = 10,
    images: ImageSource | None = None,
    refit: bool | None = None,
    show_progress: bool = True,
) -> Tradeoff:
    """Decompose with pools of several sizes, remove what isn't used, and set accuracy against multiplications.

    The decompositions aren't kept; `subspect.decompose` with the pool that was settled on makes it again.

    Args:
        study: of the network.
        network: that was observed; it is left as it is.
        pools: numbers of features for all classes together, each no less than k.
        k: features for each class.
        images: real images to check with; those that were observed unless given.
        refit: whether weights are re-learned, as for `subspect.decompose`.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: no pool, one smaller than k or larger than the layer, or what `decompose` and `specialise` refuse.

    Example:
        >>> tradeoff = subspect.tradeoff("study", network=network, pools=[16, 32], k=5, show_progress=False)
        >>> len(tradeoff.points)
        3
    """
    study = open_study(study)
    d = study.identity.n_features
    wrong = (
        [pool for pool in pools if int(pool) != pool or not k <= pool <= d] if isinstance(pools, Sequence) else [pools]
    )
    if wrong or not pools:
        raise SubspectError(
            f"pools must be whole numbers from k = {k} to the layer's {d} features, got {', '.join(map(str, wrong)) or 'none'}"
        )
    check_pruning()
    same, head, pixels = exportable(study, network, images)
    points: list[TradeoffPoint] = []
    why = note = ""
    dense_accuracy = None
    for pool in sorted(set(pools), reverse=True):
        [made] = decompose_each(
            study, [k], refit=refit, pool=pool, draws=0, keep_files=False, show_progress=show_progress
        )
        cost = evaluate(study, made)
        small = specialise(study, made, network=same, images=images, rounds=0)
        labelled = cost.where.labelled
        points.append(
            TradeoffPoint(pool, small.small, cost.overall.accuracy if labelled else None, cost.overall.fidelity)
        )
        why, note = small.why or why, cost.note
        dense_accuracy = cost.overall.dense_accuracy if labelled else None
    with torch.no_grad(), same.running():
        dense = TradeoffPoint(None, size_of(same.model, head, pixels), dense_accuracy, None)
    return Tradeoff((dense, *points), k, why, note)
