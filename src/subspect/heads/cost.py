"""What a network and its head cost to run, in numbers that no machine changes: parameters, multiplications, bytes.

Times are measured where files are made (`subspect.export`, `subspect.specialise`) and by ``benchmarks/head.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from subspect.heads.head import DecomposedHead
from subspect.heads.placing import decomposed_layers
from subspect.images.inputs import Pixels, called, moved
from subspect.networks.finding import Head
from subspect.networks.summands import affine


@dataclass(frozen=True)
class NetworkSize:
    """How large a network is.

    Attributes:
        parameters: their number, the weights of a decomposed head among them.
        multiplications: of one image; of a decomposed head as many as its kernel does.
        features: that reach the head.

    Example:
        >>> small = decomposition.specialise(network, classes=["cat", "dog"])
        >>> small.small.parameters < small.dense.parameters
        True
    """

    parameters: int
    multiplications: int
    features: int


def size_of(model: nn.Module, head: Head, pixels: Pixels) -> NetworkSize:
    """Return how large a network is, by running it on the first of some images (n, …), as it takes them."""
    with torch.no_grad(), _countable(), FlopCounterMode(display=False) as counter:
        called(model, moved(pixels[:1], next(model.parameters()).device))
    multiplications = counter.get_total_flops() // 2
    decomposed = dict(decomposed_layers(model, head.name))
    for layer in decomposed.values():
        if layer.kernel_for(1) != "dense":  # not among what is counted
            multiplications += layer.multiplications
    features = sum(layer.in_features for layer in decomposed.values()) or sum(
        affine(model.get_submodule(group[0].name))[0].shape[1] for group in head.groups
    )
    return NetworkSize(sum(parameter.numel() for parameter in model.parameters()), multiplications, features)


@contextmanager
def _countable() -> Iterator[None]:
    """Have attention computed by plain products: the counter doesn't know what PyTorch does in one step instead."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(frozen=True)
class HeadCost:
    """What a head costs to run.

    Attributes:
        multiplications: of one image.
        bytes: of weights, of the places of these where there are such, and of biases, float32 and int32.
        features: how many features it reads.
    """

    multiplications: int
    bytes: int
    features: int


def head_costs(layer: DecomposedHead) -> tuple[HeadCost, HeadCost]:
    """Return the cost of the dense head that a decomposed one stands for, and of the decomposed one."""
    classes, d = layer.out_features, layer.in_features
    dense = HeadCost(classes * d, 4 * classes * (d + 1), d)
    held = (layer.weights, layer.indices, layer.offsets, layer.bias)
    few = HeadCost(layer.multiplications, sum(part.nbytes for part in held), len(torch.unique(layer.indices)))
    return dense, few
