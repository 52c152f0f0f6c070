"""What the file of a decomposition must hold: a typed header, and tensors that fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from subspect.ground.errors import SubspectError, some
from subspect.ground.schemas import as_type, misfit
from subspect.heads.feature_names import Names, checked
from subspect.heads.history import Index
from subspect.heads.supports import Supports
from subspect.heads.ternary import Ternary
from subspect.heads.trusted import Trusted

SCHEMA = 2  #: 1 had no checksum
FeatureIndex = Annotated[str, msgspec.Meta(pattern="^(0|[1-9][0-9]{0,9})$")]  #: as JSON has it


@dataclass(frozen=True)
class _Header:
    class_names: tuple[str, ...]
    network: str
    fingerprint: str
    head: str
    n_features: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    unseen: tuple[Index, ...]
    history: tuple[dict[str, Any], ...]
    name: str | None = None
    curve: tuple[dict[str, Any], ...] = ()
    feature_names: dict[FeatureIndex, str] = field(default_factory=dict)


def read_header(values: Mapping[str, Any], path: Path) -> _Header:
    """Read the header of a file.

    Raises:
        SubspectError: a field is missing or misshaped, or another version wrote it.
    """
    if values.get("schema") not in (1, SCHEMA):
        raise SubspectError(
            f"{path} is not a decomposition of subspect: it has schema version {values.get('schema')!r}, this subspect reads "
            f"1 and {SCHEMA}"
        )
    known = {one.name for one in fields(_Header)}
    return as_type(_Header, {key: one for key, one in values.items() if key in known}, path, "a decomposition")


def read_names(header: _Header, path: Path) -> Names:
    """Return the names of features that a file holds.

    Raises:
        SubspectError: one is none, or of a feature there is not.
    """
    try:
        return checked({int(feature): name for feature, name in header.feature_names.items()}, header.n_features)
    except SubspectError as error:
        raise SubspectError(f"{path} is not a decomposition of subspect: {error}") from error


def read_supports(tensors: Mapping[str, Tensor], header: _Header) -> Supports:
    """Return the supports, once all tensors fit each other.

    Raises:
        ValueError: they don't.
        SubspectError: a support holds a feature twice, or one that there is not.
    """
    n_classes, whole, real = len(header.class_names), torch.int64, torch.float32
    entries = tensors["indices"].numel() if "indices" in tensors else 0
    wanted = {"indices": (whole, (entries,)), "offsets": (whole, (n_classes + 1,)), "bias": (real, (n_classes,))}
    wanted |= dict.fromkeys(("weights", "frequency", "mean"), (real, (entries,)))
    if wrong := misfit({name: one for name, one in tensors.items() if name not in _optional()}, wanted):
        raise ValueError(wrong)
    offsets = tensors["offsets"].numpy()
    if offsets[0] != 0 or offsets[-1] != entries or (np.diff(offsets) < 0).any():
        raise ValueError(f"its offsets don't cut {entries} features into {n_classes} classes")
    if any(label >= n_classes for label in header.unseen):
        raise ValueError(f"its unseen classes {some(header.unseen)} are not all among the {n_classes}")
    return Supports(np.split(tensors["indices"].numpy(), offsets[1:-1]), header.n_features)


def read_trust(tensors: Mapping[str, Tensor], supports: Supports) -> Trusted | None:
    """Return what a file says of trust, once its tensors fit; None where it says nothing.

    Raises:
        ValueError: they don't fit.
    """
    if "draws" not in tensors:  # or one of before 0.2, whose stability was that of one step of the choice
        return None
    entries, n_classes = len(supports.flat), len(supports)
    most = tensors["substitutes"].shape[-1] if "substitutes" in tensors and tensors["substitutes"].ndim == 2 else 0
    real, whole = torch.float32, torch.int64
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    wanted = {"stability": (real, (entries,)), "core": (torch.bool, (entries,))}
    wanted |= {"substitutes": (whole, (entries, most)), "recovered": (real, (entries, most))}
    wanted |= {
        "equal": (torch.bool, (entries, most)),
        "jaccard": (real, (n_classes,)),
        "tolerance": (real, (n_classes,)),
    }
    wanted |= dict.fromkeys(("draws", "distinct", "near_equal"), (whole, (n_classes,)))
    given = {name: tensor for name, tensor in tensors.items() if name in _trust_names()}
    if wrong := misfit(given, wanted):
        raise ValueError(wrong)
    substitutes = given["substitutes"]
    if substitutes.numel() and not -1 <= int(substitutes.min()) <= int(substitutes.max()) < supports.n_features:
        raise ValueError(f"its substitutes are not all among the {supports.n_features} features")
    return Trusted(**given)


def read_ternary(tensors: Mapping[str, Tensor], supports: Supports, header: _Header) -> Ternary | None:
    """Return the scales of readable weights, once they fit the weights; None where weights are free.

    Raises:
        ValueError: they don't fit.
    """
    names = {one.name for one in fields(Ternary)}
    given = {name: tensor for name, tensor in tensors.items() if name in names}
    if not given:
        return None
    sizes = {"class_scales": len(supports), "feature_scales": supports.n_features}
    if wrong := misfit(given, {name: (torch.float32, (size,)) for name, size in sizes.items()}):
        raise ValueError(wrong)
    scales = Ternary(**given)
    if wrong := scales.misfit(supports, tensors["weights"], header.unseen):
        raise ValueError(wrong)
    return scales


def _trust_names() -> set[str]:
    return {one.name for one in fields(Trusted)}


def _optional() -> set[str]:
    return _trust_names() | {one.name for one in fields(Ternary)}
