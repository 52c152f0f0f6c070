"""What a network costs, and which layers cost it: multiplications, or time on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx

from subspect.networks.gates import Gates
from subspect.networks.network import Network


class Cost(Protocol):
    """What counts as the cost of a network, beside one that it was made from.

    Attributes:
        steady: share of a layer's cost that it keeps however narrow it gets.
    """

    steady: float

    def __call__(self, model: fx.GraphModule) -> float:
        """Return what a network costs, as a share of what the first one did."""

    def by_layer(self, model: fx.GraphModule) -> dict[str, float]:
        """Return what each layer costs, in any unit."""


class Multiplications:
    """The multiplications for one image.

    Args:
        whole: the first network.
        head: name of its head.
        pixels: (n, …) images.
    """

    steady = 0.0

    def __init__(self, whole: fx.GraphModule, head: str, pixels: Tensor) -> None:
        self._head, self._pixels = head, pixels[:2]
        self._whole = sum(self.by_layer(whole).values())

    def __call__(self, model: fx.GraphModule) -> float:
        """Return how many there are, as a share."""
        return sum(self.by_layer(model).values()) / self._whole

    def by_layer(self, model: fx.GraphModule) -> dict[str, float]:
        """Return layer → how many: weights times places."""
        network = Network(model, head=self._head)
        network.find_head(self._pixels)
        sizes = {layer.name: layer.places for layer in Gates(network, self._pixels).layers}
        return {name: float(places * model.get_submodule(name).weight.numel()) for name, places in sizes.items()}  # type: ignore[operator]


def shares_of_time(model: fx.GraphModule, pixels: Tensor, batches: Sequence[int], runs: int = 5) -> dict[str, float]:
    """Return what share of the time each layer takes, with what only goes on with it: mean over batches, medians of runs.

    Args:
        model: a graph.
        pixels: (n, …) images, as many as the largest batch.
        batches: images at a time.
        runs: how often each is timed.
    """
    shares: dict[str, float] = {}
    for batch in batches:
        clock = _Clock(model)
        with torch.no_grad():
            for _ in range(runs + 1):
                clock.run(pixels[:batch])
        taken = {node: float(np.median(seconds[1:])) for node, seconds in clock.taken.items()}
        whole = sum(taken.values()) * len(batches)
        for node, layer in _owners(model).items():
            shares[layer] = shares.get(layer, 0.0) + taken[node] / whole
    return shares


class _Clock(fx.Interpreter):
    """Runs a graph and times its nodes."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self.taken: dict[fx.Node, list[float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        start = perf_counter()
        result = super().run_node(n)
        self.taken.setdefault(n, []).append(perf_counter() - start)
        return result


def _owners(model: fx.GraphModule) -> dict[fx.Node, str]:
    """Return for each node the layer that it is, or that it alone goes on with."""
    owners: dict[fx.Node, str] = {}
    for node in model.graph.nodes:
        if node.op == "call_module" and hasattr(model.get_submodule(str(node.target)), "weight"):
            before = node.all_input_nodes[0]
            weight = model.get_submodule(str(node.target)).weight
            owners[node] = owners[before] if weight.ndim < 2 and before in owners else str(node.target)  # type: ignore[operator]
        elif node.all_input_nodes and node.all_input_nodes[0] in owners:
            owners[node] = owners[node.all_input_nodes[0]]
    return owners
