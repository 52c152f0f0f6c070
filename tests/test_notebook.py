"""The public API as a notebook uses it: ten lines from a network to answers, each of which shows itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import subspect
from answers import NAMES, asked
from subspect import SubspectError

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with asked(tmp_path_factory.mktemp("notebook")) as answers:
        yield answers


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_shows_each_answer(told: dict[str, Any], browser: Callable[[str], Any]) -> None:
    page = browser("".join(f'<section id="{name}">{one._repr_html_()}</section>' for name, one in told.items()))
    for name, one in told.items():
        tables = one.tables()
        assert page.locator(f"#{name} table").count() == len(tables)
        for place, table in enumerate(tables):
            shown = page.locator(f"#{name} table").nth(place)
            assert shown.is_visible() and shown.locator("tbody tr").count() == table.row_count
    text = page.inner_text("body")
    assert all(name in text for name in NAMES)  # as text: nothing in a name is markup


@pytest.fixture
def browser() -> Iterator[Callable[[str], Any]]:
    """Open HTML in a page that may not say anything in its console."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        wrong: list[str] = []

        def show(body: str) -> Any:
            page = chromium.new_page()
            page.on("console", lambda message: wrong.append(message.text))
            page.set_content(f"<!doctype html><body style='font-family:sans-serif'>{body}")
            return page

        yield show
        assert not wrong
        chromium.close()


def test_a_study_is_named_by_its_path_too(told: dict[str, Any]) -> None:
    study, made = told["study"], told["decomposition"]
    assert subspect.open_study(study) is study
    for given in (Path("study"), "study"):
        assert subspect.evaluate(given, made).to_json() == told["fidelity"].to_json()
    with pytest.raises(SubspectError, match=r"a study must be a folder or a subspect\.Study, got int"):
        subspect.open_study(3)  # type: ignore[arg-type]


def test_what_a_study_lacks_is_said(told: dict[str, Any]) -> None:
    study = told["study"]
    with pytest.raises(SubspectError, match=r"no decomposition 'pursuit-k3' in .*did you mean 'pursuit-k2'"):
        study["pursuit-k3"]
    with pytest.raises(SubspectError, match=r"no decomposition 'train' in .*an image set: study\.image_set\('train'\)"):
        study["train"]


def test_a_decomposition_from_a_file_does_not_know_its_study(told: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    told["decomposition"].save(path)
    alone = subspect.Decomposition.load(path)
    with pytest.raises(
        SubspectError, match=r"'mine' was read from a file and doesn't know its study; .*study\['mine'\]"
    ):
        alone.evaluate()
    with pytest.raises(SubspectError, match=r"'mine' was read from a file .*open_study\(folder\)\['mine'\]"):
        told["decomposition"].diff(alone)
