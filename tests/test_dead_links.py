"""What `make docs` says of links that lead nowhere, on small sites (docs/_ext/dead_links.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dead_links
from dead_links import dead

EXTENSIONS = Path(dead_links.__file__).parent


def test_links_to_files_and_anchors_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "how to").mkdir()
    (tmp_path / "picture.svg").write_text("<svg/>")
    index = tmp_path / "index.html"
    index.write_text(
        '<h1 id="top">A</h1><a name="old"></a><a href="#top">1</a><a href="#old">2</a><a href="#">3</a>'
        '<a href="how%20to/b.html#caf%C3%A9">4</a><a href="picture.svg?v=1#part">5</a><img src="picture.svg">'
        '<a href="https://example.org/none">6</a><a href="mailto:a@example.org">7</a><img src="data:image/png;base64,AA">'
    )
    other = tmp_path / "how to" / "b.html"
    other.write_text('<p id="café"><a href="../index.html#top">back</a></p>')
    assert list(dead(tmp_path, [index, other])) == []
    assert list(dead(tmp_path, [index])) == []  # anchors of pages that aren't looked at themselves are read


@pytest.mark.parametrize(
    ("address", "missing"),
    [
        ("none.html", "there is no such file"),
        ("#none", "the page has no such anchor"),
        ("b.html#none", "the page has no such anchor"),
        ("folder", "there is no such file"),
        ("../b.html", "it leads out of the site"),
        ("/b.html", "it leads out of the site"),
    ],
)
def test_what_leads_nowhere_is_told_once(tmp_path: Path, address: str, missing: str) -> None:
    site = tmp_path / "site"
    (site / "folder").mkdir(parents=True)
    for name in ("a", "b"):
        (site / f"{name}.html").write_text(f'<a href="{address}">1</a><a href="{address}">2</a>' if name == "a" else "")
    assert list(dead(site, [site / "a.html"])) == [(site / "a.html", address, missing)]
    (site / "a.html").write_text(f'<img src="{address}">')
    assert [one[1:] for one in dead(site, [site / "a.html"])] == [(address, missing)]


def test_the_build_fails_by_them(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.append({str(EXTENSIONS)!r})\nextensions, html_theme = ['dead_links'], 'basic'\n"
    )
    links = ("index.html#there", "index.html#none", "none.html")
    (tmp_path / "index.rst").write_text("There\n=====\n\n" + " ".join(f"`{one} <{one}>`__" for one in links))
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--no-color", str(tmp_path), str(tmp_path / "site")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 1
    assert [line.partition("WARNING: ")[2] for line in done.stderr.splitlines()] == [
        "dead link index.html#none: the page has no such anchor",
        "dead link none.html: there is no such file",
    ]
