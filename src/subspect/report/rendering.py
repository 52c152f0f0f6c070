"""Templates, and how figures and text from outside are written in them."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from subspect.ground.showing import STYLE
from subspect.ground.text import legible
from subspect.measuring.fidelity import nats, percent


@cache
def environment() -> Environment:
    """Return the templates, which escape whatever isn't HTML."""
    made = Environment(
        loader=PackageLoader("subspect.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    made.globals["common"] = Markup(STYLE)
    made.filters["nats"] = nats
    made.filters["percent"] = lambda estimate: percent(estimate).replace(" %", "\u00a0%")
    made.filters["share"] = lambda estimate: percent(estimate).partition(" (")[0].replace(" %", "\u00a0%")
    made.filters["points"] = lambda estimate: f"{100 * estimate.value:.1f}\u00a0%"
    made.filters["interval"] = lambda estimate: "(" + percent(estimate).partition(" (")[2]
    return made


def source(name: str) -> str:
    """Return a file beside the templates as it stands: a script, or a style."""
    made = environment()
    assert made.loader is not None
    return made.loader.get_source(made, name)[0]


def _shown(value: object) -> object:
    """Make text from outside legible; what is HTML already was made of such text."""
    return legible(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value
