"""A network as it is handed back: the same numbers, by fewer steps.

Batch norm that follows a convolution is folded into its weights, and weights lie with channels last, as processors read them.
In PyTorch that is a good part of a network's time; compilers and ONNX Runtime do it by themselves. Steps that change nothing
are taken out: where branches are left out, much of what is between two blocks is such, and it costs time in every runtime.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RELU = (F.relu, torch.relu, "relu", nn.ReLU)


def folded(model: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a network in evaluation mode, each batch norm that alone reads a convolution folded into it.

    Args:
        model: a graph.
    """
    made = copy.deepcopy(model).eval()
    without_idle(made)
    called = Counter(str(node.target) for node in made.graph.nodes if node.op == "call_module")
    for node in list(made.graph.nodes):
        before = next(iter(node.all_input_nodes), node)
        names = [str(one.target) for one in (before, node) if one.op == "call_module" and called[str(one.target)] == 1]
        if before is node or len(names) < 2 or len(before.users) > 1:
            continue
        layer, norm = (made.get_submodule(name) for name in names)
        if isinstance(layer, _CONVOLUTIONS) and isinstance(norm, _BatchNorm) and norm.track_running_stats:
            made.set_submodule(names[0], fuse_conv_bn_eval(layer, norm))
            node.replace_all_uses_with(before)
            made.graph.erase_node(node)
    made.delete_all_unused_submodules()
    made.recompile()
    if not any(isinstance(one, nn.Conv3d) for one in made.modules()):
        made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made


def without_idle(model: fx.GraphModule) -> None:
    """Take out of a network, in place, the steps whose output is their input, in training too: so dropout stays.

    Args:
        model: a graph in which nothing works in place.
    """
    for node in model.graph.nodes:
        if _idle(node, model):
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
    model.delete_all_unused_submodules()
    model.recompile()


def _idle(node: fx.Node, model: fx.GraphModule) -> bool:
    """Tell whether a step changes nothing: it is none, pads by nothing, takes all of a tensor, or is a ReLU of a ReLU."""
    if not node.args or not isinstance(before := node.args[0], fx.Node):
        return False
    if _kind(node, model) is nn.Identity:
        return True
    if node.target is F.pad:
        amounts = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
        return isinstance(amounts, tuple | list) and all(one == 0 for one in amounts)
    if node.target is operator.getitem:
        return isinstance(node.args[1], tuple) and all(
            isinstance(one, slice) and one.start in (None, 0) and one.stop is None and one.step in (None, 1)
            for one in node.args[1]
        )
    return _kind(node, model) in _RELU and _kind(before, model) in _RELU


def _kind(node: fx.Node, model: fx.GraphModule) -> object:
    """Return what a step calls, of a layer its class; None where it calls nothing."""
    if node.op == "call_module":
        return type(model.get_submodule(str(node.target)))
    return node.target if node.op in ("call_function", "call_method") else None
