"""One way to show that long work goes on: what is done, how fast, and how long is left; on stderr, never on stdout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    """Units per second, such as ``812 images/s``."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed and speed >= 1 else "", style="cyan")


@contextmanager
def progress(what: str, total: int, unit: str, *, done: int = 0, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; the block gets a function that it calls with each number of finished units.

    Nothing is drawn where stderr is not a terminal, with ``show=False``, or where only warnings are wanted (``--quiet``).
    """
    show = show and logging.getLogger("subspect").level <= logging.INFO
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as bar:
        task = bar.add_task(what, total=total, completed=done, unit=unit)
        yield lambda count: bar.advance(task, count)
        bar.update(task, completed=total)  # an estimate of the steps may have been too large
