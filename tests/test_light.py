"""What is asked for little loads little: the version, the help, the import."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from typer.testing import CliRunner

import subspect
from subspect.cli import app
from subspect.ground.progress import progress

SRC = Path(subspect.__file__).parent


def loaded_by(code: str) -> set[str]:
    """Return the modules that Python has loaded after some code."""
    line = [sys.executable, "-c", f"import sys\ntry:\n {code}\nexcept SystemExit: pass\nprint(*sys.modules)"]
    return set(subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split())


def ours(one: Any) -> bool:
    """Tell whether a class or function is subspect's."""
    return bool(one.__module__.startswith("subspect."))


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_version_and_help_load_no_torch(argument: str) -> None:
    found = loaded_by(f"sys.argv = ['subspect', {argument!r}]; from subspect.__main__ import main; main()")
    assert "subspect.__main__" in found and not found & {"torch", "scipy", "pyarrow", "matplotlib", "PIL"}
    assert ("numpy" in found) == (argument == "--help")


def test_import_loads_nothing_heavy() -> None:
    found, optional = (
        loaded_by("import subspect"),
        {"sklearn", "skops", "pandas", "polars", "timm", "transformers", "fsspec", "s3fs"},
    )
    assert "subspect" in found and not found & {"torch", "numpy", "scipy", *optional}
    used = loaded_by("import subspect; subspect.Network; subspect.from_features; subspect.decompose; subspect.Job")
    assert "torch" in used and not used & optional
    assert "sklearn" in loaded_by("import subspect; subspect.SparseHeadClassifier")


def test_without_an_extra_the_rest_is_there() -> None:
    code = "sys.modules['sklearn'] = None; exec('from subspect import *'); import pydoc, subspect; pydoc.render_doc(subspect)"
    assert "subspect.estimator" not in loaded_by(code)


def test_everything_public_is_there_and_shadows_no_module() -> None:
    assert subspect.__all__ == sorted(subspect.__all__) and set(subspect.__all__) <= set(dir(subspect))
    modules = {path.stem for path in SRC.iterdir()}
    for name in subspect.__all__:
        one = getattr(subspect, name)  # the module of a type alias is typing's
        assert name not in modules and (name.endswith(("Like", "Source")) or name == "Budget" or ours(one)), name
    with pytest.raises(AttributeError):
        subspect.nothing  # type: ignore[attr-defined]  # noqa: B018
    for path in SRC.rglob("*.py"):
        module = import_module(
            ".".join(("subspect", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
        )
        if path.name == "__init__.py" and path.parent != SRC:
            public = {
                name for name, one in vars(module).items() if inspect.isfunction(one) and not name.startswith("_")
            }
            assert not public & {one.stem for one in path.parent.iterdir()}, path


@pytest.mark.parametrize(
    ("level", "show", "drawn"),
    [
        (logging.NOTSET, True, True),
        (logging.INFO, True, True),
        (logging.WARNING, True, False),
        (logging.INFO, False, False),
    ],
)
def test_no_progress_bar_where_quiet_was_asked_for(
    level: int, show: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setattr(logging.getLogger("subspect"), "level", level)
    with progress("training", 3, "steps", show=show) as advance:
        advance(3)
    assert ("training" in capsys.readouterr().err) == drawn


def classes_in(hint: object) -> Iterator[type]:
    """Go through the classes of subspect that a type speaks of."""
    if inspect.isclass(hint) and ours(hint):
        yield hint
    for part in get_args(hint):
        yield from classes_in(part)


def test_everything_that_is_returned_is_public() -> None:
    left = [getattr(subspect, name) for name in subspect.__all__]
    left = [one for one in left if inspect.isclass(one) or inspect.isfunction(one)]
    seen: set[object] = set()
    while left:
        one = left.pop()
        names = {"Study": subspect.Study}  # which a decomposition knows by its name alone
        if one is subspect.WithoutCue:
            continue  # it is given, not returned
        hints = get_type_hints(one, localns=names)
        told = [hints.get("return")] if inspect.isfunction(one) else [hints[key] for key in hints if key[0] != "_"]
        found = {found for hint in told for found in classes_in(hint)} - seen
        assert {kind.__name__ for kind in found} <= set(subspect.__all__), one
        seen |= found
        left += found


def test_quiet_and_threads_go_with_every_command(study: subspect.Study, tmp_path: Path) -> None:
    runner, before = CliRunner(), torch.get_num_threads()
    subspect.decompose(study, 2)
    subspect.decompose(study, 3)
    line = ["show", str(study.path), "--class", "a"]
    try:
        assert "the newest decomposition" in runner.invoke(app, line).stderr
        for quiet in (["-q", *line], [*line, "-q"], [*line, "--quiet"]):
            result = runner.invoke(app, quiet)
            assert result.exit_code == 0 and not result.stderr
        assert runner.invoke(app, [*line, "--threads", "2"]).exit_code == 0 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        logging.getLogger("subspect").setLevel(logging.NOTSET)
    for name in ("demo", "run", "export"):
        assert "--threads" in runner.invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout


def test_the_version_on_the_way_of_the_application() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == subspect.__version__
