"""Names from outside, shown: nothing in them acts on a terminal."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from subspect.ground.tables import Table
from subspect.ground.text import counted, in_line, is_text, legible, to_json

ANY = st.text(st.characters(codec=None))
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(text=ANY)
def test_nothing_acts_on_a_terminal(text: str) -> None:
    shown = legible(text)
    assert all(unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") for one in shown)
    assert not DIRECTIONS & {unicodedata.bidirectional(one) for one in shown}
    assert shown.encode().decode() == shown
    assert legible(shown) == shown


def test_what_is_harmless_stays() -> None:
    for text in ("cat", "犬", "👩‍🔬", "کتاب‌ها", "[/INST]", "$0_to_$10", "a\\x1b"):
        assert legible(text) == text
    assert legible("\x1b[31m\u202ecat\n\ud800") == "\\x1b[31m\\u202ecat\\n\\ud800"
    assert legible("a\n\tb\r", lines=True) == "a\n\tb\\r"


def test_one_thing_is_counted_as_one() -> None:
    assert [counted(number, "class", "classes") for number in (0, 1, 1000)] == ["0 classes", "1 class", "1,000 classes"]


@given(text=ANY)
def test_text_is_what_can_be_encoded(text: str) -> None:
    try:
        text.encode()
        assert is_text(text)
    except UnicodeEncodeError:
        assert not is_text(text)


@given(value=st.dictionaries(ANY, st.lists(ANY | st.integers() | st.floats(allow_nan=False, allow_infinity=False))))
def test_json_says_the_same(value: object) -> None:
    text = to_json(value)
    assert json.loads(text) == value and legible(text, lines=True) == text


def test_json_has_no_nan() -> None:
    value = {"a": float("nan"), "b": [float("inf"), (1.5, -float("inf"))]}
    assert json.loads(to_json(value)) == {"a": None, "b": [None, [1.5, None]]}


@pytest.mark.parametrize("name", ["[/INST]", "[old] cat", ":cat:", "\x1b[31mred", "[bold]", "\\[", "\ud800"])
def test_tables_show_names_as_they_are(name: str) -> None:
    table = Table(name, title=name, caption=name, title_justify="left")
    table.add_column(name)
    table.add_row(name, name)
    table.caption = f"{name}\nmore"
    stream = io.StringIO()
    Console(file=stream, width=100, force_terminal=False).print(table)
    text = stream.getvalue()
    assert text.count(legible(name)) == 6 and "\x1b" not in text and "\nmore" in text.replace(" ", "")
    Console(file=io.StringIO(), width=20, force_terminal=True).print(table)


def test_text_in_a_line() -> None:
    assert in_line(" one\n\n\ttwo  three ", 20) == "one two three"
    assert in_line("one two three", 5) == "one…" and in_line("abcdef", 5) == "abcd…" and in_line("abcde", 5) == "abcde"
