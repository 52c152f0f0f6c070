"""Import torchvision beside a torch that it wasn't built for: networks and transforms need none of its own operators."""

from __future__ import annotations

import importlib
from typing import Any

import torch


def importable() -> Any:
    """Import torchvision; where it fails for want of its operators, and only then, with two of them declared.

    Returns:
        What must be kept for as long as torchvision is used; None where nothing was declared.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
        return library
    return None
