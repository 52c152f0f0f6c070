"""Drawing by matplotlib: one style of colours, text that is text and nothing else, files in PNG, SVG and PDF."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspect.ground.errors import SubspectError
from subspect.ground.files import check_free, make_folder
from subspect.ground.seals import is_sealed, write_sealed
from subspect.ground.text import legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: name → colour in light and in dark pages; blue and orange of Okabe and Ito (2008), which colour-blind readers tell apart
COLOURS = {
    "ink": ("#16202c", "#e8ecf1"),
    "dim": ("#535d6b", "#a3adba"),
    "line": ("#d5d9e0", "#38414d"),
    "blue": ("#0067a3", "#56b4e9"),
    "orange": ("#a84a00", "#e69f00"),
    "soft": ("#f4f6f9", "#1c232c"),
    "paper": ("#fff", "#12171d"),
}
_TICKS = (1, 2, 3, 5, 8, 12, 20, 32, 64, 128, 256, 512, 1024, 2048)
FORMATS = (".png", ".svg", ".pdf")  #: that a figure of its own is written in


@contextmanager
def drawing() -> Iterator[None]:
    """Draw without LaTeX, whatever a matplotlibrc in the working folder says, and the same bytes in every run."""
    import matplotlib as mpl

    with mpl.rc_context({"text.usetex": False, "svg.hashsalt": "subspect"}):
        yield


def count_axis(axes: Axes, first: float, last: float) -> None:
    """Make the horizontal axis one of counts from a first to a last: logarithmic, with whole numbers at its ticks."""
    axes.set_xscale("log")
    ticks: list[float] = [tick for tick in _TICKS if first <= tick <= 1.02 * last] or [round(first, 1)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file, in the format that its suffix names.

    Raises:
        SubspectError: a suffix that is no format, or a place that cannot be written or holds another's file.
    """
    check_figure(path)
    write_sealed(path, picture_of(figure, path.suffix[1:].lower(), 150))


def picture_of(figure: Figure, form: str, dpi: int) -> bytes:
    """Return a figure as the bytes of a "png", "svg" or "pdf" file, which don't say when they were made."""
    undated: Any = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    with drawing(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # no font has all scripts; such letters become boxes
        figure.savefig(buffer, format=form, dpi=dpi, metadata=undated.get(form))
    return buffer.getvalue()


def check_figure(path: Path | None) -> None:
    """Refuse a file that no figure can be written to, before the work that it is to show.

    Raises:
        SubspectError: a suffix that is no format, a file that is no figure of ours, or a folder that cannot be written to.
    """
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise SubspectError(f"cannot draw into {path}: its suffix must be one of {', '.join(FORMATS)}")
    check_free(path, is_sealed)
    make_folder(path.parent)


def as_label(text: str, most: int = 18) -> str:
    """Return a name from outside as text that matplotlib draws as it is: short, legible, and never parsed as mathematics."""
    return escaped(short(legible(text), most))


def escaped(text: str) -> str:
    r"""Return text whose dollars matplotlib draws, and control characters and halves of surrogates as escapes (``\x1b``)."""
    return legible(text, lines=True).replace("$", r"\$")


def headed(figure: Figure, text: str) -> None:
    """Set a sentence over a figure, in as many lines as it takes."""
    lines = textwrap.wrap(escaped(text), 95)
    figure.suptitle("\n".join(lines), fontsize=9, x=0.01, ha="left")


def short(name: str, most: int = 18) -> str:
    """Cut a long name."""
    return name if len(name) <= most else name[: most - 1] + "…"
