"""What a feature is called: its number, and behind it the name that the user gave it, if any: ``37 · whiskers``.

Whatever shows a feature to a person asks `shown`, or `listed` for several, so that a name stands wherever a number does. Data
keeps the number: JSON says once which of the numbers in it have names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.text import legible

Names = Mapping[int, str]  #: feature index → name, of the features that have one
MOST = 100  #: characters of a name


def shown(feature: int, names: Names) -> str:
    """Return a feature as it is shown."""
    return f"{feature} · {names[feature]}" if feature in names else str(feature)


def listed(features: Iterable[int], names: Names) -> str:
    """Return features in a row; with commas where one has a name, since names may contain spaces."""
    given = list(features)
    return (", " if any(one in names for one in given) else " ").join(shown(one, names) for one in given)


def occurring(features: Iterable[int], names: Names) -> dict[int, str]:
    """Return the names of some features, in the order of their indices."""
    return {one: names[one] for one in sorted(names.keys() & set(features))}


def names_json(names: Names) -> dict[str, str]:
    """Return names as JSON values: index as text → name."""
    return {str(feature): name for feature, name in names.items()}


def columns(feature: int, names: Names) -> dict[str, Any]:
    """Return a feature's cells in a row of a data frame: its index, and its name where any feature has one."""
    return {"feature": feature, **({"feature_name": names.get(feature)} if names else {})}


def feature_index(given: int | str, names: Names, n_features: int) -> int:
    """Return the index of a feature that was given by its index or its name; what looks like a number is an index.

    Raises:
        SubspectError: there is no such feature.
    """
    whole = given.isdecimal() and len(given) < 10 if isinstance(given, str) else hasattr(given, "__index__")
    if not whole:
        found = next((feature for feature, name in names.items() if name == given), None)
        if found is not None:
            return found
    index = int(given) if whole else -1
    if not 0 <= index < n_features:
        known = list(names.values())
        named = f"; {len(known):,} have names: {some(known)}" if known else ""
        raise SubspectError(
            f"no feature {shortened(str(given))!r}{near(given, known)}; the features are 0 to {n_features - 1}{named}"
        )
    return index


def checked(names: Mapping[int, str], n_features: int) -> dict[int, str]:
    """Return names in the order of their features, once each is a feature's and none is given twice.

    Raises:
        SubspectError: a feature there is not, a name that is none, or one that two features have.
    """
    odd = [one for one in names if not isinstance(one, int) or not 0 <= one < n_features]
    if odd:
        raise SubspectError(
            f"there is no feature {some(map(repr, odd), 3)}; names are given to features from 0 to {n_features - 1}"
        )
    wrong = [feature for feature, name in names.items() if not is_name(name)]
    if wrong:
        raise SubspectError(
            f"feature {wrong[0]} cannot be called {shortened(repr(names[wrong[0]]))}: a name must be text of 1 to {MOST} "
            "characters, without control characters, and without spaces at its ends"
        )
    first: dict[str, int] = {}
    for feature, name in sorted(names.items()):
        if name in first:
            raise SubspectError(
                f"features {first[name]} and {feature} would both be called {name!r}; give each a name of its own"
            )
        first[name] = feature
    return {feature: name for name, feature in first.items()}


def is_name(name: object) -> bool:
    """Tell whether a feature can be called so."""
    return isinstance(name, str) and 0 < len(name) <= MOST and name == name.strip() and legible(name) == name


def check_no_number(names: Mapping[Any, object]) -> None:
    """Refuse to call a feature by a bare number, which couldn't be told from an index; tables and vectorizers may.

    Raises:
        SubspectError: a name is a number.
    """
    wrong = next(((one, name) for one, name in names.items() if isinstance(name, str) and name.isdecimal()), None)
    if wrong is not None:
        raise SubspectError(
            f"feature {shortened(str(wrong[0]))} cannot be called {shortened(repr(wrong[1]))}: a bare number is taken as a "
            "feature's index; add a word to it"
        )


def names_in(columns: Sequence[str]) -> dict[int, str]:
    """Return the names that a table's columns give features; none where a column is called by its number, or unfit."""
    return {place: name for place, name in enumerate(columns) if is_name(name) and name != str(place)}
