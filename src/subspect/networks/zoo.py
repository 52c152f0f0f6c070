"""Networks of timm, torchvision and Hugging Face by name, with the preprocessing and the class names that belong to them.

None of the three packages is imported before a name of its is asked for.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.packages import check_reachable, package, reading
from subspect.images.preprocessing import Preprocessing, PreprocessingLike

log = logging.getLogger("subspect")

_WEIGHTS = "give its weights by --weights FILE (weights=)"


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        model: the network.
        preprocessing: what belongs to it, where that is known.
        class_names: likewise.
        untrained: whether its weights are random, as it was asked for.
    """

    model: nn.Module
    preprocessing: PreprocessingLike | None = None
    class_names: Sequence[str] | None = None
    untrained: bool = False


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        spec: the name as the user wrote it, for messages.
        name: the same without the scheme and the arguments.
        arguments: what the network is built with besides; only without pretrained weights.
        pretrained: whether to load the weights that go by that name.
        prepared: whether the user gives the preprocessing, so that none is looked for.
    """

    spec: str
    name: str
    arguments: Mapping[str, Any]
    pretrained: bool
    prepared: bool = False


def load_named(scheme: str, asked: Asked) -> Named:
    """Build a network of one of the `SCHEMES`.

    Raises:
        SubspectError: there is no such network, its weights can't be had, or it is built with other arguments than
            pretrained weights fit.
        MissingExtra: the package is not installed.
    """
    name, load = SCHEMES[scheme]
    zoo = package(name, scheme, f"the network {asked.spec}")
    wanted, asked = asked.pretrained, _untrained(asked)
    if asked.arguments and asked.pretrained:
        raise SubspectError(
            f"{asked.spec}: pretrained weights are for the network as it stands; with arguments, {_WEIGHTS}, or add "
            "pretrained=False to have it untrained"
        )
    return replace(load(zoo, asked), untrained=wanted and not asked.pretrained)


def _untrained(asked: Asked) -> Asked:
    """Read ``pretrained=False``, in torchvision's words ``weights=None``, out of the arguments.

    Raises:
        SubspectError: the one or the other with another value.
    """
    said = {key: asked.arguments[key] for key in ("pretrained", "weights") if key in asked.arguments}
    for key, value in said.items():
        if value is not {"pretrained": False, "weights": None}[key]:
            raise SubspectError(
                f"{asked.spec}: got {key}={shortened(repr(value))}; expected pretrained=False (or weights=None) for an "
                "untrained network, or neither; weights go by the network's name, those of a file by --weights FILE (weights=)"
            )
    arguments = {key: value for key, value in asked.arguments.items() if key not in said}
    return replace(asked, arguments=arguments, pretrained=asked.pretrained and not said)


def readings(name: str) -> list[str]:
    """List the networks that a name without a scheme may stand for, among the packages that are installed."""
    found = []
    if (Path(name) / "config.json").is_file():  # as timm and Hugging Face both call it
        found += [f"hf:{name}", f"timm:local-dir:{name}"]
    for scheme, has in (("timm", _timm_has), ("torchvision", _torchvision_has)):
        try:
            found += [f"{scheme}:{name}"] if has(package(scheme, scheme, "naming a network"), name) else []
        except SubspectError:  # it is not installed, or does not fit torch
            continue
    return found + ([f"hf:{name}"] if not found and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else [])


def _timm_has(timm: Any, name: str) -> bool:
    return bool(timm.is_model(name))


def _torchvision_has(torchvision: Any, name: str) -> bool:
    models = torchvision.models
    builders = models.list_models(module=models)
    return name in builders or name.partition(".")[0] in {models.get_model_weights(one).__name__ for one in builders}


# timm -----------------------------------------------------------------------------------------------------------------


class TimmTransform:
    """A transform of timm's that no `Preprocessing` expresses; it is known by what it was made from.

    Args:
        transform: from RGB image to tensor.
        config: what it was made from.
    """

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor], config: Mapping[str, Any]) -> None:
        self.transform, self.config = transform, dict(config)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB image into a tensor (channels, height, width)."""
        return self.transform(image)

    def __repr__(self) -> str:
        return f"timm.data.create_transform({', '.join(f'{key}={one!r}' for key, one in sorted(self.config.items()))})"


def _timm(timm: Any, asked: Asked) -> Named:
    source, colon, place = asked.name.partition(":")
    if not colon:
        _check_timm_name(timm, asked)
    elif source == "local-dir" and not Path(place).is_dir():
        raise SubspectError(f"{asked.spec}: no such folder: {place} (looked in {Path.cwd()})")
    hub = asked.pretrained if not colon else source != "local-dir"
    instead = "name a folder that holds it, timm:local-dir:FOLDER" if colon else _WEIGHTS
    with reading(asked.spec, hub=hub, instead=instead):
        model = timm.create_model(asked.name, pretrained=asked.pretrained, **asked.arguments)
    config = timm.data.resolve_model_data_config(model)
    return Named(model, _timm_preprocessing(timm, config), _timm_names(timm, model))


def _check_timm_name(timm: Any, asked: Asked) -> None:
    """Make sure that timm has a network of this name, and weights if they are asked for.

    Raises:
        SubspectError: it hasn't; the message lists names that are near.
    """
    architecture, _, tag = asked.name.partition(".")
    if "/" in asked.name:
        raise SubspectError(
            f"{asked.spec}: name a repository by timm:hf-hub:{asked.name}, or a folder by timm:local-dir:{asked.name}"
        )
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise SubspectError(
            f"{asked.spec}: timm has no network {architecture!r}{near(architecture, known)} among its {len(known):,}"
        )
    weights = timm.list_pretrained(f"{architecture}.*") + timm.list_pretrained(architecture)
    if tag and asked.name not in weights:
        raise SubspectError(
            f"{asked.spec}: timm has no weights {tag!r} for {architecture}{near(asked.name, weights)}; it has: "
            f"{some(sorted(weights), 8) or 'none'}"
        )
    if asked.pretrained and not weights and not timm.is_model_pretrained(architecture):
        config = timm.models.get_pretrained_cfg(architecture)
        if config is not None and not config.has_weights:  # names that timm replaced have no entry of their own
            raise SubspectError(f"{asked.spec}: timm has no weights for {architecture}; {_WEIGHTS}")


def _timm_preprocessing(timm: Any, config: Mapping[str, Any]) -> PreprocessingLike:
    """Return what timm does to images in evaluation, as a Preprocessing where one does the same."""
    own = TimmTransform(timm.data.create_transform(**config), config)
    channels, height, width = config["input_size"]
    mode, share = config["crop_mode"], config["crop_pct"]
    short, wide = math.floor(height / share), math.floor(width / share)
    if share > 1 or mode == "border" or (mode != "squash" and short != wide) or channels != len(config["mean"]):
        return own  # pads the image, or scales it by its shape
    return _expressed(
        own,
        resize=(short, wide) if mode == "squash" else short,
        crop=height if height == width else (height, width),
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
    )


def _expressed(own: PreprocessingLike, **fields: Any) -> PreprocessingLike:
    """Return a Preprocessing, or the package's own transform where there is none with these values."""
    try:
        return Preprocessing(**fields)
    except SubspectError:
        return own


def _timm_names(timm: Any, model: Any) -> Sequence[str] | None:
    """Return the names of classes that come with the weights, or else ImageNet's where the number of classes is ImageNet's."""
    config = model.pretrained_cfg
    names, described = config.get("label_names"), config.get("label_descriptions")
    if names:
        numbered = {
            int(index): name for index, name in (names.items() if isinstance(names, Mapping) else enumerate(names))
        }
        if sorted(numbered) != list(range(model.num_classes)):
            return None
        return [(described or {}).get(numbered[index], numbered[index]) for index in range(model.num_classes)]
    subset = timm.data.infer_imagenet_subset(model)
    return timm.data.ImageNetInfo(subset).label_descriptions() if subset else None


# torchvision ----------------------------------------------------------------------------------------------------------


#: what scales its input once more, which torchvision switches on with the pretrained weights only
_OWN_SCALE = ("googlenet", "inception_v3")


def _torchvision(torchvision: Any, asked: Asked) -> Named:
    models = torchvision.models
    name, weights = _torchvision_choice(models, asked)
    arguments = dict(asked.arguments)
    if asked.pretrained:
        check_reachable(asked.spec, weights.url, _WEIGHTS)
    elif name in _OWN_SCALE:
        arguments = {"transform_input": True, "init_weights": False, **arguments}
    with reading(asked.spec, hub=False, instead=_WEIGHTS):
        model = models.get_model(name, weights=weights if asked.pretrained else None, **arguments)
    names = weights.meta.get("categories")
    if arguments.get("num_classes", len(names or ())) != len(names or ()):
        names = None
    return Named(model, _torchvision_preprocessing(weights.transforms()), names)


def _torchvision_choice(models: Any, asked: Asked) -> tuple[str, Any]:
    """Return the name of a builder and the weights that go with it.

    Raises:
        SubspectError: torchvision has no such classifier or weights; the message lists names that are near.
    """
    builders = models.list_models(module=models)
    known = {models.get_model_weights(name).__name__: name for name in builders}
    name, dot, member = asked.name.partition(".")
    if name in builders and not dot:
        return name, models.get_model_weights(name).DEFAULT
    if name not in known:
        raise SubspectError(
            f"{asked.spec}: torchvision has no image classifier {asked.name!r}{near(name, [*builders, *known])}; it has: "
            f"{some(builders, 8)}"
        )
    enum = models.get_model_weights(known[name])
    members = list(enum.__members__)
    if member not in members:
        raise SubspectError(
            f"{asked.spec}: {name} has no {member!r}{near(member, members)}; it has: {some(members, 8)}"
        )
    return known[name], enum[member]


def _torchvision_preprocessing(transform: Any) -> PreprocessingLike:
    """Return what torchvision does to images in evaluation, as a Preprocessing where one does the same."""
    if type(transform).__name__ != "ImageClassification" or len(transform.resize_size) != 1:
        own: PreprocessingLike = transform
        return own
    return _expressed(
        transform,
        resize=transform.resize_size[0],
        crop=transform.crop_size[0],
        mean=transform.mean,
        std=transform.std,
        interpolation=transform.interpolation.value,
    )


# Hugging Face ---------------------------------------------------------------------------------------------------------


def _hugging_face(transformers: Any, asked: Asked) -> Named:
    folder = Path(asked.name).expanduser()
    local = folder.is_dir()
    if local and asked.name == str(folder) and _is_cached(asked.name):
        raise SubspectError(
            f"{asked.spec} is a folder here and a repository of Hugging Face that was fetched before; name the folder as "
            f"hf:./{asked.name}, or rename it to use the repository"
        )
    if not local and (asked.name.startswith((".", "/", "~")) or asked.name.count("/") > 1):
        raise SubspectError(
            f"{asked.spec}: no such folder: {asked.name} (looked in {Path.cwd()}){_folders_near(folder)}"
        )
    place = str(folder) if local else asked.name
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
    if not asked.prepared and (not local or _has_processor(folder)):
        _check_torchvision(asked)
    instead = f"name a folder that holds it, hf:FOLDER; there is no folder {asked.name}{_folders_near(folder)}"
    with reading(asked.spec, hub=not local, instead=instead):
        model = _hugging_face_model(transformers, asked, place, options)
        if asked.prepared:
            return Named(model)
        if local and not _has_processor(folder):
            log.info(
                "%s has no preprocessor_config.json, so it is not known how images are prepared: give --resize, --crop, --mean "
                "and --std (preprocessing=), unless a study says it",
                folder,
            )
            return Named(model)
        return Named(model, transformers.AutoImageProcessor.from_pretrained(place, **options))


def _hugging_face_model(transformers: Any, asked: Asked, place: str, options: Mapping[str, Any]) -> nn.Module:
    """Build a network, with its weights if they are asked for.

    Raises:
        SubspectError: some of them aren't there, in whose place numbers would be drawn.
    """
    builder = transformers.AutoModelForImageClassification
    if not asked.pretrained:
        config = transformers.AutoConfig.from_pretrained(place, **options, **asked.arguments)
        made: nn.Module = builder.from_config(config, trust_remote_code=False)
        return made
    model, told = builder.from_pretrained(place, output_loading_info=True, **options)
    missing = sorted(told["missing_keys"])
    if missing:
        raise SubspectError(
            f"{asked.spec} has no weights for {some(missing)}, which would be drawn at random: it was not trained to classify, "
            f"or to other classes; {_WEIGHTS}"
        )
    loaded: nn.Module = model
    return loaded


def _is_cached(name: str) -> bool:
    """Tell whether a repository's configuration is in the cache of Hugging Face."""
    from huggingface_hub import try_to_load_from_cache

    plain = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None
    return plain and isinstance(try_to_load_from_cache(name, "config.json"), str)


def _folders_near(folder: Path) -> str:
    """Return a hint at folders beside one that is not there, whose names are near; or nothing."""
    try:
        return near(folder.name, sorted(one.name for one in folder.parent.iterdir() if one.is_dir()))
    except OSError:
        return ""


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))


def _check_torchvision(asked: Asked) -> None:
    """Make sure that torchvision, which image processors use where it is installed, can be imported.

    Raises:
        SubspectError: it is there, and doesn't fit torch.
    """
    if find_spec("torchvision") is not None:
        package("torchvision", "torchvision", f"the preprocessing of {asked.spec}")


#: the package that a scheme stands for, and what loads a network of it
SCHEMES: Mapping[str, tuple[str, Callable[[Any, Asked], Named]]] = {
    "timm": ("timm", _timm),
    "torchvision": ("torchvision", _torchvision),
    "hf": ("transformers", _hugging_face),
}
