"""Take the quiz: is the report understood at first sight? See README.md beside this file.

Writes the first two screens of each report, and for answers that take a click the screen after it; prints the questions.
With ``--key`` it prints the answers instead. Reports that are in the folder already are not made again.

Example: python tests/quiz/quiz.py --screens build/quiz --data DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from key import Facts
from questions import questions
from reports import NAMES, Report, make
from sight import HEIGHT, SCREENS, open_and_click, window


def main() -> None:
    """Make the reports and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screens", type=Path, metavar="DIR", help="write the screenshots here")
    parser.add_argument("--key", action="store_true", help="print the answers")
    parser.add_argument("--reports", type=Path, default=Path("build/quiz-reports"), help="where the reports are made")
    parser.add_argument("--data", default=os.environ.get("SUBSPECT_DATA"), help="real data; without it, no CIFAR-10")
    given = parser.parse_args()
    data = Path(given.data) if given.data else None
    for name in NAMES if data else NAMES[:2]:
        report = make(name, given.reports / name, data)
        if given.screens:
            shoot(report, given.screens / name)
        lines = key(report.facts) if given.key else asked(report.facts)
        sys.stdout.write("\n".join([f"{name}:", *lines, "", ""]))


def asked(facts: Facts) -> Iterator[str]:
    """Return the questions of a report, each with the screenshot to look at where it isn't one of the first two."""
    for number, one in enumerate(questions(facts), 1):
        yield f"{number:2}. {one.text}{f' ({_file(number)})' if one.clicks else ''}"


def key(facts: Facts) -> Iterator[str]:
    """Return the answers; where several classes or features are alike, one of them is enough."""
    for number, one in enumerate(questions(facts), 1):
        yield f"{number:2}. " + " – or: ".join("; ".join(words) for words in one.answer(facts))


def shoot(report: Report, folder: Path) -> None:
    """Write the screenshots of a report."""
    folder.mkdir(parents=True, exist_ok=True)
    with window() as page:
        open_and_click(page, report.path, ())
        for screen in range(SCREENS):
            page.evaluate("top => scrollTo(0, top)", screen * HEIGHT)
            page.screenshot(path=folder / f"screen-{screen + 1}.png")
        for number, one in enumerate(questions(report.facts), 1):
            if one.clicks:
                open_and_click(page, report.path, one.clicks)
                page.screenshot(path=folder / _file(number))


def _file(number: int) -> str:
    return f"question-{number}.png"


if __name__ == "__main__":
    main()
