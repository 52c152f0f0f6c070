"""Cards of a few classes: what is on them, which classes they are, and the ways out of a result."""

from __future__ import annotations

import json
import re
import webbrowser
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

import subspect
from answers import NAMES, asked
from conftest import PIXELS, Tiny
from kept import keep_cues
from subspect import Decomposition, Network, Study, SubspectError
from subspect.ground.showing import table_html, table_markdown
from subspect.ground.tables import Table


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with asked(tmp_path_factory.mktemp("notebook")) as answers:
        yield answers


@pytest.fixture
def made(study: Study) -> Decomposition:
    return subspect.decompose(study, 2)


def many(path: Path, n: int = 12) -> tuple[Study, Decomposition]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4 * n, 8, 8, 3), dtype=np.uint8), np.arange(4 * n) % n
    network = Network(Tiny(n), class_names=[f"class {label}" for label in range(n)], preprocessing=PIXELS)
    study = subspect.observe(network, images, path, show_progress=False)
    return study, subspect.decompose(study, 2, show_progress=False)


def test_a_card_says_what_was_measured(study: Study, made: Decomposition) -> None:
    """What a feature adds is summed up here image by image."""
    cards = made.cards(["b"])
    [card] = cards.to_json()["classes"]
    where = made.evaluate().where
    weight, bias = (array.astype(float) for array in made.matrix())
    added: dict[int, list[float]] = {}
    for chunk in where.chunks():
        for x, label in zip(np.asarray(chunk.features, float), chunk.labels, strict=True):
            logits = weight @ x + bias
            if label == 1:
                rival = max((value, -other) for other, value in enumerate(logits) if other != 1)[1]
                for row in made.rows("b"):
                    added.setdefault(row.feature, []).append((weight[1] - weight[-rival])[row.feature] * x[row.feature])
    said = {one["feature"]: one["added"] for one in (*card["for"], *card["against"])}
    assert {feature: float(np.mean(values)) for feature, values in added.items()} == pytest.approx(said, rel=1e-4)
    cost = made.evaluate().classes["b"]
    assert cost is not None and card["accuracy"] == cost.accuracy.value
    assert cards.to_frame()["class"].tolist() == ["b"] * len(said) and repr(cards).startswith(
        "Cards(pursuit-k2: what d"
    )


def test_the_worst_and_the_best_unless_asked(tmp_path: Path) -> None:
    study, made = many(tmp_path / "study")
    cards = made.cards()
    costs = made.evaluate().classes.values()
    loses = [cost.dense_accuracy.value - cost.accuracy.value if cost else 0.0 for cost in costs]
    worst, best = [loses[label] for label in cards.labels[:3]], [loses[label] for label in cards.labels[3:]]
    assert worst == sorted(loses)[:-4:-1] and sorted(best) == sorted(loses)[:3]
    rest = "The 3 classes that lose most (with findings first) and the 3 that lose least, of 12; others"
    assert rest in cards.to_html() and rest in str(cards.tables()[0].caption)
    keep_cues(study, made, {"corner-top-left": {cards.labels[-1]: 3.0}})
    again = made.cards()
    assert "rests on the" in made.cards([cards.labels[-1]]).to_json()["classes"][0]["findings"][0]
    doubted = [label for label in range(12) if again._faces.doubts(label)]
    assert doubted and set(again.labels[: min(3, len(doubted))]) <= set(doubted)
    assert made.cards([5, "class 2", 5]).labels == (5, 2) and rest not in made.cards([5]).to_html()


def test_pictures_and_places_are_on_it(study: Study, made: Decomposition, tiny: Tiny) -> None:
    network = Network(tiny, class_names=["a", "b", "c"], preprocessing=PIXELS)
    plain, placed = made.cards(), made.cards(network=network)
    html = placed.to_html()
    assert plain.to_html().count("<img") == html.count("<img") > 0 and 'class="where"' not in plain.to_html()
    places = [one["looks_at"] for card in placed.to_json()["classes"] for one in card["for"]]
    assert all(places) and all(place in html for place in places)
    alone = made.cards(show_images=False).to_html()
    assert "<img" not in alone and "Images and texts were left out." in alone
    assert "<a " not in html  # there are no pages that it could lead to


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cow"], "no class 'cow'; the network has 3: a, b, c, or 0 to 2"),
        ("a", r"classes must be a list of names or indices, such as \['cat', 3\]; got 'a'"),
        (3, r"classes must be a list of names or indices, such as \['cat', 3\]; got 3"),
    ],
)
def test_no_such_classes(made: Decomposition, classes: Any, message: str) -> None:
    with pytest.raises(SubspectError, match=message):
        made.cards(classes)


def test_a_class_without_images_has_no_card(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), np.arange(20) % 2
    network = Network(Tiny(), class_names=["a", "b", "c"], preprocessing=PIXELS)
    study = subspect.observe(network, images, tmp_path / "study", show_progress=False)
    made = subspect.decompose(study, 2, show_progress=False)
    assert made.cards().labels == (0, 1) or set(made.cards().labels) == {0, 1}
    with pytest.raises(
        SubspectError, match="no images of c were seen when features were chosen, so .*; leave it out of classes"
    ):
        made.cards(["c"])


def test_the_fidelity_of_another(study: Study, made: Decomposition) -> None:
    with pytest.raises(
        SubspectError, match="the fidelity given is that of 'pursuit-k1', not of 'pursuit-k2'; evaluate"
    ):
        made.cards(fidelity=subspect.decompose(study, 1).evaluate())


def test_a_decomposition_shows_its_cards(
    study: Study, made: Decomposition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    html = made._repr_html_()
    assert html.count('<article class="face"') == 3 and len(html) < 2 * 2**20
    made.save(tmp_path / "alone.safetensors")
    alone = Decomposition.load(tmp_path / "alone.safetensors")._repr_html_()
    assert "<article" not in alone and "<table" in alone
    keep_cues(study, made, {}).write_bytes(b"")
    assert "There are no cards to show: " in made._repr_html_() and "<table" in made._repr_html_()
    monkeypatch.setattr("subspect.heads.questions._AT_ONCE", 10)
    assert "cards" not in made._repr_html_()


def test_every_result_has_the_same_ways_out(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[str] = []

    def browse(address: str) -> bool:
        opened.append(address)
        return len(opened) > 1

    monkeypatch.setattr(webbrowser, "open", browse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, one in told.items():
        page, piece = one.to_html(), one.to_html_snippet()
        assert page.startswith("<!doctype html>") and "default-src 'none'" in unescape(page), name
        assert not re.search("<script|shadowroot", page), name
        assert piece == one._repr_html_() and len(piece) < 2 * 2**20 and "<b>cat" not in page + piece, name
        assert not re.search(r"(src|href)=\"(?!data:image/|#)", page), name
        path = one.open_in_browser()
        assert path.read_text(encoding="utf-8") == page and opened[-1] == path.as_uri(), name
        assert json.dumps(one.to_json()), name
        tables = one.to_markdown().split("\n| --- ")
        assert len(tables) == len(one.tables()) + 1 or "---:" in one.to_markdown(), name
    assert f"no browser could be opened; the page is {tmp_path}" in caplog.text and caplog.text.count("no browser") == 1
    assert told["explanation"].to_html().count('<img src="data:image/png;base64,') == 1


def test_markdown_is_read_as_it_was_meant() -> None:
    """By a parser of Markdown: cells come back as they went in, and nothing in them acts."""
    table = Table(title="a *title*", caption="below | it")
    table.add_column("name")
    table.add_column("value", justify="right")
    cells = [*NAMES, "a|b", "`c`", "**d**", "[e](f)", "\\", "~~g~~", "h_i_j", "&amp;", "$k$", ""]
    for cell in cells:
        table.add_row(cell, "1")
    html = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(table_markdown(table))
    assert re.findall("<(?!/)(?!table|thead|tbody|tr|t[hd]|p|strong)[^>]*>", html) == []
    rows = re.findall(r"<tr>\s*<td>(.*?)</td>\s*<td style=.text-align:right.>1</td>", html)
    assert [unescape(one) for one in rows] == cells
    assert "<strong>a *title*</strong>" in html and "<p>below | it</p>" in html


def test_a_job_shows_cards_too(tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    network = Network(tiny, class_names=["a", "b", "c"], preprocessing=PIXELS)
    job = subspect.run(network, make_folder("images"), tmp_path / "new", k=2, show_progress=False)
    shown = job.to_html()
    assert shown.count('<article class="face"') == 3
    assert table_html(job.tables()[0]) in shown and repr(job.decomposition) not in shown  # its own table, with the cost


def test_a_network_that_guesses_is_told_first(tmp_path: Path) -> None:
    """A page of such a network says so before anything else; one of a network that has learned doesn't."""
    said = "The network itself is right about as often as by chance"
    made = many(tmp_path / "study")[1]
    assert said in made.cards().to_html() and said in made.report(show_progress=False).read_text()
    x = np.random.default_rng(0).normal(size=(90, 4))
    labels = x[:, :3].argmax(axis=1)
    good = subspect.from_features(x, np.eye(3, 4), None, tmp_path / "good", labels=labels, show_progress=False)
    sure = subspect.decompose(good, 1, show_progress=False)
    assert said not in sure.cards().to_html() and said not in sure.report(show_progress=False).read_text()
