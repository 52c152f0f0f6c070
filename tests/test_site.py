"""The site holds together: links between pages lead somewhere, every page is in its table, and what agents read is up to date.

Sphinx says the same of links and tables, with warnings as errors (`make docs`); here it needs no Sphinx and takes a second.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

import for_agents
from command_reference import commands
from world import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "SECURITY", "SKILL"))]


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return what links to a page's headings end with, as GitHub and MyST make it."""
    text = prose(page)
    included = re.search(r"^:::\{include\} (\S+)", text)
    if included:
        text = prose(page.parent / included[1])
    titles = re.findall(r"^#{1,3} (.*)$", text, re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    kept = ("".join(one for one in title if one in "-_ " or unicodedata.category(one)[0] in "LN") for title in plain)
    return {title.strip().replace(" ", "-") for title in kept}


def links(page: Path) -> Iterator[str]:
    """Go through the links of a page that lead within the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("http://", "https://")):
            yield target


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.is_file(), f"{target}: no such file"
        assert not anchor or anchor in anchors(place), f"{target}: no such heading, of {sorted(anchors(place))}"


def test_links_of_the_site_stay_in_it() -> None:
    """A page that leads out of docs/ leads nowhere once the site is built."""
    for page in PAGES:
        for target in links(page):
            assert (page.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS), f"{page}: {target}"


def test_every_page_is_in_the_table_of_contents() -> None:
    within = {page for pages in for_agents.paths().values() for page in pages}
    index = (DOCS / "reference/index.md").read_text(encoding="utf-8")
    [entries] = re.findall(r"^:::\{toctree\}\n(?::.*\n)*\n((?:.+\n)*):::$", index, re.M)
    within |= {f"reference/{name}" for name in entries.split()}
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} == within | {"index"}


def test_what_agents_read_is_what_the_site_says() -> None:
    told = "run `python docs/for_agents.py`, and commit what it writes"
    assert (ROOT / "SKILL.md").read_text(encoding="utf-8") == for_agents.skill(), told
    assert (ROOT / "llms.txt").read_text(encoding="utf-8") == for_agents.llms(), told


def test_the_skill_says_what_it_is_for_and_names_every_command() -> None:
    text = for_agents.skill()
    [front] = re.findall(r"\A---\n(.*?)^---$", text, re.M | re.S)
    name, said = re.findall(r"^(\w+): (.*(?:\n  .*)*)", front, re.M)
    assert name == ("name", "subspect") and said[0] == "description" and len(said[1]) < 1024
    assert ": " not in said[1]  # which YAML would take for another key
    for command in commands():
        assert f"\n- `{command}`: " in text


def test_llms_txt_lists_every_page_once_with_a_sentence() -> None:
    lines = [line for line in for_agents.llms().splitlines() if line.startswith("- ")]
    listed = [re.fullmatch(r"- \[[^]]+\]\(docs/([\w/-]+)\.md\): \S.*", line) for line in lines]
    pages = [page for pages in for_agents.paths().values() for page in pages]
    assert [one[1] for one in listed if one] == pages and len(set(pages)) == len(pages)


def test_the_site_asks_nothing_of_any_network() -> None:
    """No font, script or picture from elsewhere: neither in what we add to the theme, nor on a page."""
    for path in [*DOCS.glob("_static/*"), DOCS / "conf.py"]:
        assert not re.findall(r"https?://", path.read_text(encoding="utf-8")), path
    for page in TEXTS:
        assert not re.findall(r"!\[[^]]*\]\(https?:", page.read_text(encoding="utf-8")), page


def test_the_build_is_one_of_the_steps_of_ci() -> None:
    assert re.search(r"^make .*\bdocs\b", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.M)
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert any(one.startswith("sphinx") for one in extras["docs"]) and any("docs" in one for one in extras["dev"])
