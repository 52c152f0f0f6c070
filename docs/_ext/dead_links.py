"""Links and pictures of the built site that lead nowhere, each a warning, with which `make docs` fails.

Sphinx checks what it resolves itself. This looks at the pages as they are written, so that links in raw HTML, in the theme and
to headings are checked as well: the file must be there, and in it the anchor. What lies outside the site isn't asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.util import logging

log = logging.getLogger(__name__)


class Page(HTMLParser):
    """What a page can be linked to by, and what it links to.

    Attributes:
        anchors: names of its places.
        links: addresses as they are written, each once, in their order.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: dict[str, None] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag's anchor and links."""
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ("href", "src", "data", "poster"):
                self.links[value or ""] = None


def dead(site: Path, pages: list[Path]) -> Iterator[tuple[Path, str, str]]:
    """Go through links of pages that lead nowhere within a site: page, address, and what is missing.

    Args:
        site: the folder of the site.
        pages: HTML files of it.
    """
    read = {path: Page(path.read_text(encoding="utf-8")) for path in pages}
    for path, page in read.items():
        for address in page.links:
            if missing := _missing(site, path, address, read):
                yield path, address, missing


def _missing(site: Path, page: Path, address: str, read: dict[Path, Page]) -> str:
    """Say what a link lacks; nothing where it leads somewhere, or out of the site."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return ""
    place = page if not parts.path else Path((page.parent / unquote(parts.path)).resolve())
    if not place.is_relative_to(site.resolve()) or parts.path.startswith("/"):
        return "it leads out of the site"
    if not place.is_file():
        return "there is no such file"
    anchor = unquote(parts.fragment)
    if anchor and place.suffix == ".html":
        there = read[place] if place in read else Page(place.read_text(encoding="utf-8"))
        return "" if anchor in there.anchors else "the page has no such anchor"
    return ""


def _check(app: Any, failed: Exception | None) -> None:
    if failed is not None or app.builder.name != "html":
        return
    site = Path(app.outdir).resolve()
    written = [*sorted(app.env.found_docs), "genindex", "search"]  # what an earlier build left there is no page
    pages = [path for path in (site / f"{name}.html" for name in written) if path.is_file()]
    for path, address, missing in dead(site, pages):
        log.warning("dead link %s: %s", address, missing, location=path.relative_to(site).with_suffix("").as_posix())


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx, after what else is written when the build ends."""
    app.connect("build-finished", _check, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
