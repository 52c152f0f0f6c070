"""One protocol for all that a question returns: tables, a data frame, JSON, a notebook's HTML; a figure where there is one.

Computing and showing don't mix: a question returns a frozen dataclass with its figures at full precision, and these ways to
show it are the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape
from rich.text import Text

from subspect.ground.errors import MissingExtra
from subspect.ground.tables import Table
from subspect.ground.text import legible

if TYPE_CHECKING:
    import pandas as pd

_STYLE = (
    "border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums",
    "text-align:left;font-weight:600;padding:.2em 0;white-space:pre-line",
    "text-align:left;caption-side:bottom;max-width:60em;opacity:.75;font-size:.9em;padding:.3em 0;white-space:pre-line",
)


class Result(ABC):
    """What a question returns.

    Example:
        >>> result = decomposition.evaluate()
        >>> isinstance(result, subspect.Result)
        True
        >>> sorted(result.to_json())  # doctest: +SKIP
        >>> len(result.to_frame())  # overall, and a row for each class
        5
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]  # a dataclass keeps what its class defines

    def __repr__(self) -> str:
        title = next((table.title for table in self.tables() if table.title is not None), "")
        return f"{type(self).__name__}({title.plain if isinstance(title, Text) else title})"

    @abstractmethod
    def tables(self) -> Sequence[Table]:
        """Return tables for the terminal."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; NaN as None."""

    @abstractmethod
    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of a data frame, each a mapping of column to value."""

    def to_frame(self) -> pd.DataFrame:
        """Return the figures as a pandas DataFrame, one row for each thing that was measured.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtra("pandas", "pandas", "a DataFrame") from error
        return pd.DataFrame.from_records(list(self._records()))

    def _repr_html_(self) -> str:
        """Return the tables as HTML, as notebooks show it; names from outside are escaped."""
        return "".join(html_of(table) for table in self.tables())


def html_of(table: Table) -> str:
    """Return a table as HTML that needs nothing else; its cells are text and nothing else."""
    frame, heading, note = _STYLE
    columns = table.columns
    aligned = [
        f"text-align:{'right' if column.justify == 'right' else 'left'};padding:.15em .6em" for column in columns
    ]
    parts = [Markup('<div style="overflow-x:auto"><table style="{}">').format(frame)]
    if table.caption is not None:
        parts.append(Markup('<caption style="{}">{}</caption>').format(note, _text(table.caption)))
    parts.append(Markup("<thead>"))
    if table.title is not None:
        whole = Markup('<tr><th colspan="{}" style="{}">{}</th></tr>')
        parts.append(whole.format(len(columns), heading, _text(table.title)))
    if table.show_header:
        parts.append(_row("th", [column.header for column in columns], aligned))
    parts.append(Markup("</thead><tbody>"))
    parts += [_row("td", cells, aligned) for cells in zip(*(column.cells for column in columns), strict=True)]
    return str(Markup("").join([*parts, Markup("</tbody></table></div>")]))


def _row(tag: str, cells: Sequence[object], styles: Sequence[str]) -> Markup:
    cell = Markup(f'<{tag} style="{{}}">{{}}</{tag}>')
    return Markup("<tr>{}</tr>").format(
        Markup("").join(cell.format(style, _text(one)) for one, style in zip(cells, styles, strict=True))
    )


def _text(cell: object) -> Markup:
    plain = cell.plain if isinstance(cell, Text) else str(cell)
    return escape(legible(plain, lines=True)).replace("\n", Markup("<br>"))
