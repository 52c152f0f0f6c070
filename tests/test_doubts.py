"""What makes one doubt what is observed: networks that aren't deterministic, accuracies too low, classes without images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional

import subspect
from conftest import PIXELS
from subspect import Network, SubspectError

NAMES = ("cat", "dog", "owl")
Images = npt.NDArray[np.uint8]
Pictures = tuple[Images, npt.NDArray[np.int64]]


class Pixel(nn.Module):
    """Classes are told apart by which channel is brightest, at a rate of dropout."""

    def __init__(self, rate: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3, bias=False)
        self.fc.weight.data = torch.eye(3) * 10
        self.rate, self.noise = rate, noise
        self.preprocessing = PIXELS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(x.mean((2, 3)) + 2, self.rate, training=True)
        out: torch.Tensor = self.fc(x * (1 + self.noise * torch.rand_like(x)))
        return out


def pictures(each: int, classes: tuple[int, ...] = (0, 1, 2), turned: int = 0) -> Pictures:
    """Return images of some classes, whose channels are turned by so many places."""
    labels = np.tile(np.array(classes), each)
    images = np.random.default_rng(each).integers(0, 100, (len(labels), 4, 4, 3))
    images[np.arange(len(labels)), ..., (labels + turned) % 3] += 150
    return images.astype(np.uint8), labels


def observed(path: Path, name: str, images: Pictures | Images, network: Network | None = None) -> subspect.Study:
    network = network or Network(Pixel(), class_names=NAMES)
    return subspect.observe(network, images, path, name, show_progress=False)


# Not deterministic ----------------------------------------------------------------------------------------------------


def test_a_network_that_is_not_deterministic_is_refused(tmp_path: Path) -> None:
    network = Network(Pixel(rate=0.5), class_names=NAMES)
    with pytest.raises(
        SubspectError,
        match=r"not deterministic: run twice on the same 60 images, it gave \d\d of them other features, which differ by up "
        r"to \d\.?\d? times their standard deviation; evaluation mode \(model\.eval\(\)\) is set already, so usual causes are "
        r"dropout in forward .*random augmentation.*statistics of batches.*wrap the network so that its forward gives",
    ):
        observed(tmp_path / "study", "train", pictures(20), network)


def test_rounding_is_no_randomness(tmp_path: Path) -> None:
    network = Network(Pixel(noise=1e-5), class_names=NAMES)  # as kernels that add up in another order make it
    assert len(observed(tmp_path / "study", "train", pictures(20), network).image_set("train")) == 60
    with pytest.raises(SubspectError, match="not deterministic"):
        observed(tmp_path / "other", "train", pictures(20), Network(Pixel(noise=0.05), class_names=NAMES))


def test_features_that_are_all_the_same(tmp_path: Path) -> None:
    images, labels = pictures(20)
    assert len(observed(tmp_path / "study", "train", (images * 0, labels)).image_set("train")) == 60


class Batchwise(Pixel):
    """Normalised by the statistics of the batch, as batch normalisation is that stays in training mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.batch_norm(x, None, None, training=True)
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


def test_a_network_whose_features_depend_on_the_batch_is_refused(tmp_path: Path) -> None:
    network = Network(Batchwise(), class_names=NAMES)
    with pytest.raises(
        SubspectError,
        match=r"features of an image depend on the other images of its batch: among others they differ by \d\.?\d* times the "
        r"mean deviation of a feature; .*self\.train\(\) in forward.*wrap the network so that each image's features are",
    ):
        observed(tmp_path / "study", "train", pictures(20), network)
    alone = subspect.observe(network, pictures(20), tmp_path / "one", batch_size=1, show_progress=False)
    assert len(alone.image_set("train")) == 60  # alone in its batch, an image has features of its own


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_quantisation_whose_scale_is_the_batchs_passes(tmp_path: Path) -> None:
    layers = [nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)]
    model = nn.Sequential(*layers)
    torch.ao.quantization.quantize_dynamic(model, {"1", "3"}, inplace=True)  # type: ignore[no-untyped-call]
    network = Network(model, class_names=NAMES, preprocessing=PIXELS)
    assert len(observed(tmp_path / "study", "train", pictures(20), network).image_set("train")) == 60


# Weights that were never loaded ---------------------------------------------------------------------------------------

FRESH = "Usual causes: the weights look as they are before any training: load those that were trained; the labels count"


def normed() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


def plain() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(16), nn.Flatten(), nn.Linear(768, 3))


@pytest.mark.parametrize("make", [normed, plain])
@pytest.mark.parametrize("trained", [False, True])
def test_weights_that_were_never_loaded_come_first(
    make: type[nn.Module], trained: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = make()
    head = model[-1]  # type: ignore[index]
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
        for own in model.parameters() if trained else ():
            own.add_(0.1)
    images, labels = pictures(20)
    observed(tmp_path / "study", "train", (images, labels * 0), Network(model, preprocessing=PIXELS, class_names=NAMES))
    assert "accuracy near chance" in caplog.text and (FRESH in caplog.text) != trained
    assert ("; the weights are random, or of another training" in caplog.text) == trained


# Beside the study's other image sets ----------------------------------------------------------------------------------


def test_images_that_are_prepared_differently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = observed(tmp_path / "study", "train", pictures(200))
    observed(study.path, "same", pictures(30))
    assert "WARNING" not in caplog.text
    observed(study.path, "turned", pictures(30, turned=1))
    assert (
        "only 0 of 64 images of 'turned' tried first are classified correctly (0 %), but 100 % of 'train': these images look "
        "differently prepared (scale, mean, std, order of the channels), have labels in another order, are of another kind, or "
        "the network knows those of 'train' by heart; unless that is so, prepare them as those were, and" in caplog.text
    )
    assert "near chance" not in caplog.text  # said already, and why


@pytest.mark.parametrize(("right", "told"), [(0.85, False), (0.7, True)])
def test_a_little_lower_is_no_sign(right: float, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = observed(tmp_path / "study", "train", pictures(200))
    images, labels = pictures(200)
    wrong = np.random.default_rng(0).random(len(labels)) > right
    observed(study.path, "test", (images, np.where(wrong, (labels + 1) % 3, labels)))
    assert ("look differently prepared" in caplog.text) == told


def test_few_images_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = observed(tmp_path / "study", "train", pictures(200))
    images, labels = pictures(2)
    labels[:2] = 1, 2  # four of six are right, and its interval reaches to 90 %
    observed(study.path, "test", (images, labels))
    assert "look differently prepared" not in caplog.text


def test_classes_without_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = observed(tmp_path / "study", "train", pictures(100))
    made = study.decompose(2, show_progress=False)
    caplog.clear()
    observed(study.path, "test", pictures(40, classes=(1, 2)))
    said = "no images of 1 of the 3 classes that 'train' has: cat; accuracies are over the others"
    assert f"'test' has {said}" in caplog.text
    found = subspect.evaluate(study, made, on="test")
    assert f"; {said}" in found.note and found.where.lacking == ("cat",)
    assert found.to_json()["lacking"] == ("cat",)
    assert said not in subspect.evaluate(study, made, on="test", among_given=True).note  # as it was asked for
    assert said in str(found.tables()[0].caption)
    caplog.clear()
    observed(study.path, "unmarked", pictures(40, classes=(1, 2))[0])
    observed(study.path, "whole", pictures(40))
    assert "has no images" not in caplog.text
    for name in ("unmarked", "whole"):
        assert "that 'train' has" not in subspect.evaluate(study, made, on=name).note


def test_many_classes_without_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weight = np.eye(40, dtype=np.float32)
    study = subspect.from_features(weight.repeat(5, 0), weight, np.zeros(40), tmp_path, labels=np.arange(40).repeat(5))
    few = weight[:10].repeat(5, 0)
    subspect.from_features(few, weight, np.zeros(40), tmp_path, name="test", labels=np.arange(10).repeat(5))
    note = subspect.evaluate(study, study.decompose(1, show_progress=False), on="test").note
    assert (
        "no examples of 30 of the 40 classes that 'train' has: class 10, class 11, class 12, … (27 more); accuracies are over"
        in note
    )
    assert f"'test' has {note.split('; ')[1]}; accuracies are over the others" in caplog.text
