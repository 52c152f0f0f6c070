"""Small pictures for the report: thumbnails, and maps laid over them."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_MARK = (255, 176, 0)  # amber: visible on dark and on light pictures, and to colour-blind readers
_STRENGTH = 0.6  # how much of a picture the mark covers where a feature is most active


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture so that its long side is ``side``; small ones by whole pixels, so that they stay crisp."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def enlarged(picture: Image.Image, least: int = 160) -> Image.Image:
    """Enlarge a small picture by whole pixels."""
    times = max(1, -(-least // max(picture.size)))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def lay_over(picture: Image.Image, map: npt.NDArray[np.floating]) -> Image.Image:
    """Colour a picture where a map is active, in proportion to its positive part; its largest value is the strongest.

    Args:
        picture: RGB.
        map: (height, width), of the whole picture.
    """
    active = np.maximum(map, 0)
    top = float(active.max(initial=0))
    scaled = Image.fromarray((active / top * 255 if top > 0 else active).astype(np.uint8))
    mask = scaled.resize(picture.size, Image.Resampling.BICUBIC).point(lambda value: int(value * _STRENGTH))
    return Image.composite(Image.new("RGB", picture.size, _MARK), picture, mask)


def data_uri(picture: Image.Image) -> str:
    """Return a picture as a data URI, so that a page holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=72, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def jpeg_uri(data: bytes) -> str:
    """Return a JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def smaller(uri: str, side: int) -> str:
    """Return a picture given as a data URI with no side longer than ``side``."""
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    picture.thumbnail((side, side))
    return data_uri(picture)
