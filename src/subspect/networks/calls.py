"""What a network's linear layers are given and make while it runs, and which of what it returns may be its logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, some
from subspect.networks.summands import Position, at_position, is_convolution


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


def watch(model: nn.Module, pixels: Tensor, watched: dict[str, nn.Module]) -> tuple[list[Seen], list[Tensor]]:
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


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a layer was given."""
    tensor: Tensor = next(iter((*args, *kwargs.values())))
    return tensor


def logits_among(outputs: list[Tensor], images: int) -> dict[int, Tensor]:
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
