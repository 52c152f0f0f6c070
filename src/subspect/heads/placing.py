"""A decomposed head takes the place of the layers that the dense one is made of.

Of one layer, it is that layer. Where the logits are a sum of layers, ``Σ aᵢ · headᵢ(xᵢ)``, each of them is given its own
features of the decomposed head, divided by its factor, so that the network's own sum is the decomposed logits; of layers on one
input the first speaks for all. A layer with one output, which stands for two classes, is given the difference of their rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspect.heads.head import DecomposedHead
from subspect.heads.supports import Supports
from subspect.networks.summands import affine, is_convolution, names_of, read_head, with_layers


def with_decomposed(model: nn.Module, head: str, whole: DecomposedHead) -> nn.Module:
    """Return a copy of a network with a decomposed head in place of its own.

    Args:
        model: the network.
        head: its head, as `subspect.networks.summands` writes it.
        whole: of some of its classes, or all, on all of its features.
    """
    groups = read_head(head)
    if affine(model.get_submodule(names_of(groups)[0]))[0].shape[0] == 1:
        whole = _difference(whole)
    makes: dict[str, Callable[[nn.Module], nn.Module]] = {}
    start = 0
    for group in groups:
        first, *others = group
        width = affine(model.get_submodule(first.name))[0].shape[1] if len(names_of(groups)) > 1 else whole.in_features
        own = _columns(whole, start, start + width, first.factor, bias=not start)
        unit = first.position == "unit"
        makes[first.name] = lambda old, own=own, unit=unit: OnUnit(fitted(old, own)) if unit else fitted(old, own)  # type: ignore[misc]
        for other in others:
            makes[other.name] = lambda old, classes=whole.out_features: _nothing(old, classes)  # type: ignore[misc]
        start += width
    return with_layers(model, makes)


def fitted(old: nn.Module, head: DecomposedHead) -> DecomposedHead:
    """Return a copy of a decomposed head of the kind, in the place, the type and the mode of the layer that it replaces."""
    made = copy.deepcopy(head)
    made.convolution = is_convolution(old)
    weight, _ = affine(old)
    return made.to(weight.device, weight.dtype).train(old.training)


def decomposed_layers(model: nn.Module, head: str) -> Iterator[tuple[str, DecomposedHead]]:
    """List the decomposed layers that stand for a head."""
    for name in names_of(read_head(head)):
        layer = model.get_submodule(name)
        if isinstance(layer, OnUnit):
            name, layer = f"{name}.head", layer.head
        if isinstance(layer, DecomposedHead):
            yield name, layer


class OnUnit(nn.Module):
    """A layer on its input (n, d) scaled to length one."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, input: Tensor) -> Tensor:
        """Return what the layer makes of the scaled input."""
        made: Tensor = self.head(F.normalize(input, dim=1))
        return made


def _columns(whole: DecomposedHead, start: int, end: int, factor: float, *, bias: bool) -> DecomposedHead:
    """Return the part of a decomposed head on some of its features, divided by a factor, with its bias or without."""
    if (start, end, factor) == (0, whole.in_features, 1):
        return whole
    inside = (whole.indices >= start) & (whole.indices < end)
    counts = torch.bincount(whole.rows[inside].long(), minlength=whole.out_features).tolist()
    rows = [one.tolist() for one in torch.split(whole.indices[inside] - start, counts)]
    own = whole.bias if bias else torch.zeros_like(whole.bias)
    return DecomposedHead(Supports(rows, end - start), whole.weights.detach()[inside] / factor, own.detach() / factor)


def _difference(whole: DecomposedHead) -> DecomposedHead:
    """Return the head of one logit that a decomposed head of two classes is: what the second says less what the first says."""
    rows = whole.dense_weight().detach()
    used = torch.unique(whole.indices).tolist()
    bias = whole.bias.detach()
    return DecomposedHead(Supports([used], whole.in_features), (rows[1] - rows[0])[used], bias[1:] - bias[:1])


def _nothing(old: nn.Module, classes: int) -> nn.Module:
    """Return a layer of some classes that adds nothing: the first of its group speaks for all."""
    made = copy.deepcopy(old)
    for name, one in list(made.named_parameters()):
        setattr(made, name, nn.Parameter(one.new_zeros(classes, *one.shape[1:])))
    return made
