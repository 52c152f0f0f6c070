"""A network for some classes within a budget: channels, whole residual branches and pixels are taken out in rounds.

In each round everything that can go is ranked by what it is worth to the wanted classes (`shrinking.worth`) for what it costs,
and the least is taken out until the round's share of the way is gone; then batch norm and the scale of the logits are adjusted
on the images (`shrinking.recover`), and all is weighed again. What it costs is its multiplications, or its share of the time
on this machine. For time, widths stay multiples of what vector units take at a time here; for multiplications, channels go by
eights, and of narrow layers by fours, so that little more goes than must. Of pictures the first layer can get smaller ones; in
the end they are made as large again as the budget allows.

The rounds make a plan, which says what is taken out of what, so that the same network can be made again.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from subspect.ground.errors import SubspectError
from subspect.shrinking.cost import Cost, Spent
from subspect.shrinking.recover import BATCH, readjust, said_of
from subspect.shrinking.tied import Group, Tied, can_be_cut, means_read, tell_sizes
from subspect.shrinking.traced import Branch, at_size, at_size_within, branches, size_in, without_branches
from subspect.shrinking.worth import Images, Worth

log = logging.getLogger("subspect")

WIDTH = 8  #: channels at a time: numbers of 4 bytes in a vector of most processors
LEAST = 4  #: of narrow layers; ONNX Runtime's fast convolutions have multiples of it
ROUNDS = 4  #: of weighing and taking out, at least
_LEFT = 0.8  # of the cost, after a round, where the budget asks for more of them
_MORE = 12  # rounds than asked for, at most, where time does not fall as expected
_STEPS, _LEAST_STEP = 14, 4  # of the height of images, from all of it to none; pixels
_SIZES, _BRANCHES = 2, 2  # steps and branches in a round, at most, or of branches an eighth: together they do more harm
_CHANNELS, _BRANCH, _SIZE = range(3)  # what can go


@dataclass(frozen=True)
class Round:
    """What is taken out at once.

    Attributes:
        branches: of each the sum, and the node that it goes on with.
        channels: layer → which of its channels, and of all that is tied to them.
        size: height and width to which images are made smaller; None where they stay as they are.
    """

    branches: tuple[tuple[str, str], ...] = ()
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """What is taken out of a network, round by round.

    Attributes:
        rounds: the first first.
    """

    rounds: tuple[Round, ...] = ()

    def apply(self, model: fx.GraphModule, head: str, pixels: Tensor) -> None:
        """Take it out of a traced network, in place.

        Args:
            model: the network.
            head: name of its head.
            pixels: (n, …) the images by which it was planned: what goes leaves its mean over them behind.
        """
        for one in self.rounds:
            _take(model, head, pixels, one)

    def to_json(self) -> list[dict[str, Any]]:
        """Return it as JSON values."""
        return [
            {
                "branches": [list(pair) for pair in one.branches],
                "channels": {name: list(channels) for name, channels in one.channels.items()},
                "size": one.size and list(one.size),
            }
            for one in self.rounds
        ]

    @classmethod
    def from_json(cls, rounds: Sequence[Mapping[str, Any]]) -> Plan:
        """Return what `to_json` wrote."""
        return cls(
            tuple(
                Round(
                    tuple((str(one), str(other)) for one, other in made["branches"]),
                    {name: tuple(int(channel) for channel in channels) for name, channels in made["channels"].items()},
                    None if made["size"] is None else (int(made["size"][0]), int(made["size"][1])),
                )
                for made in rounds
            )
        )


def width() -> int:
    """Return of what widths are multiples on this machine: numbers of 4 bytes in a vector of the processor."""
    return {"AVX512": 16}.get(torch.backends.cpu.get_cpu_capability(), WIDTH)


def at_a_time(channels: int) -> int:
    """Return how many of a layer's channels go at once where multiplications count: 8, of a narrow one 4."""
    return WIDTH if channels >= 8 * WIDTH else LEAST


def rounds_to(share: float) -> int:
    """Return in how many rounds a share of the cost is to be reached: what is weighed holds for small changes only."""
    return max(ROUNDS, math.ceil(math.log(share) / math.log(_LEFT)))


def shrink(
    model: fx.GraphModule,
    head: str,
    images: Images,
    share: float,
    cost: Cost,
    step: int | None = None,
    told: Callable[[int, int], object] = lambda _, __: None,
    begun: Plan | None = None,
    keep: Callable[[Plan], object] = lambda _: None,
) -> Plan:
    """Take out of a network what its classes can do without, until it costs a share of what it cost; in place.

    Args:
        model: a traced network on the CPU, with a linear layer for the wanted classes as head.
        head: name of that layer.
        images: of these classes.
        share: of the cost that may be left.
        cost: that is to fall, beside this network's.
        step: widths are multiples of it; without it `at_a_time`.
        told: called with the number of images that ran, and how many will run in this round.
        begun: what an earlier call kept, to go on from.
        keep: called after each round with what was taken out so far.

    Raises:
        SubspectError: so little can't be reached; the least that can is said.
    """
    done = list(begun.rounds) if begun is not None else []
    wanted = said_of(model, images.pixels)
    for one in done:
        _take(model, head, images.pixels, one)
        readjust(model, head, images.pixels, wanted)
    now, rounds = cost(model), rounds_to(share)
    while now > share and len(done) < rounds + _MORE:
        left = max(1, rounds - len(done))
        parts = (share / now) ** (1 / left), share / now
        found = _round(model, head, images, parts, cost, now, step, told)
        if found == Round():
            raise SubspectError(
                f"{share:.2g} of the {cost.unit} can't be reached: with all taken out that can be, {now:.2g} is left; "
                f"{_instead(now, cost.unit)}"
            )
        _take(model, head, images.pixels, found)
        readjust(model, head, images.pixels, wanted)
        done.append(found)
        keep(Plan(tuple(done)))
        now = cost(model)
        log.debug("round %d: %.3f of the cost is left; %.3f is asked for", len(done), now, share)
    if now > share:
        log.warning(
            "after %d rounds %.2f of the cost is left, not %.2f; ask for less, or again while the machine is quiet",
            *(len(done), now, share),
        )
    if done and now < share:
        done[-1] = replace(done[-1], size=_larger(model, images.pixels, share, cost))
        readjust(model, head, images.pixels, wanted)
    return Plan(tuple(done))


def _instead(now: float, unit: str) -> str:
    """Return what to ask for, where no more than this can be reached."""
    if unit == "time":
        most = float(np.floor(10 / now) / 10)
        slow = "it is no faster on this machine: give a share of the multiplications (--budget), or try while nothing else runs"
        return f"ask for {most:g} times as fast or less" if most > 1 else slow
    none = "ask for none: it has no channels or branches that could go"
    return f"ask for {np.ceil(100 * now) / 100:.2f} or more" if now < 1 else none


def _larger(model: fx.GraphModule, pixels: Tensor, share: float, cost: Cost) -> tuple[int, int] | None:
    """Make images as large again as the cost allows, in place; return their size, or None where they aren't made smaller."""
    if pixels.ndim != 4 or (size := size_in(model, pixels)) == (whole := (int(pixels.shape[2]), int(pixels.shape[3]))):
        return None
    sizes = [(height, round(height / whole[0] * whole[1])) for height in range(size[0], whole[0], _LEAST_STEP)]
    fits, beyond = 0, len(sizes)
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (middle, beyond) if _left(model, sizes[middle], cost.roughly) <= share else (fits, middle)
    while fits and _left(model, sizes[fits], cost) > share:
        fits -= 1
    at_size(model, sizes[fits])
    return sizes[fits]


def _left(model: fx.GraphModule, size: tuple[int, int], cost: Callable[[fx.GraphModule], float]) -> float:
    """Return what a network costs with images of this size; infinity where it takes none such."""
    try:
        with at_size_within(model, size):
            return cost(model)
    except (RuntimeError, ValueError):  # layers that no longer fit
        return float("inf")


def _take(model: fx.GraphModule, head: str, pixels: Tensor, found: Round) -> None:
    tied = Tied(model, pixels[:1], head)
    means = means_read(model, torch.split(pixels, BATCH)) if found.channels else {}
    for root, channels in found.channels.items():
        tied.cut(root, channels, means)
    without_branches(model, found.branches)
    if found.size is not None:
        at_size(model, found.size)
    tell_sizes(model.modules())
    model.requires_grad_(False)  # of weights that were cut torch-pruning makes new ones


def _round(
    model: fx.GraphModule,
    head: str,
    images: Images,
    shares: tuple[float, float],
    cost: Cost,
    now: float,
    step: int | None,
    told: Callable[[int, int], object],
) -> Round:
    """Choose what is taken out so that about a share of the cost is left; the second is to be left in the end."""
    worth = Worth(model, head, images, lambda count: told(count, len(images.pixels)))
    costs = cost.by_layer(model)
    tied = can_be_cut(model, images.pixels[:2], head)
    found = branches(model)
    return _cheapest(
        [_Strip.of(group, worth.of(group), costs, step) for group in tied if worth.knows(group)],
        list(zip(found, worth.of_branches(found), strict=True)),
        _smaller(model, images.pixels, worth, cost, now),
        costs,
        *shares,
    )


def _smaller(model: fx.GraphModule, pixels: Tensor, worth: Worth, cost: Cost, now: float) -> list[_Size]:
    """Return the next smaller sizes of images, by steps, as far as the network takes them and each costs less.

    One is left out where a smaller one loses less for what it saves: that way sizes get dearer.
    """
    if pixels.ndim != 4 or pixels.shape[2] < cost.smallest:
        return []
    whole, sizes = (int(pixels.shape[2]), int(pixels.shape[3])), list[_Size]()
    height, _ = size_in(model, pixels)
    step = max(_LEAST_STEP, round(whole[0] / _STEPS / _LEAST_STEP) * _LEAST_STEP)
    for count in range(1, _SIZES + 1):
        size = height - count * step, round((height - count * step) / whole[0] * whole[1])
        if 2 * size[0] < whole[0] or (lost := worth.of_size(size)) is None:
            break
        with at_size_within(model, size):
            left = cost.roughly(model) / now
        if left >= (sizes[-1].left if sizes else 1.0):
            break
        sizes.append(_Size(size, lost, left))
    kept = [_Size((height, 0), 0.0, 1.0)]
    while rest := [one for one in sizes if one.left < kept[-1].left]:
        kept.append(min(rest, key=lambda one: _price(kept[-1], one)))
    return kept[1:]


def _price(before: _Size, after: _Size) -> float:
    """Return what is lost from one size to another for the share of the cost that is saved."""
    return max(after.worth - before.worth, 0.0) / (before.left - after.left)


@dataclass(frozen=True)
class _Size:
    """A size of images.

    Attributes:
        size: height and width.
        worth: what is lost with it.
        left: share of the cost that is left.
    """

    size: tuple[int, int]
    worth: float
    left: float


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
    def of(cls, group: Group, worth: Any, costs: Mapping[str, Spent], step: int | None) -> _Strip:
        n, layers = group.channels, (*group.writers, *group.passing, *group.readers)
        saved = sum(costs[name].by_width for name in layers if name in costs) / n  # by a channel
        order, step = np.argsort(worth, kind="stable"), step or at_a_time(n)
        steps, start = [], 0
        while n - start > step and start < n / 2:  # half of them at once, at most
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
    strips: Sequence[_Strip],
    found: Sequence[tuple[Branch, float]],
    sizes: Sequence[_Size],
    costs: Mapping[str, Spent],
    share: float,
    least: float,
) -> Round:
    """Take what is worth least for what it saves, until about a share of the cost is left, and not much less than ``least``."""
    whole = sum(spent.whole for spent in costs.values())
    spans = [sum(costs[name].whole for name in branch.layers if name in costs) for branch, _ in found]
    steps = list(zip([_Size((0, 0), 0.0, 1.0), *sizes], sizes, strict=False))  # from one size to the next
    prices = [_price(*step) / whole for step in steps]
    waiting = [(strip.steps[0][0], _CHANNELS, place) for place, strip in enumerate(strips) if strip.steps]
    dear = [worth / max(span, 1e-30) for span, (_, worth) in zip(spans, found, strict=True)]
    waiting += [(price, _BRANCH, place) for place, price in enumerate(dear)]
    waiting += [(price, _SIZE, 0) for price in prices[:1]]
    heapq.heapify(waiting)
    lefts = [1.0, *(one.left for one in sizes)]  # of the cost, at each size
    saved, gone, size = 0.0, list[Branch](), 0
    while waiting:
        left = (whole - saved) * lefts[size]
        if left <= share * whole:
            break
        worth, kind, place = heapq.heappop(waiting)
        if kind == _BRANCH:
            price, at_once = dear[place], spans[place] * lefts[size]
        elif kind == _SIZE:
            price, at_once = prices[place], (whole - saved) * (lefts[size] - lefts[place + 1])
        elif (strip := strips[place]).taken is not None:
            price, at_once = strip.steps[strip.taken][0], strip.steps[strip.taken][2] * lefts[size]
        else:  # gone with a branch
            continue
        price *= max(1.0, at_once / (left - least * whole))  # what can't be had in parts saves no more than is needed
        if price > worth * (1 + 1e-9) and waiting:
            heapq.heappush(waiting, (price, kind, place))
        elif kind == _SIZE:
            size = place + 1
            if size < len(sizes):
                heapq.heappush(waiting, (max(worth, prices[size]), _SIZE, size))
        elif kind == _BRANCH and found[place][0].sum in {one.sum for one in gone}:
            continue  # the other side of the sum is gone
        elif kind == _BRANCH and len(gone) < max(_BRANCHES, len(found) // 8):
            gone.append(found[place][0])
            saved += spans[place]
            layers = {name for one in gone for name in one.layers}
            for strip in strips:
                if strip.taken is not None and set(strip.group.writers) <= layers:
                    saved -= strip.saved()
                    strip.taken = None
        elif kind == _CHANNELS and (strip := strips[place]).taken is not None:
            saved += strip.steps[strip.taken][2]
            strip.taken += 1
            if strip.taken < len(strip.steps):
                heapq.heappush(waiting, (max(worth, strip.steps[strip.taken][0]), _CHANNELS, place))
    cut = {strip.group.root: strip.channels() for strip in strips if strip.taken}
    return Round(tuple((one.sum, one.other) for one in gone), cut, sizes[size - 1].size if size else None)
