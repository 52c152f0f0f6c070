"""The planted shortcut, as examples/shortcut.py plants it: found by its map, named in an explanation, dropped and mended."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import subspect
from subspect.cli import app
from subspect.heads.terms import terms

SCRIPT = Path(__file__).parent.parent / "examples" / "shortcut.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shortcut", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shortcut"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shortcut")


@pytest.fixture(scope="module")
def planted(example: ModuleType, folder: Path) -> Any:
    return example.plant(folder, 0)


@pytest.fixture(scope="module")
def mended(example: ModuleType, planted: Any) -> Any:
    return example.mend(planted)


def test_the_mark_costs_accuracy_and_dropping_it_and_a_refit_bring_it_back(planted: Any, mended: Any) -> None:
    cost = planted.clean - mended.before[0]
    assert cost > 0.05
    assert mended.after[0] - mended.before[0] >= 0.7 * cost


def test_it_is_found_unasked_and_mended_without_images_that_lack_it(planted: Any, mended: Any) -> None:
    assert ("C101", "three") in mended.found and mended.loss[0] > 1 and mended.loss[1] < mended.loss[0] / 2
    assert min(mended.without) > 0.9 * planted.clean > max(mended.before)
    assert mended.anew[0] > 0.9 and mended.anew[1] > 0.85


def test_where_the_mark_lies_on_any_image_a_refit_on_such_images_helps(mended: Any) -> None:
    assert mended.before[1] < 0.7 and mended.dropped[1] > mended.before[1] + 0.1
    assert mended.mixed[0] > 0.9 and mended.mixed[1] > 0.9


def test_a_feature_that_looks_at_the_corner_is_among_the_first_three(mended: Any) -> None:
    assert set(mended.corner) & set(mended.features[:3])
    assert set(mended.corner) & set(mended.explained)


def test_from_the_command_line(example: ModuleType, planted: Any, mended: Any, folder: Path) -> None:
    """The same by the commands of docs/shortcut.md."""

    def run(line: str) -> Any:
        result = CliRunner().invoke(app, shlex.split(f"{line} --json"), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    study = folder / "study"
    network = f"--network python:{SCRIPT}:network --weights {folder}/weights.safetensors"
    which = f"--decomposition pursuit-k{example.K}"
    [one] = run(f"explain {study} {folder}/marked.png {network} {which}")
    assert one["predicted"] == "three"
    said = [term["feature"] for term in one["terms"] if term["contribution"] > 0]
    assert said[:3] == mended.explained
    drop = " ".join(f"--drop three:{feature}" for feature in mended.corner)
    edited = run(f"edit {study} {drop} --refit-on unmarked --on test {which}")
    assert edited["after"]["overall"]["accuracy"]["value"] == mended.after[0]


def test_contributions_add_up_for_every_pair_of_classes(planted: Any) -> None:
    study = planted.study
    made = subspect.decompose(study, k=5, show_progress=False)
    chunk = next(iter(study.image_set("test").chunks()))
    weight, bias = (array.astype(np.float64) for array in made.matrix())
    for x in chunk.features[::20].astype(np.float64):
        logits = weight @ x + bias
        for label in range(10):
            for other in set(range(10)) - {label}:
                found, difference = terms(made, x, label, other)
                parts = [*(term.contribution for term in found), difference]
                assert abs(sum(parts) - (logits[label] - logits[other])) <= 1e-6 * np.abs(parts).sum()
