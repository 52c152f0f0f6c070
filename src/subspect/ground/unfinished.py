"""Names for what is unfinished: nobody else uses them, and what a killed writer left is known by them."""

from __future__ import annotations

import hashlib
import re
import secrets

_PART = re.compile(r"\.subspect-([0-9a-f]{16})([0-9a-f]{8})\.part")


def part_name() -> str:
    """Return a new name for something unfinished: random digits, and digits that follow from them."""
    digits = secrets.token_hex(8)
    return f".subspect-{digits}{_check_digits(digits)}.part"


def is_part(name: str) -> bool:
    """Tell whether a name is one of ours for something unfinished."""
    found = _PART.fullmatch(name)
    return found is not None and found[2] == _check_digits(found[1])


def _check_digits(digits: str) -> str:
    return hashlib.sha256(f"part of subspect {digits}".encode()).hexdigest()[:8]
