"""What a network costs, and which layers cost it: multiplications, or time on this machine."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx

from subspect.networks.gates import Gates
from subspect.networks.network import Network
from subspect.shrinking.tied import Tied, can_be_cut, tell_sizes

SMALLEST = 28  #: pixels high, below which images stay as they are


@dataclass(frozen=True)
class Spent:
    """What a layer costs, in any unit.

    Attributes:
        whole: all of it.
        by_width: of this, what falls with its channels; the rest it costs however narrow it is.
    """

    whole: float
    by_width: float


class Cost(Protocol):
    """What counts as the cost of a network, beside one that it was made from.

    Attributes:
        smallest: height, in pixels, below which images stay as they are.
        unit: what is counted: "multiplications", or "time".
    """

    smallest: int
    unit: str

    def __call__(self, model: fx.GraphModule) -> float:
        """Return what a network costs, as a share of what the first one did."""

    def roughly(self, model: fx.GraphModule) -> float:
        """Return it sooner, where it takes long."""

    def by_layer(self, model: fx.GraphModule) -> dict[str, Spent]:
        """Return what each layer costs."""


class Multiplications:
    """The multiplications for one image.

    Args:
        whole: the first network.
        head: name of its head.
        pixels: (n, …) images.
    """

    smallest = SMALLEST
    unit = "multiplications"

    def __init__(self, whole: fx.GraphModule, head: str, pixels: Tensor) -> None:
        self._head, self._pixels = head, pixels[:2]
        self._whole = self._count(whole)

    def __call__(self, model: fx.GraphModule) -> float:
        """Return how many there are, as a share."""
        return self._count(model) / self._whole if self._whole else 1.0

    roughly = __call__

    def by_layer(self, model: fx.GraphModule) -> dict[str, Spent]:
        """Return layer → how many: weights times places, as often as it runs."""
        network = Network(model, head=self._head)
        network.find_head(self._pixels)
        times = {layer.name: layer.places * layer.runs for layer in Gates(network, self._pixels).layers}
        counts = {name: float(count * _weights(model, name)) for name, count in times.items()}
        return {name: Spent(count, count) for name, count in counts.items()}

    def _count(self, model: fx.GraphModule) -> float:
        return sum(spent.whole for spent in self.by_layer(model).values())


def times_of_layers(model: fx.GraphModule, head: str, pixels: Tensor, runs: int = 9) -> dict[str, Spent]:
    """Return the seconds that each layer takes, with what only goes on with it: medians of runs.

    What falls with its width is found by timing the network with half of all channels beside it: for a few images much of the
    time isn't for multiplying.

    Args:
        model: a graph.
        head: name of its head.
        pixels: (n, …) images.
        runs: how often each is timed.
    """
    half = copy.deepcopy(model)
    tied = Tied(half, pixels[:1], head)
    for group in can_be_cut(model, pixels[:2], head):
        tied.cut(group.root, range(group.channels // 2), {})
    tell_sizes(half.modules())
    clocks = _Clock(model), _Clock(half)
    with torch.no_grad():
        for _ in range(runs + 1):
            for clock in clocks:
                clock.run(pixels)
    before, after = (clock.by_layer() for clock in clocks)
    found = {}
    for name, seconds in before.items():
        gone = 1 - _weights(half, name) / _weights(model, name)
        found[name] = Spent(seconds, min(max((seconds - after[name]) / gone, 0.0), seconds) if gone else 0.0)
    return found


def _weights(model: fx.GraphModule, name: str) -> int:
    return int(model.get_submodule(name).weight.numel())  # type: ignore[operator]


class _Clock(fx.Interpreter):
    """Runs a graph and times its nodes."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self._model = model
        self.taken: dict[fx.Node, list[float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        start = perf_counter()
        result = super().run_node(n)
        self.taken.setdefault(n, []).append(perf_counter() - start)
        return result

    def by_layer(self) -> dict[str, float]:
        """Return layer → seconds, with what only goes on with it: medians of the runs but the first."""
        found: dict[str, float] = {}
        for node, layer in _owners(self._model).items():
            found[layer] = found.get(layer, 0.0) + float(np.median(self.taken[node][1:]))
        return found


def _owners(model: fx.GraphModule) -> dict[fx.Node, str]:
    """Return for each node the layer that it is, or that it alone goes on with."""
    owners: dict[fx.Node, str] = {}
    for node in model.graph.nodes:
        weight = getattr(model.get_submodule(str(node.target)), "weight", None) if node.op == "call_module" else None
        if isinstance(weight, Tensor):
            before = node.all_input_nodes[0]
            owners[node] = owners[before] if weight.ndim < 2 and before in owners else str(node.target)
        elif node.all_input_nodes and node.all_input_nodes[0] in owners:
            owners[node] = owners[node.all_input_nodes[0]]
    return owners
