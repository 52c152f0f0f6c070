"""Files that run without subspect: what they say, what travels along, and what is refused before anything is written."""

from __future__ import annotations

import builtins
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from typer.testing import CliRunner

import subspect
from conftest import PIXELS, Tiny
from subspect import DecomposedHead, Decomposition, Network, Study, SubspectError, Supports, decompose
from subspect.cli import app
from subspect.giving.export import check_path, export
from subspect.giving.formats import _Gather, kind_of
from subspect.images.opening import open_images
from subspect.studies.first_images import find_head, sample

MakeFolder = Callable[..., Path]
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, head=lambda d, c: nn.Linear(d, c)):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48)
        self.fc = head(48, 3)
        self.preprocessing = dict(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))
"""


class Net(nn.Module):
    def __init__(self, *, convolution: bool = False, many: bool = False, noise: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 512 if many else 24, 3), nn.BatchNorm2d(512 if many else 24)
            self.fc = nn.Conv2d(24, 3, 1) if convolution else nn.Linear(512 if many else 24, 600 if many else 3)
        self.preprocessing, self.convolution, self.noise = PIXELS, convolution, noise

    def forward(self, x: Tensor) -> Any:
        maps = self.norm(self.conv(x)).relu()
        if self.convolution:
            return {"maps": maps, "logits": self.fc(maps.mean((2, 3), keepdim=True))}
        logits = self.fc(maps.mean((2, 3)))
        return logits + torch.rand_like(logits) if self.noise else logits


def made_of(model: nn.Module, folder: Path, images: Any, k: int = 2) -> tuple[Study, Decomposition, Network]:
    network = Network(model.eval())
    study = subspect.observe(network, images, folder, "train", show_progress=False)
    return study, decompose(study, k, method="contribution"), network


def said(made: Decomposition, network: Network, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        output = made.apply(network.model)(pixels)
    logits: Tensor = output["logits"][:, :, 0, 0] if isinstance(output, dict) else output
    return logits


@pytest.mark.parametrize("convolution", [False, True])
def test_onnx_says_the_same_for_any_batch(convolution: bool, make_folder: MakeFolder, tmp_path: Path) -> None:
    images = make_folder("train", each=12)
    study, made, network = made_of(Net(convolution=convolution), tmp_path / "study", images)
    done = export(study, made, path=tmp_path / "net.onnx", network=network, opset=18)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    pixels = sample(network, open_images(images), 9)
    assert isinstance(pixels, Tensor)
    for batch in (1, 4, 9):
        [logits] = session.run(["logits"], {"pixels": pixels[:batch].numpy()})
        np.testing.assert_allclose(logits, said(made, network, pixels[:batch]), atol=1e-5)
    about = json.loads(session.get_modelmeta().custom_metadata_map["subspect"])
    assert about["class_names"] == ["a", "b", "c"] and about["preprocessing"] == dict(study.identity.preprocessing)
    assert about["opset"] == 18 and onnx.load(tmp_path / "net.onnx").opset_import[0].version == 18
    assert done.difference is not None and done.difference <= 1e-5 and done.kernel == "dense"
    assert (
        all(one.requires_grad for one in network.model.parameters())
        and network.fingerprint() == study.identity.fingerprint
    )  # left as it was
    assert done.decomposed.bytes == (tmp_path / "net.onnx").stat().st_size and done.dense is not None
    assert set(done.dense.seconds) == {1, 7} and min(done.decomposed.seconds.values()) > 0
    for batch, ratio in done.times.items():
        assert (ratio.dense, ratio.small) == (done.dense.seconds[batch], done.decomposed.seconds[batch])
        assert 0 < ratio.low <= ratio.value <= ratio.high and f"{batch} image" in str(done.tables()[0].caption)
    assert f"in brackets 95 % intervals: 1 image {done.times[1]}, 7 images " in str(done.tables()[0].caption)
    assert json.loads(json.dumps(done.to_json()))["times"]["7"]["high"] == done.times[7].high
    assert json.dumps(done.to_json()) and "opset 18" in str(done.tables()[0].caption)


@pytest.mark.parametrize("ready", [False, True])
def test_the_advice_for_images_in_memory_works(ready: bool, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, network = make_folder(each=4), Network(Tiny())
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    given = x.transpose(0, 3, 1, 2) / np.float32(255) if ready else x
    study = subspect.observe(network, (given, np.arange(40) % 3), tmp_path / "study")
    made = decompose(study, 2)

    def invoke(*line: str) -> str:
        fixed = ("export", str(study.path), "--network", "python:conftest:Tiny", "-o", str(tmp_path / "cli.pt2"))
        return " ".join(CliRunner().invoke(app, [*fixed, *line]).output.split())

    advice = "give some as they were observed, from Python: images=x; the command line reads only pictures"
    if not ready:
        advice = "in Python images=x, with x as it was observed; on the command line --images FOLDER"
    with pytest.raises(SubspectError, match=advice):
        export(study, made, path=tmp_path / "net.pt2", network=network)
    assert export(study, made, path=tmp_path / "net.pt2", network=network, images=given).path.exists()
    with pytest.raises(SubspectError, match=advice):
        subspect.specialise(study, made, network=network, classes=[0, 1], rounds=0)
    assert subspect.specialise(study, made, network=network, classes=[0, 1], images=given, rounds=0).model
    assert advice in invoke()
    said = invoke("--images", str(folder))
    assert (tmp_path / "cli.pt2").exists() != ready and (advice in said) == ready
    if ready:
        assert "given as tensors, ready for the network; these are pictures (folder)" in said


def test_many_classes_are_gathered_in_onnx(tmp_path: Path) -> None:
    images = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    study, made, network = made_of(Net(many=True), tmp_path / "study", (images, torch.arange(60) * 10), k=4)
    everyone = Supports([[label % 512, (label + 7) % 512] for label in range(600)], 512)
    everyone.write(tmp_path / "indices.json")
    made = subspect.decompose_by_file(study, tmp_path / "indices.json")
    with pytest.raises(SubspectError, match="the observed images were in memory and are no longer available"):
        export(study, made, path=tmp_path / "net.onnx", network=network)
    done = export(study, made, path=tmp_path / "net.onnx", network=network, images=(images, None))
    assert done.dense is not None
    if done.kernel == "gather":
        assert done.decomposed.bytes < done.dense.bytes - 4 * 512 * 500
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {"pixels": images[:5].numpy()})
    np.testing.assert_allclose(logits, said(made, network, images[:5]), atol=1e-4)


def test_the_gather_says_the_same_as_the_head() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randperm(400, generator=generator)[: label % 9].tolist() for label in range(500)]
    entries = sum(map(len, rows))
    head = DecomposedHead(Supports(rows, 400), torch.randn(entries), torch.randn(500)).requires_grad_(False)
    x = torch.randn(6, 400)
    torch.testing.assert_close(_Gather(head)(x), head(x), rtol=1e-4, atol=1e-5)
    assert kind_of(head) == "gather"
    few = DecomposedHead(Supports([[0], [1]], 400), torch.ones(2), torch.zeros(2))
    assert kind_of(few) == "dense"
    uneven = DecomposedHead(Supports([*rows, list(range(400))], 400), torch.ones(entries + 400), torch.zeros(501))
    assert kind_of(uneven) == "dense"


def test_a_program_runs_without_subspect(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = make_folder("train", each=12)
    study, made, network = made_of(Net(), tmp_path / "study", images)
    done = export(study, made, path=tmp_path / "net.pt2", network=network)
    assert done.format == "torch" and done.difference == 0 and done.kernel == "dense"
    pixels = sample(network, open_images(images), 4)
    assert isinstance(pixels, Tensor)
    torch.save(pixels, tmp_path / "pixels.pt")
    code = (
        "import sys; sys.modules['subspect'] = None\n"
        "import json, torch, warnings; warnings.simplefilter('ignore')\n"
        "extra = {'subspect.json': ''}\n"
        "net = torch.export.load('net.pt2', extra_files=extra).module()\n"
        "pixels = torch.load('pixels.pt', weights_only=True)\n"
        "out = [net(pixels[:n]).tolist() for n in (1, 4)]\n"
        "print(json.dumps([out, json.loads(extra['subspect.json'])]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    logits, about = json.loads(shown.stdout)
    for batch, one in zip((1, 4), logits, strict=True):
        np.testing.assert_allclose(one, said(made, network, pixels[:batch]), atol=1e-5)
    assert about["class_names"] == ["a", "b", "c"] and about["decomposition"] == made.name


def test_the_decomposition_alone(make_folder: MakeFolder, tmp_path: Path) -> None:
    study, made, _ = made_of(Net(), tmp_path / "study", make_folder("train", each=6))
    done = export(study, made, path=tmp_path / "few.safetensors")
    loaded = Decomposition.load(tmp_path / "few.safetensors")
    assert loaded.supports == made.supports and torch.equal(loaded.weights, made.weights) and done.dense is None
    with safe_open(tmp_path / "few.safetensors", "pt") as file:
        header = json.loads(file.metadata()["subspect"])
    assert header["preprocessing"] == dict(study.identity.preprocessing) and header["class_names"] == ["a", "b", "c"]
    assert done.to_json()["kernel"] is None and len(done.tables()[0].rows) == 1


def test_a_network_with_something_random_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    study, made, _ = made_of(Net(), tmp_path / "study", make_folder("train", each=6))
    noisy = Network(Net(noise=True).eval())
    find_head(Network(Net().eval()), make_folder("train", each=6))
    noisy._head = find_head(Network(Net().eval()), make_folder("train", each=6))
    with pytest.raises(SubspectError, match="differs from the one in PyTorch by .* nothing was written. Does it hold"):
        export(study, made, path=tmp_path / "net.pt2", network=noisy)
    assert not list(tmp_path.glob("*.pt2*"))


def test_bad_input(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_folder("train", each=6)
    study, made, network = made_of(Net(), tmp_path / "study", images)
    with pytest.raises(SubspectError, match="cannot export to a file called 'net.h5'; formats are onnx"):
        export(study, made, path=tmp_path / "net.h5", network=network)
    with pytest.raises(SubspectError, match="cannot export to format 'tflite'; formats are onnx"):
        export(study, made, path=tmp_path / "net", network=network, format="tflite")  # type: ignore[arg-type]
    (tmp_path / "there.onnx").write_text("")
    with pytest.raises(SubspectError, match=r"there.onnx exists; choose another name, or delete it"):
        export(study, made, path=tmp_path / "there.onnx", network=network)
    with pytest.raises(SubspectError, match="'onnx' takes the network itself"):
        export(study, made, path=tmp_path / "net.onnx")
    with pytest.raises(SubspectError, match="this is a different network"):
        export(study, made, path=tmp_path / "net.onnx", network=Network(nn.Sequential(nn.Flatten(), nn.Linear(192, 3))))
    with pytest.raises(SubspectError, match="is a file, not a folder"):
        export(study, made, path=tmp_path / "there.onnx" / "net.onnx", network=network)
    for opset in (99, 17, "20"):
        with pytest.raises(SubspectError, match=r"opset must be a whole number from 18 to [0-9]+; got '?(99|17|20)'?$"):
            export(study, made, path=tmp_path / "net.onnx", network=network, opset=opset)  # type: ignore[arg-type]
    with pytest.raises(SubspectError, match="a file called 'net.onnx' is no 'torch'; call it net.pt2"):
        export(study, made, path=tmp_path / "net.onnx", network=network, format="torch")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SubspectError, match="cannot write to .*; choose a folder that you may write to"):
        export(study, made, path=tmp_path / "new" / "net.onnx", network=network)
    monkeypatch.undo()
    assert not (tmp_path / "new").exists()
    images.rename(tmp_path / "moved")
    with pytest.raises(SubspectError, match="are no longer at .*, say where they are now: images='FOLDER' in"):
        export(study, made, path=tmp_path / "net.onnx", network=network)
    wanted = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name)
        return wanted(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        SubspectError, match=r"writing ONNX needs the package 'onnxscript'.*-c constraints.txt '\.\[export\]"
    ):
        export(study, made, path=tmp_path / "net.onnx", network=network)
    monkeypatch.undo()
    assert not list(tmp_path.glob("net*"))


def test_a_network_that_cannot_be_exported(
    make_folder: MakeFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Asking(Net):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            return logits if float(logits.sum()) > -1e9 else logits + 1  # depends on what the image holds

    study, made, network = made_of(Asking(), tmp_path / "study", make_folder("train", each=6))
    for name in ("net.pt2", "net.onnx"):
        with pytest.raises(
            SubspectError,
            match=r"exported to (torch|onnx), nothing was written: .*data-dependent.*test_export.py, line [0-9]+\)$",
        ) as caught:
            export(study, made, path=tmp_path / name, network=network)
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert not list(tmp_path.glob("net*"))
    said = capfd.readouterr()
    assert "GraphModule" not in said.out + said.err and "torch.ops" not in said.out + said.err


def test_an_interrupt_within_an_exporter_stays_one(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, made, network = made_of(Net(), tmp_path / "study", make_folder("train", each=6))

    def interrupted(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("the compiler failed") from None

    monkeypatch.setattr("torch.export.export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(study, made, path=tmp_path / "net.pt2", network=network)


@pytest.mark.parametrize("name", ["net.pt2", "net.safetensors"])
def test_of_two_exports_to_one_file_the_first_stays(
    name: str, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, made, network = made_of(Net(), tmp_path / "study", make_folder("train", each=6))
    checked = sys.modules["subspect.giving.export"].check_path

    def beside(path: Path, format: str | None) -> str:
        found: str = checked(path, format)
        Decomposition.save(made, path) if name.endswith("safetensors") else path.write_text("the other's")
        return found

    monkeypatch.setattr(sys.modules["subspect.giving.export"], "check_path", beside)
    with pytest.raises(SubspectError, match=f"{name} exists; choose another name, or delete it"):
        export(study, made, path=tmp_path / name, network=network)
    beside_it = sorted(path.name for path in tmp_path.glob("*") if path.is_file())
    assert beside_it == [name] and (name == "net.safetensors" or (tmp_path / name).read_text() == "the other's")


def test_what_is_there_is_refused_before_the_work(make_folder: MakeFolder, tmp_path: Path) -> None:
    study, made, network = made_of(Net(), tmp_path / "study", make_folder("train", each=6))
    (tmp_path / "dangling.onnx").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.onnx").mkdir()
    for name, kind in (("dangling.onnx", "a link"), ("folder.onnx", "a folder")):
        with pytest.raises(SubspectError, match=f"{name} is there already, as {kind}; choose another name"):
            check_path(tmp_path / name, None)
        with pytest.raises(SubspectError, match=f"{name} is there already, as {kind}; choose another name"):
            export(study, made, path=tmp_path / name, network=network)
    assert not (tmp_path / "nowhere").exists()


def test_what_a_killed_export_left_is_removed_by_the_next(make_folder: MakeFolder, tmp_path: Path) -> None:
    study, made, _ = made_of(Net(), tmp_path / "study", make_folder("train", each=6))
    code = f"""
import os
from pathlib import Path
from subspect.ground.files import atomic
with atomic(Path({str(tmp_path / "out" / "net.pt2")!r})) as file:
    file.write(b"half")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (tmp_path / "out" / ".mine.part").write_text("the user's")
    assert len(list((tmp_path / "out").iterdir())) == 2
    export(study, made, path=tmp_path / "out" / "net.safetensors")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".mine.part", "net.safetensors"]


def test_few_images_are_taken_again(make_folder: MakeFolder, tmp_path: Path) -> None:
    study, made, network = made_of(Net(), tmp_path / "study", make_folder("train", each=6))
    done = export(
        study, made, path=tmp_path / "net.pt2", network=network, images=make_folder("two", each=1)
    )  # 3 images
    assert set(done.decomposed.seconds) == {1, 7}


@pytest.mark.parametrize("name", ["net.pt2", "net.onnx"])
def test_no_paths_of_the_code_travel_along(name: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    study, made, network = made_of(Net(), tmp_path / "study", make_folder("train", each=6))
    export(study, made, path=tmp_path / name, network=network)
    data = (tmp_path / name).read_bytes()
    assert b"test_export.py" not in data and b"/torch/" not in data and str(Path.cwd()).encode() not in data


def test_on_the_command_line(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder("train", each=12)
    Path("model.py").write_text(CODE)

    def run(line: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else " ".join(result.stderr.split())

    run("run python:model.py:Net train -o study -k 2 --no-images")
    value = json.loads(run("export study --network python:model.py:Net -o net.pt2 --json"))
    assert value["format"] == "torch" and value["decomposed"]["bytes"] == Path("net.pt2").stat().st_size
    assert "torch: " in run("export study --network python:model.py:Net -o other --format torch")
    assert "exists; choose another name" in run("export study --network python:model.py:Net -o net.pt2", 1)
    assert "formats are" in run("export study -o net.xyz", 1)
    assert "--images goes with --network" in run("export study -o net.safetensors --images train", 1)
    assert "safetensors: net.safetensors" in run("export study -o net.safetensors")
