"""Tables as HTML: what is shown of them, and how it is aligned."""

from __future__ import annotations

import re

from rich.text import Text

from subspect.ground.results import html_of
from subspect.ground.tables import Table


def test_columns_are_aligned_as_on_the_terminal() -> None:
    table = Table("name", title="what")
    table.add_column("share", justify="right")
    table.add_column("middle", justify="center")  # HTML has left and right alone
    table.add_row("a", "1 %", Text("x\ny"))
    html = html_of(table)
    cells = re.findall(r'<(t[hd]) style="text-align:(\w+);[^"]*">(.*?)</\1>', html)
    assert cells == [
        *(("th", "left", "name"), ("th", "right", "share"), ("th", "left", "middle")),
        *(("td", "left", "a"), ("td", "right", "1 %"), ("td", "left", "x<br>y")),
    ]
    assert re.search(r'<th colspan="3" [^>]*>what</th>', html) and "<caption" not in html


def test_a_table_without_a_header_has_none() -> None:
    table = Table(show_header=False, caption="a note")
    table.add_column("hidden")
    table.add_row("shown")
    html = html_of(table)
    assert "hidden" not in html and "<th " not in html and "shown" in html and ">a note</caption>" in html
