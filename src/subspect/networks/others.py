"""A head among modules that are no linear layers by kind (`subspect.networks.probing`), or why none of them is one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subspect.images.inputs import Pixels, called
from subspect.networks.calls import same
from subspect.networks.probing import Products, probed
from subspect.networks.summands import Position, Summand, affine, at_position
from subspect.networks.sums import factors_of

_Call = tuple[str, nn.Module, Tensor, Tensor]


def other_head(model: nn.Module, pixels: Pixels, logits: Tensor) -> tuple[Summand | None, str]:
    """Find the outermost module from (n, d) to (n, C) that makes the logits, up to a factor, and is affine; else say why not.

    Returns:
        The module, and nothing; or nothing, and what the modules that make the logits do, if there are any.
    """
    calls, products = _calls(model, pixels, logits)
    told = ""
    for name, module, given, made in reversed(calls):
        factors = factors_of([made], logits)
        if factors is None:
            continue
        position = read_at(module, given, made)
        if position is not None:
            return Summand(name, factors[0], position), ""
        kind = module._get_name()  # type: ignore[no-untyped-call] # what quantised layers call themselves
        told = (
            f": they are what {name!r} ({kind}) makes, which is linear neither in its input nor in that "
            "scaled to length one (a quantised layer rounds it)"
        )
    if not told and any(factors_of([one], logits) is not None for one in products if one.shape == logits.shape):
        told = (
            ": the network multiplies by a matrix outside of any module of its own that could be taken out; put that "
            "product into a module, an nn.Linear where it fits"
        )
    return None, told


def read_at(module: nn.Module, given: Tensor, made: Tensor) -> Position | None:
    """Tell whether a module is affine in its input ("mean"), or in that scaled to length one ("unit"); None if in neither."""
    found = probed(module)
    if found is None or found[0].shape != (made.shape[1], given.shape[1]) or _is_diagonal(found[0]):
        return None
    weight, bias = affine(module)
    positions: tuple[Position, ...] = ("mean", "unit")
    for position in positions:
        if same(at_position(given, False, position) @ weight.T + bias, made):
            return position
    return None


def _is_diagonal(weight: Tensor) -> bool:
    """Tell whether each output has its own input, as of a norm or a temperature after the head."""
    return weight.shape[0] == weight.shape[1] and bool((weight == weight.diag().diag()).all())


def _calls(model: nn.Module, pixels: Pixels, logits: Tensor) -> tuple[list[_Call], list[Tensor]]:
    """Run the network, and list the calls of its modules from (n, d) to (n, C), the innermost first; and matrix products."""
    names = {module: name for name, module in model.named_modules() if name}
    calls: list[_Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor) and output is not args[0]:
            given = args[0]
            if given.ndim == 2 and given.is_floating_point() and output.shape == logits.shape:
                calls.append((names[module], module, given.detach().clone(), output.detach().clone()))

    handles = [module.register_forward_hook(keep) for module in names]
    try:
        with Products() as products, torch.no_grad():
            called(model, pixels)
    finally:
        for handle in handles:
            handle.remove()
    return calls, products.made
