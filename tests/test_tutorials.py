"""The tutorials, run as a reader would run them: every cell in order; what the pages say of the results holds."""

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

from _notebooks import NEED_DATA, not_run

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

    def __init__(self, name: str) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.shown: list[Any] = []
        self.text = ""
        for number, code in enumerate(cells(DOCS / "tutorials" / f"{name}.md")):
            self._run(code, f"{name}, cell {number}")

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

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
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Come back to this folder, and leave threads, logging and figures as they were."""
    monkeypatch.chdir(tmp_path)
    threads, level = torch.get_num_threads(), logging.getLogger("subspect").level
    yield
    torch.set_num_threads(threads)
    logging.getLogger("subspect").setLevel(level)
    pyplot.close("all")


def ended(ran: Ran, printed: str) -> str:
    """Check that nothing that is shown leads into the temporary folder, and remove that; return what was shown."""
    text = ran.text + printed
    assert ran["work"].name not in text
    ran["work"].cleanup()
    return text


def test_a_shortcut_is_found_and_mended(apart: None, capfd: pytest.CaptureFixture[str]) -> None:
    ran = Ran("shortcut")
    found = [one for one in ran["found"].found if one.code == "C101"]
    assert [one.classes for one in found] == [("3",)] and "top left corner" in found[0].text
    test, marked = (ran["decomposition"].evaluate(on=name).overall for name in ("test", "marked"))
    assert 0.8 < test.accuracy.value < 0.95 and marked.accuracy.value < 0.65 and test.fidelity.value > 0.95
    mended = ran["edited"]
    assert mended.after.overall.accuracy.value > 0.95 > 0.93 > mended.after.overall.fidelity.value
    assert test.accuracy.value > ran["mended"].evaluate(on="marked").overall.accuracy.value - 0.15
    assert ran["mended"].evaluate(on="marked").overall.accuracy.value > marked.accuracy.value + 0.25
    out, err = capfd.readouterr()
    assert "C101: 3 rests on the top left corner" in ended(ran, out) and out.splitlines()[-1] == "False" and not err


def test_the_words_of_scipys_modules(apart: None, capfd: pytest.CaptureFixture[str]) -> None:
    ran = Ran("features-alone")
    overall = ran["decomposition"].evaluate().overall
    assert 0.85 < overall.dense_accuracy.value < 0.97 and 0.65 < overall.accuracy.value < 0.87
    assert [ran["rows"][place]["fidelity"] < ran["rows"][place + 1]["fidelity"] for place in range(4)] == [True] * 4
    words = ran["words"].groupby("class")["feature_name"].agg(set)
    assert "spline" in words["interpolate"] and "filter" in words["signal"] and {"random", "methods"} <= words["stats"]
    edited = ran["edited"]
    assert abs(edited.after.overall.accuracy.value - edited.before.overall.accuracy.value) < 0.05
    assert any(not one.terms for one in ran["pair"].confused) and ran["report"].stat().st_size > 10**5
    out, err = capfd.readouterr()
    assert "a collection of generic methods" in ended(ran, out) and not err


def test_your_own_network(data: Path, apart: None, capfd: pytest.CaptureFixture[str]) -> None:
    ran = Ran("own-network")
    overall = ran["job"].fidelity.overall
    assert (
        0.85 < overall.dense_accuracy.value < 0.92 and overall.accuracy.value > 0.84 and overall.fidelity.value > 0.92
    )
    assert abs(ran["edited"].after.overall.accuracy.value - overall.accuracy.value) < 0.04
    assert ran["exported"].difference < 1e-4 and ran.shown[-1] == "horse"
    assert ran["edited"].decomposition.name in [one for shown in ran.shown if isinstance(shown, list) for one in shown]
    out, err = capfd.readouterr()
    assert "study/report.html" in ended(ran, out) and not err


def test_ten_classes_of_a_thousand(data: Path, apart: None, capfd: pytest.CaptureFixture[str]) -> None:
    ran = Ran("ten-classes")
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
    ended(ran, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_words_are_explained_before_they_are_used(page: Path) -> None:
    begins, *_ = page.read_text(encoding="utf-8").partition("```{code-cell}")
    assert all(f"**{word}**" in begins for word in ("feature", "head", "decomposed head", "Fidelity"))
    assert "\n## What next\n" in page.read_text(encoding="utf-8")


def test_pages_without_their_data_are_shown_but_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = [
        f"tutorials/{page.name}" for page in PAGES if 'os.environ["SUBSPECT_DATA"]' in page.read_text(encoding="utf-8")
    ]
    assert [f"tutorials/{name}.md" for name in NEED_DATA] == need
    for folder, wanted in (("", need), (str(tmp_path / "none"), need), (str(tmp_path), [])):
        monkeypatch.setenv("SUBSPECT_DATA", folder)
        assert not_run() == wanted
