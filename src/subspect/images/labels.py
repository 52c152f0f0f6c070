"""How labels become class indices: by name, by sorted order, by number, or by the user's own map."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import cast

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.files import read_json
from subspect.images.sources import ClassMatch, Images

log = logging.getLogger("subspect")


_SETS = frozenset("train test val valid validation".split())


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
        names: the network's class names, if it has any.
        class_map: a mapping from folder name to class index, or a JSON file with one; "sorted" forces sorted order.

    Raises:
        SubspectError: the network doesn't know a name, the numbers of folders and classes differ and there is no map, or the
            map doesn't fit.
    """
    if names is not None and len(names) != n_classes:
        raise SubspectError(f"{len(names)} class names for a network with {n_classes} classes; give one per class")
    known = tuple(names) if names is not None else None
    if images.classes is None:
        how = "labels are class indices" if images.labelled else "none"
        return ClassMatch(n_classes, None, known or numbered(n_classes), how)
    if class_map is not None and class_map != "sorted":
        return _by_map(images.classes, n_classes, known, class_map)
    if class_map == "sorted":
        return _by_order(images, n_classes, known)
    numbers = images.kind == "CSV" and all(label.removeprefix("-").isdecimal() for label in images.classes)
    if numbers and not (known and set(images.classes) <= set(known)):
        return _by_number(images.classes, n_classes, known)
    if known is not None:
        return _by_name(images, known)
    return _by_order(images, n_classes, known)


def numbered(n_classes: int) -> tuple[str, ...]:
    """Return names for classes that have none."""
    return tuple(f"class {index}" for index in range(n_classes))


def _plain(name: str) -> str:
    """Return a name without its case, underscores and hyphens."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _by_name(images: Images, known: tuple[str, ...]) -> ClassMatch:
    found = cast(tuple[str, ...], images.classes)
    exact, loose = defaultdict(list), defaultdict(list)
    for index, name in enumerate(known):
        exact[name].append(index)
        loose[_plain(name)].append(index)
    places = {name: exact.get(name) or loose.get(_plain(name), []) for name in found}
    unknown = [name for name in found if not places[name]]
    if unknown:
        raise SubspectError(
            f"{len(unknown)} of {len(found)} class folders or labels are not among the network's {len(known)} class "
            f"names: {some([repr(name) + near(name, known) for name in unknown[:5]])}; rename them, pass --class-map FILE "
            "(name → class index), or --class-map sorted if their sorted order is the network's class order"
            f"{_inside(images, unknown)}"
        )
    twice = [name for name in found if len(places[name]) > 1]
    if twice:
        raise SubspectError(f"duplicate class names can't be matched: {some(twice)}; pass a class map")
    index_of = {name: places[name][0] for name in found}
    counts = Counter(index_of.values())
    clash = [name for name in found if counts[index_of[name]] > 1]
    if clash:
        raise SubspectError(f"several class folders stand for the same class: {some(clash)}; pass a class map")
    return ClassMatch(len(known), index_of, known, "by name")


def _by_number(found: tuple[str, ...], n_classes: int, known: tuple[str, ...] | None) -> ClassMatch:
    outside = [label for label in found if not 0 <= Decimal(label) < n_classes]  # of any length, unlike int
    if outside:
        raise SubspectError(
            f"labels {some(map(shortened, outside))} are not class indices of this network: expected 0 to {n_classes - 1}"
        )
    index = {label: int(Decimal(label)) for label in found}
    return ClassMatch(n_classes, index, known or numbered(n_classes), "labels are class indices")


def _by_order(images: Images, n_classes: int, known: tuple[str, ...] | None) -> ClassMatch:
    found = cast(tuple[str, ...], images.classes)
    if len(found) != n_classes:
        raise SubspectError(
            f"{len(found)} class folders or labels ({some(found)}) for a network with {n_classes} classes: expected one per "
            f"class; pass --class-map FILE (name → class index) for some of the classes{_inside(images, found)}"
        )
    if images.kind == "folder" and all(name.casefold() in _SETS for name in found):
        raise SubspectError(
            f"the folders in {images.root} look like image sets, not classes: {some(found)}; pass one of these folders, or a "
            "class map if they are classes"
        )
    if all(name.isdecimal() for name in found) and list(found) != sorted(found, key=Decimal):
        log.warning(
            "class folders are numbers; they are sorted as text (%s), as torchvision does, not by value; pass a class map "
            "if the network counts them by value",
            some(found),
        )
    return ClassMatch(n_classes, {name: index for index, name in enumerate(found)}, known or found, "by sorted order")


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
        raise SubspectError(f"the class map contains indices outside 0 to {n_classes - 1}: {some(wrong)}")
    missing = [name for name in found if name not in given]
    if missing:
        raise SubspectError(
            f"{len(missing)} of the class folders or labels are missing from the class map: {some(map(repr, missing))}; add "
            "them"
        )
    first = {value: name for name, value in reversed(list(given.items()))}
    names = known or tuple(first.get(index, f"class {index}") for index in range(n_classes))
    return ClassMatch(n_classes, {name: given[name] for name in found}, names, "by the class map")
