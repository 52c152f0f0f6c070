"""The tutorials, run as a reader would run them: every cell in order; what the pages say of the results holds.

Two of them are run, and checked by their last cell, while the site is built (docs/_notebooks.py).
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot

from _notebooks import BUILT, TESTED, not_run

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "tutorials").glob("*.md"))


def cells(page: Path) -> list[str]:
    """Return the code cells of a page."""
    found = re.findall(
        r"^```\{code-cell\} ipython3\n(?::[^\n]*\n)*(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S
    )
    assert found and len(found) == page.read_text(encoding="utf-8").count("```{code-cell}")
    return found


class Ran:
    """What came of a page's cells: the names that are then defined, the value that each shows, and all of it as text."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.shown: list[Any] = []
        self.text = ""

    def run(self, name: str) -> None:
        """Run all cells of a page."""
        for number, code in enumerate(cells(DOCS / "tutorials" / f"{name}.md")):
            self._run(code, f"{name}, cell {number}")

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def close(self) -> None:
        """Remove the page's folder, wherever its cells came to."""
        if "work" in self.names:
            self["work"].cleanup()

    def _run(self, code: str, what: str) -> None:
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, what, "exec"), self.names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), what, "eval"), self.names)
            self.shown.append(value)
            html = getattr(value, "_repr_html_", lambda: None)()  # None for a figure
            if picture := getattr(value, "_repr_png_", None):
                assert picture().startswith(b"\x89PNG"), what
            self.text += html or repr(value)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ran]:
    """Come back to this folder, remove the page's own, and leave threads, logging and figures as they were."""
    monkeypatch.chdir(tmp_path)
    for logger in (logging.root, logging.getLogger("subspect")):  # as in a process of one's own, whatever Ray has added
        monkeypatch.setattr(logger, "handlers", [])
    threads, level, ran = torch.get_num_threads(), logging.getLogger("subspect").level, Ran()
    yield ran
    torch.set_num_threads(threads)
    logging.getLogger("subspect").setLevel(level)
    pyplot.close("all")
    monkeypatch.undo()
    ran.close()


def shown(ran: Ran, printed: str) -> str:
    """Return what was shown, after a check that nothing of it leads into the temporary folder."""
    text = ran.text + printed
    assert ran["work"].name not in text
    return text


def test_your_own_network(data: Path, ran: Ran, capfd: pytest.CaptureFixture[str]) -> None:
    ran.run("own-network")
    overall = ran["job"].fidelity.overall
    assert (
        0.85 < overall.dense_accuracy.value < 0.92 and overall.accuracy.value > 0.84 and overall.fidelity.value > 0.92
    )
    assert abs(ran["edited"].after.overall.accuracy.value - overall.accuracy.value) < 0.04
    assert ran["exported"].difference < 1e-4 and ran.shown[-1] == "horse"
    assert ran["edited"].decomposition.name in [one for each in ran.shown if isinstance(each, list) for one in each]
    out, err = capfd.readouterr()
    assert "study/report.html" in shown(ran, out) and not err


def test_ten_classes_of_a_thousand(data: Path, ran: Ran, capfd: pytest.CaptureFixture[str]) -> None:
    ran.run("ten-classes")
    assert ran["names"][0] == "tench" and len(ran["names"]) == 10
    every, among = ran["decomposition"].evaluate(on="val").overall, ran["among"].overall
    assert 0.55 < every.dense_accuracy.value < 0.85 and every.accuracy.value > every.dense_accuracy.value - 0.15
    assert among.dense_accuracy.value > 0.93 and 0.78 < among.accuracy.value < among.dense_accuracy.value
    small = ran["small"]
    assert (
        small.difference < 1e-4
        and small.small.features <= 100
        and small.small.parameters < 0.7 * small.dense.parameters
    )
    assert 0.9 < small.small.multiplications / small.dense.multiplications < 1 and ran.shown[-1] == "parachute"
    _, err = capfd.readouterr()
    assert not err
    shown(ran, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_words_are_explained_before_they_are_used(page: Path) -> None:
    begins, *_ = page.read_text(encoding="utf-8").partition("```{code-cell}")
    assert all(f"**{word}**" in begins for word in ("feature", "head", "decomposed head", "Fidelity"))
    assert "\n## What next\n" in page.read_text(encoding="utf-8")


def test_each_page_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBSPECT_NOTEBOOKS", raising=False)
    assert sorted([*BUILT, *TESTED]) == [page.stem for page in PAGES]
    assert not_run() == [f"tutorials/{name}.md" for name in TESTED]
    monkeypatch.setenv("SUBSPECT_NOTEBOOKS", "all")
    assert not_run() == []
    tests = Path(__file__).read_text(encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if page.stem in BUILT:
            assert 'environ["SUBSPECT_DATA"]' not in text
            [check] = re.findall(r"^:tags: \[remove-cell\]\n\n# what this page says.*?^```$", text, re.M | re.S)
            assert check.count("\nassert ") >= 4 and text.rstrip().endswith(check)
        else:
            assert f'ran.run("{page.stem}")' in tests and "SUBSPECT_NOTEBOOKS=all make docs" in " ".join(text.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_cells_are_python(page: Path) -> None:
    for number, code in enumerate(cells(page)):
        compile(code, f"{page.stem}, cell {number}", "exec")
