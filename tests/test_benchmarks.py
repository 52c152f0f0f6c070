"""The benchmarks' scripts: each explains itself, and rows are judged and written as they should be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("[!_]*.py")))
def test_help(script: str) -> None:
    shown = subprocess.run([sys.executable, FOLDER / script, "--help"], capture_output=True, text=True, check=True)
    assert "--data" in shown.stdout and "--json" in shown.stdout and "Example:" in shown.stdout


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from _rows import around, publish, row

    rows = [*row("accuracy", 86.45, "%", ">= 86.5"), *row("time", 1.1, "×", "<= 1.10"), *row("note", 3, "s")]
    rows += row("figure", 79.7, "%", *around(79.67, 0.05))
    assert not publish("Title", rows, tmp_path / "rows.json")
    assert publish("Title", rows[1:], None)
    assert json.loads((tmp_path / "rows.json").read_text()) == [
        {"what": "accuracy", "value": 86.45, "unit": "%", "bar": ">= 86.5", "met": False},
        {"what": "time", "value": 1.1, "unit": "×", "bar": "<= 1.10", "met": True},
        {"what": "note", "value": 3, "unit": "s", "bar": None, "met": None},
        {"what": "figure", "value": 79.7, "unit": "%", "bar": ">= 79.62", "met": True},
        {"what": "figure", "value": 79.7, "unit": "%", "bar": "<= 79.72", "met": True},
    ]
