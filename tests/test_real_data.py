"""The reference figures on CIFAR-10 and its published weights; skipped where SUBSPECT_DATA names no folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import subspect
from subspect import Study

CIFAR = "python:subspect.resnet:cifar10_resnet20"


@pytest.fixture(scope="module")
def cifar(data: Path, unpack: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Study:
    network = subspect.load_network(CIFAR, data / "weights/resnet20-cifar10-jpeg.safetensors")
    folder = tmp_path_factory.mktemp("study")
    for name, each in (("train", 1000), ("test", None)):  # of all training images, benchmarks/cifar10.py
        images = subspect.open_images(unpack("cifar10-jpeg") / name, limit_per_class=each)
        study = subspect.observe(network, images, folder, name, batch_size=64)
    return study


@pytest.mark.parametrize(("method", "accuracy"), [("frequency", 79.67), ("contribution", 83.07), ("published", 82.81)])
def test_cifar10_reference_figures(cifar: Study, data: Path, method: str, accuracy: float) -> None:
    if method == "published":
        made = subspect.decompose_by_file(cifar, data / "paper/resnet20_cifar-10_indices.json")
    else:
        made = subspect.decompose(cifar, 5, method=method, draws=0)
    cost = subspect.evaluate(cifar, made).overall
    assert cost.images == 10_000
    assert 100 * cost.dense_accuracy.value == pytest.approx(88.16, abs=0.05)
    assert 100 * cost.accuracy.value == pytest.approx(accuracy, abs=0.05)


def test_the_published_checkpoint(data: Path, unpack: Callable[[str], Path], tmp_path: Path) -> None:
    network = subspect.load_network(CIFAR, data / "weights/resnet20-12fca82f.th")
    plain = subspect.load_network(CIFAR, data / "weights/resnet20-cifar10.safetensors")
    study = subspect.observe(network, unpack("cifar10-jpeg") / "test", tmp_path / "study", batch_size=64)
    right = sum(int((chunk.labels == chunk.predictions).sum()) for chunk in study.image_set("train").chunks())
    assert right / 100 == pytest.approx(81.03, abs=0.05)
    state = plain.model.state_dict()
    assert all(bool((tensor == state[name]).all()) for name, tensor in network.model.state_dict().items())


def test_published_indices_are_read_and_written_alike(data: Path, tmp_path: Path) -> None:
    for name, n_classes, width, k in (
        ("resnet20_cifar-10", 10, 64, 5),
        ("resnet20_cifar-10_10_10", 10, 64, 10),
        ("resnet20_cifar-10_20_20", 10, 64, 20),
        ("resnet50_imagenet", 1000, 2048, 50),
    ):
        read = subspect.Supports.read(data / f"paper/{name}_indices.json", n_classes, width)
        assert read.sizes.tolist() == [k] * n_classes
        read.write(tmp_path / f"{name}.json")
        assert subspect.Supports.read(tmp_path / f"{name}.json", n_classes, width) == read


def test_cifar10_in_onnx(cifar: Study, data: Path, tmp_path: Path) -> None:
    network = subspect.load_network(CIFAR, data / "weights/resnet20-cifar10-jpeg.safetensors")
    made = subspect.decompose(cifar, 5, method="contribution")
    done = subspect.export(cifar, made, path=tmp_path / "net.onnx", network=network)
    assert done.difference is not None and done.difference <= 1e-4 and set(done.decomposed.seconds) == {1, 7}
    small = subspect.specialise(cifar, made, network=network, classes=["cat", "dog"], rounds=0)
    assert small.removed == 0 and "layer3.2.conv1" in small.readers and small.small.features == 64  # tied by sums
