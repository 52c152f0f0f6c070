"""Naming cues: those that are built in by their names, one of the user's own as an object, or as code that returns it."""

from __future__ import annotations

from collections.abc import Sequence

from subspect.ground.errors import SubspectError, near, some
from subspect.networks.naming import called_by_name
from subspect.swapping.built_in import CORNERS, CUES
from subspect.swapping.cue import Cue

_GROUPS = {"corner": CORNERS, "all": CUES}


def cues_named(given: Sequence[Cue | str] | Cue | str | None) -> tuple[Cue, ...]:
    """Return cues by their names; all that are built in unless some are given.

    Args:
        given: names, ``corner`` for all four, ``all``, ``python:path/file.py:callable``, which is called, or cues.

    Raises:
        SubspectError: there is none of a name, two have the same, one of the user's own has a built-in one's, or something
            else was given.
    """
    listed = CUES if given is None else [given] if isinstance(given, str | Cue) else list(given)
    found = [cue for one in listed for cue in _meant(one)]
    if not found:
        raise SubspectError(f"no cue was named; leave them out for all, or name some of {_KNOWN}")
    unique = {cue.name: cue for cue in found}
    twice = next((cue.name for cue in found if unique[cue.name] is not cue), None)
    if twice is not None:
        raise SubspectError(f"two cues are called {twice!r}; give one of them another name")
    return tuple(unique.values())


def _meant(one: object) -> Sequence[Cue]:
    if isinstance(one, Cue):
        return [_checked(one)]
    if not isinstance(one, str):
        what = f"the class {one.__name__}: give {one.__name__}()" if isinstance(one, type) else type(one).__name__
        raise SubspectError(f"a cue is the name of one, or a subspect.Cue; got {what}")
    if one.startswith("python:"):
        made = called_by_name(one)
        if not isinstance(made, Cue):
            raise SubspectError(f"{one} must return a subspect.Cue; it returned {type(made).__name__}")
        return [_checked(made)]
    known = {cue.name: (cue,) for cue in CUES} | _GROUPS
    if one not in known:
        raise SubspectError(
            f"no cue {one!r}{near(one, list(known))}; there are {_KNOWN}; corner is all four of them; "
            "python:path/file.py:callable is one of your own"
        )
    return known[one]


def _checked(cue: Cue) -> Cue:
    for name in ("name", "what"):
        value = getattr(cue, name, None)
        if not isinstance(value, str) or not value:
            raise SubspectError(f"the cue {type(cue).__name__} must have a {name}, as text; got {value!r}")
    taken = cue.name in _GROUPS or any(cue.name == one.name and type(cue) is not type(one) for one in CUES)
    if taken:
        raise SubspectError(f"the name {cue.name!r} is taken by a built-in cue; give {type(cue).__name__} another name")
    return cue


_KNOWN = some([cue.name for cue in CUES], len(CUES))
