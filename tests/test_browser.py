"""The report in a real browser: nothing leaves the page, search, sort and what-if work, and anyone can use it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from PIL import Image

import subspect
from conftest import PIXELS, Tiny
from kept import keep_cues

if TYPE_CHECKING:
    from playwright.sync_api import Page

driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
NAMES = ("<script>alert(1)</script>", "\"quoted\" & 'so'", "猫 кот")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report in one file, and one of many pages."""
    folder, generator = tmp_path_factory.mktemp("browser"), np.random.default_rng(0)
    for name in ("train", "test"):
        for index in range(90 if name == "train" else 45):
            path = folder / name / str(index % 3) / f"<b>{index}&'.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    network = subspect.Network(Tiny(), class_names=NAMES, preprocessing=PIXELS, name="<i>network</i>")
    classes = {"0": 0, "1": 1, "2": 2}
    for name in ("train", "test"):
        study = subspect.observe(network, folder / name, folder / "study", name, class_map=classes, show_progress=False)
    made = subspect.decompose(study, 3, show_progress=False)
    cost = subspect.evaluate(study, made)
    lost = {f"cue-{number}": {0: 1.2 - number / 8, 1: number / 20, 2: -0.4} for number in range(18)}
    keep_cues(study, made, {"corner-top-left": {0: 2.0}, **lost}, {"corner-top-left": {made.rows(0)[0].feature: 0.6}})
    single = subspect.write_report(study, made, fidelity=cost, network=network, show_progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.report.SINGLE", 2)
        many = subspect.write_report(
            study, made, fidelity=cost, path=folder / "many.html", network=network, show_progress=False
        )
    return single, many


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that fails on messages in the console and on requests that leave the files."""
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        wrong: list[str] = []
        opened.on("console", lambda message: wrong.append(message.text))
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("request", lambda made: None if made.url.startswith(("file:", "data:")) else wrong.append(made.url))
        yield opened
        assert not wrong
        browser.close()


def unfold(page: Page, *sections: str) -> None:
    for section in sections:
        page.click(f"#{section} > summary")


def test_the_first_screen_answers(reports: tuple[Path, Path], page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(reports[0].as_uri())
    made = subspect.load_decomposition(subspect.Study.open(reports[0].parent))
    assert page.inner_text("h1") == "3 of 6 features decide each class"
    assert page.locator(".face").count() == 3
    cards = {card.locator("h3").inner_text(): card for card in page.locator(".face").all()}
    doubted = [card.locator(".doubt").count() > 0 for card in cards.values()]
    assert doubted[0] and doubted == sorted(doubted, reverse=True)  # findings first
    for label, name in enumerate(NAMES):
        card = cards[name]
        rows = made.rows(label)
        for kind, own in (
            ("for", [row for row in rows if row.weight > 0]),
            ("against", [row for row in rows if row.weight <= 0]),
        ):
            said = {link.inner_text() for link in card.locator(f".{kind} a[href^='#f']").all()}
            assert said == {f"feature {row.feature}" for row in own}
            assert card.locator(f".{kind} img").count() == len(own)
        box = card.bounding_box()
        assert box is not None and box["y"] < 900
    assert page.inner_text(".lines li >> nth=0").startswith("The network itself is right about as often as by chance")
    assert page.locator(".lines .doubt a").first.inner_text() == f"{NAMES[0]} rests on the corner-top-left"
    assert page.locator(".face >> nth=0").locator(".doubt >> nth=0").inner_text() == page.inner_text(
        ".lines .doubt a >> nth=0"
    )
    few = [one.accuracy.value for one in subspect.evaluate(reports[0].parent, made).classes.values() if one]
    least = f"least often right: {NAMES[few.index(min(few))]}, on {100 * min(few):.1f} %"
    assert page.inner_text(".lines li:not(.doubt)").replace("\xa0", " ").endswith(least)


def test_cards_are_ordered_and_found(reports: tuple[Path, Path], page: Page) -> None:
    page.goto(reports[0].as_uri())
    first = page.locator(".face h3").all_inner_texts()
    lost = [float(card.get_attribute("data-lost") or "") for card in page.locator(".face").all()]
    page.select_option("#order", "lost")
    assert [float(card.get_attribute("data-lost") or "") for card in page.locator(".face").all()] == sorted(lost)[::-1]
    page.select_option("#order", "order")
    assert [card.inner_text() for card in page.locator(".face h3").all()] == list(NAMES)
    page.select_option("#order", "doubts")
    assert page.locator(".face h3").all_inner_texts() == first
    page.fill("input[data-table=faces]", "quoted")
    assert page.locator(".face:visible").count() == 1


def test_a_card_leads_to_its_class_and_to_its_features(reports: tuple[Path, Path], page: Page) -> None:
    page.goto(reports[0].as_uri())
    page.locator(".face h3 a", has_text="quoted").click()
    assert page.locator("#c1 table").is_visible()
    page.goto(reports[0].as_uri())
    page.click(".face .for a >> nth=0")
    feature = page.url.rpartition("#f")[2]
    assert page.locator(f"#f{feature} dl").inner_text().startswith("name\nunnamed: fires most on ")


def test_cards_of_many_classes_are_made_when_searched_for(
    reports: tuple[Path, Path], page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = subspect.Study.open(reports[0].parent)
    made = subspect.load_decomposition(study)
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    monkeypatch.setattr("subspect.report.site._FACES", 1)
    page.goto(subspect.write_report(study, made, path=tmp_path / "few.html", show_progress=False).as_uri())
    assert page.locator(".face").count() == 1
    [first] = page.locator(".face h3").all_inner_texts()
    for label, name in enumerate(NAMES):
        page.fill("input[data-table=faces]", name)
        assert page.locator(".face:visible h3").all_inner_texts() == [name]
        assert page.inner_text(".found >> nth=0") == "1 of 3 classes"
        if name != first:
            best = max((row for row in made.rows(label) if row.weight > 0), key=lambda row: row.weight, default=None)
            assert page.locator(".made img").count() == (best is not None)
    page.fill("input[data-table=faces]", "")
    assert page.locator(".face:visible").count() == 1
    page.fill("input[data-table=faces]", NAMES[2])
    page.click(".face:visible h3 a")
    assert page.inner_text("h1") == NAMES[2]


def test_search_and_sort(reports: tuple[Path, Path], page: Page) -> None:
    page.goto(reports[0].as_uri())
    unfold(page, "classes", "each")
    assert page.inner_text("#table-classes tbody tr:nth-child(3) td:first-child") == NAMES[2]
    page.fill("input[data-table=table-classes]", "КОТ")
    assert page.locator("#table-classes tbody tr:visible").count() == page.locator("details.class:visible").count() == 1
    assert page.inner_text("#classes .found") == "1 of 3"
    page.fill("input[data-table=table-classes]", "")
    page.click("#table-classes thead th:nth-child(6) button")
    for order in ("ascending", "descending"):
        values = [float(text.split()[0]) for text in page.locator("#table-classes td:nth-child(6)").all_inner_texts()]
        assert values == sorted(values, reverse=order == "descending")
        assert page.get_attribute("#table-classes thead th:nth-child(6)", "aria-sort") == order
        page.keyboard.press("Enter")  # the button has the focus


def test_a_link_unfolds_a_feature(reports: tuple[Path, Path], page: Page) -> None:
    page.goto(reports[0].as_uri())
    unfold(page, "each")
    page.click("#c0 > summary")
    link = page.locator("details.class td a").first
    feature = link.inner_text()
    link.click()
    page.wait_for_selector(f"#f{feature}[open]")
    assert page.locator(f"#f{feature} img").first.is_visible()


def test_findings_lead_to_classes_and_unfold(reports: tuple[Path, Path], page: Page) -> None:
    page.goto(reports[0].as_uri())
    first = page.locator(".findings li").first
    assert first.inner_text().startswith(f"C101 {NAMES[0]} rests on the corner-top-left: ")
    assert not first.locator("details p").first.is_visible()
    first.locator("summary").click()
    assert first.locator("details p").first.is_visible()
    for link in (first.locator("a").first, page.locator(".heat tbody a").first):
        link.click()
        assert page.url.endswith("#c0")


def test_what_if(reports: tuple[Path, Path], page: Page) -> None:
    study = subspect.Study.open(reports[0].parent)
    made = subspect.load_decomposition(study)
    feature = made.rows(1)[0].feature
    before, after = (subspect.evaluate(study, one) for one in (made, made.without(1, feature)))
    page.goto(f"{reports[0].as_uri()}#c1")
    page.uncheck(f'input[data-label="1"][data-feature="{feature}"]')
    said = page.inner_text('.whatif[data-label="1"] output')
    for one in ("accuracy", "fidelity"):
        change = [f"{100 * getattr(cost.overall, one).value:.1f} %" for cost in (before, after)]
        assert " → ".join(change) in said
    command = shlex.split(said.partition("To keep it: ")[2])  # the class's name has quotes of both kinds
    expected = f"subspect edit STUDY --decomposition {made.name} --on test --drop".split()
    assert command == [*expected, f"{NAMES[1]}:{feature}"]
    page.click('.whatif[data-label="1"] button')
    assert page.is_checked(f'input[data-label="1"][data-feature="{feature}"]')
    assert not page.is_visible('.whatif[data-label="1"]')


def test_many_pages(reports: tuple[Path, Path], page: Page) -> None:
    page.goto(reports[1].as_uri())
    unfold(page, "classes")
    page.click("#table-classes a >> nth=0")
    assert page.inner_text("h1") == NAMES[0] and page.locator("img").count() > 10
    page.click("td a >> nth=0")
    assert page.inner_text("h1").startswith("Feature ")
    page.click("header a")
    assert page.url.endswith("many.html#features")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", [0, 1])
def test_anyone_can_use_it(
    reports: tuple[Path, Path], page: Page, which: int, scheme: Literal["light", "dark"]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    addresses = [reports[which].as_uri()]
    if which:
        [page_of_a_class] = reports[1].parent.glob("many-pages/*/class-0.html")
        addresses.append(page_of_a_class.as_uri())
    for address in addresses:
        page.goto(address)
        found = axe.Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_it_fits_a_narrow_window(reports: tuple[Path, Path], page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(reports[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_text("Scroll the table sideways to see all 19 cues →").is_visible()
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.get_by_text("Scroll the table sideways").is_hidden()


def test_it_prints_dark_on_light_and_fits_the_paper(reports: tuple[Path, Path], page: Page) -> None:
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 less the usual margins
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(reports[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(22, 32, 44)"
    assert not page.is_visible("nav") and not page.is_visible(".tools >> nth=0")


def test_by_keyboard_alone(reports: tuple[Path, Path], page: Page) -> None:
    page.goto(reports[0].as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#classes > summary")
    page.keyboard.press("Enter")
    page.focus("#table-classes th button >> nth=0")
    page.keyboard.press("Enter")
    assert page.get_attribute("#table-classes th >> nth=0", "aria-sort") in ("ascending", "descending")
    page.focus(".face h3 a >> nth=0")
    page.keyboard.press("Enter")
    page.focus(".use input >> nth=0")
    page.keyboard.press("Space")
    assert page.is_visible(".whatif >> nth=0")
