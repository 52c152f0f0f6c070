"""One image to be explained: a file, a picture or an array in memory, as the network gets it and as a person looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from subspect.ground.errors import NoPicture, SubspectError, Unusable
from subspect.images.decoding import decode, to_rgb
from subspect.images.inputs import Pixels, inputs_from, plain, shape_of
from subspect.images.preprocessing import AnyPreprocessing, view, visible
from subspect.networks.maps import Read, read_maps
from subspect.networks.network import Network
from subspect.studies.same_network import head_of

_CHANNELS = ((), (2,), (3,), (4,))  # grey, or as the last axis of an array: with alpha, RGB, RGB with alpha


class OneImage(NamedTuple):
    """An image to explain.

    Attributes:
        name: what it is called.
        pixels: as the network gets it.
        picture: what the network sees of it; the picture as it was given where the preprocessing makes none of it, None
            where what was given is none.
        in_place: whether places in ``picture`` are those that the network sees.
    """

    name: str
    pixels: Pixels
    picture: Image.Image | None
    in_place: bool


def one_image(preprocessing: AnyPreprocessing | None, image: object, name: str | None) -> OneImage:
    """Return an image as a study's network gets it.

    Args:
        preprocessing: of the study; None where its images were given ready for the network.
        image: a file, a Pillow image or a uint8 array; without preprocessing a floating array or tensor.
        name: what the image is called; its path unless given.

    Raises:
        SubspectError: not such an image, or one that the preprocessing can't use.
    """
    if preprocessing is None:
        pixels = _ready(image)
        try:
            return OneImage(name or "image", pixels, visible(pixels), True)
        except NoPicture:
            return OneImage(name or "image", pixels, None, False)
    given, name = open_picture(image, name)
    try:
        pixels = preprocessing(given)
        seen = seen_by(preprocessing, given)
    except Unusable as error:
        raise SubspectError(f"cannot use {name}: {error}") from error
    return OneImage(name, pixels, seen or given, seen is not None)


def _ready(image: object) -> Pixels:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        return torch.from_numpy(np.array(image, np.float32))
    if isinstance(image, torch.Tensor) and image.is_floating_point():
        return image.detach().cpu().float()
    if isinstance(image, Mapping):
        return plain(inputs_from(image))
    if isinstance(image, torch.Tensor | np.ndarray) and image.ndim == 1 and "int" in str(image.dtype):  # tokens
        return torch.as_tensor(image).long()
    raise SubspectError(
        "the study's images were given as tensors, ready for the network, so that one to explain must be such a tensor or "
        f"floating array too, of the shape of one of them: from Python, subspect.explain(…, images[0]); got {what_it_is(image)}"
    )


def seen_by(preprocessing: AnyPreprocessing, picture: Image.Image) -> Image.Image | None:
    """Return what the network sees of a picture; None where that is none.

    Raises:
        Unusable: the picture is smaller than the crop.
    """
    try:
        return view(preprocessing, picture)
    except NoPicture:
        return None


def read_one(network: Network, image: OneImage) -> Read:
    """Run one image through the network of a study.

    Raises:
        SubspectError: it fails, as on an image of another shape than those that were observed.
    """
    batch = image.pixels[None]
    try:
        head_of(network, batch)
        with network.running():
            return read_maps(network, batch)
    except SubspectError:
        raise
    except Exception as error:  # of the network's own
        raise SubspectError(
            f"cannot use {image.name}: the network failed on {shape_of(batch)}: {error}; give an image of the shape of "
            "those that were observed"
        ) from error


def open_picture(image: object, name: str | None = None) -> tuple[Image.Image, str]:
    """Return an image to explain as RGB, and what it is called.

    Raises:
        SubspectError: not an image.
    """
    try:
        if isinstance(image, str | Path):
            return decode(Path(image)), name or str(image)
        if isinstance(image, Image.Image):
            return to_rgb(image), name or "image"
        if (
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.ndim > 1
            and image.shape[2:] in _CHANNELS
        ):
            return to_rgb(Image.fromarray(image)), name or "image"
    except Unusable as error:
        raise SubspectError(f"cannot use {image if isinstance(image, str | Path) else 'the image'}: {error}") from error
    raise SubspectError(
        f"an image to explain is a file, a Pillow image or a uint8 array (height, width, 3); got {what_it_is(image)}"
    )


def what_it_is(image: object) -> str:
    """Say in a message what was given for an image."""
    kind = type(image).__name__
    if isinstance(image, str | Path):
        return f"the file {image}"
    return f"{kind} of {image.dtype} {tuple(image.shape)}" if isinstance(image, np.ndarray | torch.Tensor) else kind
