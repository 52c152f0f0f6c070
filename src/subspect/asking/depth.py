"""Does what a class needs grow with the depth of the network? (arXiv 2112.07719, section 5, says: in proportion)

The same questions are asked of every network of a family, on the same images: how many features a class needs for a stated
fidelity (read off the path of pursuit, before any refit, by linear interpolation against ln k), absolute and as a share of the
layer; and every dimension that `subspect.geometry` knows. Each is then set against depth, the number of convolutions and linear
layers that run for one image, and against what goes with depth: parameters and accuracy.

The uncertainty is over networks, not over images: of one network of each depth nobody can tell depth from chance. Rank
correlation is Spearman's, its interval that of 2,000 redrawn families; the exponent is the slope of ``ln y`` against
``ln x`` with the t-interval of least squares. In proportion to depth means an exponent of 1, no dependence one of 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import linregress, rankdata, t
from torch import nn

from subspect.asking.geometry import geometry
from subspect.asking.options import FIDELITY
from subspect.choosing.decompose import decompose
from subspect.ground.drawing import COLOURS, drawing, escaped
from subspect.ground.errors import SubspectError
from subspect.ground.files import make_folder
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.images.opening import ImageSource, open_images
from subspect.images.sources import Images
from subspect.networks.network import Network
from subspect.studies.first_images import find_head, sample
from subspect.studies.observe import observe
from subspect.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("subspect")

_DRAWS = 2000  # of families, for the interval of the rank correlation
_SINGLE = 0.2  # share of networks at the floor of one feature, above which a trend says nothing
_FEW = 100  # images to read a fidelity from, below which it is told
_LEAST = 4  # networks for a verdict, of three depths or more
MEASURES: Mapping[str, str] = {
    "needed": "features a class needs",
    "share": "as a share of the layer",
    "union": "features in use then",
    "decision": "decision dimension",
    "participation": "participation ratio",
    "components_90": "components for 90 %",
    "components_95": "components for 95 %",
    "components_99": "components for 99 %",
    "two_nn": "TwoNN",
    "likelihood": "likelihood",
    "boundary": "TwoNN of boundary",
    "boundary_likelihood": "likelihood of boundary",
    "head_rank": "rank of head",
    "decomposed_rank": "rank of decomposed head",
}  #: what is measured of each network
AGAINST: Mapping[str, str] = {
    "depth": "depth, layers with weights",
    "parameters": "parameters, millions",
    "accuracy": "accuracy of the dense network, %",
}  #: what it is set against
_SHOWN = {"parameters": 1e-6, "accuracy": 100}  # in these units
_DRAWN = ("needed", "union", "decision", "participation", "two_nn", "boundary")  # in the figure
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
        values: measure → value; NaN where the fidelity isn't reached, or there are too few images.
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
    """How one measure goes with another number, such as depth, over networks; NaN where there are too few.

    Attributes:
        rank: Spearman's rank correlation.
        rank_low: 2.5th percentile over redrawn families.
        rank_high: 97.5th percentile.
        exponent: slope of ``ln y`` against ``ln x``.
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
class Depth(Result):
    """A family of networks, set against depth.

    Attributes:
        members: by depth.
        trends: "depth", "parameters", "accuracy" → measure → how it goes with that.
        at: the fidelity at which the number of features is read.
        note: on which images this was measured.
    """

    members: tuple[Member, ...]
    trends: Mapping[str, Mapping[str, Trend]]
    at: float
    note: str

    @property
    def verdict(self) -> str:
        """Say whether this family supports "proportional to depth", contradicts it, or is too small to tell."""
        trend, depths = self.trends["depth"]["needed"], {one.depth for one in self.members}
        said = f"exponent {_between(trend.exponent, trend.low, trend.high)} over {trend.networks} networks"
        if trend.networks < _LEAST or len(depths) < 3 or np.isnan(trend.low):
            networks = counted(trend.networks, "network", "networks")
            reach = f"{networks} of {counted(len(depths), 'depth', 'depths')} {'reaches' if trend.networks == 1 else 'reach'}"
            return (
                f"This family is too small to tell: {reach} {100 * self.at:g} % fidelity; a trend takes {_LEAST} networks "
                "of three depths or more."
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
        trends = {
            against: {name: _json(vars(trend)) for name, trend in each.items()} for against, each in self.trends.items()
        }
        return {"members": members, "trends": trends, "at": self.at, "verdict": self.verdict, "note": self.note}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each network."""
        about = ("name", "depth", "parameters", "accuracy", "features")
        return [{**{name: getattr(one, name) for name in about}, **one.values} for one in self.members]

    def tables(self) -> list[Table]:
        """Return tables for the terminal: the networks, then what goes with depth, parameters and accuracy."""
        networks = Table(
            title="networks",
            caption=f"{self.note}; decision: of at most C − 1; PR: participation ratio",
            title_justify="left",
            caption_justify="left",
        )
        networks.add_column("", overflow="fold")
        for column in ("depth", "weights", "accuracy", "needed", "decision", "PR", "TwoNN"):
            networks.add_column(column, justify="right", no_wrap=True)
        for one in self.members:
            about = (one.name, str(one.depth), f"{one.parameters / 1e6:.2f} M", f"{100 * one.accuracy:.1f} %")
            dimensions = (_text(one.values[name]) for name in ("participation", "two_nn"))
            networks.add_row(*about, _text(one.values["needed"]), f"{one.values['decision']:.0f}", *dimensions)
        if len(self.members) < _LEAST:  # no trend can be told
            networks.caption = f"{networks.caption}. {self.verdict}"
            return [networks]
        tables = [networks]
        for against, trends in self.trends.items():
            table = Table(title=f"against {AGAINST[against]}", title_justify="left", caption_justify="left")
            for column in ("measure", "rank correlation", "exponent"):
                table.add_column(column, justify="left" if column == "measure" else "right")
            for name, trend in trends.items():
                fewer = f" (of {trend.networks})" if trend.networks < len(self.members) else ""
                rank = _between(trend.rank, trend.rank_low, trend.rank_high)
                table.add_row(MEASURES[name] + fewer, rank, _between(trend.exponent, trend.low, trend.high))
            tables.append(table)
        tables[-1].caption = self.verdict
        return tables

    @drawing()
    def plot(self) -> Figure:
        """Draw measures against depth, parameters and accuracy, a point for each network."""
        from subspect.ground.canvas import Figure

        figure = Figure(figsize=(9, 2 * len(_DRAWN)), layout="constrained")
        grid = figure.subplots(len(_DRAWN), len(AGAINST), sharex="col", sharey="row")
        for row, name in zip(grid, _DRAWN, strict=True):
            y = np.array([one.values[name] for one in self.members])
            for axes, against in zip(row, AGAINST, strict=True):
                x = np.array([getattr(one, against) for one in self.members], np.float64)
                x = x * _SHOWN.get(against, 1)
                axes.plot(x, y, "o", color=COLOURS["blue"][0], markersize=5, alpha=0.7)
                trend = self.trends[against][name]
                if trend.networks >= _LEAST and not np.isnan(trend.low):
                    seen = ~np.isnan(y) & (y > 0)
                    middle = np.log(y[seen]).mean() - trend.exponent * np.log(x[seen]).mean()
                    line = np.geomspace(x.min(), x.max(), 50)
                    fitted = np.exp(middle + trend.exponent * np.log(line))
                    axes.plot(line, fitted, color=COLOURS["orange"][0], linewidth=1)
                    said = f"exponent {_between(trend.exponent, trend.low, trend.high)}"
                    if against == "accuracy":
                        said = f"rank correlation {_between(trend.rank, trend.rank_low, trend.rank_high)}"
                    axes.set_title(said, fontsize=8)
                axes.grid(alpha=0.3)
            row[0].set_ylim(0, 1.1 * np.nanmax(np.append(y, 1e-9)))
            row[0].set_ylabel(MEASURES[name], fontsize=8)
        for axes, label in zip(grid[-1], AGAINST.values(), strict=True):
            axes.set_xlabel(label, fontsize=8)
            axes.ticklabel_format(axis="x", useOffset=False, style="plain")
        figure.suptitle(escaped(self.note), fontsize=8)
        return figure


def depth(
    networks: Mapping[str, Network],
    images: ImageSource,
    folder: str | Path,
    *,
    test: ImageSource | None = None,
    fidelity: float = FIDELITY,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Depth:
    """Observe every network of a family on the same images, and set what a class needs against depth, parameters, accuracy.

    The same call resumes where it was stopped.

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

    Example:
        >>> networks = {size: subspect.load_network(f"python:nets.py:{size}") for size in ("small", "large")}
        >>> family = subspect.depth(networks, "images/train", "family", test="images/test", show_progress=False)
        >>> len(family.members)
        2
    """
    if len(networks) < 2:
        raise SubspectError(
            f"a family needs two networks of different depth or more, got {', '.join(networks) or 'none'}; name more"
        )
    if not 0 < fidelity < 1:
        raise SubspectError(f"fidelity must be between 0 and 1, got {fidelity:g}")
    if ((folder := Path(folder)) / "study.json").exists():
        raise SubspectError(f"{folder} is a study itself; choose another folder for those of the family")
    make_folder(folder)
    sets = {"train": open_images(images, "train")} | ({} if test is None else {"test": open_images(test, "test")})
    for network in networks.values():
        find_head(network, sets["train"])
    depths = {name: layers_of(network, sets["train"]) for name, network in networks.items()}
    if len(set(depths.values())) < 2:
        raise SubspectError(
            f"the depth of {counted(len(depths), 'network', 'networks')} is {min(depths.values())}; a family needs two depths "
            "or more; name networks of other depths"
        )
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
        member, note = _member(name, depths[name], network, study, fidelity, show_progress)
        members.append(member)
    members.sort(key=lambda one: (one.depth, one.name))
    return Depth(tuple(members), trends_of(members), fidelity, note)


def _member(name: str, depth: int, network: Network, study: Study, fidelity: float, show: bool) -> tuple[Member, str]:
    made = decompose(study, 1, refit=False, draws=0, show_progress=show)
    path = {float(point.k): float(point.fidelity) for point in made.curve if not point.refit}
    needed, nothing = needed_at(path, fidelity), float("nan")
    if not np.isnan(needed):
        made = decompose(study, ceil(needed), refit=False, draws=0, show_progress=show)
    found, d = geometry(study, made), study.identity.n_features
    values = {
        "needed": needed,
        "share": needed / d,
        "union": nothing if np.isnan(needed) else float(found.union or nothing),
        "decision": float(found.decision),
        "participation": found.network.participation,
        **{f"components_{100 * share:g}": value for share, value in found.network.components.items()},
        "two_nn": found.network.two_nn,
        "likelihood": found.network.likelihood,
        "boundary": found.boundary.two_nn,
        "boundary_likelihood": found.boundary.likelihood,
        "head_rank": found.head_rank,
        "decomposed_rank": nothing if np.isnan(needed) else found.decomposed_rank or nothing,
    }
    point = made.curve[0]
    if point.images < _FEW:
        log.warning(
            "%s: the number of features needed is read from %d images; take more to trust it", name, point.images
        )
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    member = Member(name, depth, parameters, float(point.dense_accuracy), d, values, path)
    at = f"features needed at {100 * fidelity:g} % fidelity on {point.images:,} images that took no part in the choice"
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


def trends_of(members: Sequence[Member]) -> dict[str, dict[str, Trend]]:
    """Return how every measure of a family goes with depth, with parameters and with accuracy."""
    values = {name: np.array([one.values[name] for one in members], np.float64) for name in MEASURES}
    found = {}
    for against in AGAINST:
        x = np.array([getattr(one, against) for one in members], np.float64)
        found[against] = {name: trend(x, y) for name, y in values.items()}
    return found


def trend(x: Array, y: Array) -> Trend:
    """Return how y goes with x, over networks; those where either is missing or not positive are left out.

    Args:
        x: (n,) depths, say.
        y: (n,) values of a measure, or NaN.
    """
    seen = (x > 0) & (y > 0)
    x, y = x[seen], y[seen]
    nothing = float("nan")
    if len(x) < 3 or len(np.unique(x)) < 2:
        return Trend(nothing, nothing, nothing, nothing, nothing, nothing, len(x))
    fitted = linregress(np.log(x), np.log(y))
    room = float(t.ppf(0.975, len(x) - 2)) * float(fitted.stderr)
    drawn = np.random.default_rng(0).integers(0, len(x), (_DRAWS, len(x)))
    ranks = _ranks(x[drawn], y[drawn])
    kept = ranks[~np.isnan(ranks)]
    if len(x) < _LEAST:
        kept, room = kept[:0], nothing  # an interval from three networks says more than they know
    low, high = np.percentile(kept, [2.5, 97.5]) if len(kept) else (nothing, nothing)
    exponent = float(fitted.slope)
    rank = float(_ranks(x[None], y[None])[0])
    return Trend(rank, float(low), float(high), exponent, exponent - room, exponent + room, len(x))


def _ranks(x: Array, y: Array) -> Array:
    """Return Spearman's rank correlation of each row of x and y, (m, n) both; NaN where one of the two doesn't vary."""
    one, other = (rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (x, y))
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return np.asarray(np.divide((one * other).sum(axis=1), scale, out=np.full(len(x), np.nan), where=scale > 0))


def _text(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _between(middle: float, low: float, high: float) -> str:
    said, *ends = (
        "–" if np.isnan(value) else f"{value:.{2 if abs(value) < 10 else 0}f}" for value in (middle, low, high)
    )
    return said if np.isnan(low) else f"{said} ({' to '.join(ends)})"


def _json(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}
