"""Filters closed in earnest: some of each class and layer one by one, and those that decide the class together.

In a pass through a layer every image has closed what is its class's turn, so that all classes are asked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from subspect.ground.progress import progress
from subspect.tracing.passes import Plan, Tracer
from subspect.tracing.result import AblatedFilters, EssentialFilters, Filters, LayerFilters
from subspect.tracing.shares import holding

Indices = npt.NDArray[np.int64]
Small = npt.NDArray[np.float32]
_NOTHING = np.empty(0, np.int64)
Shut = Mapping[int, Indices]  # class → channels
_TRIED, _RANDOM = 3, 4  # what is drawn: filters that are closed one by one, and sets of random ones


def closed(found: Filters, tracer: Tracer, share: float, asked: tuple[int, int, int], show: bool) -> Filters:
    """Return filters with what closing some of them changes and costs; the same where all of that is there.

    Args:
        found: effects to first order, and perhaps more.
        tracer: of the network and of all images of the sample.
        share: of a class's effect, which its filters hold.
        asked: filters of each class and layer that are closed one by one, on how many images, and draws of random ones.
        show: whether to draw a progress bar.
    """
    ablate, most, repeats = asked
    if share != found.share:
        found = replace(_forgotten(found, "repeats"), share=share)
    if (ablate or repeats) and most != found.settings["ablate_sample"]:
        found = _forgotten(found, "ablate", "repeats")
    ablate, repeats = (
        0 if value == found.settings[name] else value for name, value in (("ablate", ablate), ("repeats", repeats))
    )
    if not ablate and not repeats:
        return found
    plans = [_Plan.of(found, number, ablate, repeats) for number in range(len(found.layers))]
    ran = _run(tracer.of(tracer.sample.fewer(most)), found, plans, show)
    layers = tuple(_with(layer, plan, ran) for layer, plan in zip(found.layers, plans, strict=True))
    settings = {"ablate_sample": most, **{k: v for k, v in (("ablate", ablate), ("repeats", repeats)) if v}}
    return replace(
        found,
        layers=layers,
        closed_on=ran.counts(np.ones(len(ran.rows), bool)),
        right=ran.counts(ran.margins[found.names[0]][0] > 0),
        settings={**found.settings, **settings},
    )


def _forgotten(found: Filters, *settings: str) -> Filters:
    """Return filters without what was closed with some settings."""
    parts = {"ablate": "ablated", "repeats": "essential"}
    nothing = {parts[one]: None for one in settings}
    layers = tuple(replace(layer, **nothing) for layer in found.layers)  # type: ignore[arg-type]
    return replace(found, layers=layers, settings={**found.settings, **dict.fromkeys(settings, 0)})


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is closed in a layer.

    Attributes:
        tried: (p, c) filters of each class that are closed one by one.
        own: (c, channels) filters that decide each class.
        random: (r, c, channels) as many, drawn.
    """

    tried: Indices
    own: npt.NDArray[np.bool_]
    random: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, found: Filters, number: int, ablate: int, repeats: int) -> _Plan:
        layer, seed = found.layers[number], found.settings["seed"]
        own = holding(layer.effect, found.share)
        random = np.zeros((repeats, *own.shape), bool)
        tried = []
        for row, label in enumerate(found.labels):
            tried.append(_tried(layer, row, ablate, np.random.default_rng([seed, _TRIED, number, label])))
            generator = np.random.default_rng([seed, _RANDOM, number, label])
            for draw in range(repeats):
                random[draw, row, generator.permutation(layer.channels)[: own[row].sum()]] = True
        return cls(np.stack(tried, axis=1), own, random)

    def passes(self, labels: Sequence[int]) -> list[Shut]:
        """Return what each class has closed, pass by pass; nothing in the first."""
        rows = dict(enumerate(labels))
        single = [{label: one[row : row + 1] for row, label in rows.items()} for one in self.tried]
        sets = [self.own, *self.random] if len(self.random) else []
        together = [{label: np.flatnonzero(one[row]) for row, label in rows.items()} for one in sets]
        return [dict.fromkeys(labels, _NOTHING), *single, *together]


def _tried(layer: LayerFilters, row: int, ablate: int, random: np.random.Generator) -> Indices:
    """Return filters of a class: some of the largest effect, and as many of the others."""
    order = np.argsort(-layer.effect[row], kind="stable")
    return np.concatenate([order[:ablate], random.permutation(order[ablate:])[:ablate]])


@dataclass(frozen=True, eq=False)
class _Ran:
    """What came of it.

    Attributes:
        rows: (m,) the row of each image's class.
        classes: how many there are.
        margins: layer → (passes, m).
    """

    rows: Indices
    classes: int
    margins: Mapping[str, Small]

    def counts(self, which: npt.NDArray[np.bool_]) -> Indices:
        """Return (c,): how many images of each class are among some."""
        return np.bincount(self.rows[which], minlength=self.classes)

    def changes(self, values: Small) -> Small:
        """Return (p, c): the mean magnitude by which margins (p, m) differ from those of nothing closed, by class."""
        images = self.counts(np.ones(len(self.rows), bool))
        sums = [np.bincount(self.rows, one, self.classes) for one in np.abs(values[1:].astype(np.float64) - values[0])]
        with np.errstate(invalid="ignore"):
            return (np.stack(sums) / np.where(images > 0, images, np.nan)).astype(np.float32)


def _run(tracer: Tracer, found: Filters, plans: Sequence[_Plan], show: bool) -> _Ran:
    sample, names = tracer.sample, found.names
    plan: Plan = {name: one.passes(found.labels) for name, one in zip(names, plans, strict=True)}
    means = {layer.name: layer.mean for layer in found.layers}
    total = len(sample.ids) * sum(map(len, plan.values()))
    with progress("filters closed", total, "images", show=show) as advance:
        at, margins = _gathered(tracer, plan, means, advance)
    row = {label: number for number, label in enumerate(found.labels)}
    rows = np.array([row[label] for label in sample.labels[at].tolist()], np.int64)
    return _Ran(rows, len(found.labels), margins)


def _gathered(
    tracer: Tracer, plan: Plan, means: Mapping[str, Small], advance: Callable[[int], None]
) -> tuple[Indices, dict[str, Small]]:
    """Return the images that could be read, and layer → (passes, m) margins."""
    tracer.look()
    parts: dict[str, list[tuple[Indices, Small]]] = {name: [] for name in plan}
    for name, block in tracer.closed(means, plan, advance):
        parts[name].append((block.at, block.margins))
    first = None
    for found in parts.values():
        at = np.concatenate([one for one, _ in found])
        first = at if first is None else first
        tracer.sample.check_same(first, at)
    assert first is not None  # there is a layer
    return first, {name: np.concatenate([one for _, one in found], axis=1) for name, found in parts.items()}


def _with(layer: LayerFilters, plan: _Plan, ran: _Ran) -> LayerFilters:
    """Return a layer with what closing its filters came to."""
    values, n = ran.margins[layer.name], len(plan.tried)
    if n:
        layer = replace(layer, ablated=AblatedFilters(plan.tried, ran.changes(values[: 1 + n])))
    if len(plan.random):
        own, *random = (ran.counts(one > 0) for one in values[1 + n :])
        layer = replace(layer, essential=EssentialFilters(own, np.stack(random)))
    return layer
