"""How a result is shown outside a terminal: a piece of HTML for a notebook, a page by itself, Markdown.

The piece lies in a shadow root, so that neither the style of the page around it nor its own reaches the other. Where a page
lets no script run (a notebook that isn't trusted yet), the tables beside it are what is seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup, escape
from rich.text import Text

from subspect.ground.drawing import COLOURS
from subspect.ground.tables import Table
from subspect.ground.text import legible

_TABLE = (
    "border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums",
    "text-align:left;font-weight:600;padding:.2em 0;white-space:pre-line",
    "text-align:left;caption-side:bottom;max-width:60em;opacity:.75;font-size:.9em;padding:.3em 0;white-space:pre-line",
)
_COLOURS, _DARK = ("; ".join(f"--{name}: {shades[at]}" for name, shades in COLOURS.items()) for at in (0, 1))
#: what all pages have in common; `:host` is a shadow root's element, whose important rules no page outvotes
STYLE = f"""
:root {{ color-scheme: light dark; {_COLOURS}; }}
:host {{ all: initial !important; display: block !important; color-scheme: light dark; {_COLOURS}; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK}; }} :host {{ {_DARK}; }} }}
* {{ box-sizing: border-box; }}
.body {{ font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); padding: .5rem; }}
img {{ max-width: 100%; }}
"""
#: moves what is in the template into the shadow root, and drops what stands in for it; it may run any number of times
_SCRIPT = (
    'for(const h of document.querySelectorAll("div.subspect-result")){const t=h.querySelector(":scope>template");'
    'if(t){h.attachShadow({mode:"open"}).append(t.content);h.replaceChildren()}}'
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_ACTS = re.compile(r"([\\`*_\[\]|~$])")  # in a cell of Markdown


def snippet(body: str, style: str, instead: str) -> str:
    """Return HTML to stand within a page.

    Args:
        body: what is shown.
        style: its CSS, which reaches nothing else.
        instead: plain HTML, seen where a page lets no script run.
    """
    inside = f'<style>{style}</style><div class="body">{body}</div>'
    return f'<div class="subspect-result"><template>{inside}</template>{instead}</div><script>{_SCRIPT}</script>'


def page(title: str, body: str, style: str) -> str:
    """Return an HTML document that needs nothing else, and lets nothing run or be loaded."""
    head = Markup(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="{}"><title>{}</title>'
    ).format(_POLICY, legible(title))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{style}body{{margin:0;background:var(--paper)}}</style></head>'
        f'<body><main class="body">{body}</main></body></html>\n'
    )


def table_html(table: Table) -> str:
    """Return a table as HTML that needs nothing else; its cells are text and nothing else."""
    frame, heading, note = _TABLE
    columns = table.columns
    aligned = [
        f"text-align:{'right' if column.justify == 'right' else 'left'};padding:.15em .6em" for column in columns
    ]
    parts = [Markup('<div style="overflow-x:auto"><table style="{}">').format(frame)]
    if table.caption is not None:
        parts.append(Markup('<caption style="{}">{}</caption>').format(note, _html(table.caption)))
    parts.append(Markup("<thead>"))
    if table.title is not None:
        whole = Markup('<tr><th colspan="{}" style="{}">{}</th></tr>')
        parts.append(whole.format(len(columns), heading, _html(table.title)))
    if table.show_header:
        parts.append(_row("th", [column.header for column in columns], aligned))
    parts.append(Markup("</thead><tbody>"))
    parts += [_row("td", cells, aligned) for cells in zip(*(column.cells for column in columns), strict=True)]
    return str(Markup("").join([*parts, Markup("</tbody></table></div>")]))


def table_markdown(table: Table) -> str:
    """Return a table as Markdown (GitHub's); its cells are text and nothing else."""
    rule = ["---:" if column.justify == "right" else "---" for column in table.columns]
    header = [column.header if table.show_header else "" for column in table.columns]
    rows = [
        [_markdown(cell) for cell in cells] for cells in zip(*(column.cells for column in table.columns), strict=True)
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in ([_markdown(one) for one in header], rule, *rows)]
    title = [f"**{_markdown(table.title)}**", ""] if table.title is not None else []
    caption = ["", _markdown(table.caption)] if table.caption is not None else []
    return "\n".join([*title, *lines, *caption, ""])


def _row(tag: str, cells: Sequence[object], styles: Sequence[str]) -> Markup:
    cell = Markup(f'<{tag} style="{{}}">{{}}</{tag}>')
    return Markup("<tr>{}</tr>").format(
        Markup("").join(cell.format(style, _html(one)) for one, style in zip(cells, styles, strict=True))
    )


def _plain(cell: object) -> str:
    return legible(cell.plain if isinstance(cell, Text) else str(cell), lines=True)


def _html(cell: object) -> Markup:
    return escape(_plain(cell)).replace("\n", Markup("<br>"))


def _markdown(cell: object) -> str:
    said = _ACTS.sub(r"\\\1", _plain(cell)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return said.replace("\n", "<br>")
