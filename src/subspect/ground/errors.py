"""The one error that subspect raises for what a user can put right.

Its message says what was given, what was expected, and what to do. Anything else that surfaces is a bug of ours.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

_called: dict[str, str] = {}  # folders → the addresses that they are copies of


def call(folder: str, address: str) -> None:
    """Have messages call a folder by the address that it is a copy of."""
    _called[folder] = address


def as_called(text: str) -> str:
    """Return text in which folders that are copies go by their addresses."""
    for folder, address in _called.items():
        text = text.replace(folder, address)
    return text


class SubspectError(Exception):
    """Something that the user gave cannot be used; the message says what, why, and what to do.

    Example:
        >>> try:
        ...     decomposition.compare("cat", "unicorn")
        ... except subspect.SubspectError as error:
        ...     print(error)
        no class 'unicorn'; the network has 4: bird, cat, dog, horse, or 0 to 3
    """

    def __str__(self) -> str:
        return as_called(super().__str__())


@contextmanager
def advice(what: str) -> Iterator[None]:
    """Add to an error of ours that comes out of the block what to do about it."""
    try:
        yield
    except SubspectError as error:
        raise SubspectError(f"{error}; {what}") from error


class MissingExtra(SubspectError, ImportError):
    """An optional package is needed; the message names the extra that brings it, from the clone that subspect came from.

    Example:
        >>> try:
        ...     frame = decomposition.evaluate().to_frame()
        ... except subspect.MissingExtra as error:
        ...     print(error)  # says which extra brings pandas
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; install it, in the clone of subspect, with: "
            f"pip install -c constraints.txt '.[{extra}]'"
        )


class Unusable(Exception):
    """One image cannot be used; the run goes on without it and lists it with this reason."""


class NoPicture(Unusable):
    """What a network gets is no picture that one could look at; the network can use it all the same."""


def some(items: Iterable[object], most: int = 5) -> str:
    """List items in a sentence: the first few, then how many more there are."""
    listed = [str(item) for item in items]
    more = f", … ({len(listed) - most} more)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def near(word: object, known: Sequence[str]) -> str:
    """Return ``" (did you mean …?)"`` for the known words closest to a mistyped one, or that contain it, or nothing."""
    word = str(word)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    within = re.compile(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", re.IGNORECASE)  # as a whole word
    close = close or [one for one in known if word and within.search(one)][:3]
    *most, last = map(repr, close or [""])
    return f" (did you mean {', '.join(most)}{' or ' if most else ''}{last}?)" if close else ""


def shortened(text: str, most: int = 100) -> str:
    """Cut text of the user's that may be of any length, for a message."""
    return text if len(text) <= most else text[:most] + "…"
