"""Preprocessing: each step against a slow re-implementation, and every value that makes no sense."""

from __future__ import annotations

import json
import math
import re
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from subspect.ground.errors import SubspectError, Unusable
from subspect.images.preprocessing import Preprocessing, Transform, as_preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

sides = st.integers(1, 40)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def slowly_normalised(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> list[list[list[float]]]:
    """``(pixel / 255 − mean) / std``, one number at a time, as [channel][row][column]."""

    def value(x: int, y: int, channel: int) -> float:
        pixel = image.getpixel((x, y))
        number = pixel[channel] if isinstance(pixel, tuple) else pixel
        assert number is not None
        return (number / 255 - mean[channel]) / std[channel]

    return [
        [[value(x, y, channel) for x in range(image.width)] for y in range(image.height)]
        for channel in range(len(mean))
    ]


def torchvision_size(width: int, height: int, short: int) -> tuple[int, int]:
    """The rule of torchvision's Resize with one number, as its documentation has it; (width, height)."""
    if height > width:
        return short, int(short * height / width)
    return int(short * width / height), short


# Steps ----------------------------------------------------------------------------------------------------------------


@given(width=st.integers(1, 6), height=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_normalisation(width: int, height: int, seed: int) -> None:
    image = noise(width, height, seed)
    tensor = Preprocessing(resize=None, crop=None, mean=MEAN, std=STD)(image)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, height, width)
    assert tensor.is_contiguous()
    torch.testing.assert_close(tensor, torch.tensor(slowly_normalised(image, MEAN, STD)), rtol=0, atol=1e-5)


def test_known_values() -> None:
    image = Image.fromarray(np.array([[[0, 255, 51]]], dtype=np.uint8))
    tensor = Preprocessing(resize=None, crop=None, mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0))(image)
    torch.testing.assert_close(tensor.reshape(-1), torch.tensor([-1.0, 2.0, 0.0]))


def test_bits_are_those_of_torch_in_single_precision() -> None:
    """The network must get the very numbers of torchvision's ToTensor and Normalize."""
    image = noise(9, 7)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    expected = (pixels - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    assert torch.equal(Preprocessing(resize=None, crop=None, mean=MEAN, std=STD)(image), expected)


def test_one_channel_is_the_luma_of_rgb() -> None:
    image = noise(5, 4)
    tensor = Preprocessing(resize=None, crop=None, mean=0.1, std=0.5)(image)  # type: ignore[arg-type]
    luma = [[round(r * 0.299 + g * 0.587 + b * 0.114) for r, g, b in row] for row in np.asarray(image).tolist()]
    assert tensor.shape == (1, 4, 5)
    torch.testing.assert_close(tensor[0], (torch.tensor(luma) / 255 - 0.1) / 0.5, rtol=0, atol=1.01 / 255 / 0.5)


@given(width=sides, height=sides, short=sides)
@settings(deadline=None)
def test_one_number_resizes_the_short_side_as_torchvision_does(width: int, height: int, short: int) -> None:
    tensor = Preprocessing(resize=short, crop=None, **HALF)(noise(width, height))
    expected = torchvision_size(width, height, short)
    assert (tensor.shape[2], tensor.shape[1]) == expected
    assert min(expected) == short


def test_long_side_is_cut_not_rounded() -> None:
    assert Preprocessing(resize=10, crop=None, **HALF)(noise(199, 100)).shape == (3, 10, 19)  # 19.9
    assert Preprocessing(resize=10, crop=None, **HALF)(noise(100, 199)).shape == (3, 19, 10)


@given(width=sides, height=sides, new_width=sides, new_height=sides)
@settings(deadline=None)
def test_two_numbers_are_height_and_width(width: int, height: int, new_width: int, new_height: int) -> None:
    tensor = Preprocessing(resize=(new_height, new_width), crop=None, **HALF)(noise(width, height))
    assert tensor.shape == (3, new_height, new_width)


@pytest.mark.parametrize(
    ("name", "filter"),
    [
        ("nearest", Image.Resampling.NEAREST),
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos", Image.Resampling.LANCZOS),
    ],
)
def test_interpolations_are_those_of_pillow(name: str, filter: Image.Resampling) -> None:
    image = noise(13, 9)
    tensor = Preprocessing(resize=6, crop=None, interpolation=name, **PLAIN)(image)
    expected = np.asarray(image.resize(torchvision_size(13, 9, 6), filter)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)


def test_bilinear_unless_told() -> None:
    given = Preprocessing(resize=6, crop=None, interpolation="bilinear", **PLAIN)
    assert Preprocessing(resize=6, crop=None, **PLAIN) == given


def test_halving_averages() -> None:
    """Bilinear widens with the scale, so that no pixel is passed over: the triangle's weights, by hand."""
    row = np.array([0, 0, 200, 200], dtype=np.uint8)
    image = Image.fromarray(np.broadcast_to(row[None, :, None], (4, 4, 3)).copy())
    tensor = Preprocessing(resize=(2, 2), crop=None, **PLAIN)(image) * 255
    first = round(0.25 * 200 / (0.75 + 0.75 + 0.25))  # source pixels at the distances 0.5, 0.5 and 1.5, of 2
    assert tensor[0, 0].tolist() == pytest.approx([first, 200 - first])


@given(width=sides, height=sides, crop_width=sides, crop_height=sides)
@settings(deadline=None)
def test_crop_is_cut_from_the_centre(width: int, height: int, crop_width: int, crop_height: int) -> None:
    image = noise(width, height)
    preprocessing = Preprocessing(resize=None, crop=(crop_height, crop_width), **PLAIN)
    if crop_width > width or crop_height > height:
        with pytest.raises(Unusable, match="is smaller than the crop of"):
            preprocessing(image)
        return
    top, left = int(round((height - crop_height) / 2.0)), int(round((width - crop_width) / 2.0))  # noqa: RUF046
    expected = np.asarray(image)[top : top + crop_height, left : left + crop_width].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(preprocessing(image).numpy(), expected, atol=1e-6)


def test_odd_margins_are_rounded_to_even_as_torchvision_does() -> None:
    columns = np.arange(8, dtype=np.uint8)
    image = Image.fromarray(np.broadcast_to(columns[None, :, None], (8, 8, 3)).copy())
    for crop, left in {7: 0, 6: 1, 5: 2, 4: 2, 3: 2, 2: 3, 1: 4}.items():  # round(0.5) = 0, round(1.5) = 2, …
        tensor = Preprocessing(resize=None, crop=crop, **PLAIN)(image) * 255
        assert tensor.shape == (3, crop, crop)
        assert round(float(tensor[0, 0, 0])) == left


def test_resize_comes_before_crop() -> None:
    image = noise(40, 30)
    both = Preprocessing(resize=20, crop=16, **HALF)(image)
    small = image.resize(torchvision_size(40, 30, 20), Image.Resampling.BILINEAR)
    assert torch.equal(both, Preprocessing(resize=None, crop=16, **HALF)(small))


def test_image_smaller_than_the_crop() -> None:
    with pytest.raises(Unusable, match=r"^4×9 pixels is smaller than the crop of 6×5$"):
        Preprocessing(resize=None, crop=(5, 6), **HALF)(noise(4, 9))


def test_resize_that_would_take_too_much_memory() -> None:
    """A file of 196 bytes that became 15.7 GB."""
    image = Image.new("RGB", (1, 60_000))
    for use in (Preprocessing(resize=256, crop=224, **HALF), Preprocessing(resize=256, crop=224, **HALF).view):
        with pytest.raises(
            Unusable,
            match=r"^resized it would have 256×15,360,000 pixels, more than the limit of 89,478,485; make it",
        ):
            use(image)
    with pytest.raises(
        Unusable, match=r"^while it is resized it would have 2,000×60,000 pixels, more than the limit of 89,478,485"
    ):
        Preprocessing(resize=(10, 2000), crop=None, **HALF)(image)
    assert Preprocessing(resize=(10, 20), crop=None, **HALF)(image).shape == (3, 10, 20)


@pytest.mark.parametrize(
    ("size", "resize", "crop"), [((4097, 4096), None, None), ((2, 2), 4097, None), ((1, 1), 5000, (4096, 4097))]
)
def test_more_pixels_than_a_network_is_given(size: tuple[int, int], resize: Any, crop: Any) -> None:
    with pytest.raises(
        Unusable,
        match=r"^the network would get 4,097×4,09[67] pixels, more than the limit of 16,777,216 per image; give a smaller",
    ):
        Preprocessing(resize=resize, crop=crop, **HALF)(Image.new("RGB", size))


def test_limit_of_pillow_may_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    image, small = noise(4, 2), Preprocessing(resize=4, crop=2, **HALF)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    with pytest.raises(Unusable, match=r"^resized it would have 8×4 pixels, more than the limit of 31; .* \(31\)$"):
        small(image)
    for most in (32, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        assert small(image).shape == (3, 2, 2)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)])
def test_image_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(Unusable, match=rf"^{size[0]}×{size[1]} pixels: there is nothing to see$"):
        Preprocessing(resize=8, crop=None, **HALF)(Image.new("RGB", size))


@given(width=sides, height=sides, mean=st.floats(0, 1), std=st.floats(0.01, 1), grey=st.booleans())
@settings(deadline=None)
def test_bits_are_those_of_one_formula(width: int, height: int, mean: float, std: float, grey: bool) -> None:
    image, channels = noise(width, height), 1 if grey else 3
    tensor = Preprocessing(resize=None, crop=None, mean=(mean,) * channels, std=(std,) * channels)(image)
    pixels = np.asarray(image.convert("L") if grey else image, dtype=np.float32).reshape(height, width, -1)
    expected = (pixels / np.float32(255) - np.float32(mean)) / np.float32(std)
    assert np.array_equal(tensor.numpy(), expected.transpose(2, 0, 1))


# What it is called ----------------------------------------------------------------------------------------------------


def test_said_in_words() -> None:
    given = Preprocessing(resize=256, crop=(224, 192), mean=MEAN, std=STD, interpolation="bicubic")
    assert str(given) == (
        "resize 256 (bicubic), centre crop 224×192, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)"
    )
    given = Preprocessing(resize=None, crop=None, mean=(1 / 3,), std=(1.0,))
    assert str(given) == "no resize, no centre crop, mean (0.3333), std (1)"


sizes = st.none() | sides | st.tuples(sides, sides)
shares = st.floats(-1, 1)
positive = st.floats(1e-3, 1)
valid = st.sampled_from([1, 3]).flatmap(
    lambda n: st.builds(
        Preprocessing,
        resize=sizes,
        crop=sizes,
        mean=st.tuples(*[shares] * n),
        std=st.tuples(*[positive] * n),
        interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    )
)


@given(preprocessing=valid)
@settings(deadline=None)
def test_description_is_json_and_comes_back(preprocessing: Preprocessing) -> None:
    described = json.loads(json.dumps(preprocessing.describe()))
    assert described == preprocessing.describe()
    assert as_preprocessing(described) == preprocessing


@given(first=valid, second=valid)
@settings(deadline=None)
def test_descriptions_are_equal_only_for_equal_preprocessings(first: Preprocessing, second: Preprocessing) -> None:
    assert (first.describe() == second.describe()) == (first == second)


def test_lists_and_one_number_are_taken_for_tuples() -> None:
    given = Preprocessing(resize=[8, 9], crop=[4, 5], mean=0, std=[1])  # type: ignore[arg-type]
    assert (given.resize, given.crop, given.mean, given.std) == ((8, 9), (4, 5), (0.0,), (1.0,))


def test_is_frozen() -> None:
    preprocessing = Preprocessing(resize=None, crop=None, **HALF)
    with pytest.raises(FrozenInstanceError):
        preprocessing.crop = 3  # type: ignore[misc]


# Values that make no sense --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resize", "crop"])
@pytest.mark.parametrize(
    "value", [0, -1, 2**31, 10**400, 2.5, True, "8", (8,), (8, 9, 10), (8, None), (8, 0), ((1, 2), 3), {8: 9}]
)
def test_size_that_is_none(name: str, value: object) -> None:
    given: dict[str, Any] = {"resize": None, "crop": None, **HALF, name: value}
    with pytest.raises(SubspectError, match=rf"{name} must be a number of pixels, \(height, width\) or None; got"):
        Preprocessing(**given)


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", [(), (0.1, 0.2), (0.1,) * 4, "red", ("a",) * 3, (math.nan,), (math.inf,) * 3])
def test_channels_that_are_none(name: str, value: object) -> None:
    given: dict[str, Any] = {"resize": None, "crop": None, **HALF, name: value}
    with pytest.raises(SubspectError, match=rf"{name} must be one number \(grey\) or three \(RGB\) .* got "):
        Preprocessing(**given)


@pytest.mark.parametrize(
    ("mean", "std", "same"),
    [
        (None, None, ((0.0,) * 3, (1.0,) * 3)),
        (0.5, None, ((0.5,), (1.0,))),
        (None, STD, ((0.0,) * 3, STD)),
    ],
)
def test_none_normalises_nothing(mean: Any, std: Any, same: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    explicit = Preprocessing(resize=None, crop=None, mean=same[0], std=same[1])
    assert Preprocessing(resize=None, crop=None, mean=mean, std=std) == explicit
    assert as_preprocessing({"resize": None, "crop": None, "mean": mean, "std": std}) == explicit


def test_mean_and_std_of_different_lengths() -> None:
    with pytest.raises(SubspectError, match="mean has 3 channels and std has 1; give the same number of both"):
        Preprocessing(resize=None, crop=None, mean=MEAN, std=(0.2,))


@pytest.mark.parametrize("bad", [0.0, -0.5, 1e-320, 9e-7])
def test_std_that_is_not_positive(bad: float) -> None:
    with pytest.raises(
        SubspectError, match=r"std must be positive, got \(0\.5, .*; the smallest allowed value is 1e-06"
    ):
        Preprocessing(resize=None, crop=None, mean=MEAN, std=(0.5, bad, 0.5))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((123.675, 116.28, 103.53), STD), (MEAN, (58.4, 57.1, 57.4)), ((0.5, -1.5, 0.5), STD), (MEAN, (1, 1, 1.5))],
)
def test_values_on_pixels_up_to_255(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(SubspectError, match=r"must be on pixels scaled to 0…1; divide yours by 255"):
        Preprocessing(resize=None, crop=None, mean=mean, std=std)


def test_values_at_the_border_are_taken() -> None:
    assert Preprocessing(resize=1, crop=1, mean=(-1, 0, 1), std=(1, 1, 1)).mean == (-1.0, 0.0, 1.0)


@pytest.mark.parametrize("name", ["area", "", None, 2, ["bilinear"]])
def test_unknown_interpolation(name: Any) -> None:
    with pytest.raises(
        SubspectError,
        match=f"interpolation must be one of nearest, bilinear, bicubic, lanczos; got {re.escape(repr(name))}",
    ):
        Preprocessing(resize=None, crop=None, interpolation=name, **HALF)


# A transform of the user's own ----------------------------------------------------------------------------------------


class Scale:
    """A transform that says what it does."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double()
        return pixels * self.by

    def __repr__(self) -> str:
        return f"Scale(\n    by={self.by}\n)"


def test_transform_is_called_and_gives_float32() -> None:
    image = noise(3, 2)
    tensor = Transform(Scale(0.5))(image)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(np.array(image)).permute(2, 0, 1) * 0.5)


def test_transform_is_identified_by_its_repr() -> None:
    assert Transform(Scale(0.5)).describe() == {"transform": "Scale(\n    by=0.5\n)"}
    assert Transform(Scale(0.5)).describe() != Transform(Scale(0.25)).describe()
    assert str(Transform(Scale(0.5))) == "Scale( by=0.5 )"


def test_transform_whose_repr_is_an_address() -> None:
    with pytest.raises(SubspectError, match=r"cannot be identified by its repr; give it a __repr__ that"):
        Transform(lambda image: torch.zeros(3, 1, 1))


def test_transform_that_does_not_end_in_a_tensor() -> None:
    class Turn(Scale):
        def __call__(self, image: Image.Image) -> torch.Tensor:
            return image.rotate(90)  # type: ignore[return-value]

    with pytest.raises(SubspectError, match=r"the preprocessing Scale\( by=1 \) must return a tensor; got Image"):
        Transform(Turn(1))(noise(2, 2))


# What a network declares ----------------------------------------------------------------------------------------------


def test_read_as_it_is_given() -> None:
    preprocessing, transform = Preprocessing(resize=8, crop=None, **HALF), Transform(Scale(1))
    assert as_preprocessing(None) is None
    assert as_preprocessing(preprocessing) is preprocessing
    assert as_preprocessing(transform) is transform


def test_read_from_a_mapping_or_a_callable() -> None:
    mapping = {"resize": 8, "crop": None, **HALF, "interpolation": "bicubic"}
    assert as_preprocessing(mapping) == Preprocessing(resize=8, crop=None, interpolation="bicubic", **HALF)
    scale = Scale(1)
    read = as_preprocessing(scale)
    assert isinstance(read, Transform)
    assert read.function is scale


def test_mapping_with_missing_and_unknown_fields() -> None:
    with pytest.raises(
        SubspectError,
        match=r"needs all of resize, crop, mean and std \(for a step .*; missing: crop, std; unknown: size, 3$",
    ):
        as_preprocessing({"resize": 8, "mean": 0.5, "size": 3, 3: 4})  # type: ignore[dict-item]
    with pytest.raises(SubspectError, match=r"command line\); unknown: size$"):
        as_preprocessing({"resize": 8, "crop": None, **HALF, "size": 3})
    with pytest.raises(SubspectError, match="missing: resize$"):
        as_preprocessing({"crop": None, **HALF})


def test_anything_else() -> None:
    with pytest.raises(SubspectError, match=r"must be a subspect\.Preprocessing, a dict or a callable, got int"):
        as_preprocessing(3)  # type: ignore[arg-type]
