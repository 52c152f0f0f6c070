"""What a network takes: one tensor, or several by name, as of text: ``{"input_ids": …, "attention_mask": …}``.

Several are passed by keyword. They behave as one tensor where images are counted, cut and moved to a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, shortened, some


@dataclass(frozen=True, eq=False)
class Inputs:
    """Tensors by name, each with as many examples as the others, or each of one example.

    Attributes:
        tensors: name → tensor.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, part: Any) -> Inputs:
        return Inputs({name: tensor[part] for name, tensor in self.tensors.items()})


Pixels = Tensor | Inputs  #: (n, …) as the network takes it


def shape_of(pixels: Pixels) -> str:
    """Return the shape of a batch or an example as text."""
    if isinstance(pixels, Tensor):
        return str(tuple(pixels.shape))
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in pixels.tensors.items())


def plain(pixels: Pixels) -> Pixels:
    """Return an example as it is kept: floating numbers as float32, whole ones, such as tokens, as int64."""
    if isinstance(pixels, Inputs):
        return Inputs({name: _plain(tensor) for name, tensor in pixels.tensors.items()})
    return _plain(pixels)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def inputs_from(item: Mapping[Any, Any]) -> Inputs:
    """Return an example that is given as numbers by name.

    Raises:
        SubspectError: something in it is no numbers, or is named by something else than text.
    """
    tensors = {}
    for name, value in item.items():
        try:
            tensor = torch.as_tensor(value).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise SubspectError(_not_numbers(name, value, item)) from error
        if not isinstance(name, str) or tensor.is_complex():
            raise SubspectError(_not_numbers(name, value, item))
        tensors[name] = tensor
    if not tensors:
        raise SubspectError("an example given by name is empty; give what the network takes, such as {'input_ids': …}")
    return Inputs(tensors)


def rows_by_name(arrays: Mapping[Any, Any]) -> Inputs:
    """Return arrays by name, of all examples: one row of each is an example.

    Raises:
        SubspectError: one has no rows, or they have different numbers of them.
    """
    odd = next((name for name, one in arrays.items() if isinstance(one, list | tuple) and _ragged(one)), None)
    if odd is not None:
        raise SubspectError(
            f"the rows of {shortened(repr(odd))} are of different lengths; pad them to one, as a tokenizer does with "
            "padding=True"
        )
    found = inputs_from(arrays)
    lengths = {name: len(tensor) if tensor.ndim else 0 for name, tensor in found.tensors.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        told = some(f"{shortened(repr(name))} {tuple(tensor.shape)}" for name, tensor in found.tensors.items())
        raise SubspectError(f"arrays by name must each have a row for every example; got {told}")
    return Inputs({name: _plain(tensor) for name, tensor in found.tensors.items()})


def _ragged(rows: Sequence[Any]) -> bool:
    return len({len(row) for row in rows if hasattr(row, "__len__")}) > 1


def _not_numbers(name: object, value: object, item: Mapping[Any, Any]) -> str:
    return (
        f"an example given by name must hold what the network takes by keyword, as numbers; {shortened(repr(name))} is "
        f"{type(value).__name__} (names: {some(map(repr, item))}); leave out what isn't for the network, and give the label "
        "beside it: (inputs, label)"
    )


def moved(pixels: Pixels, device: torch.device, dtype: torch.dtype | None = None) -> Pixels:
    """Move a batch to a device, and what is floating to a type; whole numbers are tokens, which an embedding looks up."""
    if isinstance(pixels, Inputs):
        return Inputs({name: _moved(tensor, device, dtype) for name, tensor in pixels.tensors.items()})
    return _moved(pixels, device, dtype)


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def stacked(examples: Sequence[Pixels]) -> Pixels:
    """Put examples of one shape together, (n, …)."""
    return _joined(examples, torch.stack)


def concatenated(batches: Sequence[Pixels]) -> Pixels:
    """Put batches of one shape behind each other, (n, …)."""
    return _joined(batches, torch.cat)


def _joined(parts: Sequence[Pixels], join: Any) -> Pixels:
    if isinstance(parts[0], Tensor):
        whole: Tensor = join(parts)
        return whole
    named = [part.tensors for part in parts if isinstance(part, Inputs)]
    return Inputs({name: join([one[name] for one in named]) for name in named[0]})


def split(pixels: Pixels, size: int) -> Iterator[Pixels]:
    """Cut a batch into some of at most ``size`` examples."""
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]


def mirrored(pixels: Pixels) -> Pixels:
    """Return the same numbers, reversed along the last axis of each example."""
    if isinstance(pixels, Tensor):
        return pixels.flip(-1)
    return Inputs({name: tensor.flip(-1) if tensor.ndim > 1 else tensor for name, tensor in pixels.tensors.items()})


def called(model: nn.Module, pixels: Pixels) -> Any:
    """Run a network on a batch: several tensors go by keyword."""
    return model(**pixels.tensors) if isinstance(pixels, Inputs) else model(pixels)
