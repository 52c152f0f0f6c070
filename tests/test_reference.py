"""The reference tells all: every public name stands in it, nearly all with an example, and the examples run as they stand.

So do the commands, which the site takes from the command line itself.
"""

from __future__ import annotations

import ast
import doctest
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

import subspect
from command_reference import reference
from subspect.cli import app
from world import ROOT, blocks, build_full

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
TOLD = {
    name: page
    for page in PAGES
    for name in re.findall(
        r"^(?:\.\. auto\w+::|:::\{py:data\}) subspect\.(\w+)$", page.read_text(encoding="utf-8"), re.M
    )
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: public names whose example is a block of code that tests/test_examples.py runs
BLOCKS = {"Cue", "SparseHeadClassifier"}


def docstring_of(name: str) -> str:
    """Return the docstring of a public name, from the file that it stands in; of a type alias what the page says of it."""
    stub = (ROOT / "src/subspect/__init__.pyi").read_text(encoding="utf-8")
    [module] = [
        module
        for module, names in re.findall(r"^from \.([\w.]+) import (.*)$", stub, re.M)
        if name in names.split(", ")
    ]
    path = ROOT / "src/subspect" / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    text = TOLD[name].read_text(encoding="utf-8")
    found = re.search(rf"^:::{{py:data}} subspect\.{name}\n(.*?)^:::$", text, re.M | re.S)
    assert found, f"{name} is neither a class nor a function, and {TOLD[name]} says nothing of it"
    return found[1].replace("```", "")


EXAMPLES = {
    name: found for name in subspect.__all__ if (found := doctest.DocTestParser().get_examples(docstring_of(name)))
}


def test_every_public_name_is_in_the_reference() -> None:
    assert set(TOLD) == set(subspect.__all__)


def test_nearly_every_public_name_has_an_example() -> None:
    assert len(EXAMPLES.keys() | BLOCKS) >= 0.95 * len(subspect.__all__)
    assert all("::\n\n" in docstring_of(name) for name in BLOCKS)
    seen = [name for name, found in EXAMPLES.items() if all(one.options.get(doctest.SKIP) for one in found)]
    assert not seen, "only examples of which nothing runs"


def test_lines_that_are_skipped_compile_and_only_show() -> None:
    """What is left out of a run prints figures that differ from machine to machine; nothing more."""
    for name, found in EXAMPLES.items():
        for one in found:
            compile(one.source, name, "single")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_full(tmp_path_factory.mktemp("world"))
    subspect.decompose(folder / "study", 5, draws=4, show_progress=False)
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(built, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    names: dict[str, Any] = {}
    [code] = blocks(ROOT / "docs/reference/index.md", "python")
    exec(compile(code, "index.md", "exec"), names)
    test = doctest.DocTest(EXAMPLES[name], names, name, None, None, None)
    told: list[str] = []
    ran = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
    assert not ran.failed, "".join(told)


def test_every_command_is_told() -> None:
    text = reference()
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    sections = dict(re.findall(r"^### `subspect ([\w-]+)`\n(.*?)(?=^\(|\Z)", text, re.M | re.S))
    assert list(sections) == list(commands)
    for name, command in commands.items():
        assert f"```sh\nsubspect {name}" in sections[name]
        for one in command.params:
            shown = one.opts[-1] if one.param_type_name == "option" else one.metavar or one.name.upper()
            assert re.search(rf"`{re.escape(shown)}[ `]", sections[name]), f"{name}: {shown}"
