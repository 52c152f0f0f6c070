"""The last layer narrowed: channels that make features which no class uses any more are taken out of the network.

A channel may be removed only if the head is the only layer that reads it: in a network with residual sums, a channel of the sum
is also the input of other blocks, and stays; which layers those are is said. What was removed can't have changed anything.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subspect.ground.errors import some
from subspect.networks.finding import Head
from subspect.networks.summands import is_convolution
from subspect.shrinking.tied import tell_sizes

log = logging.getLogger("subspect")


def narrow_last(
    given: nn.Module, head: Head, pixels: Tensor, used: np.ndarray[Any, Any]
) -> tuple[nn.Module, np.ndarray[Any, Any], tuple[str, ...], str]:
    """Return a copy of a network without channels of unused features, those left, who reads the others, and why these stay."""
    import torch_pruning

    model = copy.deepcopy(given).cpu().float().eval()
    layer = model.get_submodule(head.name)
    d = head.n_features
    unused = np.setdiff1d(np.arange(d), used)
    cut = torch_pruning.prune_conv_in_channels if is_convolution(layer) else torch_pruning.prune_linear_in_channels

    def tied(features: Sequence[int]) -> tuple[Any, set[int]]:
        """Return the group of what goes with some features, and all features that go."""
        group = graph.get_pruning_group(layer, cut, idxs=list(features))
        return group, {int(index) for item in group if item.dep.target.module is layer for index in item.idxs}

    try:
        with torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(
                model, example_inputs=(pixels[:1].cpu(),), verbose=False
            )
        readers = _readers(tied(unused.tolist())[0], graph, layer)
        readable = {int(index) for indices in readers.values() for index in indices}
        free = [int(feature) for feature in unused if int(feature) not in readable]
        if free and tied(free)[1] - set(free):  # what a channel makes of several features goes only with all of them
            free = [feature for feature in free if tied([feature])[1] <= set(free)]
        if free:
            group, gone = tied(free)
            if gone - set(free):
                raise RuntimeError("features share channels")
            group.prune()
            tell_sizes(item.dep.target.module for item in group)
    except Exception as error:  # its tracing ends in almost any error
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("no channel was removed, since torch-pruning cannot tell what is tied to what here: %s", first)
        return copy.deepcopy(given), np.arange(d), (), "because torch-pruning cannot tell what is tied to what here"
    names = tuple(sorted(readers))
    why = (
        f"because other layers read their channels: {some(names, 4)}"
        if names
        else "because used features share their channels"
    )
    return model.to(next(given.parameters()).device), np.setdiff1d(np.arange(d), free), names, why


def _readers(group: Any, graph: Any, head: nn.Module) -> dict[str, list[int]]:
    """Return the layers besides the head that read channels, or mix them: name → features that can't be removed for it."""
    import torch_pruning

    kinds = torch_pruning.ops.OPTYPE
    apart = (kinds.CONV, kinds.DEPTHWISE_CONV, kinds.LINEAR, kinds.BN, kinds.PRELU, kinds.ELEMENTWISE, kinds.RESHAPE)
    whole = (*apart, kinds.CONCAT, kinds.SPLIT, kinds.SLICE, kinds.EXPAND, kinds.UNBIND, kinds.OUTPUT)
    found: dict[str, list[int]] = {}
    names = {module: name for name, module in graph.model.named_modules()}
    for item in group:
        target, kind = item.dep.target.module, item.dep.target.type
        if target is head:
            continue
        reads = kind in (kinds.CONV, kinds.LINEAR) and not graph.is_out_channel_pruning_fn(item.dep.handler)
        if reads or kind not in whole:
            name = names.get(target, str(item.dep.target.name))
            found.setdefault(name, []).extend(int(index) for index in item.root_idxs or ())
    return found
