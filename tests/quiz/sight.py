"""What a reader sees of a report in a browser: the page opened, clicks followed, and where on it some words stand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
WIDTH, HEIGHT = 1280, 900  #: of the window
SCREENS = 2  #: the first two are to be enough

# Spaces don't count, since elements stand beside each other without any. A number isn't found within a longer one.
_FIND = r"""
(element, words) => {
  const places = [], walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    if (!node.parentElement.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    [...node.data].forEach((char, offset) => { if (/\S/.test(char)) places.push([char, node, offset]); });
  }
  const text = places.map(([char]) => char).join(""), wanted = words.replace(/\s+/g, "");
  const quoted = wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const before = /^\d/.test(wanted) ? "(?<!\\d|\\d[.,])" : "", after = /\d$/.test(wanted) ? "(?!\\d)" : "";
  const found = new RegExp(before + quoted + after).exec(text);
  if (!found) return null;
  const range = document.createRange(), [, first, start] = places[found.index];
  const [, last, end] = places[found.index + wanted.length - 1];
  range.setStart(first, start);
  range.setEnd(last, end + 1);
  const { left, top, right, bottom } = range.getBoundingClientRect();
  return [left, top, right, bottom];
}
"""


class Spot(NamedTuple):
    """Where words stand in the window, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def is_within(self, height: int) -> bool:
        """Whether all of it is to be seen without scrolling further down than that."""
        return 0 <= self.left < self.right <= WIDTH and 0 <= self.top < self.bottom <= height


@contextmanager
def window() -> Iterator[Page]:
    """Open a window of the quiz's size."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce"
        )
        browser.close()


def open_and_click(page: Page, report: Path, clicks: Sequence[str]) -> None:
    """Open a report afresh, and click on things in turn, each of which has to be there to click on."""
    page.goto("about:blank")
    page.goto(report.as_uri())
    for one in clicks:
        page.locator(one).click(timeout=2_000)


def find(page: Page, where: str, words: str) -> Spot | None:
    """Return where words are to be read in an element; None where they are not, or hidden."""
    found = page.locator(where).evaluate(_FIND, words)
    return None if found is None else Spot(*found)
