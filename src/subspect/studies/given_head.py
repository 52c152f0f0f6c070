"""The linear head that a user gives as numbers: its weight (C, d) and bias (C,), checked, and what else is given as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from subspect.ground.arrays import Features
from subspect.ground.errors import SubspectError
from subspect.networks.summands import two_opposite_rows


def linear_head(weight: object, bias: object) -> tuple[Features, Features]:
    """Return a head's weight (C, d) and bias (C,), float32, of two classes at least; a single row becomes two opposite ones.

    Raises:
        SubspectError: they are no numbers, not finite, or their shapes don't fit each other.
    """
    if hasattr(weight, "coef_") or isinstance(weight, nn.Module):
        parts = "coef_ and intercept_" if hasattr(weight, "coef_") else "weight and bias"
        raise SubspectError(
            f"the head's weight must be numbers (C, d), and a {type(weight).__name__} was given: give its {parts} "
            "as weight and bias"
        )
    rows = np.atleast_2d(as_array(weight, "the head's weight"))
    shift = np.zeros(len(rows), np.float32) if bias is None else as_array(bias, "the head's bias").reshape(-1)
    if rows.ndim != 2 or 0 in rows.shape or shift.shape != rows.shape[:1]:
        raise SubspectError(
            "the head must have a weight (C, d), one row per class, and a bias (C,); got weight "
            f"{np.shape(rows)} and bias {shift.shape}"
            + ("; transpose the weight" if rows.ndim == 2 and shift.shape == rows.shape[1:] else "")
        )
    for what, values in (("weight", rows), ("bias", shift)):
        check_kind(values.dtype, f"the head's {what}")
    with np.errstate(over="ignore"):
        head = rows.astype(np.float32), shift.astype(np.float32)
    if not all(np.isfinite(part).all() for part in head):
        raise SubspectError(
            "the head's weight or bias contains NaN, infinity, or a number too large for float32; fit it again"
        )
    if len(rows) == 1:
        both = two_opposite_rows(*map(torch.from_numpy, head))
        return both[0].numpy(), both[1].numpy()
    return head


def as_array(values: object, what: str) -> npt.NDArray[Any]:
    """Return an array, a tensor, a data frame or lists as an array.

    Raises:
        SubspectError: they are nothing like that.
    """
    if np.ma.is_masked(values):
        raise SubspectError(f"{what} contain masked values; fill them in, or leave those rows out")
    try:
        if isinstance(values, torch.Tensor):
            plain = values.detach().cpu()
            return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()  # NumPy has no bfloat16
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise SubspectError(f"{what} must be an array of numbers; got {type(values).__name__}: {error}") from error


def check_kind(kind: np.dtype[Any], what: str) -> None:
    """Refuse what isn't real numbers."""
    if kind.kind not in "fiub":
        raise SubspectError(
            f"{what} must be real numbers in the range of float32; got {kind}; turn text and categories into "
            f"numbers first, as was done when the head was fitted"
        )
