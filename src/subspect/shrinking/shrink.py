"""A network for some classes within a budget: channels of all layers, and whole residual branches, are taken out in rounds.

In each round everything that can go is ranked by what it is worth to the wanted classes (`shrinking.worth`) for what it costs,
and the least is taken out until the round's share of the way is gone; then batch norm's averages are learned anew on the
images, and all is weighed again. What it costs is its multiplications, or its share of the time on this machine. Widths stay
multiples of what vector units take at a time.

The rounds make a plan, which says what is taken out of what, so that the same network can be made again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subspect.ground.errors import SubspectError
from subspect.networks.network import Network
from subspect.shrinking.tied import Group, Tied, tell_sizes
from subspect.shrinking.traced import Branch, branches, without_branches
from subspect.shrinking.worth import BATCH, Images, Worth, multiplications, shares_of_time

ROUNDS = 4  #: of weighing and taking out
_MOST = 12  # rounds, where time doesn't fall as expected
_STEADY = 0.15  # of a layer's time, that it takes however narrow it is


@dataclass(frozen=True)
class Round:
    """What is taken out at once.

    Attributes:
        branches: of each the sum, and the node that it goes on with.
        channels: layer → which of its channels, and of all that is tied to them.
    """

    branches: tuple[tuple[str, str], ...] = ()
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is taken out of a network, round by round.

    Attributes:
        rounds: the first first.
    """

    rounds: tuple[Round, ...] = ()

    def apply(self, model: fx.GraphModule, head: str, pixels: Tensor) -> None:
        """Take it out of a traced network, in place; weights that are left stay as they are."""
        for one in self.rounds:
            _take(model, head, pixels, one)


def width() -> int:
    """Return of what widths are multiples on this machine: numbers of 4 bytes in a vector of the processor."""
    return {"AVX512": 16}.get(torch.backends.cpu.get_cpu_capability(), 8)


def shrink(
    model: fx.GraphModule,
    head: str,
    images: Images,
    share: float,
    cost: Callable[[fx.GraphModule], float],
    timed: bool,
    step: int | None = None,
    rounds: int = ROUNDS,
    told: Callable[[int, int], object] = lambda _, __: None,
) -> Plan:
    """Take out of a network what its classes can do without, until it costs a share of what it cost; in place.

    Args:
        model: a traced network on the CPU, with a linear layer for the wanted classes as head.
        head: name of that layer.
        images: of these classes.
        share: of the cost that may be left.
        cost: of a network, as a share of the first one's.
        timed: whether it is time that is saved; else multiplications.
        step: widths are multiples of it; what suits this machine unless given.
        rounds: of weighing.
        told: called with the number of images that ran, and how many will run in this round.

    Raises:
        SubspectError: so little can't be reached; the least that can is said.
    """
    done: list[Round] = []
    now = cost(model)
    while now > share and len(done) < _MOST:
        left = max(1, rounds - len(done))
        wanted = (share / now) ** (1 / left)
        found = _round(model, head, images, wanted, timed, step or width(), told)
        if not found.branches and not found.channels:
            raise SubspectError(
                f"the budget {share:.2g} can't be reached: with all taken out that can be, {now:.2g} is left of what the "
                f"network costs; ask for {np.ceil(100 * now) / 100:.2f} or more"
            )
        _take(model, head, images.pixels[:1], found)
        batch_norm_anew(model, images.pixels)
        done.append(found)
        now = cost(model)
    return Plan(tuple(done))


def _take(model: fx.GraphModule, head: str, pixels: Tensor, found: Round) -> None:
    tied = Tied(model, pixels[:1], head)
    for root, channels in found.channels.items():
        tied.cut(root, channels)
    without_branches(model, found.branches)
    tell_sizes(model.modules())
    model.requires_grad_(False)  # of weights that were cut torch-pruning makes new ones


def _round(
    model: fx.GraphModule,
    head: str,
    images: Images,
    share: float,
    timed: bool,
    step: int,
    told: Callable[[int, int], object],
) -> Round:
    """Choose what is taken out so that about a share of the cost is left."""
    network = Network(model, head=head)
    network.find_head(images.pixels[:2])
    worth = Worth(network, images, lambda count: told(count, len(images.pixels)))
    costs = shares_of_time(model, images.pixels) if timed else multiplications(worth.gates)
    steady = _STEADY if timed else 0.0
    tied = Tied(model, images.pixels[:1], head).groups
    found = branches(model)
    return _cheapest(
        [_Strip.of(group, worth.of(group), costs, step, steady) for group in tied],
        list(zip(found, worth.of_branches(found), strict=True)),
        costs,
        (1 - share) * sum(costs.values()),
    )


@dataclass
class _Strip:
    """A group of channels, the least worth first, in steps that can be taken off one after the other.

    Attributes:
        group: of channels.
        order: (channels,) the least worth first.
        steps: of each what it is worth for what it saves, how many channels it has, and what it saves.
        taken: how many steps are taken off; None where a branch takes all.
    """

    group: Group
    order: Any
    steps: list[tuple[float, int, float]]
    taken: int | None = 0

    @classmethod
    def of(cls, group: Group, worth: Any, costs: Mapping[str, float], step: int, steady: float) -> _Strip:
        n = group.channels
        inner = sum(costs.get(name, 0.0) for name in (*group.writers, *group.readers))
        passing = sum(costs.get(name, 0.0) for name in group.passing)
        saved = (1 - steady) * (inner + passing) / n  # by a channel
        order = np.argsort(worth, kind="stable")
        steps, start = [], 0
        while n - start > step:
            size = (n - start) % step or step
            steps.append(
                (float(worth[order[start : start + size]].sum()) / max(size * saved, 1e-30), size, size * saved)
            )
            start += size
        return cls(group, order, steps)

    def saved(self) -> float:
        return sum(step[2] for step in self.steps[: self.taken or 0])

    def channels(self) -> tuple[int, ...]:
        count = sum(step[1] for step in self.steps[: self.taken or 0])
        return tuple(sorted(self.order[:count].tolist()))


def _cheapest(
    strips: Sequence[_Strip], found: Sequence[tuple[Branch, float]], costs: Mapping[str, float], wanted: float
) -> Round:
    """Take what is worth least for what it saves, until enough is saved."""
    spans = [sum(costs.get(name, 0.0) for name in branch.layers) for branch, _ in found]
    waiting = [(strip.steps[0][0], 0, place) for place, strip in enumerate(strips) if strip.steps]
    waiting += [
        (worth / max(span, 1e-30), 1, place) for place, ((_, worth), span) in enumerate(zip(found, spans, strict=True))
    ]
    heapq.heapify(waiting)
    saved, gone = 0.0, list[Branch]()
    while waiting and saved < wanted:
        worth, is_branch, place = heapq.heappop(waiting)
        if is_branch:
            gone.append(found[place][0])
            saved += spans[place]
            for strip in strips:
                if strip.taken is not None and set(strip.group.writers) <= {
                    name for one in gone for name in one.layers
                }:
                    saved -= strip.saved()
                    strip.taken = None
            continue
        strip = strips[place]
        if strip.taken is not None:
            saved += strip.steps[strip.taken][2]
            strip.taken += 1
            if strip.taken < len(strip.steps):
                heapq.heappush(waiting, (max(worth, strip.steps[strip.taken][0]), 0, place))
    cut = {strip.group.root: strip.channels() for strip in strips if strip.taken}
    return Round(tuple((one.sum, one.other) for one in gone), cut)


def batch_norm_anew(model: nn.Module, pixels: Tensor) -> None:
    """Learn the averages of every batch norm anew on some images, all counted alike."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in torch.split(pixels, BATCH):
            if len(part) > 1:
                model(part)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()
