"""Text from outside, made safe to show: names, ids and messages that somebody else wrote.

What would move a terminal's cursor, recolour it or turn the direction of what follows (control characters, ANSI escapes,
Unicode's bidirectional overrides), and halves of surrogate pairs, which no encoding has, are shown as escapes: ``\\x1b``,
``\\u202e``. All else, emoji and every script included, stays as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_UNSAFE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_ESCAPED, _IN_LINE = re.compile(f"[{_UNSAFE}]"), re.compile(f"[{_UNSAFE}\t\n]")


def legible(text: str, *, lines: bool = False) -> str:
    """Return text in which nothing acts on a terminal or a page; line breaks and tabs stay where ``lines`` is set."""
    return (_ESCAPED if lines else _IN_LINE).sub(lambda found: ascii(found[0])[1:-1], text)


def in_line(text: str, most: int) -> str:
    """Return text as one line of at most so many characters: white space becomes spaces, and the end is cut."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def counted(number: int, one: str, more: str) -> str:
    """Return a number with what it counts: "1 class", "1,000 classes"."""
    return f"{number:,} {one if number == 1 else more}"


def is_text(text: str) -> bool:
    """Tell whether a string can be encoded at all: halves of surrogate pairs cannot."""
    return re.search("[\ud800-\udfff]", text) is None


def to_json(value: Any) -> str:
    """Return strict, indented JSON that any terminal bears: NaN and infinity as null, unsafe characters as escapes."""
    text = json.dumps(_finite(value), ensure_ascii=False, indent=1, allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
