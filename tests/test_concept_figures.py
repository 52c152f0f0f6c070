"""The figures of docs/concepts.md: the script makes them, the page shows them, and they carry what light and dark need."""

from __future__ import annotations

import re
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "concepts.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["figures.py", str(folder)])
        runpy.run_path(str(DOCS / "figures.py"), run_name="__main__")
    return folder


def test_the_script_makes_the_figures_that_are_kept(drawn: Path) -> None:
    """The same shapes and words; numbers, and which of two features alike is chosen, differ from machine to machine."""
    made = sorted(path.name for path in drawn.iterdir())
    assert made == sorted(path.name for path in DOCS.glob("concept-*.svg"))
    for name in made:
        ours, kept = (ET.parse(folder / name).getroot() for folder in (drawn, DOCS))
        assert [one.tag for one in ours.iter()] == [one.tag for one in kept.iter()], name
        said = [[one.text for one in root.iter() if one.tag.endswith("text")] for root in (ours, kept)]
        words = [[re.sub(r"(?<=feature )\d+|\d+\.\d+", "…", text or "") for text in texts] for texts in said]
        assert words[0] == words[1], name


def test_the_page_shows_each_with_words_for_it() -> None:
    shown = {name: words for words, name in re.findall(r"!\[([^\]]+)\]\((concept-[a-z]+\.svg)\)", PAGE)}
    assert set(shown) == {path.name for path in DOCS.glob("concept-*.svg")}
    assert all(len(words.split()) > 8 for words in shown.values())


def test_figures_can_be_read_in_light_and_dark(drawn: Path) -> None:
    for path in drawn.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in text and 'class="paper"' in text and "<title>" in text
        assert not re.search(r"(?:href|src|url)\s*[=(]", text)  # nothing is fetched


def test_figures_quoted_in_the_text_are_those_drawn() -> None:
    promise = (DOCS / "concept-promise.svg").read_text(encoding="utf-8")
    assert ">90.9<" in promise and ">97.8<" in promise
    pursuit = (DOCS / "concept-pursuit.svg").read_text(encoding="utf-8")
    [refitted] = re.findall(r">([\d.]+), refitted<", pursuit)
    assert "from 91 to 94 %" in PAGE and round(float(refitted)) == 94
