"""What may be asked for when something is handed back; nothing here imports anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Format = Literal["onnx", "torch", "safetensors", "hf"]
FORMATS: Mapping[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}  #: → suffix of a file
FeatureFormat = Literal["tensorboard", "fiftyone"]
FEATURE_FORMATS: tuple[FeatureFormat, ...] = ("tensorboard", "fiftyone")  #: tools that stored features are handed on to
FOLDER: Format = "hf"  #: a folder of Hugging Face's
SMALL: Mapping[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}  #: of these, those that hold a network
OPSET, OLDEST = 20, 18  #: of ONNX, unless given; the first that the exporter writes
WEIGHED = 300  #: images by which channels are weighed, where a network is to fit a budget
Teacher = Literal["dense", "decomposed"]
TEACHERS: tuple[Teacher, ...] = ("dense", "decomposed")  #: networks that a small one learns from
COPIES = 9  #: of each image, with the cues swapped that a head is to do without
LEARNED = 5000  #: images, at most, that copies are made of
Optimiser = Literal["sgd", "adamw"]
RATES: Mapping[Optimiser, float] = {
    "sgd": 0.01,
    "adamw": 1e-4,
}  #: learning rate, at its highest
