"""Layers that are watched while the network runs, stored beside the features."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

import subspect
from conftest import PIXELS, Tiny
from subspect import Network, SubspectError
from subspect.networks.layers import layer_names, watching

MakeFolder = Callable[..., Path]


class Tokens(nn.Module):
    """A layer of every kind: channels first, channels last, a tuple, one that never runs, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = PIXELS
        self.patches = nn.Conv2d(3, 5, 4, stride=4)
        self.norm, self.mixed = nn.LayerNorm(5), nn.Linear(5, 7)
        self.attention = nn.MultiheadAttention(7, 1, batch_first=True)
        self.act, self.idle, self.head = nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.act(self.mixed(self.norm(self.patches(x).flatten(2).mT)))
        out: Tensor = self.head(self.act(self.attention(tokens, tokens, tokens)[0].mean(dim=1)))
        return out


def pixels_of(folder: Path, ids: list[str]) -> Tensor:
    pictures = [torch.from_numpy(np.array(Image.open(folder / id))) for id in ids]
    return (torch.stack(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def test_what_is_stored_is_the_mean_over_space(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("train", each=12)
    study = subspect.observe(Network(tiny), folder, tmp_path / "study", batch_size=16, layers=["norm", "conv"])
    image_set = study.image_set("train")
    assert dict(image_set.manifest.layers) == {"norm": 6, "conv": 6}
    console = Console(width=200, record=True)
    console.print(*study.tables())
    assert "2 layers: norm, conv" in console.export_text()
    [chunk] = image_set.chunks(layers=["conv", "norm"])
    assert [chunk.layers[name].shape for name in ("conv", "norm")] == [(36, 6)] * 2
    with torch.no_grad():
        conv = tiny.eval().conv(pixels_of(folder, chunk.ids))
        expected = {"conv": conv.mean((2, 3)), "norm": tiny.norm(conv).mean((2, 3))}
    for name, values in expected.items():
        assert np.allclose(chunk.layers[name], values, atol=1e-6)
    [plain] = image_set.chunks()
    assert plain.layers == {} and np.array_equal(plain.features, chunk.features)
    parts = [next(iter(image_set.chunks(part, ["conv"]))) for part in ("all but 20 %", "held out 20 %")]
    rows = {id: row for part in parts for id, row in zip(part.ids, part.layers["conv"], strict=True)}
    assert len(rows) == 36 and all(np.array_equal(rows[id], chunk.layers["conv"][i]) for i, id in enumerate(chunk.ids))


def test_features_are_the_same_with_layers_and_without(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("train", each=12)
    studies = [
        subspect.observe(Network(tiny), folder, tmp_path / name, batch_size=16, layers=layers)
        for name, layers in (("with", ["all"]), ("without", []))
    ]
    one, other = (list(study.image_set("train").chunks()) for study in studies)
    for mine, theirs in zip(one, other, strict=True):
        assert np.array_equal(mine.features, theirs.features) and mine.ids == theirs.ids
    assert not tiny.conv._forward_hooks and not tiny.norm._forward_hooks


def test_all_are_the_convolutions_and_linear_layers_but_the_head() -> None:
    model = Tokens()
    assert layer_names(model, ["all"], "head") == ("patches", "mixed", "attention.out_proj", "idle")
    assert layer_names(model, ["norm", "all", "mixed", "norm"], "head")[:2] == ("norm", "patches")
    assert layer_names(model, [], "head") == ()


def test_channels_may_come_last_and_the_last_run_counts() -> None:
    model, x = Tokens().eval(), torch.rand(4, 3, 8, 8)
    with torch.no_grad(), watching(model, ("patches", "norm", "mixed", "act", "head")) as said:
        logits = model(x)
    with torch.no_grad():
        patches = model.patches(x)
        tokens = model.norm(patches.flatten(2).mT)
    assert torch.allclose(said["patches"], patches.mean((2, 3)), atol=1e-6)
    assert torch.allclose(said["norm"], tokens.mean(1), atol=1e-6)
    assert torch.allclose(said["mixed"], model.mixed(tokens).mean(1), atol=1e-6)
    assert torch.equal(said["head"], logits) and torch.allclose(model.head(said["act"]), logits)


def test_layers_that_cannot_be_watched(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, network = make_folder("train", each=4), Network(Tokens())

    def observe(*layers: str) -> None:
        subspect.observe(network, folder, tmp_path / "study", layers=layers)

    with pytest.raises(SubspectError, match=r"no layer 'patch' in Tokens \(did you mean 'patches'\?\)"):
        observe("patch")
    with pytest.raises(SubspectError, match="no layer 'x' in Tokens; it has: patches, norm, mixed"):
        observe("x")
    with pytest.raises(
        SubspectError, match=r"layer 'attention' \(MultiheadAttention\) returns tuple, not \(n, channels, …\)"
    ):
        observe("attention")
    with pytest.raises(SubspectError, match="these layers were not used when the network ran: idle"):
        observe("patches", "idle")
    assert not (tmp_path / "study").exists()


def test_all_leaves_out_what_takes_no_part(
    make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = subspect.observe(Network(Tokens()), make_folder("train", each=4), tmp_path / "study", layers=["all"])
    assert {"patches", "mixed"} <= set(study.image_set("train").manifest.layers) and "idle" not in study.image_set(
        "train"
    ).manifest.layers
    assert "layers that were not used when the network ran are left out:" in caplog.text and "idle" in caplog.text


def test_other_layers_under_the_same_name(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("train", each=4)
    study = subspect.observe(Network(tiny), folder, tmp_path / "study", layers="conv")
    for layers, given in ((["norm"], "norm"), ([], "none")):
        with pytest.raises(
            SubspectError, match=f"was begun with the layers conv, but {given} were given; choose another name"
        ):
            subspect.observe(Network(tiny), folder, study.path, layers=layers)
    again = subspect.observe(Network(tiny), folder, study.path, layers=["conv"])
    assert again.image_set("train").manifest == study.image_set("train").manifest


def test_a_run_that_was_killed_goes_on_with_the_same_bytes(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["subspect.studies.shards"], "_SHARD_IMAGES", 16)
    folder = make_folder("train", each=12)
    study = subspect.observe(Network(tiny), folder, tmp_path / "study", batch_size=8, layers=["conv"])
    shards = sorted((study.path / "sets/train").glob("*.arrow"))
    before = [shard.read_bytes() for shard in shards]
    manifest = study.image_set("train").manifest
    shards[1].unlink()
    subspect.observe(Network(tiny), folder, study.path, batch_size=8, layers=["conv"])
    assert [shard.read_bytes() for shard in shards] == before and study.image_set("train").manifest == manifest


def test_nan_in_a_layer(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    class Broken(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            self.norm(torch.full((len(x), 6, 2, 2), torch.nan))
            out: Tensor = self.fc(self.conv(x).tanh().mean((2, 3)))
            return out

    with pytest.raises(SubspectError, match="features of 12 of the 12 images tried first are NaN or infinite"):
        subspect.observe(Network(Broken()), make_folder("train", each=4), tmp_path / "study", layers=["norm"])
