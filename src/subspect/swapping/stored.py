"""The file in which a study keeps what its classes rest on: ``cues/NAME.safetensors``, beside the decomposition of that name.

It tells by fingerprints which decomposed head, which images and which version of the cues it is about; what fits no more is
measured anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from subspect.ground.errors import SubspectError
from subspect.ground.schemas import as_type, misfit
from subspect.heads.decomposition import Decomposition
from subspect.studies.kept_beside import KeptBeside
from subspect.studies.study import Study
from subspect.swapping.result import HEADS, Cues, Swapped, at_places

SCHEMA = 1  #: goes up when a cue is swapped in another way

_PER_CLASS = ("loss", "loss_half", "pull", "pull_half")
_OF_CLASSES = ("images", *(f"right_{head}" for head in HEADS))


@dataclass(frozen=True)
class _Header:
    schema: int
    decomposition: str
    class_names: tuple[str, ...]
    n_features: int
    margin: float
    cues: tuple[tuple[str, str], ...]
    left_out: dict[str, str]
    note: str
    sample: str
    made_by: str


def keep(study: Study, cues: Cues) -> None:
    """Write cues into their study, in place of those of a decomposition of the same name.

    Raises:
        SubspectError: it cannot be written, or another file is there.
    """
    header = {
        "n_features": cues.cues[0].moved.size if cues.cues else 0,
        "cues": [(one.name, one.what) for one in cues.cues],
        **{
            name: getattr(cues, name)
            for name in ("decomposition", "class_names", "margin", "left_out", "note", "sample", "made_by")
        },
    }
    FILES.keep(study, cues.decomposition, _tensors(cues), header)


def kept_cues(study: Study, decomposition: Decomposition) -> Cues | None:
    """Return the cues that a study keeps of a decomposition; None where there are none, or none of this very head.

    Raises:
        SubspectError: the file is damaged.
    """
    found = FILES.of(study, decomposition)
    return None if found is None else replace(found, feature_names=study.feature_names)


def _tensors(cues: Cues) -> dict[str, Tensor]:
    arrays: dict[str, npt.NDArray[Any]] = {
        "images": cues.images,
        **{f"right_{head}": cues.right[head] for head in HEADS},
    }
    for number, one in enumerate(cues.cues):
        through, half = one.through.tocsr(), one.through_half.tocsr()
        entries = np.stack(through.nonzero()).astype(np.int64)
        arrays |= {f"{number}.{name}": getattr(one, name) for name in ("moved", "moved_half", *_PER_CLASS)}
        arrays |= {f"{number}.right_{head}": one.right[head] for head in HEADS}
        arrays[f"{number}.entries"] = entries
        for name, values in (("through", through), ("through_half", half)):
            arrays[f"{number}.{name}"] = at_places(values, *entries)
    return {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}


def _read(tensors: Mapping[str, Tensor], values: Mapping[str, Any], path: Path) -> Cues:
    header = as_type(_Header, {key: one for key, one in values.items() if key != "checksum"}, path, "a file of cues")
    n, d, real, whole = len(header.class_names), header.n_features, torch.float64, torch.int64
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = dict.fromkeys(_OF_CLASSES, (whole, (n,)))
    for number in range(len(header.cues)):
        entries = tensors.get(f"{number}.entries", torch.empty(2, 0)).shape[-1]
        wanted |= {f"{number}.{name}": (real, (d,)) for name in ("moved", "moved_half")}
        wanted |= {f"{number}.{name}": (real, (n,)) for name in _PER_CLASS}
        wanted |= {f"{number}.right_{head}": (whole, (n,)) for head in HEADS}
        wanted |= {f"{number}.{name}": (real, (entries,)) for name in ("through", "through_half")}
        wanted[f"{number}.entries"] = (whole, (2, entries))
    numbers = {name: one.where(~one.isnan(), 0) if one.is_floating_point() else one for name, one in tensors.items()}
    if wrong := misfit(numbers, wanted):  # of a class without images there is NaN
        raise SubspectError(f"{path} is not a file of cues: {wrong}")
    arrays = {name: one.numpy() for name, one in tensors.items()}
    return Cues(
        header.decomposition,
        header.class_names,
        arrays["images"],
        header.margin,
        {head: arrays[f"right_{head}"] for head in HEADS},
        tuple(_swapped(arrays, number, *named, (n, d)) for number, named in enumerate(header.cues)),
        header.left_out,
        header.note,
        header.sample,
        header.made_by,
    )


def _swapped(arrays: Mapping[str, Any], number: int, name: str, what: str, shape: tuple[int, int]) -> Swapped:
    own = {key.partition(".")[2]: one for key, one in arrays.items() if key.startswith(f"{number}.")}
    entries, right = own.pop("entries"), {head: own.pop(f"right_{head}") for head in HEADS}
    sparse = {key: csr_matrix((own.pop(key), entries), shape) for key in ("through", "through_half")}
    return Swapped(name, what, **own, **sparse, right=right)


FILES = KeptBeside("cues", "a file of cues", "measure again", SCHEMA, _read)
