"""Every command's help has an example, and every example runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import subspect
from subspect.cli import app
from world import FRESH, FULL, ROOT, build_full, few_digits, lines, run

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def examples_of(command: str) -> list[str]:
    """Return the examples in a command's help, each a line of a shell."""
    text = typer.main.get_command(app).commands[command].help or ""  # type: ignore[attr-defined]
    found = re.search(r"\bExamples?: (.*)", " ".join(text.split()))
    return found[1].split(" | ") if found else []


EXAMPLES = [(command, line) for command in COMMANDS for line in examples_of(command)]
SEEN = {
    " ".join(line.split()) for page in (*FRESH, *FULL) for line in lines(ROOT / page)
}  # test_examples.py runs these
LEFT = [pair for pair in EXAMPLES if pair[1] not in SEEN]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_full(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_of_itself(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and f"Usage: subspect {command}" in shown.stdout
    lines = examples_of(command)
    assert lines and all(f"{line} ".startswith(f"subspect {command} ") for line in lines)
    assert len(re.findall(r"\bsubspect " + command + r"\b", " ".join(lines))) == len(lines)
    assert lines[0][:40] in re.sub(r"[\s│]+", " ", shown.stdout)


def test_what_a_feature_a_head_and_fidelity_are_is_said_before_the_first_command() -> None:
    shown = re.sub(r"[\s│]+", " ", CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout)
    before = shown[: shown.index(" run ")]
    for word in (
        "feature is one input",
        "head",
        "decomposed head",
        "fidelity is the share of images",
        "study is the folder",
    ):
        assert word in before


@pytest.mark.parametrize(("command", "line"), LEFT, ids=[line[9:60] for _, line in LEFT])
def test_examples_run(command: str, line: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand; the demo trains for one pass on few digits."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    if command == "run":
        shutil.rmtree("study")  # it makes one
    if command == "diff":
        Path("another").rename("retrained")
    with few_digits():
        run(line)
    made = re.search(r"(?:-o|--figure) (\S+)", line)
    assert made is None or Path(made[1]).exists()


def test_as_a_module() -> None:
    """``python -m subspect`` is ``subspect``."""
    line = [sys.executable, "-m", "subspect"]
    told = subprocess.run([*line, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"{subspect.__version__}\n" and not told.stderr
    shown = subprocess.run([*line, "show", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: " in shown.stdout and "subspect show study --class cat" in " ".join(shown.stdout.split())
    wrong = subprocess.run([*line, "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "No such command 'nothing'" in wrong.stderr
