"""Smaller networks: what is removed, what must stay, and that nothing changes; the curve of accuracy and multiplications."""

from __future__ import annotations

import builtins
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import subspect
from conftest import PIXELS
from subspect import DecomposedHead, Network, SubspectError, Supports, decompose_by_file
from subspect.cli import app
from subspect.giving.specialise import specialise
from subspect.giving.tradeoff import Tradeoff, TradeoffPoint, tradeoff
from subspect.heads.cost import head_costs, size_of

MakeFolder = Callable[..., Path]
SUPPORTS = [[1, 4], [4, 7], [9, 1]]  # of 12 features; 2, 3, 5, 6, 8, 10, 11 and 0 are unused
USED = (1, 4, 7, 9)


class Plain(nn.Module):
    """Convolution, batch norm, pooling, head: a channel is a feature."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12)
            self.fc = nn.Linear(12, 3)
            nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
        self.preprocessing = PIXELS

    def pooled(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.norm(self.conv(self.first(x).relu())).relu().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pooled(x))
        return out


class Residual(Plain):
    """The channels are a sum that another block reads, but for those that come beside it, which only the head reads."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv, self.block, self.side = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3)

    def pooled(self, x: Tensor) -> Tensor:
        first = self.first(x).relu()
        stream = self.conv(first)
        stream = stream + self.block(stream)
        return torch.as_tensor(self.norm(torch.cat([stream, self.side(first)], dim=1)).relu().mean((2, 3)))


class Mixed(Plain):
    """Layer norm before the head: each feature depends on all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.mix(self.pooled(x)))
        return out


class Scaled(Plain):
    """The features are divided by their length, which no tracing sees as more than an elementwise function."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.normalize(self.pooled(x)))
        return out


class Flat(Plain):
    """Features are places of channels: a channel goes only with all its places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 3, 3), nn.BatchNorm2d(3)

    def pooled(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.norm(self.conv(self.first(x).relu())).relu(), 2).flatten(1)


class Convolution(Plain):
    """The head is a 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(12, 3, 1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pooled(x)[:, :, None, None])[:, :, 0, 0]
        return out


class Made:
    def __init__(self, model: nn.Module, folder: Path, images: Path, supports: list[list[int]] = SUPPORTS) -> None:
        self.model = model  # in training mode, and it stays so
        self.network, self.images = Network(model), images
        self.study = subspect.observe(self.network, images, folder / "study", "train", show_progress=False)
        Supports(supports, 12).write(folder / "indices.json")
        self.made = decompose_by_file(self.study, folder / "indices.json")

    def wanted(self, pixels: Tensor, labels: list[int]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.made.apply(self.model).eval()(pixels)[:, labels]
        return logits


@pytest.fixture
def images(make_folder: MakeFolder) -> Path:
    return make_folder("train", each=20)


PIXELS_IN = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_unused_channels_are_removed(images: Path, tmp_path: Path) -> None:
    one = Made(Plain(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, rounds=3)
    small = found.model
    assert isinstance(small, Plain) and small.conv.out_channels == small.norm.num_features == 4
    assert isinstance(small.fc, DecomposedHead) and small.fc.in_features == 4 and found.removed == 8 and found.stay == 0
    torch.testing.assert_close(small(PIXELS_IN), one.wanted(PIXELS_IN, [0, 1, 2]), rtol=0, atol=1e-5)
    assert torch.equal(small.conv.weight, one.model.conv.weight[list(USED)])  # type: ignore[union-attr,index]
    assert found.dense.features == 12 and found.small.features == 4 and found.difference <= 1e-5
    assert one.network.fingerprint() == one.study.identity.fingerprint and one.model.training  # left as it was
    assert set(found.times) == {1, 7} and all(0 < r.low <= r.value <= r.high for r in found.times.values())
    assert not found.readers and json.dumps(found.to_json())


def test_sizes_are_counted(images: Path, tmp_path: Path) -> None:
    one = Made(Plain(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, classes=["c", 0], rounds=0)
    first, places = 6 * 3 * 9 * 6 * 6, 4 * 4
    assert found.dense.multiplications == first + 12 * 6 * 9 * places + 12 * 3
    assert found.small.multiplications == first + 3 * 6 * 9 * places + 3 * 2  # few classes: the dense kernel
    assert found.small.parameters == (6 * 3 * 9 + 6) + (3 * 6 * 9 + 3) + 2 * 3 + 4 + 2
    assert found.dense.parameters == sum(parameter.numel() for parameter in one.model.parameters())
    assert found.rows.multiplications == first + 12 * 6 * 9 * places + 12 * 2
    assert found.rows.parameters == found.dense.parameters - 13 and "dense, these rows" in [
        str(column.header) for column in found.tables()[0].columns
    ]
    assert found.times == {} and found.small.features == 3
    alone = specialise(one.study, one.made, network=one.network, classes=np.array([1]), rounds=0)  # type: ignore[arg-type]
    assert alone.labels == (1,) and not alone.among and str(alone.tables()[0].title).startswith("1 class: ")
    large = DecomposedHead(Supports([[label % 400] for label in range(600)], 400), torch.ones(600), torch.zeros(600))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 400), large.requires_grad_(False)).eval()
    head = one.network.head
    assert size_of(network, type(head)(**{**vars(head), "name": "2"}), PIXELS_IN).multiplications == 192 * 400 + 600


def test_the_cost_of_a_head() -> None:
    layer = DecomposedHead(Supports([[0, 3], [3], []], 10), torch.ones(3), torch.zeros(3))
    dense, few = head_costs(layer)
    assert (dense.multiplications, dense.bytes, dense.features) == (30, 4 * 33, 10)
    assert (few.multiplications, few.features) == (3, 2) and few.bytes == 4 * (3 + 3 + 4 + 3)


def test_some_classes_in_the_order_asked_for(images: Path, tmp_path: Path) -> None:
    one = Made(Plain(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, classes=["c", 0], rounds=0)
    assert found.labels == (2, 0) and found.classes == ("c", "a") and found.small.features == 3
    torch.testing.assert_close(found.model(PIXELS_IN), one.wanted(PIXELS_IN, [2, 0]), rtol=0, atol=1e-5)
    chunk = next(iter(one.study.image_set("train").chunks("held out 20 %")))
    own = np.isin(chunk.labels, [0, 2])
    weight, bias = one.made.matrix()
    logits = chunk.features[own] @ weight[[2, 0]].T + bias[[2, 0]]
    right = np.mean(np.array([2, 0])[logits.argmax(axis=1)] == chunk.labels[own])
    assert found.among["decomposed"].value == pytest.approx(right) and "images of 'train'" in found.note


def test_channels_that_others_read_stay_and_are_named(images: Path, tmp_path: Path) -> None:
    one = Made(Residual(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, rounds=0)
    small = found.model
    assert isinstance(small, Residual) and small.conv.out_channels == small.block.out_channels == 6
    assert small.side.out_channels == 2 and found.removed == 4 and found.stay == 4 and found.readers == ("block",)
    torch.testing.assert_close(small(PIXELS_IN), one.wanted(PIXELS_IN, [0, 1, 2]), rtol=0, atol=1e-5)
    assert "4 features that no class uses stay, because other layers read their channels: block" in str(
        found.tables()[0].caption
    )


@pytest.mark.parametrize(
    ("model", "why"),
    [(Mixed, "other layers read their channels: mix"), (Scaled, "the logits of the others would change")],
)
def test_nothing_is_removed_that_would_change_the_logits(
    model: type[Plain], why: str, images: Path, tmp_path: Path
) -> None:
    one = Made(model(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, rounds=0)
    assert found.removed == 0 and found.why.endswith(why) and found.small.features == 12
    assert why in str(found.tables()[0].caption)
    torch.testing.assert_close(found.model(PIXELS_IN), one.wanted(PIXELS_IN, [0, 1, 2]), rtol=0, atol=1e-5)


def test_a_channel_of_several_features_goes_only_with_all_of_them(images: Path, tmp_path: Path) -> None:
    partly = Made(Flat(), tmp_path, images)  # every channel has a place that is used
    found = specialise(partly.study, partly.made, network=partly.network, rounds=0)
    assert found.removed == 0 and found.why == "because used features share their channels"
    torch.testing.assert_close(found.model(PIXELS_IN), partly.wanted(PIXELS_IN, [0, 1, 2]), rtol=0, atol=1e-5)
    (tmp_path / "other").mkdir()
    wholly = Made(Flat(), tmp_path / "other", images, [[0, 1], [2], [3, 8, 9, 10, 11]])  # the second channel isn't
    found = specialise(wholly.study, wholly.made, network=wholly.network, rounds=0)
    assert found.removed == 4 and found.model.conv.out_channels == 2 and not found.why  # type: ignore[union-attr]
    torch.testing.assert_close(found.model(PIXELS_IN), wholly.wanted(PIXELS_IN, [0, 1, 2]), rtol=0, atol=1e-5)
    (tmp_path / "both").mkdir()
    both = Made(Flat(), tmp_path / "both", images, [[0, 1], [2], [8, 9]])  # the second isn't, the third partly
    found = specialise(both.study, both.made, network=both.network, rounds=0)
    assert found.removed == 4 and found.stay == 3 and "share" in found.why
    torch.testing.assert_close(found.model(PIXELS_IN), both.wanted(PIXELS_IN, [0, 1, 2]), rtol=0, atol=1e-5)


def test_a_network_that_says_something_else_each_time_is_refused(images: Path, tmp_path: Path) -> None:
    class Random(Plain):
        def pooled(self, x: Tensor) -> Tensor:
            return F.dropout(super().pooled(x), 0.5, training=noisy)

    noisy = False
    one = Made(Random(), tmp_path, images)
    noisy = True
    with pytest.raises(SubspectError, match="differ by .* between runs on the same images.*something random"):
        specialise(one.study, one.made, network=one.network, rounds=0)


def test_classes_without_images_are_told(
    make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder("few", each=20)
    for path in (folder / "c").iterdir():
        path.unlink()
    one = Made(Plain(), tmp_path, folder)
    made = subspect.decompose(one.study, 2, show_progress=False)
    assert made.unseen == (2,)
    specialise(one.study, made, network=one.network, classes=["a", "b"], rounds=0)
    specialise(
        one.study, one.made, network=one.network, classes=["a", "c"], rounds=0
    )  # has features of its own all the same
    assert "when features were chosen" not in caplog.text
    found = specialise(one.study, made, network=one.network, classes=["a", "c"], rounds=0)
    assert "1 class had no images when features were chosen, and keeps all of them" in caplog.text
    assert found.small.features == 12


def test_a_head_that_is_a_convolution(images: Path, tmp_path: Path) -> None:
    one = Made(Convolution(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, classes=["b"], rounds=0)
    assert found.removed == 10 and found.model.conv.out_channels == 2  # type: ignore[union-attr]
    torch.testing.assert_close(found.model(PIXELS_IN), one.wanted(PIXELS_IN, [1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["small.pt2", "small.onnx"])
def test_the_small_network_is_written(name: str, images: Path, tmp_path: Path) -> None:
    one = Made(Plain(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, classes=["a", "c"], path=tmp_path / name, rounds=0)
    assert (
        found.file is not None
        and found.file.about["class_names"] == ["a", "c"]
        and found.file.about["labels"] == [0, 2]
    )
    expected = one.wanted(PIXELS_IN, [0, 2])
    if name.endswith("onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        said = torch.from_numpy(session.run(None, {"pixels": PIXELS_IN.numpy()})[0])
    else:
        said = torch.export.load(tmp_path / name).module()(PIXELS_IN)
    torch.testing.assert_close(said, expected, rtol=0, atol=1e-5)


def test_bad_input(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Made(Plain(), tmp_path, images)

    def run(classes: Any = None, path: Path | None = None) -> None:
        specialise(one.study, one.made, network=one.network, classes=classes, path=path, rounds=0)

    with pytest.raises(SubspectError, match="no class 'dog'; the network has 3: a, b, c, or 0 to 2"):
        run(["dog"])
    with pytest.raises(SubspectError, match="name one class or more that the network is to keep"):
        run([])
    with pytest.raises(SubspectError, match="classes named twice: a"):
        run(["a", 0])
    with pytest.raises(SubspectError, match="classes must be a list of names or indices; got '12'"):
        run("12")
    with pytest.raises(SubspectError, match=r"no class 1\.5"):
        run([1.5])
    with pytest.raises(SubspectError, match=r"a file called 'x.tflite'; formats are onnx \(.onnx\), torch \(.pt2\)$"):
        run(["a"], tmp_path / "x.tflite")
    (tmp_path / "there.onnx").write_text("")
    with pytest.raises(SubspectError, match=r"there.onnx exists; choose another name, or delete it"):
        run(["a"], tmp_path / "there.onnx")
    with pytest.raises(SubspectError, match=r"'few.safetensors'; formats are onnx \(.onnx\), torch \(.pt2\)$"):
        run(["a"], tmp_path / "few.safetensors")
    wanted = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch_pruning":
            raise ImportError(name)
        return wanted(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        SubspectError, match=r"removing channels needs the package 'torch-pruning'.*-e '\.\[specialise\]"
    ):
        run()
    with pytest.raises(SubspectError, match="removing channels needs the package 'torch-pruning'"):
        tradeoff(one.study, network=one.network, pools=[4], k=2)
    monkeypatch.undo()
    (tmp_path / "none").mkdir()
    nothing = Made(Plain(), tmp_path / "none", images, [[], [], [1]])
    with pytest.raises(SubspectError, match="these classes use no feature at all"):
        specialise(nothing.study, nothing.made, network=nothing.network, classes=["a", "b"])


def test_the_curve_of_accuracy_and_multiplications(images: Path, tmp_path: Path) -> None:
    network = Network(Plain().eval())
    study = subspect.observe(network, images, tmp_path / "study", "train", show_progress=False)
    before = sorted(path.name for path in (tmp_path / "study").rglob("*"))
    found = tradeoff(study, network=network, pools=[4, 8, 12], k=2, show_progress=False)
    assert sorted(path.name for path in (tmp_path / "study").rglob("*")) == before
    assert [one.pool for one in found.points] == [None, 12, 8, 4]
    sizes = [one.size.multiplications for one in found.points]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]
    for one in found.points[1:]:
        made = subspect.decompose(study, 2, pool=one.pool, show_progress=False)
        cost = subspect.evaluate(study, made).overall
        assert one.accuracy == cost.accuracy and one.fidelity == cost.fidelity
        assert one.size.features == len(set(made.supports.flat.tolist())) <= (one.pool or 0)
    dense = found.points[0]
    assert dense.accuracy == cost.dense_accuracy and dense.size.features == 12 and not found.why
    assert isinstance(found.plot(), Figure) and len(found.tables()[0].rows) == 4 and json.dumps(found.to_json())
    assert found.plot().axes[0].get_xlabel().startswith("multiplications of the whole network")
    flat = Tradeoff(
        tuple(TradeoffPoint(one.pool, dense.size, one.accuracy, one.fidelity) for one in found.points), 2, "", "x"
    )
    axes = flat.plot().axes[0]
    assert axes.get_xlabel().startswith("pool: features for all classes together")
    assert sorted(text.xy[0] for text in axes.texts) == [4, 8, 12, 12]  # type: ignore[attr-defined]
    with pytest.raises(
        SubspectError, match="pools must be whole numbers from k = 2 to the layer's 12 features, got 1, 13"
    ):
        tradeoff(study, network=network, pools=[1, 4, 13], k=2)
    with pytest.raises(SubspectError, match="to the layer's 12 features, got none"):
        tradeoff(study, network=network, pools=[], k=2)
    with pytest.raises(SubspectError, match="to the layer's 12 features, got 4.5"):
        tradeoff(study, network=network, pools=[4.5], k=2)  # type: ignore[list-item]
    with pytest.raises(SubspectError, match="to the layer's 12 features, got 4"):
        tradeoff(study, network=network, pools=4, k=2)  # type: ignore[arg-type]


def test_on_the_command_line(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import sys\nsys.path.insert(0, " + repr(str(Path(__file__).parent)) + ")\nfrom test_specialise import Plain\n"
    )

    def run(line: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else " ".join(result.stderr.split())

    run("run python:nets.py:Plain train -o study -k 2 --no-images")
    line = "specialise study --network python:nets.py:Plain"
    Path("classes.txt").write_text("b\nc\n")
    value = json.loads(run(f"{line} --class a --class-list classes.txt -o small.pt2 --json"))
    assert value["classes"] == ["a", "b", "c"] and Path("small.pt2").exists() and value["file"]["format"] == "torch"
    assert "multiplications" in run(f"{line} --class a")
    assert "no class 'dog'" in run(f"{line} --class dog", 1)
    assert "small.pt2 exists" in run(f"{line} --class a -o small.pt2", 1)
    Path("empty.txt").write_text("\n")
    assert "name one class or more" in run(f"{line} --class-list empty.txt", 1)
    curve = "tradeoff study --network python:nets.py:Plain -k 2 --pool 4 --pool 8"
    assert len(json.loads(run(f"{curve} --figure curve.png --json"))["points"]) == 3 and Path("curve.png").exists()
    assert "accuracy against multiplications" in run(curve)
    assert "cannot draw into" in run(f"{curve} --figure curve.doc", 1)
