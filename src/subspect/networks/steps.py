"""What stands between pooling and head, as what it does at each place of a map.

A step makes a vector y of a vector u, the pooled values of an image. For that image it is y = M u + t: a linear layer, with M
its weights; a norm, with the image's own deviation in M; an activation φ, with M the share φ(u) / u on its diagonal, which is
1 or 0 for a ReLU and the gate of GELU, SiLU and their like. The same M and t at every place of a map whose mean is u give a
map whose mean is y.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Step:
    """One function of the pooled values.

    Attributes:
        given: (n, a) float32.
        made: (n, d) float32.
        slope: what each value is multiplied by, (n, d) or as that is broadcast; None for a linear layer.
        weight: (d, a) of a linear layer.
    """

    given: Tensor
    made: Tensor
    slope: Tensor | None
    weight: Tensor | None

    def along(self, maps: Tensor) -> Tensor:
        """Take each place of maps (n, a, height, width) the way that their means went: (n, d, height, width)."""
        away = maps - self.given[..., None, None]
        if self.weight is not None:
            moved = torch.einsum("da,nahw->ndhw", self.weight, away)
        else:
            assert self.slope is not None
            moved = self.slope.expand_as(self.made)[..., None, None] * away
        return self.made[..., None, None] + moved


class Begun(NamedTuple):
    """A step whose function is yet to be called."""

    given: Tensor
    slope: Tensor | None
    weight: Tensor | None

    def to(self, made: Tensor) -> Step:
        """Return the step, now that it is known what it made."""
        slope = self.slope
        if slope is None and self.weight is None:
            slope = torch.where(self.given == 0, 0, made / self.given)
        return Step(self.given, made, slope, self.weight)


def vector_in(tensor: object, images: int) -> Tensor | None:
    """Return a copy (n, d), float32, of what is one vector for each image, such as (n, d, 1, 1); None of anything else."""
    if not isinstance(tensor, Tensor) or tensor.ndim < 2 or len(tensor) != images or not tensor.is_floating_point():
        return None
    if tensor[0].numel() != max(tensor.shape[1:]):
        return None
    return tensor.detach().float().reshape(images, -1).clone()  # else what is done in place would be seen in it


def step_of(function: _Function, args: tuple[Any, ...], kwargs: Mapping[str, Any], images: int) -> Begun | None:
    """Return what a call does to the vectors that it is given; None of a call of another kind."""
    if not args or function not in _STEPS:
        return None
    givens = args[:2] if function in _EITHER else args[:1]
    vectors = [
        one for one in givens if not _is_weight(one) and vector_in(one, images) is not None and one[0].numel() > 1
    ]
    given = vector_in(vectors[0], images) if len(vectors) == 1 else None  # of two, neither goes through the other
    return None if given is None else _STEPS[function](given, *args[1:], **kwargs)


def _is_weight(one: object) -> bool:
    """Tell whether a tensor is a parameter or looks at one, which for a single image might be taken for a vector of it."""
    return isinstance(one, nn.Parameter) or (isinstance(one, Tensor) and isinstance(one._base, nn.Parameter))


def _linear(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Begun | None:
    return Begun(given, None, weight.detach().float()) if weight.shape[1] == given.shape[1] else None


def _convolution(given: Tensor, weight: Tensor, *others: Any, **more: Any) -> Begun | None:
    same = weight[0, 0].numel() == 1 and weight.shape[1] == given.shape[1]  # in one group
    return Begun(given, None, weight.detach().flatten(1).float()) if same else None


def _activation(given: Tensor, *others: Any, **more: Any) -> Begun:
    return Begun(given, None, None)


def _offset(given: Tensor, *others: Any, **more: Any) -> Begun:
    return Begun(given, given.new_ones(()), None)


def _layer_norm(
    given: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Begun:
    return _norm(given, given.var(1, keepdim=True, correction=0) + eps, weight)


def _rms_norm(given: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Begun:
    least = torch.finfo(given.dtype).eps if eps is None else eps
    return _norm(given, given.square().mean(1, keepdim=True) + least, weight)


def _batch_norm(
    given: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Begun | None:
    if variance is None or training:  # else the images of a batch would change each other
        return None
    return _norm(given, variance.detach() + eps, weight)


def _normalize(given: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Begun:
    return Begun(given, given.norm(p, 1, keepdim=True).clamp_min(eps).reciprocal(), None)


def _norm(given: Tensor, square: Tensor, weight: Tensor | None) -> Begun:
    return Begun(given, (square.rsqrt() * (1 if weight is None else weight.detach())).float(), None)


_ACTIVATIONS: tuple[_Function, ...] = (
    *(F.relu, F.relu6, F.leaky_relu, F.prelu, F.gelu, F.silu, F.mish, F.hardswish, F.hardtanh, F.elu, F.celu, F.selu),
    *(torch.relu, torch.relu_, torch.tanh, torch.square, Tensor.relu, Tensor.relu_, Tensor.tanh, Tensor.square),
    *(Tensor.div, Tensor.div_),
)
_EITHER = (torch.mul, Tensor.mul, Tensor.mul_, torch.add, Tensor.add, Tensor.add_)  # the vector may come second
_STEPS: Mapping[_Function, Callable[..., Begun | None]] = {
    **dict.fromkeys((*_ACTIVATIONS, *_EITHER[:3]), _activation),
    **dict.fromkeys((*_EITHER[3:], Tensor.sub, Tensor.sub_), _offset),
    F.linear: _linear,
    torch.conv2d: _convolution,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm,
    F.normalize: _normalize,
}
