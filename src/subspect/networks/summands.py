"""A head may be more than one layer: logits that are a sum of linear layers, each with a factor, are linear in their inputs.

As text, ``0.5*head | 0.5*head_dist``: the mean of two layers, each with an input of its own, so that the features are both
inputs side by side. Layers on one and the same input stand in one group, ``0.5*fc + 0.5*other``, and their weights add up. A
layer that runs at every position of a token sequence counts by its mean over the positions, ``head@first`` by the first,
``head@last`` by the last. ``head@unit`` is a layer whose features are its input scaled to length one. A plain name is a head of
one layer.

Layers with one output are the head of a network that says yes or no: its logit z stands for two classes with opposite rows,
(−z/2, z/2), of which a softmax makes (1 − σ(z), σ(z)).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspect.ground.errors import SubspectError
from subspect.networks.probing import probed

Position = Literal["mean", "first", "last", "unit"]
_TERM = re.compile(r"(?:(?P<factor>[-+.0-9e]+)\*)?(?P<name>[^*@|+\s]*)(?:@(?P<position>\w+))?")


@dataclass(frozen=True)
class Summand:
    """One linear layer of a head.

    Attributes:
        name: of the module.
        factor: by which its output enters the logits.
        position: which of its positions counts, where it runs at several; "unit" where its input counts scaled to length one.
    """

    name: str
    factor: float = 1.0
    position: Position = "mean"

    def __str__(self) -> str:
        factor = "" if self.factor == 1 else f"{self.factor!r}*"
        return f"{factor}{self.name}" + ("" if self.position == "mean" else f"@{self.position}")


Groups = tuple[tuple[Summand, ...], ...]  #: the layers of a head, those on one input together


def written(groups: Groups) -> str:
    """Return a head as text."""
    return " | ".join(" + ".join(map(str, group)) for group in groups)


def read_head(text: str) -> Groups:
    """Read what `written` wrote; a plain module name is a head of one layer.

    Raises:
        SubspectError: it is no such text.
    """
    return tuple(tuple(_part(term, text) for term in group.split(" + ")) for group in text.split(" | "))


def _part(term: str, text: str) -> Summand:
    found = _TERM.fullmatch(term.strip())
    position = found["position"] or "mean" if found else ""
    try:
        factor = float(found["factor"] or 1) if found else 0.0
    except ValueError:
        factor = 0.0
    if found is None or not factor or position not in get_args(Position):
        raise SubspectError(
            f"cannot read the head {text!r}: expected a module's name, or a sum such as '0.5*head | 0.5*head_dist' (layers on "
            "one input: '0.5*a + 0.5*b'; of a token sequence one position: 'head@first')"
        )
    return Summand(found["name"], factor, position)  # type: ignore[arg-type] # one of them, as was just seen


def is_convolution(module: nn.Module) -> bool:
    """Tell whether a layer puts channels first."""
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def is_linear(module: nn.Module) -> bool:
    """Tell whether a layer holds its weights as a linear layer or a convolution does."""
    return is_convolution(module) or isinstance(module, nn.Linear)


def at_position(tensor: Tensor, channels_first: bool, position: Position = "mean") -> Tensor:
    """Take a position, or the mean over all: (n, c, …) → (n, c) where channels come first, (n, …, c) → (n, c) where last."""
    if position == "unit":
        return F.normalize(tensor, dim=1)
    if tensor.ndim <= 2:
        return tensor
    places = tensor.flatten(2).movedim(1, 2) if channels_first else tensor.flatten(1, -2)
    return places.mean(1) if position == "mean" else places[:, 0 if position == "first" else -1]


def affine(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight (C, d) and bias (C,) of a linear layer, a 1×1 convolution, or a module that computes as one.

    Raises:
        SubspectError: it doesn't.
    """
    if not is_linear(module):
        found = probed(module)
        if found is None:
            raise SubspectError(
                f"the head, a {type(module).__name__}, computes no linear layer; take another by head='module.name' (--head)"
            )
        return found
    weight: Tensor = module.weight.flatten(1)  # type: ignore[operator]
    bias = module.bias if module.bias is not None else weight.new_zeros(weight.shape[0])
    return weight, bias  # type: ignore[return-value]


def two_opposite_rows(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the head of two classes, weight (2, d) and bias (2,), that a single logit, (1, d) and (1,), stands for.

    Half of the logit goes to class 1, and the same with the opposite sign to class 0: the softmax of the two is the sigmoid of
    the one.
    """
    return torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])


def joined(model: nn.Module, groups: Groups) -> tuple[Tensor, Tensor]:
    """Return weight (C, d) and bias (C,), float32 on the CPU, of the head that some layers are together; C is never 1."""
    weights, bias = [], torch.zeros(())
    for group in groups:
        parts = [(part.factor, *affine(model.get_submodule(part.name))) for part in group]
        weights.append(sum(factor * weight.detach().float().cpu() for factor, weight, _ in parts))
        bias = bias + sum(factor * own.detach().float().cpu() for factor, _, own in parts)
    whole = torch.cat([torch.as_tensor(weight) for weight in weights], dim=1)
    return two_opposite_rows(whole, bias) if len(whole) == 1 else (whole.clone(), bias.clone())


def two_logits(logits: Tensor) -> Tensor:
    """Return a logit (n, 1) as those of two classes, (n, 2); more of them as they are."""
    return torch.cat([-logits, logits], dim=1) / 2 if logits.shape[1] == 1 else logits


def with_layers(model: nn.Module, makes: Mapping[str, Callable[[nn.Module], nn.Module]]) -> nn.Module:
    """Return a copy of a network with some layers replaced by what is made of each, under all the names that they go by."""
    swapped = copy.deepcopy(model)
    olds = {name: swapped.get_submodule(name) for name in makes}
    for name, make in makes.items():
        old = olds[name]
        new = make(old)
        for path, module in list(swapped.named_modules(remove_duplicate=False)):
            if module is old:
                if not path:
                    return new  # the network is its head
                parent, _, child = path.rpartition(".")
                setattr(swapped.get_submodule(parent), child, new)
    return swapped


def names_of(groups: Groups) -> Sequence[str]:
    """List the modules of a head."""
    return [part.name for group in groups for part in group]
