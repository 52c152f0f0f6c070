"""Is the report understood at first sight? Each answer stands on it, at most two clicks from the top, where one would look.

The answers are computed from the study; the browser is asked where on the page they are to be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from questions import questions
from reports import NAMES, Report, make
from sight import CHROMIUM, HEIGHT, SCREENS, find, open_and_click, window

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module", params=NAMES)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    data: Path | None = request.getfixturevalue("data") if request.param == "cifar10" else None
    return make(request.param, tmp_path_factory.mktemp("quiz") / request.param, data)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with window() as opened:
        yield opened


@pytest.mark.parametrize("number", range(1, 13))
def test_the_answer_is_to_be_read(report: Report, page: Page, number: int) -> None:
    question = questions(report.facts)[number - 1]
    assert len(question.clicks) <= 2
    open_and_click(page, report.path, question.clicks)
    answers = question.answer(report.facts)
    read = [[find(page, question.where, words) for words in answer] for answer in answers]
    spots = next((spots for spots in read if all(spots)), [])
    said = page.locator(question.where).inner_text()
    assert spots, f"{question.text}\nthe study says: {answers}\nthe page says: {said}"
    height = HEIGHT if question.clicks else SCREENS * HEIGHT
    assert all(spot is not None and spot.is_within(height) for spot in spots), (question.text, spots)


def test_there_are_twelve(report: Report) -> None:
    asked = [one.text for one in questions(report.facts)]
    assert len(asked) == len(set(asked)) == 12 and not any("{" in text for text in asked)


def test_what_is_not_there_or_hidden_is_not_read(report: Report, page: Page) -> None:
    open_and_click(page, report.path, ())
    said = page.inner_text("h1")
    number = said.split()[0]
    assert find(page, "h1", said) and find(page, "h1", said.replace(" ", ""))
    assert not find(page, "h1", f"{number}{number} of 64") and not find(
        page, "h1", said[len(number) - 1 :].replace("64", "6")
    )
    hidden = "Why it matters"
    assert hidden in page.locator("#finding-1").evaluate("one => one.textContent")
    assert not find(page, "#finding-1", hidden)
    page.click("#finding-1 summary")
    assert find(page, "#finding-1", hidden)
