"""What commands print: results to stdout, messages to stderr; text from outside is made legible."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from subspect.ground.errors import SubspectError, as_called
from subspect.ground.tables import Table
from subspect.ground.text import legible, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from subspect.ground.results import Result
    from subspect.job import Job


log = logging.getLogger("subspect")

out, err = (Console(stderr=stderr, emoji=False, markup=False, highlight=False) for stderr in (False, True))


class ToStderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what stderr is at the moment, so that a progress bar can make way for a message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.stream = sys.stderr
        super().emit(record)


class Formatter(logging.Formatter):
    """Marks warnings, and makes text from outside legible."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a message as it is shown."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + legible(record.getMessage())


def show_job(made: Job, as_json: bool, *lines: str) -> None:
    """Print what the main job made."""
    show(made, as_json, *made.fidelity.tables(), as_called(f"report: {made.report}"), *lines)


def let_go_of_stdout() -> None:
    """Keep what could not be written from being tried again, with a traceback, when Python ends."""
    with suppress(OSError, ValueError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)


def said_of(error: Exception) -> str:
    """Return what an error says; of the system's errors, such as a full disk behind stdout, what and where."""
    if isinstance(error, OSError) and not isinstance(error, SubspectError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    return str(error)


def show(made: Result, as_json: bool, *also: Table | str) -> None:
    """Print a result: its JSON, or its tables and what else is shown with them."""
    show_values(made.to_json(), as_json, *made.tables(), *also)


def draw(plot: Callable[[], Figure], path: Path | None) -> None:
    """Draw a figure into a file, if one was named."""
    from subspect.ground.drawing import save_figure

    if path is not None:
        save_figure(plot(), path)
        log.info("figure: %s", path)


def show_values(value: Any, as_json: bool, *shown: Table | str) -> None:
    """Print the JSON, or the tables and lines."""
    if as_json:
        sys.stdout.write(to_json(value) + "\n")
    else:
        for one in shown:
            out.print(legible(one) if isinstance(one, str) else one, soft_wrap=isinstance(one, str))
    sys.stdout.flush()  # here, where a full disk behind it still has an error message
