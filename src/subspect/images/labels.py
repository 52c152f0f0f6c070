"""How labels become class indices: by name, by parts of the name, by order, by number, or by the user's own map.

A name such as ``0217_n02102040_English_springer`` can be read in several ways: by its WordNet id, by what is left of it without
number and id, by its leading number. The first way that tells every name's class is taken; if another way says that one of
them is of another class, nothing is guessed.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import cast

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.files import read_json
from subspect.ground.text import counted
from subspect.images import imagenet
from subspect.images.imagenet import WORDNET_ID, plain
from subspect.images.sources import ClassMatch, Images

log = logging.getLogger("subspect")


_SETS = frozenset("train test val valid validation".split())
_NUMBER = re.compile(r"(\d+)(?:[ ._-]+|$)")
_NO_CLASS = -1


def match_classes(
    images: Images,
    n_classes: int,
    names: Sequence[str] | None = None,
    class_map: Mapping[str, int] | str | Path | None = None,
) -> ClassMatch:
    """Match the names used as labels to the network's classes.

    Args:
        images: the source; class indices need no matching.
        n_classes: number of classes of the network.
        names: the network's class names, if it has any; `numbered` ones count as none.
        class_map: a mapping from folder name to class index, or a JSON file with one; "sorted" forces their order,
            sorted or the data set's own.

    Raises:
        SubspectError: the network doesn't know a name, the numbers of folders and classes differ and there is no map, a name
            can be read as two classes, or the map doesn't fit.
    """
    if names is not None and len(names) != n_classes:
        two = "; one logit is two classes: give two names, first that of a negative logit"
        raise SubspectError(
            f"{counted(len(names), 'class name', 'class names')} for a network with {n_classes} classes; give one per class"
            f"{two if (len(names), n_classes) == (1, 2) else ''}"
        )
    known = None if names is None or tuple(names) == numbered(n_classes) else tuple(names)
    match = _match(images, n_classes, known, class_map)
    return replace(match, names=imagenet.in_words(match.names))


def _match(
    images: Images, n_classes: int, known: tuple[str, ...] | None, class_map: Mapping[str, int] | str | Path | None
) -> ClassMatch:
    found = images.classes
    if found is None:
        how = "class indices" if images.labelled else "none"
        return ClassMatch(n_classes, None, known or numbered(n_classes), how)
    if class_map is not None and class_map != "sorted":
        return _by_map(found, n_classes, known, class_map)
    if class_map == "sorted":
        return _by_order(images, n_classes, known)
    numbers = images.kind == "CSV" and all(label.removeprefix("-").isdecimal() for label in found)
    if numbers and not (known and set(found) <= set(known)):
        return _by_number(found, n_classes, known)
    if known is not None and all(_places(found, known).values()):
        return _by_name(images, known)
    if (match := _by_parts(found, n_classes, known)) is not None:
        return match
    return _by_order(images, n_classes, known) if known is None else _by_name(images, known)


def numbered(n_classes: int) -> tuple[str, ...]:
    """Return names for classes that have none."""
    return tuple(f"class {index}" for index in range(n_classes))


def _places(found: Iterable[str], known: Sequence[str]) -> dict[str, list[int]]:
    """Return for each name the classes that it may stand for: of that very name, or nearly, or with it among their synonyms."""
    exact, loose, synonyms = defaultdict(list), defaultdict(list), defaultdict(list)
    for index, name in enumerate(known):
        exact[name].append(index)
        loose[plain(name)].append(index)
        for one in {plain(one) for one in name.split(",")}:
            synonyms[one].append(index)
    return {
        name: exact.get(name) or loose.get(plain(name)) or synonyms.get(plain(name), []) if plain(name) else []
        for name in found
    }


def _by_name(images: Images, known: tuple[str, ...]) -> ClassMatch:
    found = cast(tuple[str, ...], images.classes)
    places = _places(found, known)
    unknown = [name for name in found if not places[name]]
    if unknown:
        raise SubspectError(
            f"{len(unknown)} of {len(found)} class folders or labels are not among the network's {len(known)} class "
            f"names: {some([repr(name) + near(name, known) for name in unknown[:5]])}; rename them, pass --class-map FILE "
            f"(name → class index), or --class-map sorted if their order ({_order(found)}) is the network's class order"
            f"{_inside(images, unknown)}"
        )
    twice = [name for name in found if len(places[name]) > 1]
    if twice:
        raise SubspectError(f"duplicate class names can't be matched: {some(twice)}; pass a class map")
    index = {name: places[name][0] for name in found}
    _check_distinct(index)
    return ClassMatch(len(known), index, known, "by name")


def _check_distinct(index: Mapping[str, int]) -> None:
    counts = Counter(index.values())
    clash = [name for name, place in index.items() if counts[place] > 1]
    if clash:
        raise SubspectError(f"several class folders stand for the same class: {some(clash)}; pass a class map")


def _by_parts(found: tuple[str, ...], n_classes: int, known: tuple[str, ...] | None) -> ClassMatch | None:
    """Match by what the names contain; None where no part tells every name's class.

    Raises:
        SubspectError: two parts of a name tell different classes, or two names the same.
    """
    ids = imagenet.places(n_classes, known)
    by_id, order = _ids(found, ids, n_classes), known is None and len(found) == n_classes
    by_order = f"by {_order(found)}"
    readings = {
        "by WordNet id": by_id,
        "by WordNet id or name": _rests(found, known) | {name: place for name, place in by_id.items() if place >= 0},
        by_order: {name: index for index, name in enumerate(found)} if order else {},
        "by leading number": _numbers(found, n_classes),
    }
    whole = (one for one in readings.items() if all(one[1].get(name, _NO_CLASS) >= 0 for name in found))
    how, index = next(whole, (by_order, {}))
    if how == by_order:
        return None
    unnamed = known is None and how == "by WordNet id"
    names = tuple(imagenet.classes().values()) if unnamed else known or _named_by(index, n_classes)
    for other, reading in readings.items():
        _check_agree((how, index), (other, reading), names)
    _check_distinct(index)
    taken = f"; the network's {n_classes:,} classes have no names and are taken to be ImageNet's" if unnamed else ""
    return ClassMatch(n_classes, index, names, how + taken)


def _ids(found: Iterable[str], ids: Mapping[str, int], n_classes: int) -> dict[str, int]:
    """Return the classes of those names that contain one WordNet id, as far as the ids of the network's classes are known."""
    held = {name: WORDNET_ID.findall(name) for name in found}
    places = {name: ids.get(one[0], _NO_CLASS) for name, one in held.items() if len(one) == 1}
    return {name: place for name, place in places.items() if place >= 0 or len(ids) == n_classes}


def _rests(found: Iterable[str], known: tuple[str, ...] | None) -> dict[str, int]:
    """Return the classes of those names that are a class name once number and WordNet id are gone."""
    rests = {name: _rest(name) for name in found}
    places = _places(rests.values(), known or ())
    return {name: places[rest][0] for name, rest in rests.items() if len(places[rest]) == 1}


def _rest(name: str) -> str:
    return WORDNET_ID.sub("", _NUMBER.sub("", name, count=1) if _NUMBER.match(name) else name).strip(" ._-")


def _numbers(found: Iterable[str], n_classes: int) -> dict[str, int]:
    """Return the classes of names that all begin with a class index, padded with zeros to the width of the last index."""
    heads = {name: match[1] for name in found if (match := _NUMBER.match(name)) and match[1].isascii()}
    widths = {len(head) for head in heads.values()}
    if len(heads) < len(tuple(found)) or len(widths) > 1 or max(widths) < len(str(n_classes - 1)):
        return {}
    index = {name: int(Decimal(head)) for name, head in heads.items() if Decimal(head) < n_classes}
    return index if len(set(index.values())) == len(heads) else {}


def _named_by(index: Mapping[str, int], n_classes: int) -> tuple[str, ...]:
    """Name classes by the folders' names, without what is no name in them."""
    names = {place: _rest(name) or name for name, place in index.items()}
    return tuple(names.get(place, f"class {place}") for place in range(n_classes))


def _check_agree(
    taken: tuple[str, Mapping[str, int]], other: tuple[str, Mapping[str, int]], names: Sequence[str]
) -> None:
    apart = [name for name, place in taken[1].items() if other[1].get(name, place) != place]
    if apart:
        first, second = (_told(how, reading[apart[0]], names) for how, reading in (taken, other))
        raise SubspectError(
            f"{len(apart)} of {len(taken[1])} class folders or labels can be read as two classes: {shortened(apart[0])!r} is "
            f"{first}, but {second}; pass --class-map FILE (name → class index), or --class-map sorted if their order "
            "is the network's class order"
        )


def _told(how: str, place: int, names: Sequence[str]) -> str:
    return f"none of the network's classes {how}" if place < 0 else f"class {place} ({shortened(names[place])}) {how}"


def _by_number(found: tuple[str, ...], n_classes: int, known: tuple[str, ...] | None) -> ClassMatch:
    outside = [label for label in found if not 0 <= Decimal(label) < n_classes]  # of any length, unlike int
    if outside:
        raise SubspectError(
            f"labels {some(map(shortened, outside))} are not class indices of this network: expected 0 to {n_classes - 1}"
        )
    index = {label: int(Decimal(label)) for label in found}
    return ClassMatch(n_classes, index, known or numbered(n_classes), "class indices")


def _by_order(images: Images, n_classes: int, known: tuple[str, ...] | None) -> ClassMatch:
    found = cast(tuple[str, ...], images.classes)
    if len(found) != n_classes:
        raise SubspectError(
            f"{counted(len(found), 'class folder or label', 'class folders or labels')} ({some(found)}) for a network "
            f"with {n_classes} classes: expected one per "
            f"class; pass --class-map FILE (name → class index) for some of the classes{_inside(images, found)}"
        )
    if images.kind == "folder" and all(name.casefold() in _SETS for name in found):
        raise SubspectError(
            f"the folders in {images.root} look like image sets, not classes: {some(found)}; pass one of these folders, or a "
            "class map if they are classes"
        )
    if all(name.isdecimal() for name in found) and list(found) == sorted(found) != sorted(found, key=Decimal):
        log.warning(
            "class folders are numbers; they are sorted as text (%s), as torchvision does, not by value; pass a class map "
            "if the network counts them by value",
            some(found),
        )
    return ClassMatch(
        n_classes, {name: index for index, name in enumerate(found)}, known or found, f"by {_order(found)}"
    )


def _order(found: Sequence[str]) -> str:
    """Name the order that names come in: sorted, unless the data set numbers them otherwise."""
    return "sorted order" if list(found) == sorted(found) else "the data set's order"


def _inside(images: Images, names: Sequence[str]) -> str:
    """Return a hint where the folder given holds image sets rather than classes, or nothing."""
    sets = [name for name in names if images.kind == "folder" and name.casefold() in _SETS]
    return f"; did you mean a folder inside it, such as {images.root}/{sets[0]}?" if sets else ""


def _by_map(
    found: tuple[str, ...], n_classes: int, known: tuple[str, ...] | None, class_map: Mapping[str, int] | str | Path
) -> ClassMatch:
    given = class_map if isinstance(class_map, Mapping) else read_json(Path(class_map), "the class map")
    if not isinstance(given, Mapping) or not all(type(value) is int for value in given.values()):
        raise SubspectError(
            f'a class map must be a JSON object of folder name → class index, such as {{"cat": 3}}; got '
            f"{shortened(str(class_map))}"
        )
    wrong = [
        f"{shortened(name)} → {value if abs(value) < 2**63 else 'a huge number'}"
        for name, value in given.items()
        if not 0 <= value < n_classes
    ]
    if wrong:
        raise SubspectError(
            f"the class map contains indices outside 0 to {n_classes - 1}: {some(wrong)}; give each class "
            "its row of the head, counted from 0"
        )
    missing = [name for name in found if name not in given]
    if missing:
        raise SubspectError(
            f"{len(missing)} of the class folders or labels {'is' if len(missing) == 1 else 'are'} missing from the class map: "
            f"{some(map(repr, missing))}; add {'it' if len(missing) == 1 else 'them'}"
        )
    first = {value: name for name, value in reversed(list(given.items()))}
    names = known or tuple(first.get(index, f"class {index}") for index in range(n_classes))
    return ClassMatch(n_classes, {name: given[name] for name in found}, names, "by the class map")
