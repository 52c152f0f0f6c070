"""What may be kept of images; nothing here imports anything heavy."""

from __future__ import annotations

from typing import Literal, get_args

Keep = Literal["features", "statistics"]  #: of all images
KEEPS: tuple[Keep, ...] = get_args(Keep)
SAMPLE = 20_000  #: images, about, whose features are kept beside statistics of all
