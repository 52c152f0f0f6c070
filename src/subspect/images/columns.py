"""Which column of a table contains the images, and which the labels: named by the user, or found by type and usual name.

A choice is made only where there is one: of two columns that would do, both are listed, and the user names one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.text import counted
from subspect.images.sources import what_labels_are

log = logging.getLogger("subspect")

IMAGE_NAMES = frozenset(
    "image images img imgs picture photo pixel pixels jpg jpeg png webp path file file_name file_path filename filepath".split()
)  #: what columns of images, or of paths to them, are usually called
LABEL_NAMES = frozenset(
    "label labels fine_label coarse_label cls class class_id target targets y category".split()
)  #: what columns of labels are usually called
NO_COLUMN = "none"  #: what a user writes for "there are labels, but take none"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: what it is called.
        contents: its type in words, for messages.
        fits: 2 if its type says that it contains what is looked for, 1 if its name must say so too, 0 if it cannot.
    """

    name: str
    contents: str
    fits: int


def image_column(columns: Sequence[Column], asked: str | None, where: str) -> str:
    """Return the name of the column that contains the images.

    Args:
        columns: all that there are.
        asked: the name that the user gave.
        where: the table, for messages.

    Raises:
        SubspectError: there is none, there are several, or the one asked for doesn't exist or contains something else.
    """
    found = _found(columns, asked, IMAGE_NAMES, "images", "--image-column (image_column=)", where)
    if found is None:
        raise SubspectError(
            f"no images in {where}: its columns are {listed(columns)}; expected one of encoded images (their bytes), or of "
            "paths; name it with --image-column (image_column=)"
        )
    return found


def label_column(columns: Sequence[Column], asked: str | None, where: str) -> str | None:
    """Return the name of the column that contains the labels; None if there is none, or "none" was asked for.

    Raises:
        SubspectError: there are several, or the one asked for doesn't exist or contains something else.
    """
    if asked == NO_COLUMN and all(column.name != NO_COLUMN for column in columns):
        return None
    option = f"--label-column (label_column=), or {NO_COLUMN!r} for no labels"
    found = _found(columns, asked, LABEL_NAMES, "labels", option, where)
    others = [column for column in columns if column.fits]
    if found is None and others:
        log.warning(
            "labels: no column of %s is called as labels usually are; if one holds them, name it by --label-column "
            "(label_column=): %s",
            where,
            listed(others),
        )
    return found


def _found(
    columns: Sequence[Column], asked: str | None, usual: frozenset[str], what: str, option: str, where: str
) -> str | None:
    if asked is not None:
        return _named(columns, asked, what, option, where)
    suitable = [column for column in columns if column.fits == 2]
    suitable = suitable or [column for column in columns if column.fits and column.name.casefold() in usual]
    called = [column for column in suitable if column.name.casefold() in usual]
    if len(called or suitable) > 1:
        raise SubspectError(
            f"{where} has several columns of {what}: {listed(called or suitable)}; name one with {option}"
        )
    return (called or suitable)[0].name if suitable else None


def _named(columns: Sequence[Column], asked: str, what: str, option: str, where: str) -> str:
    found = [column for column in columns if column.name == asked]
    if not found:
        names = [column.name for column in columns]
        raise SubspectError(
            f"{where} has no column {shortened(asked)!r}{near(asked, names)}; its columns are {listed(columns)}; "
            f"name one with {option}"
        )
    if not found[0].fits:
        raise SubspectError(
            f"the column {shortened(asked)!r} of {where} contains {found[0].contents}, not {what}; its columns are "
            f"{listed(columns)}; name one with {option}"
        )
    return asked


def listed(columns: Sequence[Column]) -> str:
    """List columns in a sentence."""
    return some([f"{shortened(column.name)} ({shortened(column.contents)})" for column in columns], 20) or "none"


@dataclass(frozen=True)
class RawLabels:
    """The labels of a source.

    Attributes:
        raw: a class index or a class name for each image; None if there are no labels.
        classes: the names in their order; None if labels are class indices.
    """

    raw: Sequence[int] | Sequence[str] | None = None
    classes: tuple[str, ...] | None = None


def raw_labels(
    values: Sequence[object], names: Sequence[str] | None, id: Callable[[int], str], where: str
) -> RawLabels:
    """Read a column of labels: whole numbers are class indices, or places in a list of names; text is a name.

    Args:
        values: a label for each image.
        names: what the numbers stand for, if the table says so.
        id: position → the image's id, for messages.
        where: the table, for messages.

    Returns:
        The labels; none if every value is None, or with names −1, which stands for "unknown".

    Raises:
        SubspectError: only some images have a label, or one is outside the names, or neither a number nor text.
    """
    unknown = (None, -1) if names is not None else (None,)
    blank = [index for index, value in enumerate(values) if value in unknown]
    if len(blank) == len(values):
        return RawLabels()
    if blank:
        raise SubspectError(
            f"{where} has no label for {len(blank):,} of {len(values):,} images ({some(map(id, blank), 3)}); label every "
            "image, or take no labels: --label-column none"
        )
    first = type(values[0])
    odd = next(
        (row for row, one in enumerate(values) if not isinstance(one, int | str) or type(one) is not first), None
    )
    if odd is not None:
        raise SubspectError(
            f"label {shortened(repr(values[odd]))} of {id(odd)} in {where} is not a label: expected a class index (a whole "
            f"number) or a class name for each image{what_labels_are(values[odd])}"
        )
    if isinstance(values[0], str):
        return _of_text([str(value) for value in values])
    numbers = [int(value) for value in values if isinstance(value, int)]
    return RawLabels(numbers) if names is None else _of_places(numbers, tuple(names), id, where)


def _of_text(values: list[str]) -> RawLabels:
    found = set(values)
    if all(value.isascii() and value.isdecimal() and len(value) < 10 for value in found):
        return RawLabels([int(value) for value in values])
    return RawLabels(values, tuple(sorted(found)))


def _of_places(numbers: list[int], names: tuple[str, ...], id: Callable[[int], str], where: str) -> RawLabels:
    outside = [index for index, number in enumerate(numbers) if not 0 <= number < len(names)]
    if outside:
        listed = some([f"{numbers[index]} of {id(index)}" for index in outside], 3)
        raise SubspectError(
            f"{counted(len(outside), 'label', 'labels')} in {where} {'is' if len(outside) == 1 else 'are'} outside its "
            f"{counted(len(names), 'class name', 'class names')}: {listed}; expected 0 to "
            f"{len(names) - 1}"
        )
    return RawLabels([names[number] for number in numbers], names)
