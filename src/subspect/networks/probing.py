"""Heads that are no linear layer by kind but compute as one: what they compute is read off by asking them.

A module may hold its weights as integers, scale them first, or be a small chain of linear layers; if it is affine in its input,
``x @ W.T + b``, then W and b are what it makes of ±e_i, the unit vectors. A cosine head is affine in its input scaled to length
one: its features are those, and its scale goes into W.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_ASKED = 16  # vectors of length one, beside those that weights are read from, on which they must hold
_CLOSE = 1e-4  # of the largest output: what is read off sums up as many roundings as there are features
_PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "addmm", "einsum")


def probed(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return weight (C, d) and bias (C,) of a module on (n, d) that is affine on vectors of length one; None of others."""
    numbers = next((one for one in module.state_dict().values() if _is_floating(one)), torch.zeros(()))
    modes = {one: one.training for one in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            for width in dict.fromkeys(_widths(module)):
                found = _asked(module, width, numbers)
                if found is not None:
                    return found
    finally:
        for one, mode in modes.items():
            one.training = mode
    return None


def _is_floating(one: object) -> bool:
    return isinstance(one, Tensor) and one.is_floating_point()


def _widths(module: nn.Module) -> Iterator[int]:
    """List how many numbers a module may take: as it says, or by its weights."""
    if isinstance(getattr(module, "in_features", None), int):
        yield module.in_features  # type: ignore[misc] # it was just seen
    for one in module.state_dict().values():
        if isinstance(one, Tensor) and one.ndim == 2:
            yield from (one.shape[1], one.shape[0])


def _asked(module: nn.Module, width: int, numbers: Tensor) -> tuple[Tensor, Tensor] | None:
    own = numbers.dtype if numbers.is_floating_point() else torch.float32
    ones = torch.eye(width)
    others = F.normalize(torch.randn(_ASKED, width, generator=torch.Generator().manual_seed(0)), dim=1)
    given = torch.cat([ones, -ones, others]).to(numbers.device, own)
    try:
        made = module(given)
    except Exception:  # it takes something else
        return None
    if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != len(given) or made.shape[1] < 2:
        return None
    plus, minus, rest = torch.split(made, [width, width, _ASKED])
    weight, bias = ((plus - minus) / 2).T.contiguous(), ((plus + minus) / 2).mean(0)
    room = max(_CLOSE, 8 * torch.finfo(made.dtype).eps) * made.abs().max()
    wanted = torch.cat([weight.T + bias, given[2 * width :] @ weight.T + bias])
    return (weight, bias) if bool((wanted - torch.cat([plus, rest])).abs().max() <= room) else None


class Products(TorchFunctionMode):
    """Keeps what products of matrices make, which no module may have made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _PRODUCTS and isinstance(output, Tensor) and output.ndim == 2:
            self.made.append(output.detach().clone())
        return output
