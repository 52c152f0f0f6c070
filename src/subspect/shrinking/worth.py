"""What channels and branches are worth to some classes, and what they cost.

A group of tied channels is worth what the margins of the classes' images change, to first order, when one of its channels is
set to its mean (`subspect.networks.gates`): the effects of all layers that write it are added image by image, and the mean of
their squares is taken. A residual branch is worth what they change when its last layer is set to its mean, and the size of the
images what they change when these are smaller, both measured by running.
Squares add up where effects have nothing to do with each other, so that many channels and a whole branch can be compared.
It is the decomposed head's margins that count, among the wanted classes alone, so that a channel that only unused features
read is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from subspect.networks.gates import Gates
from subspect.networks.network import Network
from subspect.shrinking.recover import BATCH
from subspect.shrinking.tied import Group
from subspect.shrinking.traced import Branch, at_size_within
from subspect.tracing.margins import Margins

_BRANCH_IMAGES = 100  # on which branches are measured, each by a pass of its own
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Images:
    """Images of the wanted classes.

    Attributes:
        pixels: (n, …) as the network takes them.
        own: (n,) int64, the class of each, counted among the wanted ones.
    """

    pixels: Tensor
    own: Tensor

    def parts(self, most: int | None = None) -> list[Images]:
        """Return them in batches, the first so many of them where not all are wanted."""
        end = len(self.pixels) if most is None else min(most, len(self.pixels))
        cuts = [slice(start, min(start + BATCH, end)) for start in range(0, end, BATCH)]
        return [Images(self.pixels[cut], self.own[cut]) for cut in cuts]


class Worth:
    """What a network's channels do, measured on some images.

    Args:
        network: its head is known, with the decomposed weights of the wanted classes.
        images: of these classes.
        advance: called with the number of images that ran.
    """

    def __init__(self, network: Network, images: Images, advance: Callable[[int], object] = lambda _: None) -> None:
        self.network, self.images, self._advance = network, images, advance
        self.gates = Gates(network, images.pixels[:2])
        self.margins = Margins(network.head.weight, network.head.bias)
        self.layers = {layer.name: layer for layer in self.gates.layers}
        parts = images.parts()
        sums: dict[str, Tensor] = {}
        for part in parts:
            for name, own in self.gates.sums(part.pixels).items():
                sums[name] = sums[name] + own if name in sums else own
        places = {name: len(images.pixels) * layer.places for name, layer in self.layers.items()}
        self.means = {name: (total / places[name]).float() for name, total in sums.items()}
        found: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        for part in parts:
            [effects] = self.gates.effects(part.pixels, self.means, lambda x, own=part.own: [self.margins(x, own)])  # type: ignore[misc]
            for name, one in effects.items():
                found[name].append(one.cpu())
            advance(len(part.pixels))
        self.effects = {name: torch.cat(one) for name, one in found.items()}

    def of(self, group: Group) -> Values:
        """Return (channels,): the mean square of what the margins change by."""
        change = sum(self.effects[name].double() for name in group.writers)
        return np.asarray(torch.as_tensor(change).square().mean(dim=0))

    def of_branches(self, found: Sequence[Branch]) -> list[float]:
        """Return the same of branches."""
        changes = []
        for branch in found:
            closed = {branch.last: torch.zeros(self.layers[branch.last].channels)}
            changes.append(torch.cat([self._without(part, closed) for part in self._few]) - self._open)
            self._advance(0)
        return [float(change.square().mean()) for change in changes]

    def of_size(self, size: tuple[int, int]) -> float | None:
        """Return the same of images of this height and width; None where the network takes none such."""
        before = self._open
        try:
            with at_size_within(self.network.model, size):
                change = torch.cat([self._without(part, {}) for part in self._few]) - before
        except (RuntimeError, ValueError):  # layers that no longer fit
            return None
        return float(change.square().mean())

    @cached_property
    def _few(self) -> list[Images]:
        return self.images.parts(_BRANCH_IMAGES)

    @cached_property
    def _open(self) -> Tensor:
        return torch.cat([self._without(part, {}) for part in self._few])

    def _without(self, part: Images, gates: Mapping[str, Tensor]) -> Tensor:
        return self.margins(self.gates.without(part.pixels, self.means, gates), part.own).double().cpu()


def multiplications(gates: Gates) -> dict[str, float]:
    """Return what each layer costs for one image: weights times places."""
    weights = {layer.name: gates.network.model.get_submodule(layer.name).weight for layer in gates.layers}
    return {layer.name: float(layer.places * weights[layer.name].numel()) for layer in gates.layers}  # type: ignore[operator]


def shares_of_time(
    model: fx.GraphModule, pixels: Tensor, batches: Sequence[int] = (1, 32), runs: int = 5
) -> dict[str, float]:
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
        from time import perf_counter

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
