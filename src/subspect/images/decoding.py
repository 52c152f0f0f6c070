"""From the bytes of an image file to an upright RGB picture, whatever the file contains.

Files may come from strangers: only formats whose readers start no program are opened, whatever a file is called; a picture's
size is checked before its pixels are decoded; and a broken file is one unusable image, not the end of a run.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from subspect.ground.errors import SubspectError, Unusable
from subspect.ground.files import read_bytes
from subspect.ground.text import counted
from subspect.images.preprocessing import check_pixels

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")  # whose readers start no program
_COPIES = {"WEBP": 2, "AVIF": 2, "JPEG2000": 3}  # how many times as much their readers hold as others do
FILE_BYTES = 512 * 2**20  #: larger image files are refused unread
_STRIP = 2**20  # pixels that are converted at once
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation → what undoes it


def decode(path: Path) -> Image.Image:
    """Read an image file as RGB, upright.

    Raises:
        Unusable: see `decode_with_digest`.
    """
    return decode_with_digest(path)[0]


def decode_with_digest(path: Path) -> tuple[Image.Image, bytes]:
    """Read an image file once: the image as RGB, upright, and the digest of the file's bytes (see `digest`).

    Raises:
        Unusable: there is no such file, or it is not a regular file, too large, not in one of the formats in ``_FORMATS``,
            truncated, has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, or of a kind that can't be converted to RGB
            reliably.
    """
    return decoded_with_digest(contents(path))


def decoded_with_digest(data: bytes) -> tuple[Image.Image, bytes]:
    """Decode the bytes of an image file, wherever they were: the image as RGB, upright, and the bytes' digest.

    Raises:
        Unusable: as in `decode_with_digest`.
    """
    try:
        return _decoded(data), digest(data)
    except UnidentifiedImageError as error:
        raise Unusable(f"not an image ({counted(len(data), 'byte', 'bytes')})") from error
    except Unusable:
        raise
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything; it mustn't stop the run
        raise Unusable(f"{type(error).__name__}: {error}") from error


def digest(data: bytes) -> bytes:
    """Return what identifies an image file: the first 16 bytes of the SHA-256 of its bytes."""
    return hashlib.sha256(data).digest()[:16]


def contents(path: Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        Unusable: there is no such file, or it is not a regular file, or too large.
    """
    try:
        return read_bytes(path, limit=FILE_BYTES)
    except SubspectError as error:
        raise Unusable("no such file" if isinstance(error.__cause__, FileNotFoundError) else str(error)) from error


def _decoded(data: bytes) -> Image.Image:
    """Decode a file's bytes; of the image as it was stored nothing is left when the turned one is made."""
    image = _opened(data)
    turn = _turn(image)
    image = _flat(image)
    return image if turn is None else image.transpose(turn)


def _opened(data: bytes) -> Image.Image:
    """Load an image whose size was checked first."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=_formats())
            check_pixels(*image.size, share=_COPIES.get(image.format or "", 1))
            image.load()
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            found = re.search(r"\((\d+) pixels\)", str(error))
            check_pixels(int(found[1]) if found else 2**63, 1)
            raise  # of something else than the image, such as a tile
    return image


@cache
def _formats() -> list[str]:
    """List those of the formats that this Pillow was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any picture upright (EXIF) and into 8-bit RGB.

    Grey, palette, CMYK and other colour spaces are converted; an alpha channel is dropped, as torchvision's and timm's
    loaders do; 16-bit grey is scaled by 1/257.

    Raises:
        Unusable: floating-point pixels, or 32-bit ones beyond 16 bits, whose range is unknown.
    """
    image.load()
    turn = _turn(image)
    flat = _flat(image)
    if turn is not None:
        return flat.transpose(turn)
    return image.copy() if flat is image else flat


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what puts an image upright, by its EXIF orientation."""
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def _flat(image: Image.Image) -> Image.Image:
    """Convert to RGB, some rows at a time, so that nothing is held but the image and the result, 4 bytes a pixel."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise Unusable("floating-point pixels, whose range is not known; convert to 8 or 16 bits")
    if image.mode == "I":
        low, high = cast(tuple[int, int], image.getextrema())
        if low < 0 or high > 65535:
            raise Unusable(f"32-bit pixels from {low} to {high}; convert to 8 or 16 bits")
    rows = max(1, _STRIP // max(1, image.width))
    if rows >= image.height:
        return _strip(image)
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        result.paste(_strip(image.crop(box)), box)
    return result


def _strip(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((pixels + 128) // 257).astype(np.uint8))  # p / 257 rounded; 257 is odd: no ties
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow warns when it drops a palette's transparency in one step
    return image.convert("RGB")
