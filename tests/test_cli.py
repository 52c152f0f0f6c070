"""The command line: each command, its JSON, its exit codes and its refusals."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import subspect
from commands import MODEL
from conftest import Tiny
from subspect.cli import app

PIXELS = "--resize none --crop none --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder: Callable[..., Path]) -> Callable[..., Result]:
    """Run a command line in a folder with model.py, images in train and test, and weights."""
    monkeypatch.chdir(tmp_path)
    make_folder("train", each=30)
    make_folder("test", each=10, seed=1)
    Path("model.py").write_text(MODEL)

    def invoke(line: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return invoke


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def test_the_main_job(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("run python:model.py:declared train --test test -o study -k 2")
    assert "preprocessing: resize 8 (bilinear), centre crop 8, mean (0.5, 0.5, 0.5)" in result.stderr
    assert "python:model.py:declared → head 'fc': 3 classes, 6 features" in result.stderr
    assert "2 of 6 " in result.stdout and "30 images of 'test'" in result.stdout
    assert (tmp_path / "study/report.html").exists() and "report: study/report.html" in result.stdout
    again = run("run python:model.py:declared train --test test -o study -k 2 --json")
    value = parsed(again)
    assert value["fidelity"]["overall"]["images"] == 30 and len(value["decomposition"]["classes"]) == 3
    study = subspect.Study.open(tmp_path / "study")
    fidelity = subspect.evaluate(study, subspect.load_decomposition(study))
    assert value["fidelity"]["overall"]["accuracy"]["value"] == fidelity.overall.accuracy.value


def test_none_of_resize_crop_mean_and_std(run: Callable[..., Result]) -> None:
    given = "--resize none --crop none --mean none --std None"
    result = run(f"observe python:model.py:make train -o study {given}")
    assert "preprocessing: no resize, no centre crop, mean (0, 0, 0), std (1, 1, 1)" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_images_that_lead_outside(run: Callable[..., Result], tmp_path: Path) -> None:
    for name in ("train", "test"):
        Path(f"linked-{name}").mkdir()
        for label in "abc":
            Path(f"linked-{name}", label).symlink_to(tmp_path / name / label)
    network = "python:model.py:declared"
    refused = "a leads outside linked-train: to "
    for line in (
        f"run {network} linked-train -o study -k 2",
        f"observe {network} linked-train -o study",
        f"depth {network} --train linked-train -o family",
    ):
        result = run(line, 1)
        assert refused in result.stderr and "pass outside=True (--outside) if that is intended" in result.stderr
    assert "a leads outside linked-test: to " in run(f"run {network} train --test linked-test -o study", 1).stderr
    assert not Path("study").exists()
    run(f"run {network} linked-train --test linked-test -o study -k 2 --outside --no-images")
    retrain = f"retrain study linked-train --network {network} -o retrained --epochs 1 --batch-size 16"
    assert refused in run(retrain, 1).stderr
    run(f"{retrain} --test linked-test --outside")
    assert "a family needs two networks" in run(f"depth {network} --train linked-train -o family --outside", 1).stderr


@pytest.mark.skipif(os.name != "posix", reason="devices of POSIX")
def test_class_names_from_what_is_no_text(run: Callable[..., Result]) -> None:
    Path("names").write_bytes("é".encode("latin-1"))
    line = f"observe python:model.py:make train -o study {PIXELS} --class-names"
    assert "class names from names is not text in UTF-8: " in run(f"{line} names", 1).stderr
    assert "cannot read class names from /dev/zero: it is a device, not a file" in run(f"{line} /dev/zero", 1).stderr
    Path("names").write_bytes("\ufeffa\nb\n\nc\n".encode())
    assert run(f"{line} names").exit_code == 0


def test_step_by_step(run: Callable[..., Result], tmp_path: Path) -> None:
    observed = parsed(run(f"observe python:model.py:make train -o study --batch-size 8 {PIXELS} --json"))
    assert observed["sets"]["train"]["rows"] == 90 and observed["class_names"] == ["a", "b", "c"]
    made = parsed(run("decompose study -k 1 -k 3 --method frequency --json"))
    assert [one["decomposition"]["name"] for one in made] == ["frequency-k1", "frequency-k3"]
    assert "the 20 % of it held out" in made[0]["fidelity"]["note"]
    run(f"observe python:model.py:make test -o study --name test --batch-size 8 {PIXELS}")
    assert "frequency-k0.5" in run("decompose study -k 0.5 --method frequency").stdout
    evaluated = parsed(run("evaluate study --decomposition frequency-k3 --on test --json"))
    assert evaluated["decomposition"] == "frequency-k3" and evaluated["overall"]["images"] == 30
    assert "each class" in run("evaluate study --per-class").stdout
    assert parsed(run("evaluate study --on test --among-given --json"))["among"] == "given"
    run("report study --no-images --among-given -o given.html")
    assert "among the 3 classes given" in (tmp_path / "given.html").read_text()
    run("report study --no-images -o out/page.html")
    assert (tmp_path / "out/page.html").exists()
    shown = parsed(run("show study --json"))
    assert shown["decompositions"] == ["frequency-k1", "frequency-k3", "frequency-k0.5"]
    assert "frequency-k0.5" in run("show study").stdout
    one = parsed(run("show study --class b --class 0 --decomposition frequency-k1 --json"))
    assert [(row["class"], row["index"]) for row in one["classes"]] == [("b", 1), ("a", 0)]
    (feature,) = one["classes"][0]["features"]
    assert one["decomposition"] == "frequency-k1"
    assert feature["contribution"] == pytest.approx(feature["weight"] * feature["mean"])
    assert "contribution" in run("show study --class b").stdout


def test_indices_from_a_file(run: Callable[..., Result], tmp_path: Path) -> None:
    run(f"observe python:model.py:make train -o study {PIXELS}")
    (tmp_path / "mine.json").write_text('{"0": [1], "1": [2, 3], "2": [0]}')
    made = parsed(run("decompose study --supports mine.json --json"))
    assert [len(one["features"]) for one in made[0]["decomposition"]["classes"]] == [1, 2, 1]
    (tmp_path / "mine.json").write_text('{"0": [1], "1": [2, 60], "2": [0]}')
    assert "class 1 has feature indices from 2 to 60" in run("decompose study --supports mine.json", 1).stderr


def test_weights_names_and_map(run: Callable[..., Result], tmp_path: Path) -> None:
    torch.manual_seed(5)
    weights = {"conv.weight": torch.randn(6, 3, 3, 3), "conv.bias": torch.zeros(6)}
    weights |= {"fc.weight": torch.randn(3, 6), "fc.bias": torch.zeros(3)}
    save_file(weights, tmp_path / "w.safetensors")
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    (tmp_path / "map.json").write_text('{"a": 2, "b": 1, "c": 0}')
    line = f"observe python:model.py:make train -o study --weights w.safetensors --class-names names.txt {PIXELS}"
    assert "6 class folders" not in run(f"{line}", 1).stderr
    observed = parsed(run(f"{line} --class-map map.json --json"))
    assert observed["class_names"] == ["x", "y", "z"] and observed["sets"]["train"]["matching"] == "by the class map"
    study = subspect.Study.open(tmp_path / "study")
    assert torch.equal(study.head()[0], weights["fc.weight"])
    save_file({**weights, "fc.weight": torch.randn(4, 6)}, tmp_path / "w.safetensors")
    assert "fc.weight (4, 6) instead of (3, 6)" in run(f"{line} --class-map map.json", 1).stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"run python:model.py:make nowhere -o study {PIXELS}", "error: no such folder or file of images: nowhere"),
        (f"run python:model.py:make empty -o study {PIXELS}", "error: no images in empty"),
        (
            f"run python:model.py:pair train -o study {PIXELS}",
            "error: 3 class folders or labels (a, b, c) for a network with 2",
        ),
        (f"run python:model.py:mak train -o study {PIXELS}", "no callable 'mak' there (did you mean 'make'?)"),
        (
            f"run caffe:resnet18 train -o study {PIXELS}",
            "expected python:package.module:callable, python:path/file.py",
        ),
        ("run python:model.py:make train -o study", "does not declare its preprocessing and none was given"),
        ("run python:model.py:make train -o study --mean 0.5,0.5,0.5", "missing: resize, crop, std"),
        (
            f"run python:model.py:make train -o study {PIXELS} -k 7",
            "k = 7 must be a whole number from 1 to 6, the number of features",
        ),
        (
            f"run python:model.py:make train -o study {PIXELS} --method magic",
            "method must be one of pursuit, contribution, freq",
        ),
        (f"run python:model.py:make train -o model.py/study {PIXELS}", "error: cannot write model.py/study"),
        (f"run python:model.py:make train -o study {PIXELS} --device cuda:99", "device 'cuda:99' cannot be used"),
        (f"run python:model.py:make train -o study {PIXELS} --head nose", "head 'nose' is not an nn.Linear"),
        (f"run python:model.py:make train -o study {PIXELS} --weights none.pt", "no such file of weights: none.pt"),
        (f"run python:model.py:make train -o study {PIXELS} --class-names none", "cannot read class names from none"),
        (f"run python:model.py:make train -o study {PIXELS} --interpolation cubist", "interpolation must be one of"),
        ("run python:model.py:make train -o study --resize big", "--resize must be a number of pixels"),
        ("run python:model.py:make train -o study --mean grey", "--mean must be numbers with commas"),
        (
            f"run python:model.py:make train -o study {PIXELS} -k 2 -k 3",
            "run takes one k, got 2, 3; for more: subspect decompose",
        ),
        (
            f"run python:model.py:make train --test train -o study {PIXELS} -k 2",
            "two of the image sets given are the same",
        ),
        ("evaluate nowhere", "error: no study in nowhere"),
        ("report nowhere", "error: no study in nowhere"),
        ("show nowhere", "error: no study in nowhere"),
        ("decompose nowhere", "error: no study in nowhere"),
    ],
)
def test_bad_input(run: Callable[..., Result], tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run(line, 1)
    assert message in " ".join(result.stderr.split()) and not result.stdout


def test_a_class_that_does_not_exist(run: Callable[..., Result]) -> None:
    run("run python:model.py:declared train -o study -k 2 --no-images")
    assert "no class 'aa' (did you mean 'a'?); the network has 3: a, b, c" in run("show study --class aa", 1).stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("explain study model.py --network NET", "error: cannot use model.py: not an image"),
        ("explain study train/a/000.png none.png --network NET", "error: cannot use none.png: no such file"),
        ("explain study train/a/000.png --network python:model.py:other", "this is a different network"),
        ("explain study train/a/000.png --network NET --against aa", "no class 'aa' (did you mean 'a'?)"),
        ("explain study train/a/000.png --network NET --decomposition best", "no decomposition 'best'"),
        ("explain train train/a/000.png --network NET", "error: no study in train"),
        ("compare study a bb", "no class 'bb' (did you mean 'b'?)"),
        ("compare study a a", "two classes are compared, and both are 'a'"),
        ("compare study a b --on valid", "no image set 'valid'"),
        ("diff study nowhere", "error: no study in nowhere"),
        ("edit study --drop aa:1", "no class 'aa' (did you mean 'a'?)"),
        ("edit study --drop a:99", "no feature '99'; the features are 0 to 5"),
        ("edit study --drop a:one", "no feature 'one'; the features are 0 to 5"),
        ("edit study --drop a", "--drop takes CLASS:FEATURE, each by name or index; got 'a'"),
        ("edit study --drop a:1 --refit-on valid", "no image set 'valid'"),
        ("report study --network python:model.py:other", "this is a different network"),
    ],
)
def test_bad_input_to_a_study(run: Callable[..., Result], line: str, message: str) -> None:
    run("run python:model.py:declared train -o study -k 6 --method contribution --no-images")
    result = run(line.replace("NET", "python:model.py:declared"), 1)
    assert message in " ".join(result.stderr.split()) and not result.stdout


def test_a_study_without_an_evaluation_set(run: Callable[..., Result]) -> None:
    """What was set apart when the features were chosen stands in for it."""
    run("run python:model.py:declared train -o study -k 2")
    [feature, *_] = parsed(run("show study --class a --json"))["classes"][0]["features"]
    drop = f"a:{feature['feature']}"
    for line in (
        "evaluate study",
        "compare study a b",
        f"edit study --drop {drop}",
        "report study",
        "diff study study",
    ):
        result = run(line)
        assert line.startswith("report") or "20 %" in " ".join((result.stdout + result.stderr).split())


def test_wrong_usage_and_version(run: Callable[..., Result]) -> None:
    run("run python:model.py:make", 2)
    run("observe python:model.py:make train -o study --batch-size 0", 2)
    assert run("--version").stdout.strip() == subspect.__version__


@pytest.mark.parametrize("command", ["run", "observe", "decompose", "evaluate", "report", "show", "demo"])
def test_help_has_an_example(run: Callable[..., Result], command: str) -> None:
    assert f"subspect {command} " in run(f"{command} --help").stdout.replace("\n", " ")


def test_quiet_says_only_what_is_wrong(run: Callable[..., Result]) -> None:
    assert run("-q observe python:model.py:declared test -o study").stderr.count("\n") <= 2  # at most the warnings


def test_interrupted(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("subspect.studies.observe.observe", interrupt)
    result = run("observe python:model.py:declared train -o study", 130)
    assert "interrupted; what was stored is kept; run the same command again to resume" in result.stderr


def test_surplus_tensors_are_left_out(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("from conftest import Tiny\n")
    torch.save({**Tiny().state_dict(), "csg": torch.zeros(3)}, "weights.pt")
    line = ["observe", "python:net.py:Tiny", str(make_folder()), "-o", "study", "--weights", "weights.pt"]
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 1 and "--ignore-extra NAME" in refused.stderr
    assert CliRunner().invoke(app, [*line, "--ignore-extra", "csg"]).exit_code == 0
