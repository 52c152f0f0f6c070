"""The file in which a study keeps which filters decide: ``filters/NAME.safetensors``, beside the decomposition of that name.

It tells by fingerprints which decomposed head and which images it is about; what fits no more is looked at anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subspect.ground.errors import SubspectError
from subspect.ground.schemas import as_type, misfit
from subspect.heads.decomposition import Decomposition
from subspect.studies.kept_beside import KeptBeside
from subspect.studies.study import Study
from subspect.tracing.result import AblatedFilters, EssentialFilters, Filters, LayerFilters

SCHEMA = 1  #: goes up when filters are scored in another way

_WHAT = "a file of filters"
_OF_CLASSES = ("images", "closed_on", "right")
_ABOUT = (
    "decomposition",
    "class_names",
    "labels",
    "features",
    "share",
    "ids",
    "image_set",
    "note",
    "sample",
    "made_by",
)


@dataclass(frozen=True)
class _Layer:
    name: str
    channels: int
    places: int
    activated: bool
    tried: int
    draws: int


@dataclass(frozen=True)
class _Header:
    schema: int
    decomposition: str
    class_names: tuple[str, ...]
    labels: tuple[int, ...]
    features: tuple[int, ...]
    of_class: tuple[tuple[int, ...], ...]
    share: float
    ids: tuple[str, ...]
    image_set: str
    note: str
    sample: str
    made_by: str
    settings: dict[str, int]
    layers: tuple[_Layer, ...]
    shown: int


def keep(study: Study, filters: Filters) -> None:
    """Write filters into their study, in place of those of a decomposition of the same name.

    Raises:
        SubspectError: it cannot be written, or another file is there.
    """
    header = {
        **{name: getattr(filters, name) for name in _ABOUT},
        "of_class": [filters.of_class[label] for label in filters.labels],
        "settings": dict(filters.settings),
        "layers": [
            {
                "name": layer.name,
                "channels": layer.channels,
                "places": layer.places,
                "activated": layer.activated,
                "tried": 0 if layer.ablated is None else len(layer.ablated.channels),
                "draws": 0 if layer.essential is None else len(layer.essential.random),
            }
            for layer in filters.layers
        ],
        "shown": len(filters.layers[0].peaks),
    }
    FILES.keep(study, filters.decomposition, _tensors(filters), header)


def kept_filters(study: Study, decomposition: Decomposition) -> Filters | None:
    """Return the filters that a study keeps of a decomposition; None where there are none, or none of this very head.

    Raises:
        SubspectError: the file is damaged.
    """
    found = FILES.of(study, decomposition)
    return None if found is None else replace(found, feature_names=study.feature_names)


def _tensors(filters: Filters) -> dict[str, Tensor]:
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(filters, name) for name in _OF_CLASSES}
    arrays["of_images"] = np.array(filters.of_images, np.int64)
    for number, layer in enumerate(filters.layers):
        arrays |= {f"{number}.{name}": getattr(layer, name) for name in ("effect", "signed", "by_feature", "mean")}
        arrays[f"{number}.peaks"] = np.where(layer.images >= 0, layer.peaks, 0)  # of fewer images there is −inf
        arrays[f"{number}.images"] = layer.images
        if layer.ablated is not None:
            arrays[f"{number}.ablated"] = layer.ablated.channels
            arrays[f"{number}.ablated_effect"] = layer.ablated.effect
        if layer.essential is not None:
            arrays[f"{number}.own"] = layer.essential.own
            arrays[f"{number}.random"] = layer.essential.random
    return {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}


def _read(tensors: Mapping[str, Tensor], values: Mapping[str, Any], path: Path) -> Filters:
    header = as_type(_Header, {key: one for key, one in values.items() if key != "checksum"}, path, _WHAT)
    numbers = {  # of a class without images there is NaN
        name: one.where(~one.isnan(), 0) if name.endswith("ablated_effect") else one for name, one in tensors.items()
    }
    if wrong := misfit(numbers, _wanted(header)) or _odd(header, tensors):
        raise SubspectError(f"{path} is not {_WHAT}: {wrong}")
    arrays = {name: one.numpy() for name, one in tensors.items()}
    about: dict[str, Any] = {name: getattr(header, name) for name in _ABOUT}
    about |= {name: arrays[name] for name in _OF_CLASSES}
    return Filters(
        **about,
        of_images=tuple(arrays["of_images"].tolist()),
        of_class=dict(zip(header.labels, header.of_class, strict=True)),
        settings=header.settings,
        layers=tuple(_layer(arrays, number, one) for number, one in enumerate(header.layers)),
    )


def _wanted(header: _Header) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    real, whole = torch.float32, torch.int64
    c, f = len(header.labels), len(header.features)
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = dict.fromkeys(_OF_CLASSES, (whole, (c,)))
    wanted["of_images"] = whole, (len(header.ids),)
    for number, one in enumerate(header.layers):
        n = one.channels
        shapes = {
            **{"effect": (real, (c, n)), "signed": (real, (c, n)), "by_feature": (real, (f, n)), "mean": (real, (n,))},
            **{"peaks": (real, (header.shown, n)), "images": (whole, (header.shown, n))},
        }
        if one.tried:
            shapes |= {"ablated": (whole, (one.tried, c)), "ablated_effect": (real, (one.tried, c))}
        if one.draws:
            shapes |= {"own": (whole, (c,)), "random": (whole, (one.draws, c))}
        wanted |= {f"{number}.{name}": shape for name, shape in shapes.items()}
    return wanted


def _odd(header: _Header, tensors: Mapping[str, Tensor]) -> str:
    """Say what in a file points to nothing, or is no effect; nothing where all is well."""
    n = len(header.class_names)
    if not header.layers or len(header.of_class) != len(header.labels) or not 0 < header.share < 1:
        return "it has no layers, or another number of classes than it says"
    known = all(0 <= label < n for label in header.labels)
    if not known or not {feature for own in header.of_class for feature in own} <= set(header.features):
        return "it names classes or features that it doesn't have"
    if set(header.settings) != {"ablate", "ablate_sample", "repeats", "seed"} or min(header.settings.values()) < 0:
        return "its settings are not those of filters"
    limits = {"of_images": (0, n)}
    for number, one in enumerate(header.layers):
        limits |= {f"{number}.images": (-1, len(header.ids)), f"{number}.ablated": (0, one.channels)}
        if any(bool((tensors[f"{number}.{name}"] < 0).any()) for name in ("effect", "by_feature")):
            return f"{number}.effect is below 0"
    for name, (least, end) in limits.items():
        given = tensors.get(name)
        if given is not None and given.numel() and not (least <= int(given.amin()) and int(given.amax()) < end):
            return f"{name} points to nothing"
    return ""


def _layer(arrays: Mapping[str, Any], number: int, about: _Layer) -> LayerFilters:
    own = {key.partition(".")[2]: one for key, one in arrays.items() if key.startswith(f"{number}.")}
    return LayerFilters(
        name=about.name,
        places=about.places,
        activated=about.activated,
        **{name: own[name] for name in ("effect", "signed", "by_feature", "mean", "images")},
        peaks=np.where(own["images"] >= 0, own["peaks"], np.float32(-np.inf)),
        ablated=AblatedFilters(own["ablated"], own["ablated_effect"]) if about.tried else None,
        essential=EssentialFilters(own["own"], own["random"]) if about.draws else None,
    )


FILES = KeptBeside("filters", _WHAT, "look again", SCHEMA, _read)
