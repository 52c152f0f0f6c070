"""Networks whose inputs are no pictures: vectors, tokens, series and volumes; the whole way, from arrays to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import subspect
from subspect import SubspectError
from subspect.giving.retrain import train as train_one
from subspect.giving.training import Settings, Trained
from subspect.images.opening import open_images
from subspect.studies.observe import sample

_CLASSES, _IMAGES = 4, 96


class _Tokens(nn.Module):
    """A transformer that averages over tokens (n, t, c)."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.fc = nn.Linear(8, _CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.block(x).mean(1))
        return out


def _vectors() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, _CLASSES))


def _series() -> nn.Module:
    pool = (nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), *pool, nn.Linear(8, _CLASSES))


def _volumes() -> nn.Module:
    pool = (nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), *pool, nn.Linear(8, _CLASSES))


# kind → how the network is made, the shape of one input, and the multiplications that one takes
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "vectors": (_vectors, (5,), 5 * 12 + 12 * 8 + 8 * _CLASSES),
    "tokens": (_Tokens, (6, 8), 6 * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * 6 * 6 * 8 + 8 * _CLASSES),
    "series": (_series, (2, 10), 10 * 2 * 3 * 8 + 8 * _CLASSES),
    "volumes": (_volumes, (1, 4, 4, 4), 64 * 27 * 8 + 8 * _CLASSES),
}


def _made(kind: str) -> tuple[subspect.Network, tuple[np.ndarray, np.ndarray]]:
    """Return a network, and inputs with labels that it says itself."""
    make, shape, _ = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        x = torch.randn(_IMAGES, *shape)
    with torch.no_grad():
        labels = (model(x) - model(x).mean(0)).argmax(1)
    return subspect.Network(model), (x.numpy(), labels.numpy())


@dataclass(frozen=True)
class _Done:
    kind: str
    network: subspect.Network
    arrays: tuple[np.ndarray, np.ndarray]
    job: subspect.Job


@pytest.fixture(scope="module", params=KINDS)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Done:
    """The main job on each kind of inputs."""
    network, arrays = _made(request.param)
    job = subspect.run(network, arrays, tmp_path_factory.mktemp(request.param) / "study", k=3, show_progress=False)
    return _Done(request.param, network, arrays, job)


def test_run_and_what_the_report_says_of_the_network(done: _Done) -> None:
    assert len(done.job.study.image_set("train")) == _IMAGES
    assert f"does {KINDS[done.kind][2]:,} multiplications for one image" in done.job.report.read_text(encoding="utf-8")


def test_what_is_no_picture_is_not_said_to_be_missing(done: _Done, caplog: pytest.LogCaptureFixture) -> None:
    job = done.job
    caplog.clear()
    path = subspect.write_report(
        job.study,
        job.decomposition,
        fidelity=job.fidelity,
        images=done.arrays,
        network=done.network,
        show_progress=False,
    )
    page, shape = path.read_text(encoding="utf-8"), KINDS[done.kind][1]
    said = f"There are no pictures of &#39;train&#39; to show: a tensor of shape {shape} is not a picture."
    assert said in page and "could not be read" not in page and not caplog.records


def test_arrays_that_are_too_few_are_missed_without_a_word_of_folders(
    tiny: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, labels = np.random.default_rng(0).random((60, 3, 8, 8), np.float32), np.arange(60) % 3
    network = subspect.Network(tiny)
    job = subspect.run(network, (x, labels), tmp_path / "study", k=2, show_progress=False)
    assert "data:image/webp" in job.report.read_text(encoding="utf-8")
    subspect.write_report(job.study, job.decomposition, fidelity=job.fidelity, images=x[:5], show_progress=False)
    assert "could not be read again from the images given" in caplog.text and "FOLDER" not in caplog.text
    assert "give those that were observed" in caplog.text


def test_explaining_an_input_that_is_no_picture(done: _Done, tmp_path: Path) -> None:
    job, x = done.job, done.arrays[0]
    one = subspect.explain(job.study, job.decomposition, network=done.network, image=x[3], name="3")
    assert one.picture is None and one.maps is None and one.label == f"class {done.arrays[1][3]}"
    assert one.no_maps == f"inputs of shape {x[3].shape} are no pictures" and "is not shown" not in str(
        one.tables()[0].caption
    )
    assert sum(term.contribution for term in one.terms) + one.bias == pytest.approx(one.difference, abs=1e-5)
    assert (
        one.to_json()
        == subspect.explain(
            job.study, job.decomposition, network=done.network, image=torch.from_numpy(x[3]), name="3"
        ).to_json()
    )
    assert one.save(tmp_path).exists()
    for other in (np.zeros((8, 8, 3), np.uint8), Path(__file__)):
        with pytest.raises(
            SubspectError, match=r"images were given as tensors, .* subspect\.explain\(…, images\[0\]\); got"
        ):
            subspect.explain(job.study, job.decomposition, network=done.network, image=other)
    network, _ = _made(done.kind)
    with pytest.raises(SubspectError, match="the network failed on .*"):
        subspect.explain(job.study, job.decomposition, network=network, image=x[3][..., None])


def test_floating_pictures_are_explained_with_their_maps(tiny: nn.Module, tmp_path: Path) -> None:
    x, labels = np.random.default_rng(0).random((60, 3, 8, 8), np.float32), np.arange(60) % 3
    network = subspect.Network(tiny)
    job = subspect.run(network, (x, labels), tmp_path / "study", k=2, show_progress=False)
    one = subspect.explain(job.study, job.decomposition, network=network, image=x[0])
    assert one.picture is not None and one.picture.size == (8, 8) and one.maps
    assert one.save(tmp_path).exists()


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_export(done: _Done, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    made = subspect.export(done.job.study, done.job.decomposition, path=path, network=done.network, images=done.arrays)
    assert made.difference is not None and made.difference < 1e-4


def test_specialise(done: _Done) -> None:
    job = done.job
    made = subspect.specialise(
        job.study, job.decomposition, network=done.network, classes=[0, 1], images=done.arrays, rounds=2
    )
    assert made.dense.multiplications == KINDS[done.kind][2]
    assert made.small.multiplications <= made.rows.multiplications < made.dense.multiplications


def test_a_single_input_is_enough_to_find_the_head(done: _Done) -> None:
    network, (x, _) = _made(done.kind)
    pixels = sample(network, open_images(x[:1]), 3)
    assert pixels.shape == (3, *x.shape[1:])
    assert network.find_head(pixels).n_classes == _CLASSES


def test_training_goes_on_but_pictures_alone_are_mirrored(done: _Done, tmp_path: Path) -> None:
    def train(folder: str, **settings: Any) -> Trained:
        given = Settings(epochs=1, batch_size=16, held_out=0.3, **settings)
        return train_one(
            done.network, done.arrays, tmp_path / folder, done.job.decomposition, given, show_progress=False
        )

    assert len(train("out").epochs) == 1
    for settings in ({"flip": True}, {"shift": 1}):
        with pytest.raises(SubspectError, match=r"flip and shift vary pictures .*; these images are \(.*train without"):
            train(f"refused-{next(iter(settings))}", **settings)
