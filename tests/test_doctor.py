"""What is installed here is told as it is: versions, devices, extras that lack packages, packages that cannot be imported."""

from __future__ import annotations

import json
import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import subspect
from subspect.cli import app
from subspect.networks import doctor as module
from subspect.networks.doctor import EXTRAS, doctor


@pytest.fixture
def project() -> dict[str, Any]:
    """What pyproject.toml declares."""
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        found: dict[str, Any] = tomllib.load(file)["project"]
    return found


def test_versions_and_extras_are_those_declared(project: dict[str, Any]) -> None:
    made = doctor()
    assert made.versions["Python"] == platform.python_version() and made.versions["torch"] == torch.__version__
    needed = {re.split("[>=; ]", line)[0].replace("_", "-") for line in project["dependencies"]}
    of_extras = {re.split("[>=; ]", one)[0] for extra in EXTRAS for one in project["optional-dependencies"][extra]}
    found = {name.replace("_", "-") for name in made.versions}
    assert (
        {"Python", "subspect", *needed}
        <= found
        <= {"Python", "subspect", *needed, *(one.replace("_", "-") for one in of_extras)}
    )
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"dev", "benchmarks", "docs"}
    assert made.devices[0] == "cpu" and made.threads == torch.get_num_threads()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("onnx", "timm", "pandas"):
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(module, "package", lambda *_: None)
    made = doctor()
    assert made.missing["export"] == ("onnx",) and "timm" in made.missing["timm"] and made.missing["demo"] == ()
    [here, extras] = made.tables()
    assert here.row_count == len(made.versions) + 2 and extras.row_count == len(EXTRAS)


def test_what_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, *_: str) -> None:
        raise subspect.SubspectError(f"{name} does not fit torch")

    monkeypatch.setattr(module, "package", fails)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    made = doctor()
    assert made.problems == tuple(f"{name} does not fit torch" for name in ("torchvision", "timm", "transformers"))
    assert made.unusable == ("torchvision", "timm", "hf") and made.versions["timm"] == "1.0"
    assert "nothing, but it cannot be used: see the problem" in made._repr_html_()


def test_on_the_command_line() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0 and set(json.loads(result.stdout)) == set(doctor().to_json())
    shown = CliRunner().invoke(app, ["doctor"]).stdout
    assert "what is installed" in shown and all(extra in shown for extra in EXTRAS)
