"""Accuracy against what a network costs: ever fewer features for all its classes together, or ever smaller budgets.

For each size of a shared pool (`subspect.decompose` with ``pool``) the decomposed network is made, its cost is measured on
images that took no part in the choice, and the channels that nothing uses any more are removed (`subspect.specialise`); the
multiplications are those of the whole network for one image. For each budget the network is narrowed in all its layers for the
classes that are wanted, and what can be won back without training is (`subspect.specialise`); accuracy is set against time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import torch

from subspect.choosing.decompose import decompose_each
from subspect.giving.budget import Budget
from subspect.giving.export import exportable
from subspect.giving.options import WEIGHED
from subspect.giving.specialise import check_pruning, specialise
from subspect.giving.timing import ROUNDS, Ratio
from subspect.ground.drawing import COLOURS, drawing, escaped
from subspect.ground.errors import SubspectError
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.cost import NetworkSize, size_of
from subspect.heads.decomposition import Decomposition
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Estimate, evaluate
from subspect.measuring.where import where
from subspect.networks.network import Network
from subspect.studies.study import Study, StudyLike, open_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeoffPoint:
    """One network of the curve.

    Attributes:
        pool: features there are for all classes together; None for the dense network, and with budgets.
        size: of the whole network.
        accuracy: on images that took no part in the choice; None without labels.
        fidelity: None for the dense network, and with budgets.
        budget: share of the multiplications that it was narrowed to; None for the dense network, and with pools.
        times: with budgets, images at a time → how long it takes beside the dense network.

    Example:
        >>> dense, *pools = study.tradeoff(network, [16, 32], k=5, show_progress=False).points
        >>> all(point.size.multiplications <= dense.size.multiplications for point in pools)
        True
    """

    pool: int | None
    size: NetworkSize
    accuracy: Estimate | None
    fidelity: Estimate | None
    budget: float | None = None
    times: Mapping[int, Ratio] = field(default_factory=dict)


@dataclass(frozen=True)
class Tradeoff(Result):
    """The curve.

    Attributes:
        points: the dense network, then the pools or the budgets, the largest first.
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
        points = [asdict(point) for point in self.points]
        for point in points:
            point["times"] = {str(batch): ratio for batch, ratio in point["times"].items()}
        return {**asdict(self), "points": points}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for the dense network and one for each pool or budget."""
        return [
            {
                **({"budget": one.budget} if self.by_budget else {"pool": one.pool}),
                **asdict(one.size),
                "accuracy": None if one.accuracy is None else one.accuracy.value,
                **({} if self.by_budget else {"fidelity": None if one.fidelity is None else one.fidelity.value}),
                **{f"seconds_{batch}": ratio.small for batch, ratio in one.times.items()},
            }
            for one in self.points
        ]

    @property
    def by_budget(self) -> bool:
        """Whether the points are budgets, not pools."""
        return any(one.budget is not None for one in self.points)

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each pool or budget."""
        if self.by_budget:
            return [self._of_budgets()]
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

    def _of_budgets(self) -> Table:
        threads = counted(torch.get_num_threads(), "thread", "threads")
        taken = (f"{1000 * ratio.dense:.3g} ms" for ratio in self.points[0].times.values())
        caption = (
            f"{self.note}, nothing trained; k = {self.k}; times as a share of the dense network's, {', '.join(taken)} in "
            f"PyTorch with {threads}"
        )
        table = Table(title="accuracy against time", caption=caption, title_justify="left", caption_justify="left")
        dense = self.points[0]
        for column in ("budget", "accuracy", *(counted(batch, "image", "images") for batch in dense.times)):
            table.add_column(column, justify="right")
        table.add_column("multiplications", justify="right")
        table.add_column("parameters", justify="right")
        for one in self.points:
            share = one.size.multiplications / dense.size.multiplications
            table.add_row(
                "dense" if one.budget is None else f"{one.budget:g}",
                "–" if one.accuracy is None else f"{100 * one.accuracy.value:.2f} %",
                *(f"{ratio.value:.2f}" for ratio in one.times.values()),
                f"{_counted(one.size.multiplications, 1)} ({share:.3f})",
                _counted(one.size.parameters, 2),
            )
        return table

    @drawing()
    def plot(self) -> Figure:
        """Draw accuracy (without labels fidelity) against multiplications, or budgets against time; 95 % intervals."""
        from subspect.ground.canvas import Figure

        if self.by_budget:
            return self._against_time()
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

    def _against_time(self) -> Figure:
        from subspect.ground.canvas import Figure

        batches = list(self.points[0].times)
        figure = Figure(figsize=(3.4 * len(batches) + 0.6, 3.6), layout="constrained")
        panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for axes, batch in zip(panels, batches, strict=True):
            for number, one in enumerate(self.points):
                if one.accuracy is None:
                    continue
                ratio, y = one.times[batch], 100 * one.accuracy.value
                x, wide = ratio.value, [[ratio.value - ratio.low], [ratio.high - ratio.value]]
                room = [[y - 100 * one.accuracy.low], [100 * one.accuracy.high - y]]
                colour = COLOURS["orange" if one.budget is None else "blue"][0]
                axes.errorbar([x], [y], yerr=room, xerr=wide, fmt="o", color=colour, markersize=4, linewidth=1)
                name = "dense" if one.budget is None else f"{one.budget:g}"
                # in turn below to the right and above to the left, where points and their intervals are close
                place, side = ((5, -10), "left") if number % 2 else ((-5, 4), "right")
                axes.annotate(name, (x, y), place, textcoords="offset points", ha=side, fontsize=8)
            axes.set_xlim(0, 1.2 * max(one.times[batch].high for one in self.points))
            axes.set_xlabel(f"time for {counted(batch, 'image', 'images')}, share of the dense network's", fontsize=8)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("accuracy, %", fontsize=8)
        title = f"{self.note}, nothing trained; at the points: the budget, of the multiplications; 95 % intervals"
        figure.suptitle(escaped("\n".join(wrap(title, 110))), fontsize=8)
        return figure


def _counted(number: int, digits: int) -> str:
    """Return a count as text, in millions from a tenth of one on."""
    return f"{number / 1e6:,.{digits}f} M" if number >= 1e5 else f"{number:,}"


def tradeoff(
    study: StudyLike,
    *,
    network: Network,
    pools: Sequence[int] | None = None,
    budgets: Sequence[float] | None = None,
    classes: Sequence[int | str] | None = None,
    k: int = 10,
    images: ImageSource | None = None,
    refit: bool | None = None,
    rounds: int = ROUNDS,
    sample: int = WEIGHED,
    seed: int = 0,
    workers: int = 0,
    show_progress: bool = True,
) -> Tradeoff:
    """Decompose, make the network smaller in several steps, and set accuracy against what each costs.

    The decompositions aren't kept; `subspect.decompose` with the pool that was settled on makes it again, and
    `subspect.specialise` with the budget.

    Args:
        study: of the network.
        network: that was observed; it is left as it is.
        pools: numbers of features for all classes together, each no less than k; what isn't used is removed.
        budgets: shares of the multiplications, such as 0.8, 0.4, 0.2; give either pools or these.
        classes: with budgets, names or indices of the classes that are wanted; all unless given.
        k: features for each class.
        images: real images to check with; those that were observed unless given.
        refit: whether weights are re-learned, as for `subspect.decompose`.
        rounds: with budgets, of timing; 1 or more.
        sample: with budgets, by how many images channels are weighed.
        seed: with budgets, of that sample.
        workers: processes that read images.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: no pool and no budget, or both, a pool smaller than k or larger than the layer, images without labels
            with budgets, or what `decompose` and `specialise` refuse.

    Example:
        >>> tradeoff = subspect.tradeoff("study", network=network, pools=[16, 32], k=5, show_progress=False)
        >>> len(tradeoff.points)
        3
    """
    study = open_study(study)
    if (pools is None) == (budgets is None):
        raise SubspectError("give either pools (--pool 64) or budgets (--budget 0.5), of which to draw the curve")
    if budgets is not None:
        wanted = _shares(budgets)
        if rounds < 1:
            raise SubspectError(f"rounds must be 1 or more, as the curve is against time; got {rounds}")
        [made] = decompose_each(study, [k], refit=refit, draws=0, keep_files=False, show_progress=show_progress)
        options = {"classes": classes, "images": images, "rounds": rounds, "sample": sample, "seed": seed}
        return _by_budget(
            study, made, network, wanted, k, {**options, "workers": workers, "show_progress": show_progress}
        )
    if classes is not None:
        raise SubspectError("classes go with budgets (--budget); a pool is of features for all classes together")
    return _by_pool(study, network, _sizes(pools or (), k, study.identity.n_features), k, images, refit, show_progress)


def _sizes(pools: Sequence[int], k: int, d: int) -> list[int]:
    """Return the pools, the largest first."""
    wrong = (
        [pool for pool in pools if int(pool) != pool or not k <= pool <= d] if isinstance(pools, Sequence) else [pools]
    )
    if wrong or not pools:
        raise SubspectError(
            f"pools must be whole numbers from k = {k} to the layer's {d} features, got {', '.join(map(str, wrong)) or 'none'}"
        )
    return sorted(set(pools), reverse=True)


def _shares(budgets: Sequence[float]) -> list[float]:
    """Return the budgets, the largest first."""
    if not isinstance(budgets, Sequence) or not budgets:
        raise SubspectError(
            f"budgets must be a list of shares between 0 and 1, such as [0.8, 0.4, 0.2]; got {budgets!r}"
        )
    for one in budgets:
        Budget.of(one, None)
    return sorted(set(budgets), reverse=True)


def _by_pool(
    study: Study,
    network: Network,
    pools: Sequence[int],
    k: int,
    images: ImageSource | None,
    refit: bool | None,
    show_progress: bool,
) -> Tradeoff:
    check_pruning()
    same, head, pixels = exportable(study, network, images)
    points: list[TradeoffPoint] = []
    why = note = ""
    dense_accuracy = None
    for pool in pools:
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


def _by_budget(
    study: Study,
    made: Decomposition,
    network: Network,
    budgets: Sequence[float],
    k: int,
    options: Mapping[str, Any],
) -> Tradeoff:
    if not where(study, made).labelled:
        raise SubspectError(
            "accuracy against time takes images with labels that took no part in the choice; observe some, or take "
            "pools, which are measured by fidelity"
        )
    points: list[TradeoffPoint] = []
    dense = small = None
    for budget in budgets:
        small = specialise(study, made, network=network, budget=budget, onnx=False, **options)
        if not small.asked:
            raise SubspectError(f"this network can't be narrowed within a budget. {small.reason}; give pools instead")
        if dense is None:
            whole = {batch: Ratio(one.dense, one.dense, 1.0, 1.0, 1.0) for batch, one in small.times.items()}
            dense = TradeoffPoint(None, small.dense, small.among.get("dense"), None, times=whole)
        points.append(TradeoffPoint(None, small.small, small.among.get("small"), None, budget, small.times))
    assert dense is not None and small is not None
    return Tradeoff((dense, *points), k, "", small.note)
