"""Every image classifier of timm, torchvision and transformers with random weights, and what subspect finds of it.

Nothing is downloaded: transformers' are built from configurations, small ones of two or more stages. Where a network takes
images of any size they are small, since that changes nothing of what is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import subspect
from _torchvision import importable
from subspect.heads.head import DecomposedHead
from subspect.heads.placing import with_decomposed
from subspect.heads.supports import Supports
from subspect.networks.finding import logits_of

_SIDE = 128  # pixels of images, where a network leaves the choice
_CLASSES = 10
_kept: list[Any] = []  # what torchvision needs

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_VIT = dict(**_SMALL, image_size=64, patch_size=16)
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
_PVT = {
    "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16,
    "sequence_reduction_ratios": [8, 4, 2, 1], "mlp_ratios": [2, 2, 2, 2], "image_size": 64,
}  # fmt: skip
_TOWERS = {"vision_config": _VIT, "text_config": _SMALL}

#: transformers' class → what of its configuration makes it small
TRANSFORMERS: Mapping[str, Mapping[str, Any]] = {
    "BeitForImageClassification": _VIT,
    "BitForImageClassification": {"embedding_size": 32, "depths": [1, 1], "hidden_sizes": [128, 256]},
    "CLIPForImageClassification": _TOWERS,
    "ConvNextForImageClassification": _STAGES,
    "ConvNextV2ForImageClassification": _STAGES,
    "CvtForImageClassification": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "Data2VecVisionForImageClassification": _VIT,
    "DeiTForImageClassification": _VIT,
    "DeiTForImageClassificationWithTeacher": _VIT,
    "Dinov2ForImageClassification": _VIT,
    "Dinov2WithRegistersForImageClassification": _VIT,
    "DonutSwinForImageClassification": _SWIN,
    "EfficientNetForImageClassification": {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.1,
        "hidden_dim": 320,
        "image_size": 64,
    },
    "FocalNetForImageClassification": {"image_size": 64, "embed_dim": 8, "depths": [1, 1]},
    "HGNetV2ForImageClassification": {},
    "HieraForImageClassification": {
        "image_size": [64, 64],
        "embed_dim": 16,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "num_query_pool": 2,
        "masked_unit_size": [4, 4],
    },
    "IJepaForImageClassification": _VIT,
    "LevitForImageClassification": {},
    "LevitForImageClassificationWithTeacher": {},
    "MobileNetV1ForImageClassification": {"depth_multiplier": 0.25},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.25},
    "MobileViTForImageClassification": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 12, 16, 24, 32, 64],
    },
    "MobileViTV2ForImageClassification": {"image_size": 64, "width_multiplier": 0.25},
    "PerceiverForImageClassificationLearned": {
        "num_latents": 8,
        "d_latents": 32,
        "num_self_attends_per_block": 1,
        "num_cross_attention_heads": 4,
        "num_self_attention_heads": 4,
    },
    "PoolFormerForImageClassification": _STAGES,
    "PvtForImageClassification": _PVT,
    "PvtV2ForImageClassification": {**_PVT, "sr_ratios": [8, 4, 2, 1]},
    "RegNetForImageClassification": dict(embedding_size=8, groups_width=8, **_STAGES),
    "ResNetForImageClassification": dict(embedding_size=8, **_STAGES),
    "SegformerForImageClassification": _PVT,
    "SiglipForImageClassification": _TOWERS,
    "SwiftFormerForImageClassification": {},
    "SwinForImageClassification": _SWIN,
    "Swinv2ForImageClassification": _SWIN,
    "ViTForImageClassification": _VIT,
    "ViTMSNForImageClassification": _VIT,
}


#: networks of timm, the smallest of their families, that are large all the same → what makes them smaller
_SMALLER = {
    "beit_base_patch16_224": "depth=2",
    "naflexvit_base_patch16_parfac_gap": "depth=2",
    "samvit_base_patch16_224": "depth=2",
}


def names(library: str, family: bool) -> list[str]:
    """List a library's networks; of each family, which is a module, the smallest with a classifier alone, if so wished."""
    _kept.append(importable())
    if library == "transformers":
        return list(TRANSFORMERS)
    families = _families(library)
    if not family:
        return sorted({name for group in families for name in group})
    smallest = []
    for group in families:
        sizes = [(size, name) for name in group for size, classes in [_size(library, name)] if classes]
        smallest += [min(sizes)[1]] if sizes else []
    return [f"{name}({_SMALLER[name]})" if name in _SMALLER else name for name in smallest]


def _families(library: str) -> list[list[str]]:
    if library == "timm":
        import timm

        return [list(timm.list_models(module=module)) for module in timm.list_modules()]
    from torchvision import models

    groups: dict[str, list[str]] = {}
    for name in models.list_models(module=models):
        groups.setdefault(models.get_model_builder(name).__module__, []).append(name)
    return list(groups.values())


def _size(library: str, name: str) -> tuple[float, int]:
    """Return how many millions of parameters a network has, and how many classes, without making its weights."""
    _kept.append(importable())
    if library == "torchvision":  # whose networks are not all built without numbers
        from torchvision import models

        about = models.get_model_weights(name).DEFAULT.meta
        return about["num_params"] / 1e6, len(about["categories"])
    with torch.device("meta"):
        model = _BUILDERS[library](name)[0]
    millions = sum(one.numel() for one in model.parameters()) / 1e6
    return millions, _classes(library, model)


def _classes(library: str, model: nn.Module) -> int:
    return int(getattr(model, "num_classes", 0)) if library == "timm" else _CLASSES


def _of_timm(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    import timm

    plain, _, options = name.rstrip(")").partition("(")  # as in `timm:NAME(depth=2)`
    given = {key: int(value) for key, value in (one.split("=") for one in options.split(",") if one)}
    model: Any = timm.create_model(plain, pretrained=False, **given)
    about = model.pretrained_cfg
    size = tuple(about["input_size"])
    if about.get("fixed_input_size"):
        return model.eval(), size
    least = (about.get("min_input_size") or size)[1]
    return model.eval(), (size[0], *(min(one, max(_SIDE, least)) for one in size[1:]))


def _of_torchvision(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision import models

    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    side = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return model.eval(), (3, side, side) if name.startswith(("vit", "maxvit")) else (3, _SIDE, _SIDE)


def _of_transformers(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    import transformers

    kind: Any = getattr(transformers, name)
    config = kind.config_class(**TRANSFORMERS[name], num_labels=_CLASSES)
    about = getattr(config, "vision_config", config)
    side = getattr(about, "image_size", None) or 64
    side = side if isinstance(side, int) else side[0]
    return kind(config).eval(), (getattr(about, "num_channels", 3), side, side)


_BUILDERS: Mapping[str, Callable[[str], tuple[nn.Module, tuple[int, ...]]]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "transformers": _of_transformers,
}
LIBRARIES = tuple(_BUILDERS)


class Found(NamedTuple):
    """What was found of a network.

    Attributes:
        name: of the network.
        result: "found", "explained" (no head, and the reason), "wrong", "crashed", "large" or "no classifier".
        millions: of parameters.
        head: as `subspect.Head.name`.
        features: how many.
        maps: whether there are maps.
        reason: why there is no head, or there are no maps.
    """

    name: str
    result: str
    millions: float = 0.0
    head: str = ""
    features: int = 0
    maps: bool = False
    reason: str = ""


def looked_at(library: str, name: str, most: float = float("inf")) -> Found:
    """Build a network with random weights and say what is found of it, if it has no more than some millions of parameters."""
    _kept.append(importable())
    if most < float("inf") and _size(library, name)[0] > most:
        return Found(name, "large")
    torch.manual_seed(0)
    model, size = _BUILDERS[library](name)
    row = Found(name, "no classifier", round(sum(one.numel() for one in model.parameters()) / 1e6, 2))
    if not _classes(library, model):
        return row
    for parameter in model.parameters():  # zeros, as of classifiers, would hide that a head is the wrong one
        if not bool(parameter.detach().any()):
            nn.init.normal_(parameter, std=0.02)
    network = subspect.Network(model)
    try:
        head = network.find_head(torch.randn(2, *size))
    except subspect.SubspectError as error:
        failed = str(error).startswith("the network failed")
        return row._replace(result="crashed" if failed else "explained", reason=str(error))
    pixels = torch.randn(2, *size)
    read = subspect.read_maps(network, pixels)
    return row._replace(
        result="found" if _right(network, pixels, read.logits) else "wrong",
        head=head.name,
        features=head.n_features,
        maps=read.maps is not None,
        reason=read.reason,
    )


def _right(network: subspect.Network, pixels: Tensor, wanted: Tensor) -> bool:
    """Tell whether a decomposed head that keeps every feature says what the network says."""
    head = network.head
    whole = Supports([range(head.n_features)] * head.n_classes, head.n_features)
    layer = DecomposedHead(whole, head.weight.flatten(), head.bias)
    with network.running():
        said = logits_of(with_decomposed(network.model, head.name, layer).eval()(pixels), head, len(pixels))
    return bool((said - wanted).abs().max() <= 1e-3 * max(1.0, float(wanted.abs().max())))


TABLE = "| library | network | head | features | maps |\n| --- | --- | --- | --- | --- |"


def as_row(library: str, found: Found) -> str:
    """Return what was found of a network as a row of the table in docs/architectures.md."""
    if found.result != "found":
        why = re.search(r"nor a sum of some: (.*?); pass head=", found.reason)
        return f"| {library} | `{found.name}` | none | | {why[1] if why else found.result} |"
    head = found.head.replace("|", "\\|")
    return f"| {library} | `{found.name}` | `{head}` | {found.features} | {'yes' if found.maps else found.reason} |"
