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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, get_args

import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, near, some
from subspect.networks.parts import (
    Groups,
    Part,
    Position,
    affine,
    at_position,
    is_convolution,
    joined,
    names_of,
    read_head,
    written,
)

log = logging.getLogger("subspect")
_MOST, _TERMS = 6, 12  # layers that a head may be the sum of, and among how many they are looked for
_MOVED = 4  # copies of the images, each moved by a pixel more, from which factors are taken


@dataclass(frozen=True)
class Head:
    """The final linear layer of a network, or the sum of several.

    Attributes:
        name: the module's name within the network; of several layers as `subspect.networks.parts` writes them.
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

    @property
    def groups(self) -> Groups:
        """The layers, those on one input together."""
        return read_head(self.name)

    @property
    def layers(self) -> Sequence[str]:
        """Names of the modules that it is made of."""
        return names_of(self.groups)


def logits_of(output: Any, head: Head, images: int) -> Tensor:
    """Return the logits (n, C) among what a network returns for n images."""
    return logits_in(output)[head.output].reshape(images, -1)


@dataclass(eq=False)
class _Seen:
    """One call of one linear layer: its input and output, as they are."""

    name: str
    module: nn.Module
    input: Tensor
    result: Tensor

    def at(self, position: Position) -> Tensor:
        """Return its output at a position, (n, C)."""
        return at_position(self.result, is_convolution(self.module), position)

    @property
    def output(self) -> Tensor:
        """Its output, as the mean over positions."""
        return self.at("mean")

    @property
    def positions(self) -> tuple[Position, ...]:
        """Which positions there are to choose from."""
        return get_args(Position) if self.result.ndim == 3 and not is_convolution(self.module) else ("mean",)


def find_head_of(model: nn.Module, pixels: Tensor, name: str | None) -> Head:
    """Find the head of a network with a small batch (see `Network.find_head`).

    Raises:
        SubspectError: no linear layer, and no sum of some, gives the logits, and what the candidates are.
    """
    watched = {path: module for path, module in model.named_modules(remove_duplicate=False) if _is_linear(module)}
    asked = read_head(name) if name is not None else ()
    unknown = next((one for one in names_of(asked) if one not in watched), None)
    if unknown is not None:
        raise SubspectError(
            f"head {unknown!r} is not an nn.Linear or 1×1 convolution of this network{near(unknown, list(watched))}; its "
            f"linear layers: {some(watched, 8) or 'none'}"
        )
    seen, outputs = _watch(model, pixels, watched)
    tensors = _logits_among(outputs, len(pixels))
    _check_outputs(seen, tensors)
    if asked and (len(names_of(asked)) > 1 or asked[0][0] != Part(asked[0][0].name)):
        return _as_asked(model, asked, seen, tensors)
    alike = _matches(seen, tensors, watched[name] if name is not None else None)
    matches = alike if name is not None else [one for one in alike if one[0] == next(iter(tensors))]
    if matches:
        which, call, position = matches[0]
        _tell_others(call, {one.name for _, one, _ in alike if one.module is not call.module})
        groups: Groups = ((Part(call.name, 1.0, position),),)
    elif name is not None:
        which, call = 0, _named(name, watched[name], seen, list(tensors.values()))
        groups = ((Part(call.name),),)
    else:
        which, logits = next(iter(tensors.items()))
        groups = _sum(model, pixels, watched, seen, logits)
        if not groups:
            raise SubspectError(_not_found(seen, tensors))
    return _made(model, groups, seen, which, tensors[which] if matches or name is None else None)


def _matches(
    seen: list[_Seen], tensors: Mapping[int, Tensor], asked: nn.Module | None
) -> list[tuple[int, _Seen, Position]]:
    """List the calls that give one of the network's outputs, the last first; of a layer that was asked for, its own alone."""
    return [
        (place, one, position)
        for place, logits in tensors.items()
        for one in reversed(seen)
        if asked is None or one.module is asked
        for position in one.positions
        if _same(one.at(position), logits)
    ]


def _made(model: nn.Module, groups: Groups, seen: list[_Seen], which: int, logits: Tensor | None) -> Head:
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
        check_head(torch.cat(features, dim=1), weight, bias, logits, written(groups))
    return Head(written(groups), weight, bias, which, logits is not None)


def _as_asked(model: nn.Module, groups: Groups, seen: list[_Seen], tensors: Mapping[int, Tensor]) -> Head:
    """Return a head of several layers that was named, as a study names it, once it gives one of the outputs.

    Raises:
        SubspectError: it gives none.
    """
    calls = {one.name: one for one in seen}
    missing = [name for name in names_of(groups) if name not in calls]
    if missing:
        raise SubspectError(f"head {missing[0]!r} did not run when the network did")
    total = sum(part.factor * calls[part.name].at(part.position).double() for group in groups for part in group)
    which = next((place for place, tensor in tensors.items() if _same(torch.as_tensor(total), tensor)), None)
    if which is None:
        raise SubspectError(
            f"the layers {written(groups)!r} do not give the network's logits; "
            + _candidates(seen, next(iter(tensors.values())))
        )
    return _made(model, groups, seen, which, tensors[which])


def _sum(model: nn.Module, pixels: Tensor, watched: dict[str, nn.Module], seen: list[_Seen], logits: Tensor) -> Groups:
    """Find factors by which some layers' outputs add up to the logits, the fewest layers first; nothing if there are none.

    The factors are taken from some images and their moved copies, and must hold on others.
    """
    other = None
    if pixels.is_floating_point():
        more = torch.cat([pixels, *(pixels.roll(step, -1) for step in range(1, _MOVED))])
        seen, outputs = _watch(model, more, watched)
        logits, other = next(iter(_logits_among(outputs, len(more)).values())), pixels.flip(-1)
    terms = [
        (one, position)
        for one in reversed(seen)
        for position in one.positions
        if one.at(position).shape == logits.shape and bool(one.result.isfinite().all())
    ][:_TERMS]
    for count in range(1, min(len(terms), _MOST) + 1):
        for chosen in combinations(terms, count):
            factors = _factors([one.at(position) for one, position in chosen], logits)
            if factors is None:
                continue
            parts = [(*one, factor) for one, factor in zip(chosen, factors, strict=True)]
            groups = _grouped(parts)
            if other is None or _holds(model, groups, other, watched):
                log.info("the head is a sum of layers: %s", written(groups))
                return groups
    return ()


def _factors(outputs: Sequence[Tensor], logits: Tensor) -> list[float] | None:
    """Return factors of outputs (n, C) whose sum is the logits; None where there are none, or too few numbers to tell."""
    columns = torch.stack([one.double().flatten() for one in outputs], dim=1).cpu()
    target = logits.double().flatten().cpu()
    if len(target) < 2 * len(outputs) + 1:
        return None
    factors = torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
    total = (columns @ factors).reshape(logits.shape)
    if (
        not bool(factors.isfinite().all())
        or not _same(total.to(logits.dtype), logits.cpu())
        or bool((factors == 0).any())
    ):
        return None
    rounded = [round(float(one), 4) for one in factors]
    near_whole = torch.tensor(rounded, dtype=torch.float64)
    if bool(((near_whole - factors).abs() <= 1e-6).all()) and all(rounded):
        return rounded
    return [float(one) for one in factors]


def _grouped(terms: Sequence[tuple[_Seen, Position, float]]) -> Groups:
    """Put layers on one input together."""
    groups: list[tuple[Tensor, list[Part]]] = []
    for one, position, factor in reversed(terms):
        own = at_position(one.input, is_convolution(one.module), position)
        part = Part(one.name, factor, position)
        known = next(
            (parts for features, parts in groups if features.shape == own.shape and torch.equal(features, own)), None
        )
        if known is None:
            groups.append((own, [part]))
        else:
            known.append(part)
    return tuple(tuple(parts) for _, parts in groups)


def _holds(model: nn.Module, groups: Groups, pixels: Tensor, watched: dict[str, nn.Module]) -> bool:
    """Tell whether a sum of layers gives the logits of other images as well."""
    seen, outputs = _watch(model, pixels, watched)
    logits = next(iter(_logits_among(outputs, len(pixels)).values()))
    calls = {one.name: one for one in seen}
    total = sum(part.factor * calls[part.name].at(part.position).double() for group in groups for part in group)
    return _same(torch.as_tensor(total).to(logits.dtype), logits)


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
    numbers = torch.cat([part.detach().float().flatten() for part in affine(call.module)])
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
        inputs[module] = input_of(args, kwargs).detach().clone()

    def after(module: nn.Module, _: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(_Seen(names[module], module, inputs[module], output.detach().clone()))

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


def _not_found(seen: list[_Seen], tensors: Mapping[int, Tensor]) -> str:
    logits, *others = tensors.values()
    alike = [one for one in seen if one.output.shape == logits.shape]
    also = [one.name for other in others for one in seen if _same(one.output, other)]
    return (
        f"head not found: the logits {tuple(logits.shape)} are not the output of any nn.Linear or 1×1 convolution (by its "
        f"mean over positions, the first or the last), nor a sum of some{_reason(alike, logits)}"
        + (f"; other tensors that the network returns are the output of {some(dict.fromkeys(also))}" if also else "")
        + "; pass head='module.name' (--head) to take a layer's own output for the logits; "
        + _candidates(seen, logits)
    )


def _candidates(seen: list[_Seen], logits: Tensor) -> str:
    alike = [one.name for one in reversed(seen) if one.output.shape == logits.shape]
    if alike:
        return f"candidates: {some(alike, 8)}"
    others = some([f"{one.name} with {one.output.shape[-1]}" for one in reversed(seen)], 8)
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
    return ""


def _is_linear(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return isinstance(module, nn.Linear)
    ones, padding = {*module.kernel_size, *module.stride, module.groups} == {1}, module.padding
    return ones and (padding in ("valid", "same") or not any(padding))


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a layer was given."""
    tensor: Tensor = next(iter((*args, *kwargs.values())))
    return tensor


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


def check_head(features: Tensor, weight: Tensor, bias: Tensor, logits: Tensor, name: str) -> None:
    """Check ``features @ W.T + b`` against the network's logits, within the rounding of the lowest precision used."""
    weight, bias = weight.to(logits.device), bias.to(logits.device)
    error = (features.float() @ weight.float().T + bias.float() - logits.float()).abs()
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
