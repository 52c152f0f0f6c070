"""The result of a check-up: what was found, and what became of every check that found nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from subspect.checking.finding import Finding
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import legible


@dataclass(frozen=True)
class Checked(Result):
    """What a study and a decomposition show that somebody should look at.

    Attributes:
        study: its path.
        decomposition: its name.
        found: the findings, in the order of their codes.
        passed: code → how far the check could look; empty where that is all.
        skipped: code → why it couldn't look.
        ignored: codes that were to be left out.
        titles: code → title, of all of them.

    Example:
        >>> checked = decomposition.findings(ignore=["F202"])
        >>> checked.ignored
        ('F202',)
        >>> for finding in checked.found:
        ...     print(finding.code, finding.text)  # doctest: +SKIP
    """

    study: str
    decomposition: str
    found: tuple[Finding, ...]
    passed: Mapping[str, str]
    skipped: Mapping[str, str]
    ignored: tuple[str, ...]
    titles: Mapping[str, str]

    @property
    def codes(self) -> list[str]:
        """The codes that were found, each once."""
        return list(dict.fromkeys(one.code for one in self.found))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            **vars(self),
            "found": [one.to_json() for one in self.found],
            "passed": dict(self.passed),
            "skipped": dict(self.skipped),
            "ignored": list(self.ignored),
            "titles": dict(self.titles),
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each finding, and for each check that found nothing."""
        found = [
            {
                "code": one.code,
                "title": one.title,
                "state": "found",
                "classes": ", ".join(one.classes),
                "text": one.text,
                "how": one.how,
                "why": one.why,
                "do": one.do,
            }
            for one in self.found
        ]
        return [
            *found,
            *({"code": code, "title": title, "state": state, "text": said} for code, title, state, said in self._rest),
        ]

    def tables(self) -> list[Table]:
        """Return tables for the terminal: findings, then a line for every other check."""
        rest = Table(title=self._title if not self.found else self._counts, title_justify="left")
        for column in ("code", "looks for", ""):
            rest.add_column(column, overflow="fold")
        for code, title, state, said in self._rest:
            rest.add_row(code, title, f"{state}: {said}" if said else state)
        return [*([self._findings()] if self.found else []), *([rest] if rest.row_count else [])]

    def _findings(self) -> Table:
        about = {one.code: one for one in self.found}
        caption = "\n".join(f"{code}, {one.title}: {one.how}. Why: {one.why}." for code, one in about.items())
        table = Table(title=self._title, caption=caption, title_justify="left", caption_justify="left", show_lines=True)
        for column in ("code", "found", "what to do"):
            table.add_column(column, overflow="fold", no_wrap=column == "code")
        for one in self.found:
            table.add_row(one.code, one.text, Text(legible(one.do)))
        return table

    @property
    def _rest(self) -> list[tuple[str, str, str, str]]:
        """Code, title, state and what is said of it, of the checks that found nothing."""
        states = {
            "passed": self.passed,
            "skipped": self.skipped,
            "ignored": dict.fromkeys(self.ignored, ""),
        }
        return [(code, self.titles[code], state, said) for state, one in states.items() for code, said in one.items()]

    @property
    def _title(self) -> str:
        number = len(self.found)
        what = f"{number} finding{'s' * (number != 1)}" if number else f"nothing found, {self._counts}"
        return f"{self.decomposition} in {self.study}: {what}"

    @property
    def _counts(self) -> str:
        return f"{len(self.passed)} passed, {len(self.skipped)} skipped, {len(self.ignored)} ignored"
