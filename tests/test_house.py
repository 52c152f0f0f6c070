"""The house as docs/architecture.md draws it: the picture is the contract, every file stands in the table, none is too long.

And no test file imports from another: what several need lies in modules of its own.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src/subspect"
DOCS = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def floors() -> list[list[str]]:
    """Return the layers of the contract, the lowest first, those beside each other together."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    [layers] = [one["layers"] for one in contracts if one["type"] == "layers"]
    return [re.findall(r"\w+", layer.replace("subspect.", "")) for layer in reversed(layers)]


def test_the_picture_is_the_contract() -> None:
    [line] = [line for line in DOCS.splitlines() if line.startswith("ground ─▶")]
    drawn = [re.findall(r"\w+", part) for part in line.split("─▶")]
    below = DOCS.splitlines()[DOCS.splitlines().index(line) + 1].strip()
    wanted = [[name for name in floor if name not in (below, "__main__")] for floor in floors()]
    assert drawn == [floor for floor in wanted if floor] and any(below in floor for floor in floors())


def test_every_file_stands_in_the_table() -> None:
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)/` \|[^|]*\|(.*)\|$", DOCS, re.MULTILINE)}
    folders = {path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(rows) == folders
    for folder, told in rows.items():
        files = {path.stem for path in (SRC / folder).glob("*.py")} - {"__init__"}
        named = set(re.findall(r"`(\w+)`", told))
        assert files <= named, f"{folder}: {files - named} is not in the table"
        assert {name for name in named if name.islower()} <= files, f"{folder}: {named - files} is not there"


def test_files_and_functions_are_short() -> None:
    lengths = []
    for path in SRC.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 450, path
        functions = (one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef))
        lengths += [(one.end_lineno or 0) - one.lineno + 1 for one in functions]
    assert sorted(lengths)[int(0.9 * len(lengths))] <= 25


def test_no_test_file_imports_from_another() -> None:
    for path in (ROOT / "tests").glob("*.py"):
        assert not re.findall(
            r"\b(?:from|import) test_\w+", path.read_text(encoding="utf-8").replace(f"from {path.stem} ", "")
        ), path
