"""A report of a thousand classes: how long it takes once images are observed, how large its first page is, how soon it finds.

EfficientNet-Lite0 on 1,300 photographs of ImageNet's 1,000 classes (``imagenet-val-1300.tar`` in the folder given by --data or
SUBSPECT_DATA). With --work it goes on where it stopped. A class is searched for in Debian's chromium, through playwright.

Example: python benchmarks/many_classes.py --data DIR --work WORK --json many_classes.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import subspect
from _archives import unpacked
from _rows import Row, publish, row

SECONDS, BYTES, SEARCHED = 180, 2_000_000, 500  # the last in milliseconds


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--work", type=Path, help="keep images and the study in this folder, to go on from")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        network = subspect.load_network(f"python:{Path(__file__).parent / '_efficientnets.py'}:lite0")
        images = unpacked(Path(asked.data), "imagenet-val-1300", work)
        study = subspect.observe(network, images, work / "many", "train")
        rows = measured(study)
    return 0 if publish("A report of many classes", rows, asked.json) else 1


def measured(study: subspect.Study) -> list[Row]:
    """Decompose, report, and search the first page."""
    start = time.perf_counter()
    made = study.decompose(k=5)
    chosen = time.perf_counter() - start
    page = made.report()
    both = time.perf_counter() - start
    others = [path for path in page.with_name("report-pages").rglob("*") if path.is_file()]
    rows = row("features chosen", chosen, "s")
    rows += row("features chosen, and the report made", both, "s", f"<= {SECONDS}")
    rows += row("first page", page.stat().st_size, "bytes", f"<= {BYTES}")
    rows += row(f"{len(others):,} other files", sum(path.stat().st_size for path in others), "bytes")
    program = shutil.which("chromium")
    if program is None:
        return rows
    name = made.class_names[[label for label in range(len(made.class_names)) if label not in made.unseen][-1]]
    return [*rows, *row("until the card of a class is there", searched(page, name, program), "ms", f"<= {SEARCHED}")]


def searched(page: Path, name: str, program: str) -> float:
    """Type the name of a class, and return the milliseconds until its card is seen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.as_uri())
        start = time.perf_counter()
        tab.fill("input[data-table=faces]", name)
        tab.locator("article.face:visible h3", has_text=name).first.wait_for()
        took = time.perf_counter() - start
        browser.close()
    return 1000 * took


if __name__ == "__main__":
    sys.exit(main())
