"""Images: every kind of file, every source, the matching of classes, and batches; each refusal with its reason."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, ExifTags, Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    get_worker_info,
)

from conftest import PIXELS
from subspect.ground.errors import SubspectError, Unusable
from subspect.images.batches import Batch, _leave_quietly, batches, lost_workers
from subspect.images.decoding import decode, decode_with_digest, to_rgb
from subspect.images.folders import SUFFIXES, Files
from subspect.images.labels import match_classes
from subspect.images.memory import Arrays, DatasetImages
from subspect.images.opening import open_images
from subspect.images.preprocessing import Preprocessing, Transform
from subspect.images.sources import ClassMatch, Images

MakeFolder = Callable[..., Path]
Pixels = npt.NDArray[np.uint8]

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [0, 0, 0], [255, 255, 255]]], np.uint8)
"""A picture of 2 rows and 3 columns that no turn or mirror leaves as it is."""


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def put(path: Path, side: int = 4, colour: tuple[int, int, int] = (9, 8, 7)) -> Path:
    """Write a small PNG, whatever the file is called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path, "png")
    return path


def rgb(image: Image.Image) -> list[Any]:
    assert image.mode == "RGB"
    pixels: list[Any] = np.asarray(image).tolist()
    return pixels


def read(images: Images, index: int = 0) -> list[Any]:
    """Read an image that must be a picture."""
    picture = images.read(index)[0]
    assert isinstance(picture, Image.Image)
    return rgb(picture)


def raw(images: Images) -> list[int | str | None]:
    return [images.read(index)[1] for index in range(len(images))]


def ids(images: Images) -> list[str]:
    return [images.id(index) for index in range(len(images))]


def every(images: Images, match: ClassMatch | None = None, **settings: Any) -> Batch:
    """Read all images as one batch."""
    return next(batches(images, PIXELS, match, [range(len(images))], **settings))


# Kinds of image files -------------------------------------------------------------------------------------------------


def upright(stored: Pixels, orientation: int) -> Pixels:
    """Put each stored pixel where the EXIF standard says that its row and column are seen."""
    rows, columns = stored.shape[:2]
    row_zero, column_zero = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    turned = orientation >= 5
    seen = np.zeros((columns, rows, 3) if turned else (rows, columns, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            down = row if row_zero in ("top", "left") else rows - 1 - row
            right = column if column_zero in ("top", "left") else columns - 1 - column
            seen[(right, down) if turned else (down, right)] = stored[row, column]
    return seen


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path, exif=exif)
    assert rgb(decode(path)) == upright(COLOURS, orientation).tolist()


def test_exif_orientation_of_a_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :16] = 255  # the left half is seen on top
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = decode(tmp_path / "a.jpg")
    assert image.size == (16, 32)
    assert min(np.asarray(image)[:16].reshape(-1)) > 250
    assert max(np.asarray(image)[16:].reshape(-1)) < 5


def palette(**options: Any) -> tuple[Image.Image, dict[str, Any]]:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 1, 2, 3])
    image.putpixel((1, 0), 1)
    return image, options


RED_DARK = [[[255, 0, 0], [1, 2, 3]]]

KINDS: dict[str, tuple[str, Image.Image, dict[str, Any], list[Any]]] = {
    "RGB": ("png", Image.fromarray(COLOURS), {}, COLOURS.tolist()),
    "RGB with a transparent colour": (
        "png",
        Image.new("RGB", (1, 1), (1, 2, 3)),
        {"transparency": (1, 2, 3)},
        [[[1, 2, 3]]],
    ),
    "RGBA": ("png", Image.new("RGBA", (1, 1), (1, 2, 3, 0)), {}, [[[1, 2, 3]]]),
    "grey": ("png", Image.new("L", (1, 1), 77), {}, [[[77, 77, 77]]]),
    "grey with a transparent value": ("png", Image.new("L", (1, 1), 77), {"transparency": 77}, [[[77, 77, 77]]]),
    "grey and alpha": ("png", Image.new("LA", (1, 1), (77, 3)), {}, [[[77, 77, 77]]]),
    "palette": ("png", *palette(), RED_DARK),
    "palette, one transparent colour": ("png", *palette(transparency=1), RED_DARK),
    "palette, an alpha for each colour": ("png", *palette(transparency=b"\x10\x80"), RED_DARK),
    "one bit": ("png", Image.fromarray(np.array([[True, False]])), {}, [[[255] * 3, [0] * 3]]),
    "CMYK": ("tif", Image.new("CMYK", (1, 1), (255, 0, 51, 0)), {}, [[[0, 255, 204]]]),
    "CMYK, half black": ("tif", Image.new("CMYK", (1, 1), (0, 255, 0, 102)), {}, [[[153, 0, 153]]]),
    "bitmap": ("bmp", Image.fromarray(COLOURS), {}, COLOURS.tolist()),
    "portable pixmap": ("ppm", Image.fromarray(COLOURS), {}, COLOURS.tolist()),
    "GIF": ("gif", *palette(), RED_DARK),
    "WebP": ("webp", Image.fromarray(COLOURS), {"lossless": True}, COLOURS.tolist()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_become_rgb(tmp_path: Path, kind: str) -> None:
    suffix, image, options, expected = KINDS[kind]
    path = tmp_path / f"a.{suffix}"
    image.save(path, **options)
    with Image.open(path) as stored:
        assert stored.mode == image.mode  # the file is of the kind that the test is about
    assert rgb(decode(path)) == expected


def test_palette_with_alpha_in_memory() -> None:
    image, _ = palette()
    assert rgb(to_rgb(image.convert("PA"))) == RED_DARK


DEEP = np.array([[0, 128, 129, 257, 32767, 32768, 65535]])
SHALLOW = [[[round(value / 257)] * 3 for value in DEEP[0].tolist()]]


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian tif", "pgm", "32-bit tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.split()[-1]}"
    if kind == "pgm":
        path.write_bytes(b"P5 7 1 65535\n" + DEEP.astype(">u2").tobytes())
    elif kind == "big-endian tif":
        Image.frombytes("I;16B", (7, 1), DEEP.astype(">u2").tobytes()).save(path)
        assert path.read_bytes()[:2] == b"MM"
    else:
        Image.fromarray(DEEP.astype(np.int32 if kind == "32-bit tif" else np.uint16)).save(path)
    assert rgb(decode(path)) == SHALLOW


@given(value=st.integers(0, 65535))
@settings(deadline=None)
def test_sixteen_bits_keep_what_eight_bits_can(value: int) -> None:
    image = Image.fromarray(np.array([[value]], np.uint16))
    grey = rgb(to_rgb(image))[0][0][0]
    assert abs(grey * 257 - value) <= 128


@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0, 65536), (-2147483648, 2147483647)])
def test_thirty_two_bits_are_refused(tmp_path: Path, low: int, high: int) -> None:
    Image.fromarray(np.array([[low, high]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(Unusable, match=rf"32-bit pixels from {low} to {high}; convert to 8 or 16 bits"):
        decode(tmp_path / "a.tif")


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, 1]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(Unusable, match="floating-point pixels, whose range is not known; convert to 8 or 16 bits"):
        decode(tmp_path / "a.tif")


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as stored:
        assert stored.n_frames == 3  # type: ignore[attr-defined]
    assert rgb(decode(tmp_path / "a.gif")) == [[[255, 0, 0]] * 2] * 2


# Files that are no images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Unusable, match=r"^OSError: .*truncated"):
        decode(path)


def test_text_named_like_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not found", encoding="utf-8")
    with pytest.raises(Unusable, match=r"^not an image \(9 bytes\)$"):
        decode(tmp_path / "a.jpg")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(Unusable, match=r"^not an image \(0 bytes\)$"):
        decode(tmp_path / "a.png")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="^no such file$"):
        decode(tmp_path / "a.png")
    with pytest.raises(Unusable, match="^cannot read .*: "):  # in words that depend on the system
        decode(tmp_path)


@pytest.mark.parametrize("most", [4, 15])
def test_picture_of_more_pixels_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Pillow warns beyond its limit and raises beyond twice its limit; neither comes up."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    path = put(tmp_path / "a.png")
    with pytest.raises(Unusable) as refused:
        decode(path)
    assert str(refused.value) == (
        f"it has 16 pixels, more than the limit of {most}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS ({most})"
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    assert decode(path).size == (4, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(path).size == (4, 4)


def test_small_file_of_many_pixels(tmp_path: Path) -> None:
    """One that says in 30 bytes that it has 400 million pixels."""
    (tmp_path / "a.pgm").write_bytes(b"P5 20000 20000 255\n" + bytes(9))
    with pytest.raises(Unusable, match=r"^it has 400,000,000 pixels, more than the limit of 89,478,485; make it"):
        decode(tmp_path / "a.pgm")


def test_readers_that_hold_more_take_fewer_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.webp")
    with pytest.raises(Unusable, match=r"^it has 4×4 pixels, more than the limit of 10; .*MAX_IMAGE_PIXELS \(20\)$"):
        decode(tmp_path / "a.webp")


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
newpath 0 0 moveto 8 8 lineto stroke
showpage
%%EOF
"""


def test_no_file_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[object]()
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **_: started.append(given))
    (tmp_path / "photo.png").write_bytes(EPS)
    with Image.open(tmp_path / "photo.png") as image:
        assert image.format == "EPS"  # which Pillow would hand to Ghostscript
    with pytest.raises(Unusable, match=rf"^not an image \({len(EPS)} bytes\)$"):
        decode(tmp_path / "photo.png")
    assert not started


@pytest.mark.parametrize("format", ["TGA", "ICO", "PCX", "SGI", "XBM"])
def test_other_formats_are_not_tried(tmp_path: Path, format: str) -> None:
    Image.new("1" if format == "XBM" else "RGB", (4, 4)).save(tmp_path / "a.png", format)
    with pytest.raises(Unusable, match="^not an image"):
        decode(tmp_path / "a.png")


@pytest.mark.skipif(os.name != "posix", reason="named pipes, sockets and devices of POSIX")
def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.png")
    Path("zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.png")
        for name, kind in {"pipe": "a named pipe", "zero": "a device"}.items():
            with pytest.raises(Unusable, match=rf"^cannot read {name}\.png: it is {kind}, not a file$"):
                decode(Path(f"{name}.png"))
        with pytest.raises(Unusable, match=r"^cannot read socket\.png: "):
            decode(Path("socket.png"))
        put(tmp_path / "a.png")
        assert ids(open_images(tmp_path, outside=True)) == ["a.png"]


def test_file_of_too_many_bytes(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(
        Unusable, match=r"has 1,099,511,627,776 bytes, more than the 536,870,912 that are read of such a file"
    ):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a\0.png", "a" * 255 + "/" + "b.png"])
def test_path_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unusable, match="^(cannot read|no such file)"):
        decode(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_converted_some_at_a_time(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    suffix, image, options, _ = KINDS[kind]
    tall = Image.new(image.mode, (image.width, 7))
    if image.mode == "P":
        tall.putpalette(image.getpalette() or [])
    for row in range(7):
        tall.paste(image.crop((row % 2, 0, image.width, 1)), (0, row))
    tall.save(tmp_path / f"a.{suffix}", **options)
    whole = rgb(decode(tmp_path / f"a.{suffix}"))
    monkeypatch.setattr("subspect.images.decoding._STRIP", 2 * image.width)
    assert rgb(decode(tmp_path / f"a.{suffix}")) == whole


def test_sixteen_bits_take_little_memory() -> None:
    image = Image.fromarray(np.full((8192, 1024), 777, np.uint16))
    tracemalloc.start()
    try:
        to_rgb(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 8192 * 1024  # of NumPy; it was 24 bytes a pixel


def test_every_value_of_sixteen_bits_is_rounded_exactly() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    grey = np.asarray(to_rgb(Image.fromarray(values)))[..., 0]
    np.testing.assert_array_equal(grey, np.round(values.astype(np.float64) / 257))


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = put(tmp_path / "cat" / "a.png")
    expected = hashlib.sha256(path.read_bytes()).digest()[:16]
    image, found = decode_with_digest(path)
    assert (rgb(image), found) == (rgb(decode(path)), expected)
    images = open_images(tmp_path)
    assert images.read(0).digest == images.given_with_digest("cat/a.png")[1] == expected
    assert images.read(0)._fields == ("image", "label", "digest")
    assert images.read(0).label == "cat"
    assert open_images(noise(2, 3, 4)).read(0).digest is None
    assert open_images(noise(2, 3, 4)).given_with_digest("1")[1] is None
    assert open_images(Listed(Image.new("RGB", (2, 1)))).read(0).digest is None


def test_digests_of_a_batch(holed: Path) -> None:
    read = open_images(holed)
    crop = Preprocessing(resize=None, crop=3, mean=0, std=1)  # type: ignore[arg-type]
    for batch in batches(read, crop, None, [[0, 1, 2], [3, 4], [6]]):
        assert batch.digests == [hashlib.sha256((holed / id).read_bytes()).digest()[:16] for id in batch.ids]
    assert every(open_images(noise(2, 3, 4))).digests == [None, None]


# Ids ------------------------------------------------------------------------------------------------------------------


def test_only_what_was_listed_is_opened(tmp_path: Path) -> None:
    put(tmp_path / "secret.png")
    put(tmp_path / "set" / "cat" / "a.png")
    put(tmp_path / "set" / "cat" / ".hidden.png")
    images = open_images(tmp_path / "set")
    assert images.picture("cat/a.png").size == (4, 4)
    for id in (
        str(tmp_path / "secret.png"),
        "../secret.png",
        "cat/../../secret.png",
        "cat/.hidden.png",
        "./cat/a.png",
        "",
    ):
        with pytest.raises(Unusable, match=r"^no image with id '.*' among 1$"):
            images.given(id)


@pytest.mark.parametrize("id", ["9" * 5000, "00", "٣", "1\n", "+1", "1_0", "10", "3"])
def test_ids_of_positions_are_plain_numbers(id: str) -> None:
    images = Arrays(noise(3, 4, 4))
    with pytest.raises(Unusable, match=r"^no image with id '[^']{0,101}' among 3$"):
        images.given(id)


def test_ids_of_positions() -> None:
    images = Arrays(noise(11, 4, 4))
    assert [images.picture(str(index)).size for index in range(11)] == [(4, 4)] * 11
    with pytest.raises(Unusable, match="^no image with id '0' among 0$"):
        Arrays(noise(0, 4, 4)).given("0")


@given(
    suffix=st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp"]),
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    keep=st.floats(0.2, 1),
)
@settings(max_examples=60, deadline=None)
def test_a_broken_file_is_an_image_or_unusable_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, place: float, byte: int, keep: float
) -> None:
    path = tmp_path_factory.getbasetemp() / f"broken.{suffix}"
    Image.fromarray(noise(16, 12, 3)).save(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] = byte
    path.write_bytes(data[: int(keep * len(data))])
    try:
        image = decode(path)
    except Unusable as error:
        assert str(error)
    else:
        assert image.mode == "RGB"


# Folders --------------------------------------------------------------------------------------------------------------


def test_folder_of_class_folders(make_folder: MakeFolder) -> None:
    root = make_folder(classes=("cat", "dog"), each=2)
    images = open_images(root)
    assert isinstance(images, Files)
    assert (images.kind, images.root, images.labelled, images.ready) == ("folder", root, True, False)
    assert images.classes == ("cat", "dog")
    assert ids(images) == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]
    assert raw(images) == ["cat", "cat", "dog", "dog"]
    with Image.open(root / "dog/000.png") as stored:
        assert read(images, 2) == rgb(images.picture("dog/000.png")) == np.asarray(stored).tolist()
    assert ids(open_images(str(root))) == ids(images)


def test_folders_inside_class_folders(tmp_path: Path) -> None:
    for path in ("cat/x/y/1.png", "cat/2.png", "dog/x/3.png"):
        put(tmp_path / path)
    images = open_images(tmp_path)
    assert sorted(zip(ids(images), raw(images), strict=True)) == [
        ("cat/2.png", "cat"),
        ("cat/x/y/1.png", "cat"),
        ("dog/x/3.png", "dog"),
    ]


def test_order_is_that_of_the_names(tmp_path: Path) -> None:
    names = [f"{name}.png" for name in "qazwsxedcrfvtgbyhnujmikolp"]
    for name in names:
        put(tmp_path / "flat" / name)
        put(tmp_path / "folders" / "cat" / name)
    assert ids(open_images(tmp_path / "flat")) == sorted(names)
    assert ids(open_images(tmp_path / "folders")) == [f"cat/{name}" for name in sorted(names)]


def test_flat_folder(tmp_path: Path) -> None:
    put(tmp_path / "b.png")
    put(tmp_path / "a.png")
    (tmp_path / "readme.txt").touch()
    (tmp_path / "empty").mkdir()
    images = open_images(tmp_path)
    assert (images.kind, images.labelled, images.classes) == ("flat folder", False, None)
    assert ids(images) == ["a.png", "b.png"]
    assert raw(images) == [None, None]


def test_images_beside_class_folders(tmp_path: Path) -> None:
    for path in ("a.png", "b.png", "c.png", "cat/1.png"):
        put(tmp_path / path)
    with pytest.raises(
        SubspectError,
        match=r"holds both images \(a\.png, b\.png, … \(1 more\)\) and folders of images \(cat\): pass a folder of class",
    ):
        open_images(tmp_path)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(
        SubspectError, match=r"no images in .*: it contains nothing; expected class folders with images"
    ):
        open_images(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "cat").mkdir()
    with pytest.raises(
        SubspectError, match=r"it contains cat, notes\.txt; expected .* or images \(\.avif \.bmp .*\.webp\)"
    ):
        open_images(tmp_path)


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    for path in ("cat/1.png", "cat/._1.png", "cat/.checkpoints/1.png", "dog/2.png", ".cache/3.png", ".4.png"):
        put(tmp_path / path)
    images = open_images(tmp_path)
    assert images.classes == ("cat", "dog")
    assert ids(images) == ["cat/1.png", "dog/2.png"]


def test_a_root_inside_a_hidden_folder_is_read(tmp_path: Path) -> None:
    put(tmp_path / ".data" / "set" / "cat" / "1.png")
    assert ids(open_images(tmp_path / ".data" / "set")) == ["cat/1.png"]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_suffixes_in_lower_and_upper_case(tmp_path: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"b{suffix.upper()}", f"c{suffix}.txt", f"d{suffix[1:]}"):
        put(tmp_path / name)
    assert ids(open_images(tmp_path)) == [f"a{suffix}", f"b{suffix.upper()}"]


def test_empty_class_folder_holds_its_place_in_the_order(tmp_path: Path) -> None:
    put(tmp_path / "ant" / "1.png")
    (tmp_path / "bee").mkdir()
    put(tmp_path / "cow" / "1.png")
    images = open_images(tmp_path)
    assert images.classes == ("ant", "bee", "cow")
    match = match_classes(images, 3)
    assert [match(name) for name in ("ant", "cow")] == [0, 2]


def test_names_in_any_script(tmp_path: Path) -> None:
    names = ["Äpfel und Öl", "кот", "猫", "🐈"]
    for name in names:
        put(tmp_path / name / f"{name} 1.png")
    images = open_images(tmp_path)
    assert list(images.classes or ()) == sorted(names)
    assert ids(images) == [f"{name}/{name} 1.png" for name in sorted(names)]
    assert every(images, match_classes(images, 4)).labels.tolist() == [0, 1, 2, 3]
    assert len(images.fingerprint(None)) == 64


@pytest.mark.skipif(os.name != "posix", reason="file names are text elsewhere")
def test_file_names_that_are_not_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        shutil.copy(os.fsencode(put(tmp_path / "a.png")), path)
    except OSError:
        pytest.skip("this file system takes only text")
    with pytest.raises(SubspectError, match=r"1 file names in .* are not UTF-8: 'caf\\udce9\.png'; rename them"):
        open_images(tmp_path)


LINKS = pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")


@LINKS
def test_class_folders_and_files_may_be_links_inside(tmp_path: Path) -> None:
    root = tmp_path / "set"
    put(root / ".store" / "1.png")
    (root / "dog").mkdir()
    (root / "cat").symlink_to(root / ".store")
    (root / "dog" / "2.png").symlink_to("../.store/1.png")
    (root / "dog" / "3.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "named").symlink_to(root)  # what the user names may itself be a link
    for folder in (root, tmp_path / "named"):
        assert ids(open_images(folder)) == ["cat/1.png", "dog/2.png"]
        assert not every(open_images(folder)).failed


@LINKS
@pytest.mark.parametrize("flat", [False, True])
def test_links_that_lead_outside(tmp_path: Path, flat: bool) -> None:
    put(tmp_path / "secret.png")
    put(tmp_path / "set" / "dog" / "1.png")
    root = tmp_path / "set" / "dog" if flat else tmp_path / "set"
    (tmp_path / "set" / "dog" / "2.png").symlink_to(tmp_path / "secret.png")
    name = "2.png" if flat else "dog/2.png"
    with pytest.raises(SubspectError) as refused:
        open_images(root)
    assert str(refused.value) == (
        f"{name} leads outside {root}: to {tmp_path / 'secret.png'}; pass outside=True (--outside) if that is intended"
    )
    assert name in ids(open_images(root, outside=True))


@LINKS
def test_class_folder_that_leads_outside(tmp_path: Path) -> None:
    put(tmp_path / "set-of-another" / "1.png")  # beside it, with a name that begins alike
    put(tmp_path / "set" / "dog" / "2.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "set-of-another")
    with pytest.raises(
        SubspectError, match=r"^cat leads outside .*set: to .*set-of-another; pass outside=True \(--outside\)"
    ):
        open_images(tmp_path / "set")
    assert ids(open_images(tmp_path / "set", outside=True)) == ["cat/1.png", "dog/2.png"]


def asked_where(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep the paths of which it is asked where they really lie."""
    asked, real = list[str](), os.path.realpath

    def ask(path: str | os.PathLike[str]) -> str:
        asked.append(os.fspath(path))
        return real(path)

    monkeypatch.setattr(os.path, "realpath", ask)
    return asked


@LINKS
def test_only_links_are_asked_where_they_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        put(tmp_path / "cat" / "in" / f"{index}.png")
    (tmp_path / "cat" / "5.png").symlink_to("in/0.png")
    asked = asked_where(monkeypatch)
    assert len(open_images(tmp_path)) == 6
    assert sorted(asked) == sorted([str(tmp_path), str(tmp_path / "cat" / "5.png")])


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800", "a/" * 3000])
def test_path_of_images_that_no_folder_can_have(name: str) -> None:
    for suffix in ("", ".csv"):
        with pytest.raises(SubspectError, match="^no such folder or file of images: "):
            open_images(name + suffix)


def test_no_such_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SubspectError, match=r"no such folder or file of images: imgs \(looked in .+\)") as raised:
        open_images("imgs")
    for name, meant in (("webds:foo", "wds:"), ("hfd:x", "hfds:")):
        with pytest.raises(
            SubspectError, match=rf" \(did you mean '{meant}'\?\); names begin with wds:, parquet: or hfds:$"
        ):
            open_images(name)
    for name in ("C:\\x", "wds:"):
        with pytest.raises(SubspectError, match=r"no such folder or file of images: .*\(looked in [^)]+\)$"):
            open_images(name)
    with pytest.raises(SubspectError, match=r"no such folder or file of images: list\.csv"):
        open_images("list.csv")
    assert str(tmp_path) in str(raised.value)


def test_a_file_that_is_no_csv(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"a\.png is a file; expected a folder of images, a \.csv file with"):
        open_images(put(tmp_path / "a.png"))


# CSV ------------------------------------------------------------------------------------------------------------------


def write_csv(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("name", ["list.csv", "LIST.CSV"])
def test_csv_with_labels(tmp_path: Path, name: str) -> None:
    put(tmp_path / "in" / "a.png", colour=(1, 2, 3))
    images = open_images(write_csv(tmp_path, "path,label,note\nin/b.png,dog,x\nin/a.png,cat,\n", name))
    assert (images.kind, images.root, images.labelled) == ("CSV", tmp_path, True)
    assert images.classes == ("cat", "dog")
    assert ids(images) == ["in/b.png", "in/a.png"]  # in the order of the file
    assert images.read(1)[1] == "cat"
    assert read(images, 1)[0][0] == [1, 2, 3]
    with pytest.raises(Unusable, match="no such file"):
        images.read(0)


def test_csv_without_labels(tmp_path: Path) -> None:
    images = open_images(write_csv(tmp_path, "id,path\n7,a.png\n"))
    put(tmp_path / "a.png")
    assert (images.labelled, images.classes, raw(images)) == (False, None, [None])


def test_csv_paths_are_relative_to_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = put(tmp_path / "far" / "c.png")
    put(tmp_path / "near" / "a.png")
    put(tmp_path / "near" / "in" / "b.png")
    monkeypatch.chdir(tmp_path)
    csv = write_csv(tmp_path / "near", f"path\na.png\nin\\b.png\n../far/c.png\n{other}\n")
    images = open_images(csv, outside=True)
    assert ids(images) == ["a.png", "in/b.png", "../far/c.png", other.as_posix()]
    assert not every(images).failed
    assert open_images("near/list.csv", outside=True).root == Path("near")


def test_csv_paths_that_lead_outside(tmp_path: Path) -> None:
    put(tmp_path / "far" / "c.png")
    put(tmp_path / "near" / "a.png")
    for path in ("../far/c.png", str(tmp_path / "far" / "c.png"), "x/../../far/c.png", "..", "/dev/zero", "a/../.."):
        csv = write_csv(tmp_path / "near", f"path\na.png\n{path}\n")
        with pytest.raises(SubspectError) as refused:
            open_images(csv)
        assert str(refused.value).startswith(f"{path} in line 3 leads outside {tmp_path / 'near'}: to /")
        assert str(refused.value).endswith("; pass outside=True (--outside) if that is intended")
        assert ids(open_images(csv, outside=True)) == ["a.png", path]


def test_csv_paths_that_come_back_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in" / "a.png")
    paths = [f"{tmp_path}/in/a.png", "in/../in/a.png", "./in/a.png", f"../{tmp_path.name}/in/a.png", "in//a.png"]
    csv = write_csv(tmp_path, "\n".join(["path", *paths]))
    expected = ["in/a.png", "in/a.png", "./in/a.png", "in/a.png", "in//a.png"]
    assert ids(open_images(csv)) == expected
    assert not every(open_images(csv)).failed
    monkeypatch.chdir(tmp_path)
    assert ids(open_images("list.csv")) == expected


@LINKS
def test_csv_paths_through_links(tmp_path: Path) -> None:
    put(tmp_path / "far" / "c.png")
    put(tmp_path / "near" / "in" / "a.png")
    (tmp_path / "near" / "folder").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "file.png").symlink_to(tmp_path / "far" / "c.png")
    (tmp_path / "near" / "same.png").symlink_to("in/a.png")
    for path in ("folder/c.png", "file.png", "in/../file.png"):
        with pytest.raises(
            SubspectError, match=rf"^{path} in line 2 leads outside .*near: to .*far/c\.png; pass outside"
        ):
            open_images(write_csv(tmp_path / "near", f"path\n{path}\n"))
    images = open_images(write_csv(tmp_path / "near", f"path\nsame.png\n{tmp_path}/near/same.png\n"))
    assert ids(images) == ["same.png", "same.png"]
    assert not every(images).failed


def test_csv_asks_once_for_each_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = write_csv(tmp_path, "\n".join(["path", *(f"in/{index}.png" for index in range(9))]))
    asked = asked_where(monkeypatch)
    assert len(open_images(csv)) == 9
    assert asked == [str(tmp_path), str(tmp_path / "in")]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.png,cat\n",
        b"\xef\xbb\xbfpath,label\na.png,cat\n",
        "path,label\r\na.png,cat\r\n",
        "path, label\na.png, cat \n",
        '"path","label"\n"a.png","cat"\n',
        "label,path\ncat,a.png",
        "path,label\n\na.png,cat\n\n",
    ],
    ids=["plain", "byte order mark", "Windows", "spaces", "quoted", "other order", "blank lines"],
)
def test_csv_dialects(tmp_path: Path, text: str | bytes) -> None:
    images = open_images(write_csv(tmp_path, text))
    assert (ids(images), images.classes) == (["a.png"], ("cat",))


@pytest.mark.parametrize(("head", "found"), [("place,label", "place, label"), ("a.png", r"a\.png"), ("", "none")])
def test_csv_without_paths(tmp_path: Path, head: str, found: str) -> None:
    with pytest.raises(SubspectError, match=rf"list\.csv has the columns {found}; expected 'path' and 'label'"):
        open_images(write_csv(tmp_path, head + "\n" if head else ""))


@pytest.mark.parametrize("row", [",cat", "  ,cat", '"",cat', '" ",cat'])
def test_csv_with_a_blank_path(tmp_path: Path, row: str) -> None:
    with pytest.raises(SubspectError, match=r"list\.csv has no path in line 2, 5; give one on every line"):
        open_images(write_csv(tmp_path, f"path,label\n{row}\n\na.png,cat\n{row}\n"))


def test_csv_with_a_row_too_short_for_a_path(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match="has no path in line 2;"):
        open_images(write_csv(tmp_path, "label,path\ncat\n"))


def test_csv_with_a_blank_label(tmp_path: Path) -> None:
    text = "path,label\na.png,cat\n\nb.png,\nc.png\nd.png,  \n"
    with pytest.raises(
        SubspectError, match=r"has no label in 3 of 4 lines \(line 4, 5, 6\); label every image, or leave"
    ):
        open_images(write_csv(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    ["path\ncafé.png\n".encode("latin-1"), "path\na.png\n".encode("utf-16"), b'path\n"' + b"a" * 200_000],
    ids=["Latin-1", "UTF-16", "an open quote"],
)
def test_csv_that_cannot_be_read(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(SubspectError, match=r"list\.csv is not a CSV file in UTF-8 \(.+\); save it as one"):
        open_images(write_csv(tmp_path, text))


def test_csv_without_rows(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match="no images in what was given \\(CSV\\): its length is 0"):
        open_images(write_csv(tmp_path, "path,label\n"))


@pytest.mark.parametrize("row", ["a\0.png,cat", "a.png,c\0t", "a.png,cat,\0"])
def test_csv_with_a_nul(tmp_path: Path, row: str) -> None:
    with pytest.raises(
        SubspectError, match=r"list\.csv has a NUL character in line 2, which no path can contain; remove it$"
    ):
        open_images(write_csv(tmp_path, f"path,label,note\n{row}\n"))


def test_csv_with_more_fields_than_columns(tmp_path: Path) -> None:
    with pytest.raises(
        SubspectError,
        match=r"list\.csv has 3 fields in line 3 but 2 columns; put fields that contain a comma in quotes",
    ):
        open_images(write_csv(tmp_path, "path,label\na.png,cat\nb,c.png,cat\n"))
    assert ids(open_images(write_csv(tmp_path, 'path,label\n"b,c.png",cat\n'))) == ["b,c.png"]


@pytest.mark.parametrize("column", ["path", "label"])
def test_csv_with_a_column_twice(tmp_path: Path, column: str) -> None:
    with pytest.raises(SubspectError, match=rf"list\.csv has the column '{column}' 2 times; keep one of them"):
        open_images(write_csv(tmp_path, f"path,label,{column.upper()}\na.png,cat,b.png\n"))


def test_csv_with_very_long_fields(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"list\.csv is not a CSV file in UTF-8 \(field larger than field limit"):
        open_images(write_csv(tmp_path, f"path\n{'a' * 200_000}\n"))
    images = open_images(write_csv(tmp_path, f"path\n{'a' * 100_000}\n"))
    assert [reason.rpartition(": ")[2] for _, reason in every(images).failed] == ["File name too long"]
    with pytest.raises(SubspectError) as refused:
        open_images(write_csv(tmp_path, f"path\n/{'a' * 100_000}\n"))
    assert len(str(refused.value)) < 1000


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices of POSIX")
def test_csv_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.csv"):
        with pytest.raises(
            SubspectError, match=rf"^no such folder or file of images: .*{name} \(a (named pipe|device) is there\)"
        ):
            open_images(tmp_path / name)


def test_csv_of_too_many_bytes(tmp_path: Path) -> None:
    with (tmp_path / "list.csv").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(
        SubspectError, match=r"list\.csv has 1,099,511,627,776 bytes, more than the 268,435,456 that are"
    ):
        open_images(tmp_path / "list.csv")


@pytest.mark.parametrize("label", ["7" * 5000, "-" + "7" * 5000])
def test_csv_with_labels_of_5000_digits(tmp_path: Path, label: str) -> None:
    images = open_images(write_csv(tmp_path, f"path,label\na.png,{label}\nb.png,0\n"))
    with pytest.raises(
        SubspectError, match=rf"^labels {label[:100]}… are not class indices of this network: expected 0 to 2"
    ):
        match_classes(images, 3)
    match_classes(images, 2, class_map="sorted")  # warns of numbers, or not, without counting their digits
    zeros = open_images(write_csv(tmp_path, f"path,label\na.png,{'0' * 5000}1\n"))
    assert placed(match_classes(zeros, 3)) == {"0" * 5000 + "1": 1}


# Arrays ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [
        noise(2, 3, 4),
        noise(2, 3, 4, 1),
        noise(2, 3, 4, 3),
        noise(2, 3, 4, 4),
        torch.from_numpy(noise(2, 3, 4)),
        torch.from_numpy(noise(2, 1, 3, 4)),
        torch.from_numpy(noise(2, 3, 3, 4)),
        torch.from_numpy(noise(2, 4, 3, 4)),
        noise(2, 4, 3, 3).transpose(0, 2, 1, 3)[:, :, ::-1],
    ],
    ids=lambda images: f"{type(images).__name__} {tuple(images.shape)}",
)
def test_uint8_arrays_are_pictures(images: Pixels | torch.Tensor) -> None:
    source = open_images(images)
    assert (source.kind, source.ready, source.labelled, source.root) == ("arrays", False, False, None)
    assert (len(source), ids(source), raw(source)) == (2, ["0", "1"], [None, None])
    for index in range(2):
        item = images[index]
        pixels = np.asarray(item.movedim(0, -1) if isinstance(item, torch.Tensor) and item.ndim == 3 else item)
        pixels = pixels.reshape(3, 4, -1)
        expected = [
            [
                [int(pixels[row, column, min(channel, pixels.shape[2] - 1)]) for channel in range(3)]
                for column in range(4)
            ]
            for row in range(3)
        ]
        assert read(source, index) == expected == rgb(source.picture(str(index)))


def locked() -> npt.NDArray[np.float32]:
    array = np.ones((2, 3, 4, 4), np.float32)
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "images",
    [
        np.ones((2, 3, 4, 4), np.float32),
        np.ones((2, 3, 4, 4), np.float64),
        np.ones((2, 3, 4, 4), np.float16),
        np.ones((2, 3, 4, 4), ">f4"),
        locked(),
        noise(2, 3, 4, 4).astype(np.float32)[:, ::-1],
        np.ones((2, 5)),
        torch.ones(2, 3, 4, 4),
        torch.ones(2, 3, 4, 4, dtype=torch.float64),
        torch.ones(2, 3, 4, 4, dtype=torch.bfloat16),
        torch.ones(2, 3, 4, 4, requires_grad=True),
    ],
    ids=lambda images: f"{type(images).__name__} {images.dtype}",
)
def test_floating_arrays_are_ready_for_the_network(images: npt.NDArray[Any] | torch.Tensor) -> None:
    source = open_images(images)
    assert source.ready
    batch = next(batches(source, None, None, [[0, 1]]))
    assert isinstance(batch.pixels, torch.Tensor)
    assert batch.pixels.dtype == torch.float32
    assert not batch.pixels.requires_grad
    plain = (
        images.detach().float() if isinstance(images, torch.Tensor) else torch.tensor(images.astype(np.float32).copy())
    )
    assert torch.equal(batch.pixels, plain)
    assert len(source.fingerprint(None)) == 64


def test_preprocessing_leaves_ready_tensors_alone() -> None:
    images = torch.full((2, 3, 4, 4), 7.0)
    batch = every(open_images(images))
    assert isinstance(batch.pixels, torch.Tensor)
    assert torch.equal(batch.pixels, images)


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (np.zeros((2, 3, 4), np.int64), r"ndarray of int64 \(3, 4\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"ndarray of uint8 \(3, 8, 8\)"),
        (np.zeros((2, 3), np.uint8), r"ndarray of uint8 \(3,\)"),
        (np.zeros((2, 3, 4, 2), np.uint8), r"ndarray of uint8 \(3, 4, 2\)"),
        (np.zeros((2, 1, 3, 4, 3), np.uint8), r"ndarray of uint8 \(1, 3, 4, 3\)"),
        (torch.zeros(2, 8, 9, 3, dtype=torch.uint8), r"Tensor of uint8 \(8, 9, 3\)"),
        (torch.zeros(2, 3, 8, 9, dtype=torch.int64), r"Tensor of int64 \(3, 8, 9\)"),
        (np.zeros((2, 3, 4), bool), r"ndarray of bool \(3, 4\)"),
    ],
)
def test_arrays_of_another_shape_or_type(images: Any, given: str) -> None:
    with pytest.raises(SubspectError, match=rf"an image in memory must be a Pillow image, .*; got {given}$"):
        open_images(images)


@pytest.mark.parametrize("images", [[noise(3, 4), noise(5, 4)], "folder", np.zeros(3), np.array(0.5)])
def test_images_that_are_no_array(images: Any) -> None:
    with pytest.raises(
        SubspectError,
        match=rf"a NumPy array or a tensor \(n, …\), or a dict of such by name; got {type(images).__name__}",
    ):
        open_images((images, [0, 1]))


@pytest.mark.parametrize(
    "labels",
    [[2, 0], (2, 0), np.array([2, 0], np.uint8), np.array([[2], [0]]), torch.tensor([2, 0])],
    ids=["list", "tuple", "uint8", "column", "tensor"],
)
def test_labels_of_arrays(labels: Any) -> None:
    source = open_images((noise(2, 3, 4), labels))
    assert (source.labelled, source.classes, raw(source)) == (True, None, [2, 0])
    assert all(type(label) is int for label in raw(source))
    match = match_classes(source, 3)
    assert match.how == "class indices"
    assert every(source, match).labels.tolist() == [2, 0]


def test_a_pair_without_labels() -> None:
    assert not open_images((noise(2, 3, 4), None)).labelled


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        ([0], "1 of type int64"),
        ([0, 1, 2], "3 of type int64"),
        ([], "0 of type float64"),
        ([0.0, 1.0], "2 of type float64"),
        ([True, False], "2 of type bool"),
        (["cat", "dog"], "2 of type <U3"),
        (["a", "b"], r"2 of type <U1; names are matched where they come from a folder, .* give class indices"),
        (torch.eye(2), r"\(2, 2\) of type float32; several numbers for an image are a multi-label target"),
        (np.eye(2, dtype=np.int64), r"\(2, 2\) of type int64; several numbers .* or no labels"),
        (np.ones((2, 5)), r"\(2, 5\) of type float64; several numbers .* labels.argmax\(1\)"),
        ([[0.5], [1.5]], r"\(2, 1\) of type float64; floating-point numbers are a regression target"),
        (
            torch.tensor([0.5, -3.2]),
            r"2 of type float32; floating-point numbers are a regression target, .*astype\(int\)",
        ),
        (np.ones((3, 5), np.int64), r"\(3, 5\) of type int64$"),
        (1, "1 of type int64"),
    ],
)
def test_labels_of_another_length_or_type(labels: Any, given: str) -> None:
    with pytest.raises(SubspectError, match=rf"labels must be 2 class indices, one per image; got {given}"):
        open_images((noise(2, 3, 4), labels))


def test_no_arrays() -> None:
    with pytest.raises(SubspectError, match="no images in what was given \\(arrays\\): its length is 0"):
        open_images(noise(0, 3, 4))


@pytest.mark.parametrize("id", ["2", "-1", "x", "", "0.0"])
def test_picture_of_an_unknown_position(id: str) -> None:
    with pytest.raises(Unusable, match=rf"no image with id '{id}' among 2"):
        open_images(noise(2, 3, 4)).picture(id)


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 2, 2), (3, 1, 4), (1, 1, 4)])
def test_picture_of_a_tensor_is_stretched_to_all_greys(shape: tuple[int, ...]) -> None:
    tensor = torch.linspace(-2, 6, int(np.prod(shape))).reshape(shape)
    expected = [
        [
            [int((float(tensor[min(channel, shape[0] - 1), row, column]) + 2) / 8 * 255) for channel in range(3)]
            for column in range(shape[2])
        ]
        for row in range(shape[1])
    ]
    np.testing.assert_allclose(rgb(open_images(tensor[None]).picture("0")), expected, atol=1)


def test_picture_of_an_even_tensor_is_black() -> None:
    assert rgb(open_images(torch.full((1, 3, 1, 1), 5.0)).picture("0")) == [[[0, 0, 0]]]


@pytest.mark.parametrize("shape", [(5,), (2, 4, 4), (3, 4), (1, 3, 4, 4)])
def test_tensor_that_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(Unusable, match=rf"a tensor of shape \({', '.join(map(str, shape))},?\) is not a picture"):
        open_images(torch.zeros(1, *shape)).picture("0")


# Datasets -------------------------------------------------------------------------------------------------------------


class Listed(Dataset[Any]):
    """A dataset of given items; an exception among them is raised when its turn comes."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(3, 4, 4)


class EndlessWithLength(Endless):
    def __len__(self) -> int:
        return 1


class NoLength(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return torch.zeros(3, 4, 4)


def test_dataset_of_pictures() -> None:
    images = open_images(Listed((Image.new("L", (2, 1), 9), 1), (Image.new("RGBA", (1, 1), (1, 2, 3, 0)), 0)))
    assert isinstance(images, DatasetImages)
    assert (images.kind, images.ready, images.labelled, images.classes) == ("dataset", False, True, None)
    assert (len(images), ids(images), raw(images)) == (2, ["0", "1"], [1, 0])
    assert read(images, 0) == [[[9] * 3] * 2]
    assert read(images, 1) == rgb(images.picture("1")) == [[[1, 2, 3]]]


def test_dataset_of_upside_down_pictures() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    image = Image.fromarray(COLOURS)
    image.info["exif"] = exif.tobytes()
    assert read(open_images(Listed(image))) == COLOURS[::-1, ::-1].tolist()


def test_dataset_of_arrays() -> None:
    images = open_images(Listed((noise(3, 4, 3), 1), (torch.from_numpy(noise(3, 3, 4)), 0)))
    assert not images.ready
    assert read(images) == noise(3, 4, 3).tolist()
    assert read(images, 1) == noise(3, 3, 4).transpose(1, 2, 0).tolist()


@pytest.mark.parametrize(
    ("dataset", "labels"),
    [
        (TensorDataset(torch.rand(2, 3, 4, 4)), [None, None]),
        (TensorDataset(torch.rand(2, 3, 4, 4), torch.tensor([1, 0])), [1, 0]),
        (TensorDataset(torch.rand(2, 3, 4, 4), torch.tensor([[1], [0]])), [1, 0]),
        (TensorDataset(torch.rand(2, 3, 4, 4), torch.tensor([1, 0]), torch.tensor([7, 8])), [1, 0]),
        (Listed(torch.rand(3, 4, 4), torch.rand(3, 4, 4)), [None, None]),
        (Listed([torch.rand(3, 4, 4), np.int64(1)], [torch.rand(3, 4, 4), np.array(0)]), [1, 0]),
        (Listed((np.ones((3, 4, 4)), 1), (np.ones((3, 4, 4)), 0)), [1, 0]),
        (Subset(TensorDataset(torch.rand(3, 3, 4, 4), torch.tensor([5, 1, 0])), [1, 2]), [1, 0]),
    ],
    ids=["no label", "label", "column", "more", "tensors", "NumPy labels", "NumPy images", "subset"],
)
def test_dataset_of_tensors(dataset: Dataset[Any], labels: list[int | None]) -> None:
    images = open_images(dataset)
    assert (images.ready, images.labelled) == (True, labels[0] is not None)
    assert raw(images) == labels
    assert all(label is None or type(label) is int for label in raw(images))
    batch = next(batches(images, None, match_classes(images, 2), [[0, 1]]))
    assert isinstance(batch.pixels, torch.Tensor)
    assert batch.pixels.shape == (2, 3, 4, 4)
    assert batch.labels.tolist() == [-1 if label is None else label for label in labels]


def test_dataset_is_known_by_items_that_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as lazy:  # decoded only when subspect asks for the pixels
        unreadable = Image.fromarray(np.zeros((2, 2), np.float32))
        images = open_images(Listed(OSError("broken"), (lazy, 1), (unreadable, 1), (torch.rand(3, 4, 4), 1)))
        assert (images.ready, images.labelled) == (True, True)
        batch = every(images)
        assert batch.ids == ["3"]
        assert [id for id, _ in batch.failed] == ["0", "1", "2"]
        assert [reason[:15] for _, reason in batch.failed] == ["OSError: broken", "OSError: image ", "floating-point "]
    with pytest.raises(Unusable, match="OSError: broken"):
        images.picture("0")


def test_dataset_items_that_hold_a_gradient() -> None:
    images = open_images(Listed((torch.rand(3, 4, 4, requires_grad=True), 1)))
    batch = every(images)
    assert isinstance(batch.pixels, torch.Tensor)
    assert not batch.pixels.requires_grad
    assert images.picture("0").size == (4, 4)


def test_dataset_without_one_good_item() -> None:
    images = open_images(Listed(*[OSError("broken")] * 70))
    assert (images.ready, images.labelled) == (False, False)
    assert every(images).pixels is None


def test_dataset_whose_own_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        open_images(Listed(ZeroDivisionError()))


@pytest.mark.parametrize("item", [{"image"}, "a.png", None, 3])
def test_dataset_of_something_else(item: Any) -> None:
    with pytest.raises(SubspectError, match=rf"an image in memory must be .* got {type(item).__name__} of "):
        open_images(Listed(item))


def test_dataset_with_labels_that_are_no_number() -> None:
    images = open_images(TensorDataset(torch.rand(2, 3, 4, 4), torch.eye(2)))
    match = (
        r"label \[1\.0, 0\.0\] is not a class index of this network.*; several numbers for an image are a multi-label "
    )
    with pytest.raises(SubspectError, match=match):
        every(images, match_classes(images, 2))


@pytest.mark.parametrize("label", [0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_dataset_with_numbers_to_be_predicted(label: object) -> None:
    images = open_images(Listed((torch.ones(3, 2, 2), label)))
    with pytest.raises(
        SubspectError, match=r"^image 0: label 0.5 is not a class .* floating-point numbers are a regression target"
    ):
        every(images, match_classes(images, 2))


def test_empty_dataset() -> None:
    with pytest.raises(SubspectError, match="no images in what was given \\(dataset\\): its length is 0"):
        open_images(Listed())


@pytest.mark.parametrize("dataset", [Endless(), EndlessWithLength(), DataLoader(Endless()), NoLength()])
def test_dataset_that_can_only_be_iterated(dataset: Any) -> None:
    with pytest.raises(
        SubspectError,
        match=r"^(Endless|EndlessWithLength|NoLength) can only be iterated; subspect reads by position, .* map-style Dataset",
    ):
        open_images(dataset)


@pytest.mark.parametrize("source", [3, None, ["a.png"], (1, 2, 3), object()])
def test_source_of_another_type(source: Any) -> None:
    with pytest.raises(
        SubspectError, match=rf"cannot read images from {type(source).__name__}; pass a folder, a CSV file, an array"
    ):
        open_images(source)


def test_images_are_taken_as_they_are() -> None:
    images = Arrays(noise(2, 3, 4))
    assert open_images(images) is images


# DataLoaders ----------------------------------------------------------------------------------------------------------

PAIRS = TensorDataset(torch.rand(6, 3, 4, 4), torch.arange(6))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(PAIRS),
        DataLoader(PAIRS, batch_size=4, drop_last=True),
        DataLoader(PAIRS, batch_size=None),
        DataLoader(PAIRS, sampler=SequentialSampler(PAIRS)),
        DataLoader(PAIRS, batch_sampler=BatchSampler(SequentialSampler(PAIRS), 2, False)),
    ],
    ids=["plain", "batches", "no batches", "sampler", "batch sampler"],
)
def test_loader_in_order(loader: DataLoader[Any]) -> None:
    images = open_images(loader)
    assert isinstance(images, DatasetImages)
    assert images.dataset is PAIRS
    assert raw(images) == list(range(6))


class OwnBatches(BatchSampler):
    """Yields batches in an order of its own."""


@pytest.mark.parametrize(
    ("loader", "sampler"),
    [
        (DataLoader(PAIRS, shuffle=True), "RandomSampler"),
        (DataLoader(PAIRS, batch_size=None, shuffle=True), "RandomSampler"),
        (DataLoader(PAIRS, sampler=[3, 1]), "list"),
        (DataLoader(PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 2, False)), "RandomSampler"),
        (DataLoader(PAIRS, batch_sampler=OwnBatches(SequentialSampler(PAIRS), 2, False)), "OwnBatches"),
        (DataLoader(PAIRS, batch_sampler=[[0, 5], [1]]), "list"),
    ],
    ids=["shuffle", "shuffle one by one", "list", "shuffled batches", "own batches", "list of batches"],
)
def test_loader_that_shuffles_or_picks(loader: DataLoader[Any], sampler: str) -> None:
    with pytest.raises(
        SubspectError, match=rf"shuffles or samples \({sampler}\): image ids, .* pass DataLoader\(dataset, s"
    ):
        open_images(loader)


def test_loader_with_a_collate_function_of_its_own() -> None:
    with pytest.raises(SubspectError, match=r"its own collate_fn, which subspect would bypass .*; pass a Dataset"):
        open_images(DataLoader(PAIRS, collate_fn=lambda items: items))


# Classes --------------------------------------------------------------------------------------------------------------


def labelled(*names: str, kind: str = "folder") -> Files:
    """Images, one for each name; the files are never opened."""
    return Files(kind, Path("root"), [f"{name}/1.png" for name in names], names)


def placed(match: ClassMatch) -> dict[str, int]:
    assert match.index is not None
    return {name: match(name) for name in match.index}


def test_by_name() -> None:
    match = match_classes(labelled("cat", "ant"), 3, ["cat", "bee", "ant"])
    assert placed(match) == {"cat": 0, "ant": 2}
    assert (match.names, match.how, match.n_classes) == (("cat", "bee", "ant"), "by name", 3)


def test_by_name_whatever_the_case_and_the_spaces() -> None:
    match = match_classes(
        labelled("traffic_light", "GREAT-white  shark", "Straße"), 3, ["STRASSE", "Traffic Light", "great White_shark"]
    )
    assert placed(match) == {"traffic_light": 1, "GREAT-white  shark": 2, "Straße": 0}


def test_the_exact_name_goes_first() -> None:
    assert placed(match_classes(labelled("Cat", "cat"), 3, ["cat", "CAT", "Cat"])) == {"Cat": 2, "cat": 0}


@given(
    order=st.permutations(["ant", "bee", "cat", "dog"]),
    found=st.sets(st.sampled_from(["ant", "bee", "cat", "dog"]), min_size=1),
)
@settings(deadline=None)
def test_by_name_is_the_place_in_the_list(order: list[str], found: set[str]) -> None:
    assert placed(match_classes(labelled(*found), 4, order)) == {name: order.index(name) for name in found}


def test_unknown_name() -> None:
    with pytest.raises(
        SubspectError,
        match=r"2 of 3 class folders or labels are not among the network's 2 class names: 'trucl' \(did you mean 'truck'\?\), "
        r"'zebra'; rename them, pass --class-map FILE .* or --class-map sorted if .* order$",
    ):
        match_classes(labelled("car", "trucl", "zebra"), 2, ["car", "truck"])


def test_names_that_stand_twice() -> None:
    known = ["crane", "maillot", "crane", "Kite", "kite"]
    assert placed(match_classes(labelled("maillot", "kite"), 5, known)) == {"kite": 4, "maillot": 1}
    for found in ("crane", "CRANE", "KITE"):
        with pytest.raises(SubspectError, match=rf"duplicate class names can't be matched: {found}; pass a class map"):
            match_classes(labelled("maillot", found), 5, known)


def test_folders_that_mean_the_same_class() -> None:
    with pytest.raises(
        SubspectError, match="several class folders stand for the same class: polar bear, polar_bear; pass a class"
    ):
        match_classes(labelled("ant", "polar_bear", "polar bear"), 2, ["Polar Bear", "ant"])


def test_names_of_another_number() -> None:
    with pytest.raises(
        SubspectError,
        match="1 class name for a network with 2 classes; give one per class; one logit is two classes: give two names, first",
    ):
        match_classes(labelled("cat"), 2, ["cat"])
    with pytest.raises(SubspectError, match="1 class name for a network with 3 classes; give one per class$"):
        match_classes(labelled("cat"), 3, ["cat"])


def test_by_sorted_order() -> None:
    for class_map in (None, "sorted"):
        match = match_classes(labelled("dog", "cat", "Ant"), 3, class_map=class_map)
        assert placed(match) == {"Ant": 0, "cat": 1, "dog": 2}  # capitals first, as torchvision sorts them
        assert (match.names, match.how) == (("Ant", "cat", "dog"), "by sorted order")


def test_the_order_of_a_data_set_is_called_so() -> None:
    source = labelled("dog", "cat", "Ant")
    source.classes = ("dog", "cat", "Ant")
    for class_map in (None, "sorted"):
        match = match_classes(source, 3, class_map=class_map)
        assert (placed(match), match.how) == ({"dog": 0, "cat": 1, "Ant": 2}, "by the data set's order")
    with pytest.raises(
        SubspectError, match=r"--class-map sorted if their order \(the data set's order\) is the network"
    ):
        match_classes(source, 3, ["x", "y", "z"])


def test_sorted_order_on_demand_although_names_are_known() -> None:
    match = match_classes(labelled("n02", "n01"), 2, ["tench", "goldfish"], "sorted")
    assert placed(match) == {"n01": 0, "n02": 1}
    assert match.names == ("tench", "goldfish")


def test_sorted_order_of_another_number() -> None:
    with pytest.raises(
        SubspectError,
        match=r"2 class folders or labels \(cat, dog\) for a network with 3 classes: expected one per class; pass "
        r"--class-map FILE \(name → class index\) for some of the classes$",
    ):
        match_classes(labelled("cat", "dog"), 3)


def test_folders_named_by_numbers_are_sorted_as_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "subspect"):
        match = match_classes(labelled(*map(str, range(11))), 11)
    assert (match("2"), match("10")) == (3, 2)
    assert (
        "class folders are numbers; they are sorted as text (0, 1, 10, 2, 3, … (6 more)), as torchvision does, "
        in caplog.text
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "subspect"):
        match_classes(labelled("0", "1", "2"), 3)
        match_classes(labelled("1", "10", "2x"), 3)
    assert not caplog.records


HINT = r"; did you mean a folder inside it, such as .*/{}\?$"


def test_folder_above_the_image_sets(make_folder: MakeFolder) -> None:
    above = open_images(make_folder(classes=("annotations", "Test", "train"), each=1))
    with pytest.raises(SubspectError, match=HINT.format("Test")):
        match_classes(above, 10)
    with pytest.raises(SubspectError, match=HINT.format("Test")):
        match_classes(above, 2, ["cat", "dog"])


def test_folder_above_as_many_image_sets_as_classes(make_folder: MakeFolder) -> None:
    above = open_images(make_folder(classes=("train", "VAL"), each=1))
    with pytest.raises(
        SubspectError,
        match=r"the folders in .* look like image sets, not classes: VAL, train; pass one of these folders, or a class",
    ):
        match_classes(above, 2)
    assert placed(match_classes(above, 2, class_map={"train": 0, "VAL": 1})) == {"train": 0, "VAL": 1}


def test_no_hint_where_train_is_a_class_or_a_label() -> None:
    assert placed(match_classes(labelled("train"), 2, ["train", "truck"])) == {"train": 0}
    with pytest.raises(
        SubspectError, match=r"--class-map sorted if their order \(sorted order\) is the network's class order$"
    ):
        match_classes(labelled("train", "cart"), 2, ["train", "truck"])
    with pytest.raises(SubspectError, match="for some of the classes$"):
        match_classes(labelled("train", "cart", kind="CSV"), 3)
    assert placed(match_classes(labelled("train", "test", kind="CSV"), 2)) == {"test": 0, "train": 1}


def test_by_map(tmp_path: Path) -> None:
    given = {"cat": 3, "dog": 0, "cow": 0, "unused": 1}
    (tmp_path / "map.json").write_text(json.dumps(given), encoding="utf-8")
    for class_map in (given, tmp_path / "map.json", str(tmp_path / "map.json")):
        match = match_classes(labelled("cat", "dog", "cow"), 4, class_map=class_map)
        assert placed(match) == {"cat": 3, "dog": 0, "cow": 0}
        assert (match.names, match.how) == (("dog", "unused", "class 2", "cat"), "by the class map")
    assert match_classes(labelled("cat"), 4, list("abcd"), given).names == ("a", "b", "c", "d")


@pytest.mark.parametrize("given", ["[1, 2]", "3", '{"cat": "3"}', '{"cat": 1.0}', '{"cat": true}', '{"cat": null}'])
def test_map_of_another_form(tmp_path: Path, given: str) -> None:
    (tmp_path / "map.json").write_text(given, encoding="utf-8")
    expected = r"a class map must be a JSON object of folder name → class index, such as \{\"cat\": 3\}; got "
    with pytest.raises(SubspectError, match=expected + r".*map\.json$"):
        match_classes(labelled("cat"), 4, class_map=tmp_path / "map.json")
    if given.startswith("{"):
        with pytest.raises(SubspectError, match=expected + r"\{'cat': "):
            match_classes(labelled("cat"), 4, class_map=json.loads(given))


def test_map_with_indices_outside_the_classes() -> None:
    with pytest.raises(
        SubspectError, match="the class map contains indices outside 0 to 3: dog → 4, cow → -1; give each"
    ):
        match_classes(labelled("cat"), 4, class_map={"cat": 3, "dog": 4, "cow": -1})
    with pytest.raises(
        SubspectError, match="the class map contains indices outside 0 to 3: cat → a huge number; give each"
    ):
        match_classes(labelled("cat"), 4, class_map={"cat": 10**5000})


@pytest.mark.parametrize("value", ["true", "null", '"3"', "1.0", "[1]", "1e400", "9" * 5000])
def test_class_map_of_odd_values(tmp_path: Path, value: str) -> None:
    (tmp_path / "map.json").write_text(f'{{"cat": {value}}}')
    with pytest.raises(SubspectError, match=r"^(a class map must be a JSON object of|.*map\.json is not JSON: )"):
        match_classes(labelled("cat"), 4, class_map=tmp_path / "map.json")


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices of POSIX")
def test_class_map_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in {tmp_path / "pipe": "a named pipe", Path("/dev/zero"): "a device", tmp_path: "a folder"}.items():
        with pytest.raises(SubspectError, match=rf"^cannot read the class map {path}: it is {kind}, not a file$"):
            match_classes(labelled("cat"), 4, class_map=path)


def test_class_map_of_many_names_takes_no_time() -> None:
    given = {f"name {index}": 7 for index in range(200_000)}
    start = time.perf_counter()
    match = match_classes(labelled("name 3"), 2000, class_map=given)
    assert time.perf_counter() - start < 5  # trying each name for each class takes minutes
    assert (match.names[6], match.names[7]) == ("class 6", "name 0")


def test_map_that_lacks_a_folder() -> None:
    with pytest.raises(
        SubspectError, match="2 of the class folders or labels are missing from the class map: 'cow', 'dog'; add them"
    ):
        match_classes(labelled("cat", "dog", "cow"), 4, class_map={"cat": 3})


def test_map_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"cannot read .*map\.json"):
        match_classes(labelled("cat"), 4, class_map=tmp_path / "map.json")


def test_numbers_in_a_csv_are_class_indices() -> None:
    match = match_classes(labelled("10", "2", "002", kind="CSV"), 11)
    assert placed(match) == {"10": 10, "2": 2, "002": 2}
    assert (match.names[10], match.how) == ("class 10", "class indices")
    assert match_classes(labelled("1", kind="CSV"), 2, ["cat", "dog"]).names == ("cat", "dog")


def test_numbers_in_a_csv_that_are_class_names() -> None:
    match = match_classes(labelled("3", "5", kind="CSV"), 3, ["5", "4", "3"])
    assert (placed(match), match.how) == ({"3": 2, "5": 0}, "by name")
    assert placed(match_classes(labelled("0", "1", kind="CSV"), 2, ["1", "0"])) == {"0": 1, "1": 0}


def test_numbers_in_a_csv_outside_the_classes() -> None:
    with pytest.raises(SubspectError, match="labels 10, 9 are not class indices of this network: expected 0 to 8"):
        match_classes(labelled("10", "9", "8", kind="CSV"), 9)


def test_names_in_a_csv() -> None:
    assert placed(match_classes(labelled("cat", "1", kind="CSV"), 2)) == {"1": 0, "cat": 1}
    assert placed(match_classes(labelled("cat", kind="CSV"), 2, ["dog", "cat"])) == {"cat": 1}


@pytest.mark.parametrize(("labels", "how"), [([1, 0], "class indices"), (None, "none")])
def test_class_indices_need_no_matching(labels: list[int] | None, how: str) -> None:
    match = match_classes(Arrays(noise(2, 3, 4), labels), 3)
    assert match == ClassMatch(3, None, ("class 0", "class 1", "class 2"), how)
    assert match_classes(Arrays(noise(2, 3, 4), labels), 2, ["cat", "dog"]).names == ("cat", "dog")


@given(n_classes=st.integers(1, 9), label=st.integers(-3, 12))
@settings(deadline=None)
def test_a_class_index_is_within_the_classes(n_classes: int, label: int) -> None:
    match = ClassMatch(n_classes, None, (), "")
    if label in range(n_classes):
        assert match(label) == label
    else:
        with pytest.raises(
            SubspectError, match=rf"label {label} is not .*: expected a whole number from 0 to {n_classes - 1}$"
        ):
            match(label)


@pytest.mark.parametrize("label", ["cat", 1.0, None, {"boxes": []}, torch.tensor([0, 1])])
def test_a_label_that_is_no_class_index(label: Any) -> None:
    with pytest.raises(SubspectError, match=r"label .* is not a class index of this network: expected a whole number"):
        ClassMatch(3, None, (), "")(label)


# Batches --------------------------------------------------------------------------------------------------------------


def test_batches_follow_the_positions(make_folder: MakeFolder) -> None:
    images = open_images(make_folder(each=3))
    match = match_classes(images, 3)
    given = list(batches(images, PIXELS, match, [[8, 0], [4], [1, 1, 7]]))
    assert [batch.ids for batch in given] == [
        ["c/002.png", "a/000.png"],
        ["b/001.png"],
        ["a/001.png"] * 2 + ["c/001.png"],
    ]
    assert [batch.labels.tolist() for batch in given] == [[2, 0], [1], [0, 0, 2]]
    for batch in given:
        assert batch.labels.dtype == np.int64
        assert batch.failed == []
        assert batch.error is None
        assert isinstance(batch.pixels, torch.Tensor)
        for row, id in zip(batch.pixels, batch.ids, strict=True):
            assert torch.equal(row, PIXELS(images.picture(id)))


def test_batches_without_matching_have_no_labels(make_folder: MakeFolder) -> None:
    assert every(open_images(make_folder(each=1))).labels.tolist() == [-1, -1, -1]


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    """Seven images of which three cannot be used, one of them listed and gone."""
    for index in range(7):
        put(tmp_path / "set" / f"{index}.png", colour=(index, 0, 0))
    put(tmp_path / "set" / "1.png", side=2)
    (tmp_path / "set" / "4.png").write_bytes(b"nothing")
    return tmp_path / "set"


def test_failed_images_are_listed_with_their_reasons(holed: Path) -> None:
    images = open_images(holed)
    (holed / "6.png").unlink()
    crop = Preprocessing(resize=None, crop=3, mean=0, std=1)  # type: ignore[arg-type]
    given = list(batches(images, crop, None, [[0, 1, 2], [3, 4], [6], []]))
    assert [batch.ids for batch in given] == [["0.png", "2.png"], ["3.png"], [], []]
    assert [batch.failed for batch in given] == [
        [("1.png", "2×2 pixels is smaller than the crop of 3×3")],
        [("4.png", "not an image (7 bytes)")],
        [("6.png", "no such file")],
        [],
    ]
    assert [None if batch.pixels is None else len(batch.pixels) for batch in given] == [2, 1, None, None]
    assert [len(batch.labels) for batch in given] == [2, 1, 0, 0]


# a machine with one processor makes PyTorch advise against two workers
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
def test_worker_processes_change_nothing(holed: Path) -> None:
    images = open_images(holed)
    crop = Preprocessing(resize=None, crop=3, mean=0, std=1)  # type: ignore[arg-type]
    positions = [[5, 0, 1], [4], [2, 3], [6], [0]]
    here, there = (list(batches(images, crop, None, positions, workers)) for workers in (0, 2))
    assert len(here) == len(there) == 5
    for one, two in zip(here, there, strict=True):
        assert (one.ids, one.failed, one.labels.tolist()) == (two.ids, two.failed, two.labels.tolist())
        if one.pixels is None or two.pixels is None:
            assert one.pixels is two.pixels is None
        else:
            assert isinstance(one.pixels, torch.Tensor) and isinstance(two.pixels, torch.Tensor)
            assert torch.equal(one.pixels, two.pixels)


class Deadly(Dataset[Any]):
    """Its third item ends the worker process that reads it, as the system does where memory runs out."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        if index == 2 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, 4, 4), 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_worker_that_is_killed() -> None:
    images = open_images(Deadly())
    read = batches(images, None, None, [[index] for index in range(6)], 1)
    with (
        pytest.raises(
            SubspectError,
            match=r"^a process that reads images was killed from outside, usually because memory ran out; what "
            r"was stored is kept: run again with fewer --workers \(0 reads images without such processes\)"
            r"$",
        ),
        lost_workers(),
    ):
        for _ in read:
            time.sleep(0.05)  # the news may come while the main process does something else
    for _ in range(3):  # what is told once is not told again when another process ends
        subprocess.run([sys.executable, "-c", ""], check=True)


def test_other_errors_of_a_source_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a bug of the user's"):
        list(batches(Arrays(noise(1, 4, 4)), Transform(Bug()), None, [[0]]))


class Bug:
    """A transform with a mistake."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        raise RuntimeError("a bug of the user's")

    def __repr__(self) -> str:
        return "Bug()"


SIZES = r"^images of different sizes: a\.png is 3×4×4, c\.png is 3×5×5 after preprocessing; give resize and crop, so that all"


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_sizes(tmp_path: Path, workers: int) -> None:
    for name, side in {"a": 4, "b": 4, "c": 5}.items():
        put(tmp_path / f"{name}.png", side)
    with pytest.raises(SubspectError, match=SIZES):
        every(open_images(tmp_path), workers=workers)


def test_label_outside_the_classes() -> None:
    images = open_images((noise(3, 4, 4, 3), [0, 1, 2]))
    match = match_classes(images, 2)
    read = batches(images, PIXELS, match, [[0, 1], [2]])
    assert next(read).labels.tolist() == [0, 1]
    with pytest.raises(
        SubspectError, match="^image 2: label 2 is not a class index of this network: expected .* from 0 to 1$"
    ):
        next(read)


def test_pictures_mixed_with_tensors() -> None:
    class Mixed(Dataset[object]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> object:
            return torch.rand(3, 4, 4) if index else Image.new("RGB", (4, 4))

    with pytest.raises(
        SubspectError, match="the images mix pictures and tensors that are ready for the network; give only one"
    ):
        next(batches(open_images(Mixed()), PIXELS, None, [[0, 1]]))


def test_folder_that_cannot_be_read(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder()
    original = os.scandir

    def refuse(path: str | os.PathLike[str]) -> object:
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SubspectError, match="cannot read .*b: Permission denied; make it readable"):
        open_images(folder)


def test_pictures_without_preprocessing(make_folder: MakeFolder) -> None:
    with pytest.raises(
        SubspectError,
        match=r"does not declare its preprocessing and none was given: pass resize, crop, mean and std .* as in training",
    ):
        next(batches(open_images(make_folder()), None, None, [[0]]))


def test_a_transform_is_used_as_it_is(make_folder: MakeFolder) -> None:
    class First:
        def __call__(self, image: Image.Image) -> torch.Tensor:
            return torch.tensor([rgb(image)[0][0]]).double()

        def __repr__(self) -> str:
            return "First()"

    images = open_images(make_folder(each=1))
    (batch,) = batches(images, Transform(First()), None, [[0, 2]])
    assert isinstance(batch.pixels, torch.Tensor)
    assert batch.pixels.dtype == torch.float32
    assert batch.pixels.tolist() == [[[*rgb(images.picture(id))[0][0]]] for id in ("a/000.png", "c/000.png")]


# Fingerprints ---------------------------------------------------------------------------------------------------------


def test_files_are_identified_by_paths_sizes_and_classes(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(each=2)
    images = open_images(root)

    def now(class_map: dict[str, int] | None = None) -> str:
        again = open_images(root)
        return again.fingerprint(match_classes(again, 3, class_map=class_map))

    first = now()
    assert first == now() == images.fingerprint(match_classes(images, 3)) == now({"a": 0, "b": 1, "c": 2})
    copied = open_images(Path(shutil.copytree(root, tmp_path / "copy")))
    assert copied.fingerprint(match_classes(copied, 3)) == first
    os.utime(root / "a" / "000.png", (1, 1))
    assert now() == first
    seen = {first, images.fingerprint(None), now({"a": 1, "b": 0, "c": 2})}
    assert len(seen) == 3  # a label changed
    (root / "a" / "000.png").write_bytes((root / "a" / "000.png").read_bytes() + b"x")
    seen.add(now())
    assert len(seen) == 4  # a size changed
    (root / "a" / "000.png").rename(root / "a" / "zzz.png")
    seen.add(now())
    assert len(seen) == 5  # a path changed
    (root / "a" / "zzz.png").unlink()
    seen.add(now())
    assert len(seen) == 6  # an image is gone
    assert images.fingerprint(match_classes(images, 3)) not in seen  # listed before, now missing


def test_files_without_labels_are_identified_whatever_the_classes(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    images = open_images(tmp_path)
    assert images.fingerprint(match_classes(images, 3)) == images.fingerprint(None)


def test_files_are_identified_by_their_order(tmp_path: Path) -> None:
    def of(*paths: str) -> str:
        return open_images(write_csv(tmp_path, "\n".join(["path", *paths]))).fingerprint(None)

    assert of("a.png", "b.png") == of("a.png", "b.png")
    assert len({of("a.png", "b.png"), of("b.png", "a.png"), of("a.png"), of("a.png", "a.png", "b.png")}) == 4


def test_arrays_are_identified_by_type_shape_bytes_and_labels() -> None:
    pixels = noise(2, 4, 3)
    brighter = pixels.copy()
    brighter[1, 2, 1] ^= 1
    sources: Sequence[Arrays] = [
        Arrays(pixels),
        Arrays(brighter),
        Arrays(pixels[..., None]),
        Arrays(pixels.reshape(2, 3, 4)),
        Arrays(pixels[::-1]),
        Arrays(pixels.astype(np.float32)),
        Arrays(pixels.astype(np.float64)),
        Arrays(pixels, [0, 1]),
        Arrays(pixels, [1, 0]),
    ]
    assert len({source.fingerprint(None) for source in sources}) == len(sources)


def test_arrays_are_identified_alike_wherever_they_lie() -> None:
    pixels = noise(2, 4, 3)
    assert Arrays(pixels).fingerprint(None) == Arrays(np.asfortranarray(pixels)).fingerprint(None)
    assert Arrays(pixels).fingerprint(None) == Arrays(torch.from_numpy(pixels)).fingerprint(None)
    labels: list[Any] = [[0, 1], np.array([0, 1], np.uint8), torch.tensor([0, 1])]
    assert len({Arrays(pixels, given).fingerprint(None) for given in labels}) == 1


def test_datasets_are_identified_by_name_and_length() -> None:
    first, second = TensorDataset(torch.zeros(2, 3, 4, 4)), TensorDataset(torch.zeros(3, 3, 4, 4))
    one = open_images(first, "train").fingerprint(None)
    assert one == open_images(DataLoader(first), "train").fingerprint(None)
    assert len({one, open_images(second, "train").fingerprint(None), open_images(first, "test").fingerprint(None)}) == 3


def test_a_reading_process_is_quiet_about_the_end_of_the_main_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    _leave_quietly(0)
    sys.excepthook(ConnectionResetError, ConnectionResetError("reset by peer"), None)
    assert capsys.readouterr().err == ""
    sys.excepthook(ValueError, ValueError("a bug"), None)
    assert "a bug" in capsys.readouterr().err
