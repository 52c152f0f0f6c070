"""Training with the decomposed head in place: what learns and what stays, and a run that is stopped."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

import subspect
from conftest import PIXELS
from subspect import Decomposition, Network, Study, SubspectError, decompose
from subspect.cli import app
from subspect.giving.retrain import retrain, train
from subspect.giving.settings import Settings
from subspect.giving.training import Run, _varied
from subspect.ground.files import read_json
from subspect.ground.locks import locked
from subspect.ground.seals import is_sealed, open_json, read_tensors, tensor_bytes
from subspect.studies.first_images import find_head
from subspect.studies.parts import hashed

MakeFolder = Callable[..., Path]
SHORT = Settings(epochs=2, batch_size=8, rate=0.05, held_out=0.25)
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.1)
        self.fc = nn.Linear(6, 3)
        self.preprocessing = dict(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    def forward(self, x):
        return self.fc(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.1)
            self.fc = nn.Linear(6, 3)
        self.preprocessing = PIXELS

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))
        return out


@pytest.fixture
def images(make_folder: MakeFolder) -> Path:
    return make_folder("train", each=30)


@pytest.fixture
def network(images: Path) -> Network:
    network = Network(Net().eval())
    find_head(network, images)
    return network


@pytest.fixture
def study(network: Network, images: Path, tmp_path: Path) -> Study:
    return subspect.observe(network, images, tmp_path / "study", show_progress=False)


@pytest.fixture
def made(study: Study) -> Decomposition:
    return decompose(study, 2, show_progress=False)


def logits(model: nn.Module, folder: Path) -> Tensor:
    paths = sorted(folder.glob("*/*.png"))
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() for path in paths])
    with torch.no_grad():
        out: Tensor = model.eval()((pictures / 255 - 0.5) / 0.5)
    return out


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def kept(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Return some tensors of a training's state."""
    tensors, _ = read_tensors(folder / "state.safetensors", "a state")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_it_learns_and_the_supports_stay(network: Network, images: Path, made: Decomposition, tmp_path: Path) -> None:
    before = state(network.model)
    done = train(network, images, tmp_path / "run", made, Settings(epochs=6, batch_size=8, rate=0.1, held_out=0.25))
    assert done.epochs[-1].loss < done.epochs[0].loss and len(done.epochs) == 6
    assert (
        done.best > 0
        and done.epochs[done.best - 1].held_out == max(epoch.held_out for epoch in done.epochs) > done.start
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.model.state_dict().items())
    weights = load_file(done.path)
    assert set(weights) == set(before) and not torch.equal(weights["conv.weight"], before["conv.weight"])
    for row, support in zip(weights["fc.weight"], made.supports, strict=True):
        assert set(row.nonzero().flatten().tolist()) <= set(support.tolist())
    again = Net()
    again.load_state_dict(weights)  # where the old weights loaded
    assert torch.allclose(logits(again, images), logits(done.model, images), atol=1e-6)
    right = logits(again, images).argmax(dim=1).numpy() == np.arange(90) // 30
    ids = [f"{path.parent.name}/{path.name}" for path in sorted(images.glob("*/*.png"))]
    held = hashed(ids) >= 0.75
    assert right[held].mean() == pytest.approx(done.epochs[done.best - 1].held_out)
    log = tmp_path / "run" / "log.json"
    assert open_json(log, read_json(log)) == done.to_json() and is_sealed(done.path)


def test_one_step_is_that_of_plain_pytorch(network: Network, images: Path, tmp_path: Path) -> None:
    """A whole epoch, by hand, with the same order."""
    settings = Settings(epochs=1, batch_size=8, rate=0.05, held_out=0.25, seed=3, layers=("conv", "fc"))
    done = train(network, images, tmp_path / "run", None, settings)
    paths = sorted(images.glob("*/*.png"))
    ids = [f"{path.parent.name}/{path.name}" for path in paths]
    learned = np.flatnonzero(hashed(ids) < 0.75)
    order = np.random.default_rng([3, 0]).permutation(learned)
    steps = len(learned) // 8
    model = Net().eval()  # neither norm nor dropout is among what learns
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() for path in paths])
    x, labels = (pictures / 255 - 0.5) / 0.5, torch.arange(90) // 30
    parameters = [*model.conv.parameters(), *model.fc.parameters()]
    optimiser = torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = (
            0.05 * min(1, (step + 1) / (steps / 10)) * (1 + np.cos(np.pi * step / steps)) / 2
        )
        rows = order[step * 8 : step * 8 + 8]
        loss = nn.functional.cross_entropy(model(x[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    trained = kept(tmp_path / "run", "model.")
    for name, tensor in model.state_dict().items():
        assert torch.allclose(trained[name], tensor, atol=1e-5)
    assert torch.equal(trained["norm.running_mean"], Net().norm.running_mean)  # type: ignore[arg-type]
    assert done.epochs[0].loss > 0


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_run_that_is_stopped_ends_as_it_would_have(
    network: Network,
    images: Path,
    made: Decomposition,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimiser: str,
) -> None:
    settings = Settings(epochs=2, batch_size=8, optimiser=optimiser, rate=0.01, held_out=0.25, shift=1, flip=True)  # type: ignore[arg-type]
    whole = train(network, images, tmp_path / "whole", made, settings)
    learn, count = Run._learn, 0

    def killed(self: Run, *given: object) -> None:
        nonlocal count
        count += 1
        if count in (4, 9, 14):
            raise KeyboardInterrupt
        learn(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_learn", killed)
    monkeypatch.setattr(sys.modules["subspect.giving.training"], "_EVERY", -1)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(network, images, tmp_path / "stopped", made, settings)
    stopped = train(network, images, tmp_path / "stopped", made, settings)
    assert stopped.path.read_bytes() == whole.path.read_bytes()
    assert stopped.epochs == whole.epochs and stopped.best == whole.best
    done = train(network, images, tmp_path / "stopped", made, settings)  # nothing is left to do
    assert done.path.read_bytes() == whole.path.read_bytes()


def test_the_best_epoch_is_kept_even_if_the_start_was_better(network: Network, images: Path, tmp_path: Path) -> None:
    settings = Settings(epochs=3, batch_size=8, rate=1.0, held_out=0.25)
    done = train(network, images, tmp_path / "run", None, settings)
    shares = [epoch.held_out for epoch in done.epochs]
    assert done.best == 1 + shares.index(max(shares))
    weights = load_file(done.path)
    assert all(torch.equal(weights[name], tensor) for name, tensor in kept(tmp_path / "run", "kept.").items())


def test_a_network_that_returns_several_tensors_learns_the_same(network: Network, images: Path, tmp_path: Path) -> None:
    class Several(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            logits = super().forward(x)
            return {"map": self.conv(x), "logits": logits[:, :, None, None]}

    several = Network(Several().eval())
    find_head(several, images)
    one, other = (train(each, images, tmp_path / str(i), None, SHORT) for i, each in enumerate((network, several)))
    assert one.path.read_bytes() == other.path.read_bytes() and one.epochs == other.epochs


def test_only_the_layers_named_learn(network: Network, images: Path, made: Decomposition, tmp_path: Path) -> None:
    before = network.model.state_dict()
    settings = Settings(epochs=3, batch_size=8, rate=0.05, held_out=0.25, layers=("fc",))
    train(network, images, tmp_path / "run", made, settings)
    after = kept(tmp_path / "run", "model.")
    for name in ("conv.weight", "norm.weight", "norm.running_mean", "norm.running_var"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["fc.weights"], made.weights)


def test_images_are_mirrored_and_moved() -> None:
    x = torch.arange(4 * 3 * 5 * 6.0).view(4, 3, 5, 6)
    torch.manual_seed(0)
    flipped = _varied(x, Settings(flip=True))
    kinds = [torch.equal(one, given.flip(-1)) for one, given in zip(flipped, x, strict=True)]
    assert all(torch.equal(one, given) or kind for one, given, kind in zip(flipped, x, kinds, strict=True)) and any(
        kinds
    )
    wide = nn.functional.pad(x, (2,) * 4, mode="replicate")
    moved = _varied(x, Settings(shift=2))
    for one, given in zip(moved, wide, strict=True):
        assert any(torch.equal(one, given[:, y : y + 5, z : z + 6]) for y in range(5) for z in range(5))
    assert not torch.equal(moved, x) and moved.shape == x.shape


def test_bad_input(network: Network, images: Path, made: Decomposition, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for wrong, message in (
        ({"epochs": 0}, "^epochs must be 1 or more, got 0$"),
        ({"batch_size": 1}, "^batch_size must be 2 or more, got 1$"),
        ({"shift": -1}, "^shift must be 0 or more, got -1$"),
        ({"rate": -1.0}, "^rate must be positive, got -1$"),
        ({"rate": float("nan")}, "^rate must be positive, got nan$"),
        ({"held_out": 1.0}, "^held_out must be between 0 and 1, got 1$"),
        ({"weight_decay": -0.1}, "^weight_decay must be 0 or more, got -0.1$"),
        ({"optimiser": "lion"}, "optimiser must be one of sgd, adamw, got 'lion'"),
    ):
        with pytest.raises(SubspectError, match=message):
            Settings(**wrong)
    with pytest.raises(SubspectError, match="training needs labels"):
        train(network, images / "a", run, made)
    with pytest.raises(
        SubspectError,
        match="90 images are too few: 8. to learn from, in batches of 128, and . held out; give more, or a smaller batch_size",
    ):
        train(network, images, run, made)
    with pytest.raises(SubspectError, match=r"no layer 'cnv' in Net \(did you mean 'conv'\?\)"):
        train(network, images, run, made, Settings(layers=("cnv",)))
    with pytest.raises(SubspectError, match="nothing would learn: the layers drop have no parameters"):
        train(network, images, run, made, Settings(batch_size=8, held_out=0.25, layers=("drop",)))
    other = Network(Net())
    with torch.no_grad():
        other.model.conv.weight.add_(1)  # type: ignore[operator, union-attr]
    find_head(other, images)
    with pytest.raises(SubspectError, match="this is a different network"):
        train(other, images, run, made, SHORT)
    with pytest.raises(
        SubspectError, match="the loss is (nan|inf) at step [0-9]+; a smaller rate than 1e[+]30 may help"
    ):
        train(network, images, run, made, Settings(epochs=2, batch_size=8, rate=1e30, held_out=0.25))


def test_a_training_that_fell_is_told(
    network: Network,
    images: Path,
    made: Decomposition,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["subspect.giving.training"], "_FALL", 0.0)  # the network is no better than chance
    done = train(network, images, tmp_path / "run", made, Settings(epochs=1, batch_size=8, rate=1e4, held_out=0.25))
    assert done.epochs[0].held_out < done.start
    assert "a smaller rate than 10000 may help, in a new folder" in caplog.text and "fell from" in caplog.text


def test_another_run_in_the_folder(network: Network, images: Path, made: Decomposition, tmp_path: Path) -> None:
    train(network, images, tmp_path / "run", made, SHORT)
    with pytest.raises(SubspectError, match="run holds a training with other rate, seed; choose another folder"):
        train(
            network, images, tmp_path / "run", made, Settings(epochs=2, batch_size=8, rate=0.01, held_out=0.25, seed=1)
        )
    with pytest.raises(SubspectError, match="run holds a training with other decomposition"):
        train(network, images, tmp_path / "run", None, SHORT)
    path = tmp_path / "run" / "state.safetensors"
    flipped = bytearray(path.read_bytes())
    flipped[-100] ^= 1
    sealed = [tensor_bytes({}, header) for header in ({"about": "{}", "step": 1}, {"made_by": "subspect retrain"})]
    for data in (b"nothing", bytes(flipped), *sealed):
        path.write_bytes(data)
        with pytest.raises(
            SubspectError, match=r"state\.safetensors is damaged, or no state of a training; delete it to"
        ):
            train(network, images, tmp_path / "run", made, SHORT)
        assert path.read_bytes() == data


@pytest.mark.parametrize("name", ["best.safetensors", "log.json", "state.safetensors"])
def test_what_is_no_training_is_refused_before_one(
    name: str, network: Network, images: Path, made: Decomposition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "train", None)
    for kind in ("file", "link", "folder"):
        path = tmp_path / kind / name
        path.parent.mkdir()
        if kind == "link":
            path.symlink_to(tmp_path / "nowhere")
        else:
            path.touch() if kind == "file" else path.mkdir()
        refusal = "is there already|is damaged, or no state of a training"
        with pytest.raises(SubspectError, match=f"{name} ({refusal})"):
            train(network, images, path.parent, made, SHORT)
        assert sorted(one.name for one in path.parent.iterdir()) == [".lock", name]


def test_one_training_in_a_folder_at_a_time(
    network: Network, images: Path, made: Decomposition, tmp_path: Path
) -> None:
    with (
        locked(tmp_path / "run", "x"),
        pytest.raises(
            SubspectError, match=r"another process is training in .*run; wait for it, or choose another folder"
        ),
    ):
        train(network, images, tmp_path / "run", made, SHORT)


def test_a_state_that_somebody_replaced_meanwhile_stays(
    network: Network, images: Path, made: Decomposition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, learn = tmp_path / "run" / "state.safetensors", Run._learn

    def beside(self: Run, *given: object) -> None:
        if self.step == 5:
            assert is_sealed(path)
            path.write_bytes(b"mine")
        learn(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_learn", beside)
    monkeypatch.setattr(sys.modules["subspect.giving.training"], "_EVERY", -1)
    with pytest.raises(SubspectError, match=r"state\.safetensors is there already, and not as subspect wrote it"):
        train(network, images, tmp_path / "run", made, SHORT)
    assert path.read_bytes() == b"mine"


def test_a_head_without_a_bias(images: Path, tmp_path: Path) -> None:
    model = Net().eval()
    model.fc = nn.Linear(6, 3, bias=False)
    network = Network(model)
    study = subspect.observe(network, images, tmp_path / "study", show_progress=False)
    with pytest.raises(
        SubspectError, match="the head 'fc' has no bias, so a decomposed head cannot be written in its form"
    ):
        train(network, images, tmp_path / "run", decompose(study, 2, show_progress=False), SHORT)
    assert train(network, images, tmp_path / "control", None, SHORT).path.exists()


def test_with_a_control(
    study: Study, made: Decomposition, network: Network, images: Path, make_folder: MakeFolder, tmp_path: Path
) -> None:
    test = make_folder("test", each=10, seed=1)
    both = retrain(
        study,
        made,
        network=network,
        images=images,
        folder=tmp_path / "runs",
        settings=SHORT,
        test=test,
        show_progress=False,
    )
    assert both.control is not None and both.images == 30
    labels = np.arange(30) // 10
    models = {
        "dense": network.model,
        "decomposed": made.apply(network.model),
        "decomposed, retrained": both.retrained.model,
        "dense, retrained": both.control.model,
    }
    expected = {name: (logits(model, test).argmax(dim=1).numpy() == labels).mean() for name, model in models.items()}
    assert {name: share.value for name, share in both.accuracy.items()} == pytest.approx(expected)
    assert all(share.low <= share.value <= share.high for share in both.accuracy.values())
    alone = train(network, images, tmp_path / "alone", None, SHORT)
    assert alone.path.read_bytes() == both.control.path.read_bytes()
    with pytest.raises(SubspectError, match="lies in a study; choose another folder for the training"):
        train(network, images, study.path / "runs" / "mine", made, SHORT)
    with pytest.raises(SubspectError, match="the test images need labels"):
        retrain(study, made, network=network, images=images, folder=tmp_path / "runs", settings=SHORT, test=test / "a")


def test_on_the_command_line(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(CODE)

    def run(line: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else " ".join(result.stderr.split())

    run("run python:model.py:Net train -o study -k 2 --no-images")
    line = "retrain study train --network python:model.py:Net -o runs --epochs 1 --batch-size 8 --control --test other"
    shutil.copytree("train", "other")
    next(Path("other").rglob("*.png")).unlink()
    value = json.loads(run(f"{line} --json"))
    assert list(value["accuracy"]) == ["dense", "decomposed", "decomposed, retrained", "dense, retrained"]
    assert len(value["control"]["epochs"]) == 1 and value["images"] == 89
    shown = run(line)  # everything is there already
    assert "held out: accuracy before this training on" in " ".join(shown.split())
    assert value["retrained"]["images"] == value["control"]["images"] > 0 and "dense (control)" in shown
    again = run("observe python:model.py:Net train -o again --weights runs/decomposed/best.safetensors --json")
    assert json.loads(again)["n_features"] == 6
    assert "rate must be positive, got 0" in run(f"{line} --rate 0", 1)
    same = line.replace("--test other", "--test train")
    assert "the test images are those that are learned from; name others" in run(same, 1)
