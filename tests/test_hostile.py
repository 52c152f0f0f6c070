"""What a stranger hands over, through the command line: names, studies that point elsewhere, files that are none."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import subspect
from conftest import Tiny, reseal, unsealed
from subspect import Study, SubspectError
from subspect.cli import app
from subspect.ground.errors import Unusable
from subspect.studies.reopen import Reopened
from subspect.studies.shards import Entry, checksum_of

NAMES = ["[/INST]", "\x1b[31m[old] cat\u202e", "$0_to_$10"]
MODEL = f"""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 3)
        self.preprocessing = dict(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
        self.class_names = {NAMES!r}
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study whose classes have hostile names."""
    folder = tmp_path_factory.mktemp("ready")
    generator = np.random.default_rng(0)
    for name, each in (("train", 30), ("test", 10)):
        for label, index in product("abc", range(each)):
            path = folder / name / label / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    (folder / "model.py").write_text(MODEL)
    network = subspect.load_network(f"python:{folder}/model.py:Net")
    for name in ("train", "test"):
        study = subspect.observe(network, folder / name, folder / "study", name, class_map="sorted")
    subspect.decompose(study, 2)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: Path) -> Callable[..., Result]:
    """Run a command line in a folder with a study whose classes have hostile names."""
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def invoke(line: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return invoke


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "show study",
        "show study --class 0 --class 1 --class 2",
        "evaluate study --per-class",
        "compare study 0 1",
        "selectivity study --per-class",
        "geometry study --points 50 --figure out.png",
        "essentiality study --repeats 2 --figure out.png",
        "edit study --refit-on test",
        "explain study train/a/000.png --network python:model.py:Net -o out",
        "report study --network python:model.py:Net",
        "diff study study",
        "verify study",
        "show study --class nothing",
        "compare study 0 nothing",
    ],
)
def test_names_are_shown_and_act_on_nothing(run: Callable[..., Result], line: str) -> None:
    for arguments in (line, f"{line} --json"):
        Path("out.png").unlink(missing_ok=True)
        result = CliRunner().invoke(app, shlex.split(arguments))
        assert result.exit_code in (0, 1) and isinstance(result.exception, SystemExit | None), result.exception
        assert "\x1b" not in result.output and "\u202e" not in result.output
        if arguments.endswith("--json") and not result.exit_code:
            json.loads(result.stdout)
    page = Path("study/report.html")
    assert not page.exists() or ("\x1b" not in page.read_text() and "\u202e" not in page.read_text())


def test_names_come_out_whole(run: Callable[..., Result]) -> None:
    shown = run("show study --class 0 --class 1 --class 2").stdout
    assert "[/INST] (class 0)" in shown and r"\x1b[31m[old] cat\u202e (class 1)" in shown and "$0_to_$10" in shown
    value = json.loads(run("show study --class 1 --json").stdout)
    assert value["classes"][0]["class"] == NAMES[1]


# Output ---------------------------------------------------------------------------------------------------------------


def script(folder: Path, line: str, out: str) -> subprocess.CompletedProcess[str]:
    with open(out, "w") as stdout:  # noqa: PTH123
        command = [sys.executable, "-m", "subspect", *shlex.split(line)]
        return subprocess.run(command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("line", ["show study --json", "show study"])
def test_a_full_disk_behind_stdout_is_an_error_in_words(run: Callable[..., Result], tmp_path: Path, line: str) -> None:
    done = script(tmp_path, line, "/dev/full")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert "error: input or output: No space left on device" in done.stderr


def test_json_is_json(run: Callable[..., Result]) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(name)

    for line in ("depth --digits -o family --help", "geometry study --points 50 --json", "selectivity study --json"):
        text = run(line).stdout
        if line.endswith("--json"):
            json.loads(text, parse_constant=refuse)


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (f"edit study --drop 0:{'9' * 5000}", 1, "no feature '9"),
        (f"edit study --drop {'9' * 5000}:1", 1, "no class '9"),
        (f"show study --class {'9' * 5000}", 1, "no class '9"),
        (f"show study --decomposition {'x' * 5000}", 1, "no decomposition 'x"),
        ("show study --decomposition ../../x", 1, "no decomposition '../../x'"),
        (f"evaluate study --on {'x' * 5000}", 1, "no image set 'x"),
        (f"decompose study -k {'9' * 5000}", 2, "-k must be a whole number"),
        (f"show {'x' * 300}/y", 1, "no study in x"),
        ("decompose study --supports /dev/zero", 1, "it is a device, not a file"),
        ("decompose study --supports train", 1, "it is a folder, not a file"),
        ("decompose study --name mine", 1, "--name goes with --supports"),
        (f"decompose study --supports {'x' * 300}.json", 1, "a decomposition cannot be called"),
        ("observe python:model.py:Net train -o other --class-map /dev/zero", 1, "it is a device, not a file"),
        ("observe python:model.py:Net train -o other --class-names /dev/zero", 1, "it is a device, not a file"),
        ("observe python:model.py:Net train -o other --weights /dev/zero", 1, "/dev/zero"),
        ("observe python:model.py:Net train -o other --name ../x", 1, "image set name '../x' must be letters"),
    ],
)
def test_arguments_that_are_none(run: Callable[..., Result], line: str, code: int, message: str) -> None:
    result = run(line, code)
    assert message in result.stderr and not Path("other").exists()


# Studies that point elsewhere -----------------------------------------------------------------------------------------


def strange(study: Path, ids: list[str], root: Path, digests: list[bytes | None]) -> Study:
    """Write other ids into a study's first shard, with the right checksum, and another root."""
    path = study / "sets/train/00000.arrow"
    table = pa.ipc.open_file(path).read_all().combine_chunks()
    count = len(table) - len(ids)
    kept = table.column("id").to_pylist()[:count], table.column("digest").to_pylist()[:count]
    for name, values, kind in (("id", kept[0] + ids, pa.string()), ("digest", kept[1] + digests, pa.binary(16))):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))
    path.unlink()
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_batch(table.to_batches()[0])
    shards = {"0": vars(Entry(len(table), checksum_of(path)))}
    reseal(study / "sets/train/set.json", shards=shards, root=str(root))
    return Study.open(study)


def test_pictures_of_yours_are_not_pulled_into_a_strangers_report(study: Study, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    pixels = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(private / "cat.png")
    ids = [str(private / "cat.png"), "../private/cat.png", "cat.png", "a\0b", "..\\private\\cat.png"]
    for root in (tmp_path / "train", private, tmp_path, Path("/")):
        opened = strange(study.path, ids, root, [bytes(16)] * 4 + [None])
        again = Reopened(opened.image_set("train"), ids)
        for id in ids:
            with pytest.raises(Unusable, match="outside|no such file|not the image|not known|null byte"):
                again.given(id)
    made = subspect.decompose(opened, 2)
    page = subspect.write_report(opened, made, fidelity=subspect.evaluate(opened, made, on="test")).read_text()
    assert "could not be read again and are left grey" in page and "data:image/webp" not in page


def test_images_of_a_study_without_digests_are_shown_where_they_are_named(study: Study, tmp_path: Path) -> None:
    made = subspect.decompose(study, 2)
    unsealed(study.path)
    opened = Study.open(study.path)
    cost = subspect.evaluate(opened, made, on="test")
    page = subspect.write_report(opened, made, fidelity=cost)
    assert "data:image/webp" not in page.read_text()
    page = subspect.write_report(opened, made, fidelity=cost, images=tmp_path / "train")
    assert "data:image/webp" in page.read_text() and "are not those that were observed" not in page.read_text()


def test_export_looks_for_images_where_they_were(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    made, network = subspect.decompose(study, 2), subspect.Network(tiny)
    (tmp_path / "train").rename(tmp_path / "moved")
    with pytest.raises(SubspectError, match=r"are no longer at .*train \(a/.*no such file.*--images"):
        subspect.export(study, made, path=tmp_path / "out.pt2", network=network)
    assert not (tmp_path / "out.pt2").exists()


# Files of others ------------------------------------------------------------------------------------------------------

RETRAIN = "retrain study train --network python:model.py:Net --epochs 1 --batch-size 16 --class-map sorted"
DECOYS = [".movie.part", ".report.html.123.part", "report-pages.new", ".subspect-123.part", "holiday.jpg", "notes.json"]


def tree(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[str(path)] = str(path.readlink()).encode()
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    "line",
    [
        "observe python:model.py:Net test -o study --name other --class-map sorted",
        "decompose study -k 1",
        "edit study --refit-on test",
        "report study",
        "report study -o out/page.html",
        "show study --figure out/curve.svg",
        "geometry study --points 50 --figure out/geometry.pdf",
        "explain study train/a/000.png --network python:model.py:Net -o out",
        "export study -o out/small.safetensors",
        f"{RETRAIN} -o out",
        "verify study --write",
    ],
)
def test_files_of_others_stay(run: Callable[..., Result], tmp_path: Path, line: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".movie.part").write_bytes(b"theirs")
    for folder in (
        Path("study"),
        Path("study/decompositions"),
        Path("study/sets/train"),
        Path("study/downloads"),
        Path("out"),
    ):
        folder.mkdir(exist_ok=True)
        for name in DECOYS:
            (folder / name).write_bytes(b"theirs")
        (folder / "data").symlink_to(outside)
        (folder / "link.part").symlink_to(outside / ".movie.part")
    before = tree(tmp_path)
    run(line)
    after = tree(tmp_path)
    mine = ("set.json", "study.json", "report.html", "order.json")  # rewritten by the commands that write them
    assert {path for path in before if after.get(path) != before[path] and Path(path).name not in mine} == set()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("report study", "study/report.html"),
        ("show study --figure curve.svg", "curve.svg"),
        ("geometry study --points 50 --figure geometry.png", "geometry.png"),
        ("export study -o small.safetensors", "small.safetensors"),
        (
            f"{RETRAIN} -o .",
            "decomposed/best.safetensors",
        ),
        ("decompose study -k 1", "study/decompositions/pursuit-k1.safetensors"),
        ("observe python:model.py:Net test -o new --class-map sorted", "new/head.safetensors"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_in_the_way_is_refused_by_name(
    run: Callable[..., Result], tmp_path: Path, line: str, name: str, kind: str
) -> None:
    path, elsewhere = Path(name), tmp_path / "elsewhere"
    path.parent.mkdir(exist_ok=True)
    elsewhere.write_bytes(b"theirs")
    if kind == "file":
        path.write_bytes(b"theirs")
    elif kind == "link":
        path.symlink_to(elsewhere)
    else:
        path.mkdir()
    before = tree(tmp_path)
    result = CliRunner().invoke(app, shlex.split(line))
    after = tree(tmp_path)
    assert result.exit_code == 1 and path.name in result.stderr, result.output
    assert {file for file in before if after.get(file) != before[file]} == set()
