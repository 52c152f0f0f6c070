"""What every benchmark prints and writes: rows of what was measured, its unit, and the bar that it is held to."""

from __future__ import annotations

import json
import operator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

_COMPARISONS = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Row:
    """One figure; ``bar`` carries its sign, such as ">= 86.5", and is None where none is asked."""

    what: str
    value: float
    unit: str
    bar: str | None = None
    met: bool | None = None


def row(what: str, value: float, unit: str, *bars: str) -> list[Row]:
    """Return the figure as a row for each bar, or one without a bar."""
    if not bars:
        return [Row(what, value, unit)]
    rows = []
    for bar in bars:
        sign, _, number = bar.partition(" ")
        rounded = round(value, 9)  # 482 of 500 are 96.4 %, whatever 100 times that share is
        rows.append(Row(what, value, unit, bar, bool(_COMPARISONS[sign](rounded, float(number)))))
    return rows


def around(value: float, room: float) -> tuple[str, str]:
    """Return the two bars of a figure that must lie within ``room`` of ``value``."""
    return f">= {value - room:.2f}", f"<= {value + room:.2f}"


def publish(title: str, rows: list[Row], path: Path | None) -> bool:
    """Print the rows, write them as JSON if asked, and tell whether every bar is met."""
    table = Table(title=title, title_justify="left")
    for column in ("what", "value", "unit", "bar", "met"):
        table.add_column(column, justify="right" if column == "value" else "left", overflow="fold")
    for one in rows:
        met = "" if one.met is None else "yes" if one.met else "[bold red]NO"
        table.add_row(one.what, f"{one.value:,.4g}", one.unit, one.bar or "", met)
    Console().print(table)
    if path is not None:
        path.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    return all(one.met is not False for one in rows)
