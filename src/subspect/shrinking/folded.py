"""A network as it is handed back: the same numbers, by fewer steps.

Batch norm that follows a convolution is folded into its weights, and weights lie with channels last, as processors read them.
In PyTorch that is a good part of a network's time; compilers and ONNX Runtime do it by themselves.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def folded(model: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a network in evaluation mode, each batch norm that alone reads a convolution folded into it.

    Args:
        model: a graph.
    """
    made = copy.deepcopy(model).eval()
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
