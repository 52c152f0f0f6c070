"""What an example is, where there is no picture of it: a text, a link, or both; kept beside its features, and shown.

Both come from outside. A text is kept as far as a page shows it; a link leads to the web and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np

from subspect.ground.errors import SubspectError, shortened, some
from subspect.ground.text import counted, is_text, legible

TEXT = 2_000  #: characters of a text that are kept
LINK = 2_000  #: characters that a link may have


def as_texts(given: object, n: int) -> list[str | None]:
    """Return a text for each of n examples, None for one that has none; their first 2,000 characters.

    Raises:
        SubspectError: there is not one for each, or one is no text.
    """
    texts = _strings(given, n, "texts")
    return [text[:TEXT] if text else None for text in texts]


def as_links(given: object, n: int) -> list[str | None]:
    """Return a link for each of n examples, None for one that has none.

    Raises:
        SubspectError: there is not one for each, or one doesn't lead to the web.
    """
    links = _strings(given, n, "links")
    odd = [f"row {row} ({shortened(link or '')!r})" for row, link in enumerate(links) if link and not is_link(link)]
    if odd:
        raise SubspectError(
            f"{counted(len(odd), 'link is not an address', 'links are not addresses')} of the web: {some(odd, 3)}; a "
            "link begins with https:// or http://, has at "
            f"most {LINK:,} characters, and none of them is a space; leave a row empty that has no link"
        )
    return [link or None for link in links]


def is_link(link: str) -> bool:
    """Tell whether a link leads to the web, and is nothing but a link."""
    if len(link) > LINK or legible(link) != link or any(one.isspace() or one in '<>"\\\\' for one in link):
        return False
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _strings(given: object, n: int, what: str) -> Sequence[str | None]:
    if given is None:
        return []
    listed = None if isinstance(given, str | bytes) or not hasattr(given, "__iter__") else list(given)
    if listed is None or len(listed) != n:
        raise SubspectError(
            f"there must be one of the {what} for each of the {n:,} rows of features; got "
            + (f"{len(listed):,}" if listed is not None else type(given).__name__)
        )
    strings = [None if _missing(one) else one for one in listed]
    odd = next((row for row, one in enumerate(strings) if one is not None and not _is_string(one)), None)
    if odd is not None:
        raise SubspectError(
            f"{what} must be text, one for each row of features, empty or None where there is none; row {odd} is "
            f"{shortened(repr(listed[odd]))}"
        )
    return [None if one is None else str(one) for one in strings]  # NumPy has a text type of its own


def _missing(value: object) -> bool:
    """Tell whether a value stands for none, as pandas writes it too."""
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))


def _is_string(value: object) -> bool:
    return isinstance(value, str) and is_text(value)
