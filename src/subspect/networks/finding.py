"""Finding the head: it is found, not guessed by name.

A small batch runs through the network while every ``nn.Linear`` and 1×1 convolution (of one to three dimensions) is watched,
and the one whose output is the logits is the head. A layer that works at every position of a map or a token sequence counts by
its mean over the positions: the mean of a linear layer is the linear layer of the mean, as long as nothing non-linear lies
between.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, near, some

log = logging.getLogger("subspect")


@dataclass(frozen=True)
class Head:
    """The final linear layer of a network.

    Attributes:
        name: the module's name within the network.
        weight: (C, d) float32 on the CPU.
        bias: (C,) float32 on the CPU; zeros where the layer has none.
        output: which of the tensors that the network returns holds the logits.
        exact: whether the network's logits are this layer's output; else the layer was named by the user, and its own
            output stands for the logits.
    """

    name: str
    weight: Tensor
    bias: Tensor
    output: int = 0
    exact: bool = True

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.weight.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return self.weight.shape[1]


def logits_of(output: Any, head: Head, images: int) -> Tensor:
    """Return the logits (n, C) among what a network returns for n images."""
    return logits_in(output)[head.output].reshape(images, -1)


@dataclass(eq=False)
class _Seen:
    """One call of one linear layer: its input and output, each as mean over positions."""

    name: str
    module: nn.Module
    features: Tensor
    output: Tensor


def find_head_of(model: nn.Module, pixels: Tensor, name: str | None) -> Head:
    """Find the head of a network with a small batch (see `Network.find_head`).

    Raises:
        SubspectError: no linear layer gives the logits, and what the candidates are.
    """
    watched = {path: module for path, module in model.named_modules(remove_duplicate=False) if _is_linear(module)}
    if name is not None and name not in watched:
        raise SubspectError(
            f"head {name!r} is not an nn.Linear or 1×1 convolution of this network{near(name, list(watched))}; its linear "
            f"layers: {some(watched, 8) or 'none'}"
        )
    seen, outputs = _watch(model, pixels, watched)
    tensors = _logits_among(outputs, len(pixels))
    _check_outputs(seen, tensors)
    matches = [(i, one) for i, logits in tensors.items() for one in reversed(seen) if _same(one.output, logits)]
    if name is not None:
        matches = [(i, one) for i, one in matches if one.module is watched[name]]
    exact = bool(matches)
    if exact:
        which, call = matches[0]
        _tell_others(call, {one.name for _, one in matches if one.module is not call.module})
    elif name is not None:
        which, call = 0, _named(name, watched[name], seen, list(tensors.values()))
    else:
        raise SubspectError(_not_found(seen, next(iter(tensors.values()))))
    _check_finite(call)
    calls = sum(one.module is call.module for one in seen)
    if calls > 1:
        raise SubspectError(
            f"the head {call.name!r} runs {calls} times in one pass, so its input is not one set of features; pass a "
            "network that runs it once"
        )
    if exact:
        check_head(call.features, call.module, tensors[which], call.name)
    weight, bias = _affine(call.module)
    return Head(call.name, weight.detach().float().cpu().clone(), bias.detach().float().cpu().clone(), which, exact)


def _logits_among(outputs: list[Tensor], images: int) -> dict[int, Tensor]:
    """Return those of a network's tensors that may be logits (n, C), by their place.

    Raises:
        SubspectError: none may.
    """
    tensors = {
        place: tensor
        for place, tensor in enumerate(outputs)
        if tensor.ndim == 2 and len(tensor) == images and tensor.shape[1] > 1 and tensor.is_floating_point()
    }
    if tensors:
        return tensors
    alone = next((tensor for tensor in outputs if tensor.shape in ((images,), (images, 1))), None)
    if alone is not None and alone.is_floating_point():
        raise SubspectError(
            f"the network has one class (its output is {tuple(alone.shape)}), and one class decides nothing: subspect "
            "needs two or more; a network that says yes or no by one logit needs a head with a logit for each"
        )
    raise SubspectError(
        "the network returns no class logits: expected a tensor (images, classes), of two classes or more, in its "
        f"output; got {some([tuple(tensor.shape) for tensor in outputs]) or 'no tensor'}"
    )


def _check_outputs(seen: list[_Seen], tensors: Mapping[int, Tensor]) -> None:
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


def _tell_others(taken: _Seen, others: set[str]) -> None:
    """Warn where other linear layers might be the head as well."""
    if others:
        log.warning(
            "the network returns the outputs of several linear layers; %r is taken for the head: pass head='module.name' "
            "(--head) for %s",
            taken.name,
            some(sorted(others)),
        )


def _check_finite(call: _Seen) -> None:
    """Refuse a head whose numbers are none.

    Raises:
        SubspectError: a weight or the bias is NaN or infinite.
    """
    numbers = torch.cat([part.detach().float().flatten() for part in _affine(call.module)])
    bad = int((~numbers.isfinite()).sum())
    if bad:
        raise SubspectError(
            f"the head {call.name!r} holds NaN or infinity: {bad:,} of its {len(numbers):,} weights and biases; load the "
            "weights of a training that went well (--weights)"
        )


def _named(name: str, module: nn.Module, seen: list[_Seen], tensors: list[Tensor]) -> _Seen:
    """Return the layer that the user named as head, though the network's logits are not its output."""
    call = next((one for one in seen if one.module is module), None)
    if call is None:
        raise SubspectError(f"head {name!r} did not run when the network did; {_candidates(seen, tensors[0])}")
    logits = next((tensor for tensor in tensors if tensor.shape == call.output.shape), None)
    if logits is None:
        raise SubspectError(
            f"head {name!r} gives {tuple(call.output.shape)} but the network's logits are {tuple(tensors[0].shape)}; "
            + _candidates(seen, tensors[0])
        )
    log.warning(
        "the network's output is not that of the head %r%s; what the layer itself gives stands for the logits, and all "
        "figures are about it",
        name,
        _reason([call], logits),
    )
    return call


def _watch(model: nn.Module, pixels: Tensor, watched: dict[str, nn.Module]) -> tuple[list[_Seen], list[Tensor]]:
    """Run the network and keep what goes in and out of every linear layer; hooks are removed on any exit."""
    names = {module: name for name, module in reversed(watched.items())}  # of several names, the first
    inputs: dict[nn.Module, Tensor] = {}
    seen: list[_Seen] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[module] = pooled(input_of(args, kwargs), is_convolution(module)).detach().clone()

    def after(module: nn.Module, _: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(
                _Seen(names[module], module, inputs[module], pooled(output, is_convolution(module)).detach().clone())
            )

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    try:
        tensors = [tensor.detach() for tensor in logits_in(model(pixels))]
    except Exception as error:
        raise SubspectError(
            f"the network failed on a batch {tuple(pixels.shape)}: {type(error).__name__}: {error}; check that the "
            "preprocessing gives the size and the channels that it expects"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return seen, tensors


def _not_found(seen: list[_Seen], logits: Tensor) -> str:
    alike = [one for one in seen if one.output.shape == logits.shape]
    return (
        f"head not found: the logits {tuple(logits.shape)} are not the output of any nn.Linear or 1×1 convolution (by its "
        f"mean over positions){_reason(alike, logits)}; pass head='module.name' (--head) to take a layer's own output "
        f"for the logits; {_candidates(seen, logits)}"
    )


def _candidates(seen: list[_Seen], logits: Tensor) -> str:
    alike = [one.name for one in seen if one.output.shape == logits.shape]
    if alike:
        return f"candidates: {some(alike, 8)}"
    others = some([f"{one.name} with {one.output.shape[-1]}" for one in seen], 8)
    return f"candidates: none with {logits.shape[1]} outputs (linear layers that ran: {others or 'none'})"


def _reason(alike: list[_Seen], logits: Tensor) -> str:
    """Say what the network does between a layer of the right shape and its logits, if that is easily seen."""
    for one in alike:
        after = {
            "a softmax": one.output.softmax(1),
            "a log-softmax": one.output.log_softmax(1),
            "a sigmoid": one.output.sigmoid(),
            "a ReLU": one.output.relu(),
        }
        for function, result in after.items():
            if _same(result, logits):
                return f": the network applies {function} after {one.name!r}"
    for first, second in combinations(alike, 2):
        if _same((first.output + second.output) / 2, logits):
            return f": the network averages two heads, {first.name!r} and {second.name!r}"
    return ""


def _is_linear(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return isinstance(module, nn.Linear)
    ones, padding = {*module.kernel_size, *module.stride, module.groups} == {1}, module.padding
    return ones and (padding in ("valid", "same") or not any(padding))


def is_convolution(module: nn.Module) -> bool:
    """Tell whether a layer puts channels first."""
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a layer was given."""
    tensor: Tensor = next(iter((*args, *kwargs.values())))
    return tensor


def _affine(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight (C, d) and bias (C,) of a linear layer or a 1×1 convolution."""
    weight: Tensor = module.weight.flatten(1)  # type: ignore[operator]
    bias = module.bias if module.bias is not None else weight.new_zeros(weight.shape[0])
    return weight, bias  # type: ignore[return-value]


def affine_of(features: Tensor, module: nn.Module) -> Tensor:
    """Return what a linear layer makes of features (n, d), float32."""
    weight, bias = _affine(module)
    return features @ weight.float().T + bias.float()


def pooled(tensor: Tensor, channels_first: bool) -> Tensor:
    """Mean over all positions: (n, c, …) → (n, c) where channels come first, (n, …, c) → (n, c) where they come last."""
    if tensor.ndim <= 2:
        return tensor
    return tensor.flatten(2).mean(2) if channels_first else tensor.flatten(1, -2).mean(1)


def logits_in(output: object) -> list[Tensor]:
    """List the tensors of a network's output that may hold logits, the likeliest first, each flattened to (n, …)."""
    return [
        tensor.flatten(1) if tensor.ndim > 2 and tensor.shape[2:].numel() == 1 else tensor for tensor in _all(output)
    ]


def _all(output: object, depth: int = 4) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif depth:  # an object may lead back to itself
        for part in _parts(output):
            yield from _all(part, depth - 1)


def _parts(output: object) -> list[object]:
    if isinstance(output, Mapping):
        return [value for _, value in sorted(output.items(), key=lambda item: item[0] != "logits")]
    parts = output if isinstance(output, tuple | list) else getattr(output, "__dict__", {}).values()
    return [getattr(output, "logits", None), *parts]


def _same(output: Tensor, logits: Tensor) -> bool:
    if output.shape != logits.shape:
        return False
    scale = logits.float().abs().max()
    return bool((output.float() - logits.float()).abs().max() <= _tolerance(output, logits) * scale + 1e-6)


def check_head(features: Tensor, module: nn.Module, logits: Tensor, name: str) -> None:
    """Check ``features @ W.T + b`` against the network's logits, within the rounding of the lowest precision used."""
    weight, bias = _affine(module)
    error = (affine_of(features.float(), module) - logits.float()).abs()
    size = features.float().abs() @ weight.float().abs().T + bias.float().abs()
    room = _tolerance(features, weight, logits) * size + 1e-6
    if bool((error > room).any()):
        worst = float(error.max())
        raise SubspectError(
            f"the head {name!r} does not give the network's own logits: features @ W.T + b is off by up to {worst:.3g}; "
            "the network must do something non-linear after it, or pick another layer with head='module.name'"
        )


def _tolerance(*tensors: Tensor) -> float:
    lowest = max(torch.finfo(tensor.dtype).eps for tensor in tensors)
    if tensors[0].is_cuda:
        lowest = max(lowest, 2.0**-10)  # TF32, which cuDNN's convolutions use unless told otherwise
    return max(1e-5, 8 * lowest)
