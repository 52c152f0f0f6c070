"""A network whose logits are the mean of two heads, each on an input of its own, goes the whole way as any other does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subspect
from subspect import Network, SubspectError
from subspect.giving.retrain import train
from subspect.giving.settings import Settings
from subspect.heads.head import DecomposedHead
from subspect.networks.weights import load_weights

C = 3


class Distilled(nn.Module):
    """Two poolings of a map, a head on each, and their mean; without the second in training, as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.head, self.head_dist = nn.Linear(8, C), nn.Linear(8, C)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x).relu()
        both: Tensor = self.head(maps.mean((2, 3))) + self.head_dist(maps.amax((2, 3)))
        return both / 2


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(90, 3, 8, 8, generator=generator), torch.arange(90) % C


@pytest.fixture(scope="module")
def job(images: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> subspect.Job:
    return subspect.run(
        Network(Distilled()), images, tmp_path_factory.mktemp("sum") / "study", k=4, show_progress=False
    )


def test_the_study_knows_the_layers_and_finds_them_again(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    study = subspect.open_study(job.study.path)
    assert study.identity.head_name == "0.5*head | 0.5*head_dist" == job.decomposition.head_name
    weight, bias = study.head()
    model = Distilled()
    wanted = torch.cat([model.head.weight, model.head_dist.weight], dim=1).detach() / 2
    torch.testing.assert_close(weight, wanted)
    torch.testing.assert_close(bias, (model.head.bias + model.head_dist.bias).detach() / 2)
    again = subspect.observe(Network(Distilled()), images, job.study.path, show_progress=False)
    assert len(again.image_set("train")) == 90


def test_a_decomposed_copy_gives_the_decomposed_logits(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    small = job.decomposition.apply(Distilled()).eval()
    assert isinstance(small.head, DecomposedHead) and isinstance(small.head_dist, DecomposedHead)
    x = job.study.image_set("train").whole().features
    weight, bias = job.decomposition.matrix()
    with torch.no_grad():
        np.testing.assert_allclose(small(images[0]).numpy(), x @ weight.T + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["net.pt2", "net.onnx"])
def test_export(job: subspect.Job, images: tuple[Tensor, Tensor], tmp_path: Path, name: str) -> None:
    done = job.decomposition.export(tmp_path / name, network=Network(Distilled()), images=images[0])
    assert done.difference is not None and done.difference < 1e-5 and done.kernel


def test_specialise(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    done = job.decomposition.specialise(Network(Distilled()), classes=[2, 0], images=images[0], rounds=0)
    weight, bias = job.decomposition.matrix()
    x = job.study.image_set("train").whole().features
    with torch.no_grad():
        said = done.model(images[0]).numpy()
    np.testing.assert_allclose(said, (x @ weight.T + bias)[:, [2, 0]], rtol=1e-4, atol=1e-5)
    assert done.dense.features == 16 and (not done.stay or done.why == "because the head is a sum of several layers")


def test_retrain(job: subspect.Job, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network = Network(Distilled())
    network.find_head(images[0][:2])
    given = Settings(epochs=1, batch_size=16, held_out=0.3)
    done = train(network, images, tmp_path / "out", job.decomposition, given, show_progress=False)
    assert isinstance(done.model.head, DecomposedHead) and isinstance(done.model.head_dist, DecomposedHead)
    loaded = Distilled()
    load_weights(loaded, done.path)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images[0]), done.model.eval()(images[0]), rtol=1e-4, atol=1e-5)


def test_questions(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    one = job.decomposition.explain(Network(Distilled()), images[0][0], name="0")
    assert sum(term.contribution for term in one.terms) + one.bias == pytest.approx(one.difference, abs=1e-5)
    assert one.maps is not None
    assert job.decomposition.essentiality(repeats=2, show_progress=False).tables()


def test_the_maps_of_both_heads_features(images: tuple[Tensor, Tensor]) -> None:
    network = Network(Distilled())
    network.find_head(images[0][:8])
    maps = subspect.read_maps(network, images[0][:8]).maps
    with torch.no_grad():
        wanted = Distilled().conv(images[0][:8]).relu()  # of which the one reads means, the other maxima
    assert maps is not None
    torch.testing.assert_close(maps, torch.cat([wanted, wanted], dim=1))


def test_another_head_is_another_study(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(SubspectError, match="another head: '0.5[*]head . 0.5[*]head_dist', but this is 'head'"):
        subspect.observe(Network(Distilled(), head="head"), images, job.study.path, show_progress=False)
