"""From a decoded RGB image to the numbers that a network expects: resize, centre crop, scale, normalise.

Wrong preprocessing costs accuracy without raising an error, so there is no silent default: the network declares it, or the
user gives all four of resize, crop, mean and std. It is part of a study's identity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image

from subspect.ground.errors import NoPicture, SubspectError, Unusable
from subspect.ground.text import counted
from subspect.images.inputs import Inputs, Pixels, shape_of
from subspect.images.processors import Processor, is_processor

INPUT_PIXELS = 2**24  #: more pixels of one image are not given to a network
LEAST_STD = 1e-6  #: pixels divided by less would be no numbers that a network could use, or infinite

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop, ``(pixel / 255 − mean) / std``, in this order, as torchvision does on Pillow images.

    Attributes:
        resize: length of the short side in pixels, or (height, width) in pixels; None keeps the size.
        crop: side of the square cut from the centre in pixels, or (height, width); None cuts nothing.
        mean: mean of each channel, on pixels scaled to 0…1; three numbers for RGB, one for a grey-scale network; None
            subtracts nothing.
        std: standard deviation of each channel, on the same scale; None divides by nothing. None for both leaves RGB as it is.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; only used with ``resize``.

    Raises:
        SubspectError: a value is invalid; the message says which.

    Example:
        >>> seen = subspect.Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> seen.crop
        224
    """

    resize: int | tuple[int, int] | None
    crop: int | tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "resize", _size("resize", self.resize))
        object.__setattr__(self, "crop", _size("crop", self.crop))
        mean, std = _channels("mean", self.mean), _channels("std", self.std)
        count = len(mean or std or "RGB")
        object.__setattr__(self, "mean", mean or (0.0,) * count)
        object.__setattr__(self, "std", std or (1.0,) * count)
        if len(self.mean) != len(self.std):
            raise SubspectError(
                f"mean has {counted(len(self.mean), 'channel', 'channels')} and std has {len(self.std)}; give the same "
                "number of both"
            )
        if min(self.std) < LEAST_STD:
            raise SubspectError(f"std must be positive, got {self.std}; the smallest allowed value is {LEAST_STD:g}")
        if max(map(abs, self.mean)) > 1 or max(self.std) > 1:
            raise SubspectError(
                f"mean {self.mean} and std {self.std} must be on pixels scaled to 0…1; divide yours by 255"
            )
        if not isinstance(self.interpolation, str) or self.interpolation not in _FILTERS:
            raise SubspectError(f"interpolation must be one of {', '.join(_FILTERS)}; got {self.interpolation!r}")

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB image into a float32 tensor (channels, height, width).

        Raises:
            Unusable: the image is smaller than the crop, or too large, resized or as the network would get it.
        """
        image = self._cut(image)
        if len(self.mean) == 1:
            image = image.convert("L")
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        result = np.empty((len(self.mean), image.height, image.width), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            plane = result[channel]
            np.divide(pixels[..., channel], np.float32(255), out=plane, dtype=np.float32)
            plane -= np.float32(mean)
            plane /= np.float32(std)
        return torch.from_numpy(result)

    def view(self, image: Image.Image) -> Image.Image:
        """Return what the network sees of an RGB image, for display: resized and cropped, but not normalised.

        Raises:
            Unusable: as for the call.
        """
        image = self._cut(image)
        return image.convert("L").convert("RGB") if len(self.mean) == 1 else image

    def describe(self) -> dict[str, Any]:
        """Return what identifies it, as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        def step(name: str, value: int | tuple[int, int] | None) -> str:
            size = f"{value[0]}×{value[1]}" if isinstance(value, tuple) else str(value)
            return f"no {name}" if value is None else f"{name} {size}"

        how = f" ({self.interpolation})" if self.resize is not None else ""
        steps = f"{step('resize', self.resize)}{how}, {step('centre crop', self.crop)}"
        return f"{steps}, mean {_short(self.mean)}, std {_short(self.std)}"

    def _cut(self, image: Image.Image) -> Image.Image:
        """Resize and crop, once it is sure that neither the way nor the result takes too much memory.

        Raises:
            Unusable: it does, or the image is smaller than the crop.
        """
        width, height = self._resized(image)
        if self.resize is not None:
            check_pixels(width, height, "resized it would have")
            check_pixels(width, image.height, "while it is resized it would have")  # Pillow makes rows shorter first
        crop_height, crop_width = self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)
        crop_width, crop_height = crop_width or width, crop_height or height
        if width < crop_width or height < crop_height:
            raise Unusable(f"{width}×{height} pixels is smaller than the crop of {crop_width}×{crop_height}")
        if crop_width * crop_height > INPUT_PIXELS:
            raise Unusable(
                f"the network would get {crop_width:,}×{crop_height:,} pixels, more than the limit of {INPUT_PIXELS:,} per "
                "image; give a smaller resize or crop"
            )
        if self.resize is not None:
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if self.crop is None:
            return image
        left, top = round((width - crop_width) / 2), round((height - crop_height) / 2)
        return image.crop((left, top, left + crop_width, top + crop_height))

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """Return width and height after the resize."""
        if 0 in image.size:
            raise Unusable(f"{image.width}×{image.height} pixels: there is nothing to see")
        if self.resize is None:
            return image.size
        if isinstance(self.resize, tuple):
            height, width = self.resize
            return width, height
        short, long = sorted(image.size)
        other = self.resize * long // short
        return (self.resize, other) if image.width <= image.height else (other, self.resize)


class Transform:
    """A preprocessing written by the user, such as a torchvision transform: a callable from RGB image to tensor.

    It is identified by its ``repr``, which must therefore describe everything it does and contain no memory address.

    Raises:
        SubspectError: its ``repr`` doesn't identify it.
    """

    def __init__(self, function: Callable[[Image.Image], torch.Tensor]) -> None:
        self.function = function
        if re.search(r"\bat 0x[0-9a-fA-F]+", repr(function)):
            raise SubspectError(
                f"the preprocessing {function!r} cannot be identified by its repr; give it a __repr__ that describes what it "
                "does, or declare a subspect.Preprocessing"
            )

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB image into a float32 tensor (channels, height, width).

        Raises:
            SubspectError: it returned something else.
        """
        result: Any = self.function(image)
        if not isinstance(result, torch.Tensor):
            raise SubspectError(f"the preprocessing {self} must return a tensor; got {type(result).__name__}")
        return result.float()

    def describe(self) -> dict[str, Any]:
        """Return what identifies it, as JSON values."""
        return {"transform": repr(self.function)}

    def __str__(self) -> str:
        return " ".join(repr(self.function).split())


AnyPreprocessing = Preprocessing | Transform
PreprocessingLike = AnyPreprocessing | Mapping[str, Any] | Callable[[Image.Image], torch.Tensor]
#: a Preprocessing, a mapping with its fields, a callable from RGB image to tensor, or an image processor of Hugging Face
GIVEN_AS_TENSORS: dict[str, Any] = {"given": "tensors, ready for the network"}
GIVEN_AS_FEATURES: dict[str, Any] = {"given": "features"}  #: by no network that subspect ran


def check_pixels(width: int, height: int, what: str = "it has", share: int = 1) -> None:
    """Refuse more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, before memory is allocated.

    Args:
        width: in pixels; the total number of pixels if ``height`` is 1.
        height: in pixels.
        what: what would have that many pixels, for the message.
        share: the divisor of the limit: 2 allows half of it.

    Raises:
        Unusable: there are more; the message names both numbers.
    """
    most = None if Image.MAX_IMAGE_PIXELS is None else Image.MAX_IMAGE_PIXELS // share
    if most is not None and width * height > most:
        size = f"{width:,}" if height == 1 else f"{width:,}×{height:,}"
        raise Unusable(
            f"{what} {size} pixels, more than the limit of {most:,}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS "
            f"({Image.MAX_IMAGE_PIXELS:,})"
        )


def view(preprocessing: AnyPreprocessing, image: Image.Image) -> Image.Image:
    """Return what the network sees of an RGB image, for display: resized and cropped, but not normalised.

    A user's transform is shown by its result, stretched to visible values.

    Raises:
        Unusable: the image is smaller than the crop.
        NoPicture: the transform's result is not a picture.
    """
    return preprocessing.view(image) if isinstance(preprocessing, Preprocessing) else visible(preprocessing(image))


def visible(tensor: Pixels) -> Image.Image:
    """Stretch a tensor (channels, height, width), however it is normalised, to a picture.

    Raises:
        NoPicture: the shape is different, or the number of channels is neither 1 nor 3.
    """
    if isinstance(tensor, Inputs) or tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise NoPicture(f"a tensor of shape {shape_of(tensor)} is not a picture")
    low, high = tensor.min(), tensor.max()
    pixels = ((tensor - low) / (high - low).clamp_min(1e-12) * 255).byte().expand(3, -1, -1).permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels))


def from_description(described: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that `Preprocessing.describe` described, as a study records it.

    Raises:
        SubspectError: it was a user's transform, or the images were given as tensors.
    """
    if set(described) != {field.name for field in fields(Preprocessing)}:
        raise SubspectError(
            f"the study's images were prepared by {described}, which can't be rebuilt from the study: declare it as the "
            "network's preprocessing"
        )
    values: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
    return Preprocessing(**values)


def described(values: Mapping[str, Any]) -> str:
    """Put in words what `describe` of a preprocessing or a transform returned, as a study records it."""
    if set(values) == {"given"}:
        return f"none: {values['given']}"
    try:
        return str(from_description(values))
    except SubspectError:
        return "; ".join(f"{key}: {value}" for key, value in values.items())


def as_preprocessing(value: PreprocessingLike | None) -> AnyPreprocessing | None:
    """Read what a network declares: a Preprocessing, a mapping, a callable, a Hugging Face image processor, or None.

    Raises:
        SubspectError: a field is missing or unknown, or the value has another type.
    """
    if value is None or isinstance(value, Preprocessing | Transform):
        return value
    if is_processor(value):  # before mappings, lest a processor be taken for one
        return Transform(Processor(value))
    if isinstance(value, Mapping):
        known = [field.name for field in fields(Preprocessing)]
        missing = [name for name in known[:4] if name not in value]
        unknown = [name for name in value if name not in known]
        if missing or unknown:
            raise SubspectError(
                "preprocessing needs all of resize, crop, mean and std (for a step that is left out, None, or 'none' on the "
                "command line)"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + (f"; unknown: {', '.join(map(str, unknown))}" if unknown else "")
            )
        return Preprocessing(**value)
    if callable(value):
        return Transform(value)
    raise SubspectError(
        f"preprocessing must be a subspect.Preprocessing, a dict or a callable, got {type(value).__name__}"
    )


def _size(name: str, value: object) -> int | tuple[int, int] | None:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        first, second = _size(name, value[0]), _size(name, value[1])
        if isinstance(first, int) and isinstance(second, int):
            return first, second
    elif value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31):
        return value
    raise SubspectError(f"{name} must be a number of pixels, (height, width) or None; got {value!r}")


def _channels(name: str, value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = (value,) if isinstance(value, int | float) else value
    try:
        result = tuple(float(number) for number in numbers)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        result = ()
    if len(result) not in (1, 3) or not all(np.isfinite(result)):
        raise SubspectError(
            f"{name} must be one number (grey) or three (RGB) on pixels scaled to 0…1, or None; got {value!r}"
        )
    return result


def _short(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"
