"""Smaller networks: what is removed, what must stay, and that nothing changes."""

from __future__ import annotations

import builtins
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import subspect
from prunable import PIXELS_IN, Convolution, Flat, Made, MakeFolder, Mixed, Plain, Residual, Scaled
from subspect import DecomposedHead, SubspectError
from subspect.cli import app
from subspect.giving.specialise import specialise
from subspect.giving.tradeoff import tradeoff

USED = (1, 4, 7, 9)


@pytest.fixture
def images(make_folder: MakeFolder) -> Path:
    return make_folder("train", each=20)


def test_unused_channels_are_removed(images: Path, tmp_path: Path) -> None:
    one = Made(Plain(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, rounds=3)
    small = found.model
    assert isinstance(small, Plain) and small.conv.out_channels == small.norm.num_features == 4
    assert isinstance(small.fc, DecomposedHead) and small.fc.in_features == 4 and found.removed == 8 and found.stay == 0
    torch.testing.assert_close(small(PIXELS_IN), one.wanted(PIXELS_IN, [0, 1, 2]), rtol=0, atol=1e-5)
    assert torch.equal(small.conv.weight, one.model.conv.weight[list(USED)])  # type: ignore[union-attr,index]
    assert (
        found.dense.features == 12
        and found.small.features == 4
        and (found.difference or 0) <= 1e-5
        and found.difference is not None
    )
    assert one.network.fingerprint() == one.study.identity.fingerprint and one.model.training  # left as it was
    assert set(found.times) == {1, 7} and all(0 < r.low <= r.value <= r.high for r in found.times.values())
    assert not found.readers and json.dumps(found.to_json())


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
        SubspectError,
        match=r"removing channels needs the package 'torch-pruning'.*-c constraints.txt '\.\[specialise\]",
    ):
        run()
    with pytest.raises(SubspectError, match="removing channels needs the package 'torch-pruning'"):
        tradeoff(one.study, network=one.network, pools=[4], k=2)
    monkeypatch.undo()
    (tmp_path / "none").mkdir()
    nothing = Made(Plain(), tmp_path / "none", images, [[], [], [1]])
    with pytest.raises(SubspectError, match="these classes use no feature at all"):
        specialise(nothing.study, nothing.made, network=nothing.network, classes=["a", "b"])


def test_on_the_command_line(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import sys\nsys.path.insert(0, " + repr(str(Path(__file__).parent)) + ")\nfrom prunable import Plain\n"
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
