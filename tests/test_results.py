"""What every answer has in common: tables, a data frame, JSON, and HTML in which names are text."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.text import Text

import subspect
from answers import NAMES, asked
from subspect import MissingExtra, Study, decompose, evaluate
from subspect.ground.showing import table_html
from subspect.ground.tables import Table
from subspect.ground.text import to_json


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with asked(tmp_path_factory.mktemp("notebook")) as answers:
        yield answers


def test_every_answer_speaks_the_same_protocol(told: dict[str, Any]) -> None:
    assert len(told) == 13
    for name, one in told.items():
        assert type(one).__name__ in subspect.__all__, name
        assert one.tables() and all(isinstance(table, Table) for table in one.tables()), name
        frame = one.to_frame()
        assert isinstance(frame, pd.DataFrame) and (len(frame) or name == "verified") and frame.columns.is_unique, name
        assert isinstance(one.to_json(), dict) and to_json(one.to_json()), name
        assert "<b>cat" not in one._repr_html_() and "<table" in one._repr_html_(), name
    plotted = {name for name, one in told.items() if hasattr(one, "plot")}
    drawn = {"decomposition", "fidelity", "explanation", "comparison", "essentiality", "selectivity", "geometry"}
    assert plotted == drawn
    assert all(isinstance(told[name].plot(), Figure) for name in plotted)
    # IPython asks for this where pyplot was never imported, and shows the name of the class if there is none
    assert all(told[name].plot()._repr_png_().startswith(b"\x89PNG") for name in plotted)


def test_frames_hold_the_figures(told: dict[str, Any]) -> None:
    frame = told["fidelity"].to_frame()
    assert frame["class"].isna()[0] and frame["class"].tolist()[1:] == list(NAMES)
    assert frame["images"].tolist() == [45, 15, 15, 15]
    assert frame["fidelity"][0] == told["fidelity"].overall.fidelity.value
    rows = told["decomposition"].to_frame()
    assert rows["feature"].tolist() == told["decomposition"].supports.flat.tolist()
    terms = told["explanation"].to_frame()
    assert np.isclose(terms["contribution"].sum() + told["explanation"].bias, told["explanation"].difference)
    assert told["study"].to_frame()[["set", "rows"]].to_numpy().tolist() == [["train", 90], ["test", 45]]
    lost = told["difference"].to_frame()
    assert lost["images"].sum() == told["difference"].images


def test_cells_are_text() -> None:
    table = Table("<i>head</i>", title="<u>title</u>", caption="a\nb")
    table.add_row("<script>alert(1)</script>\x1b[31m")
    html = table_html(table)
    assert "&lt;script&gt;" in html and "&lt;i&gt;" in html and "&lt;u&gt;" in html and "a<br>b" in html
    assert "\x1b" not in html and "\\x1b[31m" in html


def test_without_pandas(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    fidelity = evaluate(study, decompose(study, 2))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtra,
        match=r"needs the package 'pandas'; install it, .* clone .*: pip install -c constraints.txt '\.\[pandas\]'",
    ):
        fidelity.to_frame()


def test_columns_are_aligned_as_on_the_terminal() -> None:
    table = Table("name", title="what")
    table.add_column("share", justify="right")
    table.add_column("middle", justify="center")  # HTML has left and right alone
    table.add_row("a", "1 %", Text("x\ny"))
    html = table_html(table)
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
    html = table_html(table)
    assert "hidden" not in html and "<th " not in html and "shown" in html and ">a note</caption>" in html
