"""The public API as a notebook uses it: ten lines from a network to answers, each of which shows itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import subspect
from conftest import PIXELS, Tiny
from subspect import SubspectError
from subspect.ground.results import html_of
from subspect.ground.tables import Table
from subspect.ground.text import to_json

driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
NAMES = ("<b>cat</b>", "dog & wolf", "猫 кот")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What each of the ten lines returns."""
    folder, generator = tmp_path_factory.mktemp("notebook"), np.random.default_rng(0)
    for name, count in (("train", 90), ("test", 45)):
        for index in range(count):
            path = folder / name / str(index % 3) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        network = subspect.Network(Tiny(), class_names=NAMES, preprocessing=PIXELS)
        subspect.observe(network, "train", "study", class_map={"0": 0, "1": 1, "2": 2}, show_progress=False)
        subspect.observe(network, "test", "study", "test", class_map={"0": 0, "1": 1, "2": 2}, show_progress=False)

        study = subspect.open_study("study")
        decomposition = study.decompose(k=2, show_progress=False)
        same = study["pursuit-k2"]
        fidelity = decomposition.evaluate()
        explanation = decomposition.explain(network, "test/0/0.png")
        comparison = decomposition.compare("dog & wolf", 2)
        essentiality = decomposition.essentiality(repeats=2, show_progress=False)
        selectivity, geometry = study.selectivity(k=2), decomposition.geometry()
        edited = decomposition.edit([("dog & wolf", decomposition.rows("dog & wolf")[0].feature)])
        report = decomposition.report("report.html", network=network, show_progress=False)

        difference = decomposition.diff(edited.decomposition)
        exported = decomposition.export("small.safetensors")
        verified = study.verify(show_progress=False)
        assert (folder / report).is_file() and same.study is study and same.to_json() == decomposition.to_json()
        shown = {
            "study": study,
            "decomposition": decomposition,
            "fidelity": fidelity,
            "explanation": explanation,
            "comparison": comparison,
            "essentiality": essentiality,
            "selectivity": selectivity,
            "geometry": geometry,
            "edited": edited,
            "difference": difference,
            "exported": exported,
            "verified": verified,
        }
        yield shown  # the study is a path relative to the folder


def test_every_answer_speaks_the_same_protocol(told: dict[str, Any]) -> None:
    assert len(told) == 12
    for name, one in told.items():
        assert type(one).__name__ in subspect.__all__, name
        assert one.tables() and all(isinstance(table, Table) for table in one.tables()), name
        frame = one.to_frame()
        assert isinstance(frame, pd.DataFrame) and (len(frame) or name == "verified") and frame.columns.is_unique, name
        assert isinstance(one.to_json(), dict) and to_json(one.to_json()), name
        assert "<b>" not in one._repr_html_() and "<table" in one._repr_html_(), name
    plotted = {name for name, one in told.items() if hasattr(one, "plot")}
    assert plotted == {"explanation", "essentiality", "geometry"}


def test_frames_hold_the_figures(told: dict[str, Any]) -> None:
    frame = told["fidelity"].to_frame()
    assert frame["class"].isna()[0] and frame["class"].tolist()[1:] == list(NAMES)
    assert frame["images"].tolist() == [45, 15, 15, 15]
    assert frame["fidelity"][0] == told["fidelity"].overall.fidelity.value
    rows = told["decomposition"].to_frame()
    assert rows["feature"].tolist() == told["decomposition"].supports.flat.tolist()
    terms = told["explanation"].to_frame()
    assert np.isclose(terms["contribution"].sum() + told["explanation"].bias, told["explanation"].difference)
    assert told["study"].to_frame()[["set", "rows"]].to_numpy().tolist() == [["train", 90], ["test", 45]]
    lost = told["difference"].to_frame()
    assert lost["images"].sum() == told["difference"].images


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


def test_cells_are_text() -> None:
    table = Table("<i>head</i>", title="<u>title</u>", caption="a\nb")
    table.add_row("<script>alert(1)</script>\x1b[31m")
    html = html_of(table)
    assert "&lt;script&gt;" in html and "&lt;i&gt;" in html and "&lt;u&gt;" in html and "a<br>b" in html
    assert "\x1b" not in html and "\\x1b[31m" in html
