"""A network as a graph of its layers, from which whole residual branches can be taken out.

``torch.fx`` traces the network; its layers stay modules under their own names, so that heads and layers are found as before.
Where two values are added, and all that leads to one of them alone is a branch with a layer in it, the sum can go on with the
other value: the branch is gone, and the network has fewer layers. Images can be made smaller before the first layer. Nothing
in the graph works in place.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subspect.heads.head import DecomposedHead

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, _BatchNorm, nn.LayerNorm, nn.GroupNorm, DecomposedHead)
_FILTERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_SUMS = (operator.add, torch.add)
_CLOSE = 1e-4  # of the largest output
_RESIZED = "subspect_resized"  # name of the layer that makes images smaller


class Untraceable(Exception):
    """The network is no fixed graph; the message is the reason, as the end of a sentence."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LAYERS) or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module, pixels: Tensor) -> fx.GraphModule:
    """Return a copy of a network as a graph, which says the same of some images.

    Args:
        model: the network.
        pixels: (n, …) images, where the network lies.

    Raises:
        Untraceable: it can't be traced, or the graph says something else.
    """
    model = copy.deepcopy(model).eval()
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # of any kind: the network's own code runs with stand-ins for tensors
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Untraceable(f"torch.fx cannot trace it ({first})") from error
    made = fx.GraphModule(model, graph)
    for node in made.graph.nodes:
        if node.op == "call_function" and node.target is operator.iadd:
            node.target = operator.add
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    _tidy(made)
    for module in made.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    made.eval()
    with torch.no_grad():
        said, wanted = _tensor(made(pixels)), _tensor(model(pixels))
    if said.shape != wanted.shape or not (said - wanted).abs().max() <= _CLOSE * wanted.abs().max():
        raise Untraceable("traced by torch.fx it says something else")
    return made


@dataclass(frozen=True)
class Branch:
    """A value that is added to another, and all that leads to it alone.

    Attributes:
        sum: name of the node that adds.
        other: name of the node whose value the sum goes on with where the branch is left out.
        layers: names of all its layers.
    """

    sum: str
    other: str
    layers: tuple[str, ...]


def branches(network: fx.GraphModule) -> tuple[Branch, ...]:
    """Return the residual branches that can be left out, in the order in which they run."""
    modules, found = dict(network.named_modules()), []
    for node in network.graph.nodes:
        ends = [one for one in node.args[:2] if isinstance(one, fx.Node)]
        if node.op not in ("call_function", "call_method") or node.target not in (*_SUMS, "add") or len(ends) < 2:
            continue
        for end, other in (ends, ends[::-1]):
            own = _before(end) - _before(other)
            layers = [one for one in own if one.op == "call_module" and isinstance(modules[str(one.target)], _FILTERS)]
            if layers and all(user in own or user is node for one in own for user in one.users):
                found.append(Branch(node.name, other.name, tuple(sorted(str(one.target) for one in layers))))
    return tuple(found)


def without_branches(network: fx.GraphModule, gone: Sequence[tuple[str, str]]) -> None:
    """Take branches out, in place.

    Args:
        network: a graph.
        gone: of each the sum, and the node that it goes on with.
    """
    nodes, instead = {node.name: node for node in network.graph.nodes}, dict(gone)
    for name, other in gone:
        while other in instead:  # which is gone itself
            other = instead[other]
        nodes[name].replace_all_uses_with(nodes[other])
        network.graph.erase_node(nodes[name])
    _tidy(network)


def at_size(network: fx.GraphModule, size: tuple[int, int]) -> None:
    """Have a graph make images (n, channels, height, width) of this height and width of those that it is given, in place."""
    if (layer := getattr(network, _RESIZED, None)) is not None:
        layer.size = size
        return
    network.add_submodule(_RESIZED, nn.Upsample(size=size, mode="bilinear", align_corners=False))
    start = next(node for node in network.graph.nodes if node.op == "placeholder")
    with network.graph.inserting_after(start):
        resized = network.graph.call_module(_RESIZED, (start,))
    start.replace_all_uses_with(resized, delete_user_cb=lambda user: user is not resized)
    network.recompile()


def size_in(network: fx.GraphModule, pixels: Tensor) -> tuple[int, int]:
    """Return the height and width of images (n, channels, height, width) as the first layer of a graph gets them."""
    layer = getattr(network, _RESIZED, None)
    height, width = pixels.shape[-2:] if layer is None else layer.size
    return int(height), int(width)


@contextmanager
def at_size_within(network: nn.Module, size: tuple[int, int]) -> Iterator[None]:
    """While the block runs, let a graph make images of this height and width of those that it is given."""
    assert isinstance(network, fx.GraphModule)
    before = getattr(getattr(network, _RESIZED, None), "size", None)
    at_size(network, size)
    try:
        yield
    finally:
        if before is not None:
            at_size(network, before)
        else:
            node = next(one for one in network.graph.nodes if one.target == _RESIZED)
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
            _tidy(network)


def _tidy(network: fx.GraphModule) -> None:
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()


def _before(node: fx.Node) -> set[fx.Node]:
    """Return a node, and all that it is made of."""
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += one.all_input_nodes
    return seen


def _tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    raise Untraceable(f"it returns {type(output).__name__}, not a tensor")
