"""The network of a study again: a network with two heads has the one that was observed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import subspect
from conftest import PIXELS, Tiny
from subspect import Network, Study, SubspectError
from subspect.images.opening import open_images
from subspect.studies.reopen import Reopened
from subspect.studies.same_network import head_of, not_as_observed, real_images, same_network

MakeFolder = Callable[..., Path]


class TwoHeads(nn.Module):
    """Returns the logits of two heads of different numbers of classes; the first is what a batch alone lets one find."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 3)
        self.preprocessing = PIXELS

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.conv(x).tanh().mean((2, 3))
        return self.a(features), self.b(features)


@pytest.fixture
def two(make_folder: MakeFolder, tmp_path: Path) -> Study:
    network = Network(TwoHeads(), head="b")
    subspect.observe(network, make_folder("train", each=40), tmp_path / "study", "train", batch_size=16)
    study = subspect.observe(network, make_folder("test", each=15, seed=1), tmp_path / "study", "test", batch_size=16)
    assert study.identity.head_name == "b"
    return study


@pytest.mark.filterwarnings("ignore")
def test_export_and_specialise_take_the_head_that_was_observed(two: Study, tmp_path: Path) -> None:
    made = subspect.decompose(two, 2)
    file = subspect.export(two, made, path=tmp_path / "small.pt2", network=Network(TwoHeads()))
    logits = torch.export.load(file.path).module()(torch.zeros(2, 3, 8, 8))
    assert logits.shape == (2, 3)
    small = subspect.specialise(two, made, network=Network(TwoHeads()), classes=["a", "c"], rounds=0)
    assert small.model(torch.zeros(2, 3, 8, 8))[1].shape == (2, 2)
    points = subspect.tradeoff(two, network=Network(TwoHeads()), pools=[3], k=2, show_progress=False).points
    assert [point.pool for point in points] == [None, 3]


@pytest.mark.filterwarnings("ignore")
def test_retraining_takes_the_head_that_was_observed(two: Study, tmp_path: Path) -> None:
    made, settings = subspect.decompose(two, 2), subspect.Settings(epochs=1, batch_size=16)
    network = Network(TwoHeads())
    both = subspect.retrain(
        two, made, network=network, images=tmp_path / "train", folder=tmp_path / "out", settings=settings
    )
    assert isinstance(both.retrained.model.b, subspect.DecomposedHead)
    assert not network.head_known  # left as it was


def test_explain_maps_and_report_take_the_head_that_was_observed(two: Study, tmp_path: Path) -> None:
    made = subspect.decompose(two, 2)
    for network in (Network(TwoHeads()), Network(TwoHeads(), head="a")):
        why = subspect.explain(two, made, network=network, image=tmp_path / "train/a/000.png")
        assert {why.predicted, why.against} <= {"a", "b", "c"}
        path = subspect.write_report(
            two, made, fidelity=subspect.evaluate(two, made), network=network, show_progress=False
        )
        assert "Amber" in path.read_text(encoding="utf-8")
    assert same_network(two, network).known_as("b", None).find_head(torch.rand(2, 3, 8, 8)).n_classes == 3


def test_a_head_that_was_found_is_kept_if_it_is_the_studys(study: Study, tiny: Tiny) -> None:
    network = Network(tiny)
    head = head_of(network, torch.rand(1, 3, 8, 8))
    assert same_network(study, network).head is head
    assert head_of(same_network(study, network), torch.rand(2, 3, 8, 8)) is head


def test_mirror_images_follow_where_there_are_too_few(study: Study, tiny: Tiny, make_folder: MakeFolder) -> None:
    network = same_network(study, Network(tiny))
    few = real_images(study, network, 7, make_folder("few", each=1))
    assert isinstance(few, torch.Tensor) and few.shape == (7, 3, 8, 8)
    assert torch.equal(few[:3].flip(-1), few[3:6])


def test_another_network_is_refused(study: Study, tiny: Tiny) -> None:
    with pytest.raises(SubspectError, match="this is a different network"):
        same_network(study, Network(Tiny(seed=1)))
    with pytest.raises(
        SubspectError, match=r"must be a subspect.Network, got Tiny; subspect.Network\(model\) makes one"
    ):
        same_network(study, tiny)  # type: ignore[arg-type]


# Other features than those that were observed -------------------------------------------------------------------------


def test_whether_the_images_or_the_network_are_others(study: Study, tmp_path: Path) -> None:
    image_set = study.image_set("train")
    ids = next(image_set.chunks()).ids[:10]
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / ids[0])
    again = Reopened(image_set, ids, open_images(tmp_path / "train", outside=True))
    assert not_as_observed(again, "train", [], 10) == []
    [(unknown, do)] = not_as_observed(again, "train", ids, 10)  # nothing was opened, as where images are in memory
    assert unknown.startswith(
        "10 of 10 images have other features than when 'train' was observed: either these are other"
    )
    assert do.startswith(
        "give the images that were: --images FOLDER; else usual causes are another precision, device or"
    )
    [(few, do)] = not_as_observed(again, "train", ids[3:5], 10)
    assert few == f"2 images are not those that were observed as 'train': {ids[3]}, {ids[4]}"
    assert do == "give the images that were: --images FOLDER"
    for place in range(10):
        again.read(place)
    images, network = not_as_observed(again, "train", ids, 10)
    assert images[0] == f"1 image is not the one that was observed as 'train': {ids[0]}"
    assert network[0].startswith(
        "the network gives 9 of 10 images other features than when 'train' was observed, though their files are the same: "
    )
    assert network[1].endswith("not deterministic: run it as it was run then, or observe again, into another study")


@pytest.mark.parametrize("workers", [0, 1])
def test_cues_tell_that_the_network_is_another(
    workers: int, study: Study, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    made = subspect.decompose(study, 2, show_progress=False)
    tiny.norm.register_forward_hook(lambda *args: args[-1] + 0.5)
    subspect.cues(
        study, made, network=Network(tiny), cues=["border"], sample=12, on="train", workers=workers, show_progress=False
    )
    assert (
        "cues: the network gives 12 of 12 images other features than when 'train' was observed, though" in caplog.text
    )
    assert "not those that were observed" not in caplog.text
