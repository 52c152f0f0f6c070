"""What a network's linear layers are given and make while it runs, and which of what it returns may be its logits."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, near, some
from subspect.ground.text import counted
from subspect.images.inputs import Inputs, Pixels, called, shape_of
from subspect.networks.summands import Position, at_position, is_convolution

_CHANNELS = (1, 3, 4)  # that pictures have
_PRODUCT = re.compile(r"cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")  # PyTorch's own words


@dataclass(eq=False)
class Seen:
    """One call of one linear layer: its input and output, as they are."""

    name: str
    module: nn.Module
    input: Tensor
    result: Tensor

    def at(self, position: Position) -> Tensor:
        """Return its output at a position, (n, C)."""
        return at_position(self.result, is_convolution(self.module), "mean" if position == "unit" else position)

    @property
    def output(self) -> Tensor:
        """Its output, as the mean over positions."""
        return self.at("mean")

    @property
    def positions(self) -> tuple[Position, ...]:
        """Which positions there are to choose from."""
        return get_args(Position)[:3] if self.result.ndim == 3 and not is_convolution(self.module) else ("mean",)


def watch(model: nn.Module, pixels: Pixels, watched: dict[str, nn.Module]) -> tuple[list[Seen], list[Tensor]]:
    """Run the network and keep what goes in and out of every linear layer; hooks are removed on any exit."""
    names = {module: name for name, module in reversed(watched.items())}  # of several names, the first
    inputs: dict[nn.Module, Tensor] = {}
    seen: list[Seen] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[module] = input_of(args, kwargs).detach().clone()

    def after(module: nn.Module, _: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(Seen(names[module], module, inputs[module], output.detach().clone()))

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    try:
        tensors = [tensor.detach() for tensor in logits_in(called(model, pixels))]
    except Exception as error:
        raise failed_on(model, pixels, error) from error
    finally:
        for handle in handles:
            handle.remove()
    return seen, tensors


def failed_on(model: nn.Module, pixels: Pixels, error: Exception) -> SubspectError:
    """Return the error that says that a network failed on a batch."""
    pictures = isinstance(pixels, Tensor) and pixels.ndim == 4
    last = isinstance(pixels, Tensor) and pictures and pixels.shape[3] in _CHANNELS and pixels.shape[1] not in _CHANNELS
    told = ", whose channels seem to come last (give them first: images.transpose(0, 3, 1, 2))" if last else ""
    return SubspectError(
        f"the network failed on a batch {shape_of(pixels)}{told}: {type(error).__name__}: {error}; "
        + (_keywords(model, pixels) if isinstance(error, TypeError) else _widths(error))
        + "check that "
        + ("the preprocessing gives the size and the channels" if pictures else "inputs have the shape and the numbers")
        + " that it expects"
    )


def _keywords(model: nn.Module, pixels: Pixels) -> str:
    """Say which inputs a network doesn't take, or lacks; nothing where that isn't it."""
    taken = inspect.signature(model.forward).parameters
    named = {name: one for name, one in taken.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    given = list(pixels.tensors) if isinstance(pixels, Inputs) else list(named)[:1]
    others = (
        [] if any(one.kind is one.VAR_KEYWORD for one in taken.values()) else [one for one in given if one not in named]
    )
    lacking = [name for name, one in named.items() if one.default is one.empty and name not in given]
    said = (
        f"its forward takes no {some(repr(one) + near(one, list(named)) for one in others)}: leave out or rename; "
        if others
        else ""
    )
    return said + (
        f"its forward needs {some(map(repr, lacking))} as well: give all by name, in a dict; " if lacking else ""
    )


def _widths(error: Exception) -> str:
    """Say how many numbers a linear layer was given instead of how many; nothing where that isn't it."""
    found = _PRODUCT.search(str(error))
    if not found:
        return ""
    return (
        f"a linear layer of it takes {counted(int(found[2]), 'number', 'numbers')} of each example and was given "
        f"{found[1]}; "
    )


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a layer was given."""
    tensor: Tensor = next(iter((*args, *kwargs.values())))
    return tensor


def logits_among(outputs: list[Tensor], images: int) -> dict[int, Tensor]:
    """Return those of a network's tensors that may be logits (n, C), by their place; C is 1 for a network that says yes or no.

    Raises:
        SubspectError: none may.
    """
    columns = {
        place: tensor.reshape(images, 1) if tensor.shape == (images,) else tensor
        for place, tensor in enumerate(outputs)
    }
    tensors = {
        place: tensor
        for place, tensor in columns.items()
        if tensor.ndim == 2 and len(tensor) == images and tensor.shape[1] and tensor.is_floating_point()
    }
    if not tensors:
        raise SubspectError(
            "the network returns no class logits: expected a tensor (images, classes) in its output; got "
            f"{some([tuple(tensor.shape) for tensor in outputs]) or 'no tensor'}"
        )
    return tensors


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


def same(output: Tensor, logits: Tensor) -> bool:
    """Tell whether two tensors are the same within the rounding of the lower precision of the two."""
    if output.shape != logits.shape:
        return False
    scale = logits.float().abs().max()
    return bool((output.float() - logits.float()).abs().max() <= tolerance(output, logits) * scale + 1e-6)


def tolerance(*tensors: Tensor) -> float:
    """Return by which share of their size numbers of the lowest precision among some tensors may differ by rounding."""
    lowest = max(torch.finfo(tensor.dtype).eps for tensor in tensors)
    if tensors[0].is_cuda:
        lowest = max(lowest, 2.0**-10)  # TF32, which cuDNN's convolutions use unless told otherwise
    return max(1e-5, 8 * lowest)
