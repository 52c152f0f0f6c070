"""The public API as a notebook uses it: ten lines from a network to answers, each of which shows itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import subspect
from answers import NAMES, asked
from conftest import PIXELS, Tiny
from subspect import SubspectError

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with asked(tmp_path_factory.mktemp("notebook")) as answers:
        yield answers


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_shows_each_answer(told: dict[str, Any], browser: Callable[[str], Any]) -> None:
    page = browser("".join(f'<section id="{name}">{one._repr_html_()}</section>' for name, one in told.items()))
    stand_ins = "[...document.querySelectorAll('div.subspect-result')].map(one => one.childElementCount)"
    assert page.evaluate(stand_ins) == [0] * len(told)
    for name, one in told.items():
        tables = one.tables()
        assert page.locator(f"#{name} table").count() == len(tables)
        for place, table in enumerate(tables):
            shown = page.locator(f"#{name} table").nth(place)
            assert shown.is_visible() and shown.locator("tbody tr").count() == table.row_count
    text = " ".join(page.locator("div.subspect-result .body").all_inner_texts())
    assert all(name in text for name in NAMES)  # as text: nothing in a name is markup


HOSTILE = "* { color: red !important; font-size: 3px !important } div, table, img { display: none !important }"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize("how", ["parsed", "inserted", "inserted, scripts run"])
def test_no_page_around_it_spoils_it(told: dict[str, Any], browser: Callable[[str], Any], how: str) -> None:
    """Parsed as on a page; inserted as text by a notebook that isn't trusted, whose tables are seen; and by one that is."""
    html, style = told["decomposition"]._repr_html_(), f"<style>{HOSTILE if how != 'inserted' else ''}</style>"
    page = browser(f"{style}<section id='cell'>{html if how == 'parsed' else ''}</section>")
    if how != "parsed":
        page.evaluate("html => { document.getElementById('cell').innerHTML = html }", html)
    if how == "inserted, scripts run":
        page.evaluate(
            "for (const old of document.querySelectorAll('#cell script')) {"
            " const fresh = document.createElement('script'); fresh.text = old.text; old.replaceWith(fresh) }"
        )
    table = page.locator("#cell table").first
    assert table.is_visible() and NAMES[1] in table.inner_text()
    faces = page.locator("#cell article.face")
    if how == "inserted":
        assert faces.count() == 0
        return
    assert faces.count() == 3 and faces.first.is_visible() and faces.locator("img").first.is_visible()
    size, colour = faces.first.evaluate("one => [getComputedStyle(one).fontSize, getComputedStyle(one).color]")
    assert size == "14px" and colour != "rgb(255, 0, 0)"
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
    )  # nor does it spoil that


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
    with pytest.raises(SubspectError, match=r"a study must be a folder, an address or a subspect\.Study, got int"):
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


def test_a_decomposition_is_named_by_its_name_too(told: dict[str, Any]) -> None:
    assert subspect.evaluate("study", "pursuit-k2").to_json() == told["fidelity"].to_json()
    assert subspect.geometry("study", "pursuit-k2").union == told["geometry"].union
    with pytest.raises(
        SubspectError, match=r"must be a subspect\.Decomposition, such as study\['pursuit-k5'\].*, got int"
    ):
        subspect.compare("study", 3, first=0, second=1)  # type: ignore[arg-type]
    with pytest.raises(SubspectError, match="no decomposition 'pursuit-k3' in study"):
        subspect.compare("study", "pursuit-k3", first=0, second=1)


def test_another_study_stands_for_its_newest_decomposition(told: dict[str, Any]) -> None:
    wanted = told["difference"].to_json()
    for other in ("study", told["study"]):
        assert told["decomposition"].diff(other).to_json() == wanted


def test_the_names_in_a_study(told: dict[str, Any]) -> None:
    study = told["study"]
    assert "pursuit-k2" in study and "nothing" not in study and 3 not in study
    assert list(study) == study.decomposition_names == ["pursuit-k2", "pursuit-k2-edited"]
    with pytest.raises(SubspectError, match="no image set 3 in study"):
        told["decomposition"].evaluate(on=3)


@pytest.mark.parametrize("drop", [("cat", 1), {"cat": 1}, "cat:1", [("cat", 1), 5], [("cat", 1.5)]])
def test_what_is_no_list_of_pairs_is_not_dropped(told: dict[str, Any], drop: Any) -> None:
    with pytest.raises(SubspectError, match=r"a list of pairs of class and feature, such as \[\('cat', 12\)\]; got "):
        told["decomposition"].edit(drop)


def test_a_model_is_no_network_and_a_network_no_model(told: dict[str, Any]) -> None:
    with pytest.raises(
        SubspectError, match=r"a network must be a subspect\.Network, got Tiny; subspect\.Network\(model\)"
    ):
        subspect.run(Tiny(), "train", "other")  # type: ignore[arg-type]
    with pytest.raises(SubspectError, match=r"the model must be a torch\.nn\.Module, got Network; pass network\.model"):
        told["decomposition"].apply(subspect.Network(Tiny()))
    with pytest.raises(SubspectError, match=r"the report's path must be a file ending in \.html, got Network"):
        told["decomposition"].report(subspect.Network(Tiny()))


def test_a_folder_of_images_becomes_no_study(told: dict[str, Any]) -> None:
    network = subspect.Network(Tiny(), preprocessing=PIXELS)
    with pytest.raises(SubspectError, match="train contains 0, 1, 2 and is not a study; choose another folder"):
        subspect.observe(network, "test", "train")
    assert not Path("train/study.json").exists()


def test_a_result_is_shown_in_a_line(told: dict[str, Any]) -> None:
    for name, one in told.items():
        assert "\n" not in repr(one) and len(repr(one)) < 200, name
    assert repr(told["fidelity"]) == (
        "Fidelity(pursuit-k2: accuracy 35.56 %, dense 35.56 %, fidelity 100.00 %, n = 45)"
    )
    assert str(told["fidelity"].overall.fidelity).count("–") == 1


def test_a_share_held_out_has_no_effect_beside_another_set(
    told: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    told["study"].decompose(k=2, hold_out=0.1, show_progress=False)
    assert "hold_out (--hold-out) has no effect: the study has 'test' to measure on" in caplog.text
