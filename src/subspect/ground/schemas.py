"""What a file must hold, as types: every field there, of its type and in its range, or one error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from subspect.ground.errors import SubspectError, some

T = TypeVar("T")


def as_type(kind: type[T], values: Any, path: Path, what: str = "a manifest") -> T:
    """Return what was read from a file as a dataclass, once every field is there and of its type.

    Raises:
        SubspectError: a field is missing, unknown or of another type or range.
    """
    known = set(getattr(kind, "__dataclass_fields__", values))  # of other kinds, such as a TypedDict, all
    try:
        unknown = sorted(set(values) - known)
        if unknown:
            raise msgspec.ValidationError(f"unknown fields {some(unknown)}")
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, RecursionError, TypeError) as error:
        raise SubspectError(f"{path} is not {what} of subspect: {error}") from error


def misfit(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> str:
    """Say how tensors differ from those that are wanted; nothing where they don't."""
    if set(tensors) != set(wanted):
        return f"it contains {some(sorted(tensors)) or 'nothing'}, expected {some(wanted)}"
    for name, (kind, shape) in wanted.items():
        given = tensors[name]
        if (given.dtype, tuple(given.shape)) != (kind, shape):
            return f"{name} is {given.dtype} {tuple(given.shape)}, expected {kind} {shape}"
        if not torch.isfinite(given).all():
            return f"{name} contains NaN or infinity"
    return ""
