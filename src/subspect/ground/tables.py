"""Tables for the terminal whose cells are text and nothing else: names from outside can't recolour, hide or break them."""

from __future__ import annotations

from typing import Any

from rich import table
from rich.console import RenderableType
from rich.text import Text

from subspect.ground.text import legible


class Table(table.Table):
    """A `rich.table.Table` that shows strings as they are written: no markup, no emoji codes, no control characters.

    Where a cell is to hold more than a line, it is given as `rich.text.Text`.
    """

    def __init__(self, *headers: Any, title: Any = None, caption: Any = None, **kwargs: Any) -> None:
        super().__init__(*headers, title=title, caption=caption, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("title", "caption") and isinstance(value, str):
            value = Text(legible(value, lines=True), style=f"table.{name}")
        super().__setattr__(name, value)

    def add_column(self, header: Any = "", *args: Any, **kwargs: Any) -> None:
        """Add a column."""
        super().add_column(_cell(header), *args, **kwargs)

    def add_row(self, *cells: RenderableType | None, **kwargs: Any) -> None:
        """Add a row."""
        super().add_row(*(_cell(cell) for cell in cells), **kwargs)


def _cell(cell: Any) -> Any:
    return Text(legible(cell)) if isinstance(cell, str) else cell
