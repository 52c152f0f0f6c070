"""Hugging Face image processors as preprocessing: what identifies them, and how they give one tensor per image."""

from __future__ import annotations

import json
from typing import Any

import torch
from PIL import Image

from subspect.ground.errors import SubspectError, some


def is_processor(value: object) -> bool:
    """Tell whether something is an image processor of transformers, or a processor that contains one."""
    return callable(value) and hasattr(value, "model_input_names") and hasattr(value, "to_json_string")


class Processor:
    """An image processor as a callable from an RGB image to a tensor; its ``repr`` contains all of its settings.

    Args:
        processor: the image processor, or a processor of several kinds of input that contains one.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = getattr(processor, "image_processor", processor)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Turn an RGB image into a tensor (channels, height, width).

        Raises:
            SubspectError: the processor gives no ``pixel_values`` of one image.
        """
        found = self.processor(image, return_tensors="pt")
        pixels = found.get("pixel_values")
        if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4 or len(pixels) != 1:
            shape = f" of shape {tuple(pixels.shape)}" if isinstance(pixels, torch.Tensor) else ""
            raise SubspectError(
                f"the image processor {type(self.processor).__name__} must give pixel_values (1, channels, height, width) "
                f"for one image; got {some(found)}{shape}: wrap it in a function that returns one image's tensor"
            )
        return pixels[0]

    def __repr__(self) -> str:
        settings = json.loads(self.processor.to_json_string())
        return f"{type(self.processor).__name__}({json.dumps(settings, sort_keys=True)})"
