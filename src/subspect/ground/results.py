"""One protocol for all that a question returns: tables, a data frame, JSON, HTML, Markdown; a figure where there is one.

Computing and showing don't mix: a question returns a frozen dataclass with its figures at full precision, and these ways to
show it are the same for all of them.
"""

from __future__ import annotations

import logging
import tempfile
import webbrowser
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from subspect.ground.errors import MissingExtra
from subspect.ground.showing import STYLE, page, snippet, table_html, table_markdown
from subspect.ground.tables import Table

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("subspect")


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

    def to_html(self) -> str:
        """Return a page that needs nothing else, pictures included."""
        return page(repr(self), *self._shown())

    def to_html_snippet(self) -> str:
        """Return HTML to stand within another page, whose style it neither takes nor changes."""
        return snippet(*self._shown(), self._tables_html())

    def to_markdown(self) -> str:
        """Return the tables as Markdown; names from outside are text in it."""
        return "\n".join(table_markdown(table) for table in self.tables())

    def open_in_browser(self) -> Path:
        """Write `to_html` to a new temporary folder, open it in the browser, if there is one, and return its path."""
        path = Path(tempfile.mkdtemp(prefix="subspect-")) / f"{type(self).__name__.lower()}.html"
        path.write_text(self.to_html(), encoding="utf-8")
        if not webbrowser.open(path.as_uri()):
            log.warning("no browser could be opened; the page is %s", path)
        return path

    def _repr_html_(self) -> str:
        """Return what notebooks show."""
        return self.to_html_snippet()

    def _shown(self) -> tuple[str, str]:
        """Return what a page shows, names from outside escaped, and its CSS."""
        return self._tables_html(), STYLE

    def _tables_html(self) -> str:
        return "".join(table_html(table) for table in self.tables())
