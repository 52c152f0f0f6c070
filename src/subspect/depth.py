"""Does what a class needs grow with the depth of the network? (arXiv 2112.07719, section 5, says: in proportion)

The same questions are asked of every network of a family, on the same images: how many features a class needs for a stated
fidelity (read off the path of pursuit, before any refit, by linear interpolation against ln k), absolute and as a share of the
layer; and every dimension that `subspect.geometry` knows. Each is then set against depth, the number of convolutions and linear
layers that run for one image.

The uncertainty is over networks, not over images: of one network of each depth nobody can tell depth from chance. Rank
correlation is Spearman's, its interval that of 2,000 redrawn families; the exponent is the slope of ``ln y`` against
``ln depth`` with the t-interval of least squares. In proportion to depth means an exponent of 1, no dependence one of 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from scipy.stats import linregress, spearmanr, t
from torch import nn

from subspect.decompose import decompose
from subspect.errors import SubspectError
from subspect.figures import COLOURS
from subspect.files import make_folder
from subspect.geometry import geometry
from subspect.images import Images, open_images
from subspect.network import Network
from subspect.observe import observe, sample
from subspect.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("subspect")

FIDELITY = 0.95  #: at which the number of features is read
_DRAWS = 2000  # of families, for the interval of the rank correlation
_SINGLE = 0.2  # share of networks at the floor of one feature, above which a trend says nothing
_LEAST = 4  # networks for a verdict, of three depths or more
MEASURES: Mapping[str, str] = {
    "needed": "features a class needs",
    "share": "the same, share of the layer",
    "decision": "decision dimension",
    "participation": "participation ratio",
    "components": "components for 95 %",
    "two_nn": "TwoNN",
    "likelihood": "likelihood",
    "head_rank": "effective rank of the head",
    "boundary": "TwoNN of the boundary",
}  #: what is set against depth
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One network of a family.

    Attributes:
        name: of the network.
        depth: convolutions and linear layers that run for one image.
        parameters: their number.
        accuracy: of the dense network.
        features: the layer's width d.
        values: measure → value; NaN where the fidelity isn't reached.
        fidelity: number of features of a class → fidelity, the path that ``needed`` is read off.
    """

    name: str
    depth: int
    parameters: int
    accuracy: float
    features: int
    values: Mapping[str, float]
    fidelity: Mapping[float, float]


@dataclass(frozen=True)
class Trend:
    """How one measure goes with depth, over networks; NaN where there are too few.

    Attributes:
        rank: Spearman's rank correlation.
        rank_low: 2.5th percentile over redrawn families.
        rank_high: 97.5th percentile.
        exponent: slope of ``ln y`` against ``ln depth``.
        low: lower end of its 95 % interval.
        high: upper end.
        networks: how many have a value.
    """

    rank: float
    rank_low: float
    rank_high: float
    exponent: float
    low: float
    high: float
    networks: int


@dataclass(frozen=True)
class Depth:
    """A family of networks, set against depth.

    Attributes:
        members: by depth.
        trends: measure → how it goes with depth.
        at: the fidelity at which the number of features is read.
        note: on which images this was measured.
    """

    members: tuple[Member, ...]
    trends: Mapping[str, Trend]
    at: float
    note: str

    @property
    def verdict(self) -> str:
        """Say whether this family supports "proportional to depth", contradicts it, or is too small to tell."""
        trend, depths = self.trends["needed"], {one.depth for one in self.members}
        said = f"exponent {trend.exponent:.2f} ({trend.low:.2f} to {trend.high:.2f}) over {trend.networks} networks"
        if trend.networks < _LEAST or len(depths) < 3 or np.isnan(trend.low):
            return (
                f"This family is too small to tell: {trend.networks} networks of {len(depths)} depths reach "
                f"{100 * self.at:g} % fidelity; a trend takes {_LEAST} networks of three depths or more."
            )
        single = sum(one.values["needed"] <= 1 for one in self.members)
        if single > _SINGLE * len(self.members):
            return (
                f"This family cannot tell at {100 * self.at:g} % fidelity: {single} of {len(self.members)} networks need a "
                "single feature for each class, and none could need fewer; take a higher fidelity."
            )
        if not trend.low <= 1 <= trend.high:
            return f"This family contradicts that the features a class needs are proportional to depth: {said}, not 1."
        if trend.low <= 0:
            return (
                f"This family is too small to tell: {said} holds both 1, proportional to depth, and 0, no dependence."
            )
        return (
            f"This family supports that the features a class needs are proportional to depth: {said} holds 1 and not 0."
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; NaN as None."""
        members = [
            {**vars(one), "values": _json(one.values), "fidelity": [[k, share] for k, share in one.fidelity.items()]}
            for one in self.members
        ]
        trends = {name: _json(vars(trend)) for name, trend in self.trends.items()}
        return {"members": members, "trends": trends, "at": self.at, "verdict": self.verdict, "note": self.note}

    def tables(self) -> list[Table]:
        """Return tables for the terminal: the networks, then the trends."""
        each = Table(
            title="networks",
            caption=f"{self.note}; right: accuracy of the dense network; decision: of at most C − 1; PR: participation ratio",
            title_justify="left",
            caption_justify="left",
        )
        columns = ("", "depth", "weights", "right", "needed", "share", "decision", "PR", "TwoNN")
        for column in columns:
            each.add_column(column, justify="right" if column else "left", no_wrap=True)
        for one in self.members:
            shown = [_text(one.values[name]) for name in ("decision", "participation", "two_nn")]
            shown[0] = shown[0].removesuffix(".0")
            share = "–" if np.isnan(one.values["share"]) else f"{100 * one.values['share']:.1f} %"
            about = (one.name, str(one.depth), f"{one.parameters / 1e6:.2f} M", f"{100 * one.accuracy:.1f} %")
            each.add_row(*about, _text(one.values["needed"]), share, *shown)
        trends = Table(title="against depth", caption=self.verdict, title_justify="left", caption_justify="left")
        for column in ("measure", "rank correlation", "exponent", "networks"):
            trends.add_column(column, justify="left" if column == "measure" else "right")
        for name, trend in self.trends.items():
            rank = f"{trend.rank:.2f} ({trend.rank_low:.2f} to {trend.rank_high:.2f})"
            exponent = f"{trend.exponent:.2f} ({trend.low:.2f} to {trend.high:.2f})"
            trends.add_row(MEASURES[name], rank.replace("nan", "–"), exponent.replace("nan", "–"), str(trend.networks))
        return [each, trends]

    def plot(self) -> Figure:
        """Draw each measure against depth, a point for each network."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 7.5), layout="constrained")
        depths = np.array([one.depth for one in self.members])
        for place, (name, axes) in enumerate(zip(MEASURES, figure.subplots(3, 3).flat, strict=True)):
            values = np.array([one.values[name] for one in self.members])
            axes.plot(depths, values, "o", color=COLOURS["blue"][0], markersize=5, alpha=0.7)
            trend = self.trends[name]
            if trend.networks >= _LEAST and not np.isnan(trend.low):
                grid = np.geomspace(depths.min(), depths.max(), 50)
                seen = ~np.isnan(values)
                middle = np.log(values[seen]).mean() - trend.exponent * np.log(depths[seen]).mean()
                axes.plot(grid, np.exp(middle + trend.exponent * np.log(grid)), color=COLOURS["orange"][0], linewidth=1)
                axes.set_title(f"exponent {trend.exponent:.2f} ({trend.low:.2f} to {trend.high:.2f})", fontsize=9)
            axes.set_ylabel(MEASURES[name], fontsize=9)
            axes.grid(alpha=0.3)
            axes.set_ylim(0, 1.1 * np.nanmax(np.append(values, 1e-9)))
            if place >= 6:
                axes.set_xlabel("depth, layers with weights", fontsize=9)
        return figure


def depth(
    networks: Mapping[str, Network],
    images: object,
    folder: str | Path,
    *,
    test: object = None,
    fidelity: float = FIDELITY,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Depth:
    """Observe every network of a family on the same images, and set what a class needs against depth.

    The same call goes on where it was stopped.

    Args:
        networks: name → network; of two depths or more.
        images: on which features are chosen (see `subspect.open_images`).
        folder: where a study for each network goes.
        test: on which fidelity and dimensions are measured; without it 20 % of ``images`` are set apart for the fidelity.
        fidelity: at which the number of features is read, between 0 and 1.
        batch_size: images in a batch of the network.
        workers: processes that read images; 0 reads them in this one.
        device: where the networks run; where they lie unless given.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: fewer than two networks, all of one depth, or what `observe` refuses.
    """
    if len(networks) < 2:
        raise SubspectError(
            f"a family needs two networks of different depth or more, got {', '.join(networks) or 'none'}"
        )
    if not 0 < fidelity < 1:
        raise SubspectError(f"fidelity must be between 0 and 1, got {fidelity:g}")
    folder = Path(folder)
    if (folder / "study.json").exists():
        raise SubspectError(f"{folder} is a study itself; choose another folder for those of the family")
    make_folder(folder)
    sets = {"train": open_images(images, "train")} | ({} if test is None else {"test": open_images(test, "test")})
    members, note = [], ""
    for number, (name, network) in enumerate(networks.items(), start=1):
        log.info("network %d of %d: %s", number, len(networks), name)
        for kind, source in sets.items():
            study = observe(
                network,
                source,
                folder / name,
                kind,
                batch_size=batch_size,
                workers=workers,
                device=device,
                show_progress=show_progress,
            )
        member, note = _member(name, network, study, fidelity, sets["train"], show_progress)
        members.append(member)
    members.sort(key=lambda one: (one.depth, one.name))
    if len({one.depth for one in members}) < 2:
        raise SubspectError(
            f"all {len(members)} networks have depth {members[0].depth}; a family needs two depths or more"
        )
    depths = np.array([one.depth for one in members], np.float64)
    trends = {name: trend(depths, np.array([one.values[name] for one in members])) for name in MEASURES}
    return Depth(tuple(members), trends, fidelity, note)


def _member(
    name: str, network: Network, study: Study, fidelity: float, images: Images, show: bool
) -> tuple[Member, str]:
    made = decompose(study, 1, refit=False, show_progress=show)
    path = {float(point["k"]): float(point["fidelity"]) for point in made.curve if not point["refit"]}
    found, needed = geometry(study, made), needed_at(path, fidelity)
    d = study.identity.n_features
    values = {
        "needed": needed,
        "share": needed / d,
        "decision": float(found.decision),
        "participation": found.network.participation,
        "components": found.network.components[0.95],
        "two_nn": found.network.two_nn,
        "likelihood": found.network.likelihood,
        "head_rank": found.head_rank,
        "boundary": found.boundary.two_nn,
    }
    point = made.curve[0]
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    member = Member(name, layers_of(network, images), parameters, float(point["dense_accuracy"]), d, values, path)
    at = f"features needed at {100 * fidelity:g} % fidelity on {point['images']:,} images that took no part in the choice"
    return member, f"{at}; dimensions on {found.note}"


def needed_at(path: Mapping[float, float], fidelity: float) -> float:
    """Return how many features reach a fidelity: linear between the points of a path, against ln k; NaN if none does."""
    below: tuple[float, float] | None = None
    for k, share in sorted(path.items()):
        if k <= 0:
            continue
        if share >= fidelity:
            if below is None or share == below[1]:
                return k
            part = (fidelity - below[1]) / (share - below[1])
            return float(np.exp(np.log(below[0]) + part * (np.log(k) - np.log(below[0]))))
        below = k, share
    return float("nan")


def layers_of(network: Network, images: Images) -> int:
    """Return how many convolutions and linear layers run for one image; those that run twice count twice."""
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    handles = [module.register_forward_hook(count) for module in network.model.modules() if isinstance(module, kinds)]
    try:
        with network.running():
            network.read(sample(network, images))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def trend(depths: Array, values: Array) -> Trend:
    """Return how values go with depth, over networks; those without a value are left out.

    Args:
        depths: (n,) positive.
        values: (n,) positive, or NaN.
    """
    seen = ~np.isnan(values) & (values > 0)
    x, y = depths[seen], values[seen]
    nothing = float("nan")
    if len(x) < 3 or len(np.unique(x)) < 2:
        return Trend(nothing, nothing, nothing, nothing, nothing, nothing, len(x))
    fitted = linregress(np.log(x), np.log(y))
    room = float(t.ppf(0.975, len(x) - 2)) * float(fitted.stderr)
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, len(x), len(x)) for _ in range(_DRAWS)]
    ranks = [_rank(x[rows], y[rows]) for rows in drawn]
    kept = [rank for rank in ranks if not np.isnan(rank)]
    if len(x) < _LEAST:
        kept, room = [], nothing  # an interval from three networks says more than they know
    low, high = np.percentile(kept, [2.5, 97.5]) if kept else (nothing, nothing)
    exponent = float(fitted.slope)
    return Trend(_rank(x, y), float(low), float(high), exponent, exponent - room, exponent + room, len(x))


def _rank(x: Array, y: Array) -> float:
    """Return Spearman's rank correlation; NaN where one of the two doesn't vary."""
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def _text(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _json(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}
