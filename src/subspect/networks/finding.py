"""Finding the head: it is found, not guessed by name.

A small batch runs through the network while every ``nn.Linear`` and 1×1 convolution (of one to three dimensions) is watched,
and the one whose output is the logits is the head. A layer that works at every position of a map or a token sequence counts by
its mean over the positions, or by the first or the last: the mean of a linear layer is the linear layer of the mean, as long as
nothing non-linear lies between. Where no single layer gives the logits, a sum of some may, each with a factor (heads that are
averaged, a temperature): the factors are found by least squares, and hold only if they do on other images as well.

The logits are what the network calls ``logits``, or returns first. Nothing else that it returns stands in for them unasked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, near, some
from subspect.images.inputs import Pixels
from subspect.networks.calls import Seen, logits_among, logits_in, same, tolerance, watch
from subspect.networks.others import other_head, read_at
from subspect.networks.probing import probed
from subspect.networks.reasons import candidates, not_found, reason
from subspect.networks.summands import (
    Groups,
    Position,
    Summand,
    affine,
    at_position,
    is_convolution,
    is_linear,
    joined,
    names_of,
    read_head,
    two_logits,
    written,
)
from subspect.networks.sums import sum_of_layers

log = logging.getLogger("subspect")
_OTHER_TASKS = {"multi_label_classification": "several labels at once", "regression": "numbers, not classes"}


@dataclass(frozen=True)
class Head:
    """The final linear layer of a network, or the sum of several.

    Attributes:
        name: the module's name within the network; of several layers as `subspect.networks.summands` writes them.
        weight: (C, d) float32 on the CPU.
        bias: (C,) float32 on the CPU; zeros where the layer has none.
        output: which of the tensors that the network returns holds the logits.
        exact: whether the network's logits are this layer's output; else the layer was named by the user, and its own
            output stands for the logits.
        one_logit: whether the layers have one output, which is read as two classes with opposite rows.

    Example:
        >>> head = network.find_head(torch.rand(2, 3, 224, 224))
        >>> head.name, head.n_classes, head.n_features
        ('fc', 4, 256)
    """

    name: str
    weight: Tensor
    bias: Tensor
    output: int = 0
    exact: bool = True
    one_logit: bool = False

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.weight.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return self.weight.shape[1]

    @property
    def groups(self) -> Groups:
        """The layers, those on one input together."""
        return read_head(self.name)

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules that it is made of."""
        return names_of(self.groups)


def logits_of(output: Any, head: Head, images: int) -> Tensor:
    """Return the logits (n, C) among what a network returns for n images; of one logit those of two classes."""
    return two_logits(logits_in(output)[head.output].reshape(images, -1))


def find_head_of(model: nn.Module, pixels: Pixels, name: str | None) -> Head:
    """Find the head of a network with a small batch (see `Network.find_head`).

    Raises:
        SubspectError: no linear layer, and no sum of some, gives the logits, and what the candidates are.
    """
    _check_task(model)
    watched = {path: module for path, module in model.named_modules(remove_duplicate=False) if _is_linear(module)}
    asked = read_head(name) if name is not None else ()
    watched |= {
        one: module for one, module in model.named_modules() if one in names_of(asked) and one and probed(module)
    }
    unknown = next((one for one in names_of(asked) if one not in watched), None)
    if unknown is not None:
        raise SubspectError(
            f"head {unknown!r} is not an nn.Linear or 1×1 convolution of this network{near(unknown, list(watched))}; its "
            f"linear layers: {some(watched, 8) or 'none'}"
        )
    seen, outputs = watch(model, pixels, watched)
    tensors = logits_among(outputs, len(pixels))
    _check_outputs(seen, tensors)
    if asked and (len(names_of(asked)) > 1 or asked[0][0] != Summand(asked[0][0].name)):
        return _as_asked(model, asked, seen, tensors)
    alike = _matches(seen, tensors, watched[name] if name is not None else None)
    matches = alike if name is not None else [one for one in alike if one[0] == next(iter(tensors))]
    if matches:
        which, call, position = matches[0]
        position = position if is_linear(call.module) else read_at(call.module, call.input, call.result) or position
        _tell_others(call, {one.name for _, one, _ in alike if one.module is not call.module})
        groups: Groups = ((Summand(call.name, 1.0, position),),)
    elif name is not None:
        which, call = 0, _named(name, watched[name], seen, list(tensors.values()))
        groups = ((Summand(call.name),),)
    else:
        which, logits = next(iter(tensors.items()))
        groups = sum_of_layers(model, pixels, watched, seen, logits)
        if not groups:
            other, why = other_head(model, pixels, logits)
            if other is None:
                raise SubspectError(_without_classifier(model) or not_found(seen, tensors, why))
            groups = ((other,),)
            seen, _ = watch(model, pixels, {other.name: model.get_submodule(other.name)})
    return _made(model, groups, seen, which, tensors[which] if matches or name is None else None)


def _check_task(model: nn.Module) -> None:
    """Refuse a network that says itself that its outputs are not the logits of one class among several.

    Raises:
        SubspectError: its configuration, as Hugging Face keeps it, names another task.
    """
    task = getattr(getattr(model, "config", None), "problem_type", None)
    if task in _OTHER_TASKS:
        raise SubspectError(
            f"the network is for {_OTHER_TASKS[task]} (its config.problem_type is {task!r}), and subspect asks which one class "
            "an image is of; if it is a single-label classifier after all, set config.problem_type to None"
        )


def _matches(
    seen: list[Seen], tensors: Mapping[int, Tensor], asked: nn.Module | None
) -> list[tuple[int, Seen, Position]]:
    """List the calls that give one of the network's outputs, the last first; of a layer that was asked for, its own alone."""
    return [
        (place, one, position)
        for place, logits in tensors.items()
        for one in reversed(seen)
        if asked is None or one.module is asked
        for position in one.positions
        if same(one.at(position), logits)
    ]


def _made(model: nn.Module, groups: Groups, seen: list[Seen], which: int, logits: Tensor | None) -> Head:
    """Return the head that some layers are, once each of them is fit for it; logits are given where they must be its own."""
    calls = {name: [one for one in seen if one.name == name] for name in names_of(groups)}
    for name, own in calls.items():
        if not own:
            raise SubspectError(f"head {name!r} did not run when the network did")
        _check_finite(own[0])
        if len(own) > 1:
            raise SubspectError(
                f"the head {name!r} runs {len(own)} times in one pass, so its input is not one set of features; pass a "
                "network that runs it once"
            )
    weight, bias = joined(model, groups)
    if logits is not None:
        firsts = [(calls[group[0].name][0], group[0].position) for group in groups]
        features = [at_position(one.input, is_convolution(one.module), position) for one, position in firsts]
        check_head(torch.cat(features, dim=1), weight, bias, two_logits(logits), written(groups))
    one = len(affine(calls[names_of(groups)[0]][0].module)[0]) == 1
    return Head(written(groups), weight, bias, which, logits is not None, one)


def _as_asked(model: nn.Module, groups: Groups, seen: list[Seen], tensors: Mapping[int, Tensor]) -> Head:
    """Return a head of several layers that was named, as a study names it, once it gives one of the outputs.

    Raises:
        SubspectError: it gives none.
    """
    calls = {one.name: one for one in seen}
    missing = [name for name in names_of(groups) if name not in calls]
    if missing:
        raise SubspectError(f"head {missing[0]!r} did not run when the network did")
    total = sum(part.factor * calls[part.name].at(part.position).double() for group in groups for part in group)
    which = next((place for place, tensor in tensors.items() if same(torch.as_tensor(total), tensor)), None)
    if which is None:
        raise SubspectError(
            f"the layers {written(groups)!r} do not give the network's logits; "
            + candidates(seen, next(iter(tensors.values())))
        )
    return _made(model, groups, seen, which, tensors[which])


def _check_outputs(seen: list[Seen], tensors: Mapping[int, Tensor]) -> None:
    """Refuse logits none of which are numbers.

    Raises:
        SubspectError: all are NaN or infinite somewhere; where the head itself is, that is said.
    """
    if any(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        return
    for one in reversed(seen):
        if any(one.output.shape == tensor.shape for tensor in tensors.values()):
            _check_finite(one)
    raise SubspectError(
        "the network's logits are NaN or infinite on the first images tried; check its weights and preprocessing"
    )


def _tell_others(taken: Seen, others: set[str]) -> None:
    """Warn where other linear layers might be the head as well."""
    if others:
        log.warning(
            "the network returns the outputs of several linear layers; %r is taken for the head: pass head='module.name' "
            "(--head) for %s",
            taken.name,
            some(sorted(others)),
        )


def _check_finite(call: Seen) -> None:
    """Refuse a head whose numbers are none.

    Raises:
        SubspectError: a weight or the bias is NaN or infinite.
    """
    numbers = torch.cat([part.detach().float().flatten() for part in affine(call.module)])
    bad = int((~numbers.isfinite()).sum())
    if bad:
        raise SubspectError(
            f"the head {call.name!r} contains NaN or infinity: {bad:,} of its {len(numbers):,} weights and biases; load the "
            "weights of a training that went well (--weights)"
        )


def _named(name: str, module: nn.Module, seen: list[Seen], tensors: list[Tensor]) -> Seen:
    """Return the layer that the user named as head, though the network's logits are not its output."""
    call = next((one for one in seen if one.module is module), None)
    if call is None:
        raise SubspectError(f"head {name!r} did not run when the network did; {candidates(seen, tensors[0])}")
    logits = next((tensor for tensor in tensors if tensor.shape == call.output.shape), None)
    if logits is None:
        raise SubspectError(
            f"head {name!r} gives {tuple(call.output.shape)} but the network's logits are {tuple(tensors[0].shape)}; "
            + candidates(seen, tensors[0])
        )
    log.warning(
        "the network's output is not that of the head %r%s; what the layer itself gives stands for the logits, and all "
        "figures are about it",
        name,
        reason([call], logits),
    )
    return call


def _without_classifier(model: nn.Module) -> str:
    """Say that a network was built without a classifier, as backbones of timm are; nothing where it was built with one."""
    if getattr(model, "num_classes", None) != 0:
        return ""
    return (
        "the network has no classifier (its num_classes is 0), so what it returns are features and not logits: build it with "
        "its classes, or pass a network that ends with a linear layer on them"
    )


def _is_linear(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return isinstance(module, nn.Linear)
    ones, padding = {*module.kernel_size, *module.stride, module.groups} == {1}, module.padding
    return ones and (padding in ("valid", "same") or not any(padding))


def check_head(features: Tensor, weight: Tensor, bias: Tensor, logits: Tensor, name: str) -> None:
    """Check ``features @ W.T + b`` against the network's logits, within the rounding of the lowest precision used."""
    weight, bias = weight.to(logits.device), bias.to(logits.device)
    error = (features.float() @ weight.float().T + bias.float() - logits.float()).abs()
    size = features.float().abs() @ weight.float().abs().T + bias.float().abs()
    room = tolerance(features, weight, logits) * size + 1e-6
    if bool((error > room).any()):
        worst = float(error.max())
        raise SubspectError(
            f"the head {name!r} does not give the network's own logits: features @ W.T + b is off by up to {worst:.3g}; "
            "the network must do something non-linear after it, or pick another layer with head='module.name'"
        )
