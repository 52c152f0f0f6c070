"""Columns of Arrow tables: which of them can contain images or labels, and the bytes of the image in a cell.

Parquet files and Hugging Face's data sets are such tables. An image is its encoded bytes, or a struct of bytes and path, as
Hugging Face writes it, or a path; names of classes are in the metadata that Hugging Face adds to the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from subspect.ground.errors import SubspectError, Unusable
from subspect.ground.files import parse_json
from subspect.ground.text import counted
from subspect.images.columns import IMAGE_NAMES, Column, RawLabels, image_column, label_column, raw_labels
from subspect.images.decoding import contents
from subspect.images.encoded import check_size
from subspect.images.fence import Fence


@dataclass(frozen=True)
class Chosen:
    """The columns of a table.

    Attributes:
        image: the column of images.
        paths: whether it contains paths.
        label: the column of labels; None if there are none.
        names: the class names that its numbers stand for, if the table says so.
    """

    image: str
    paths: bool
    label: str | None
    names: tuple[str, ...] | None

    def labels(self, values: Sequence[object], where: str) -> RawLabels:
        """Read the values of the column of labels."""
        return RawLabels() if self.label is None else raw_labels(values, self.names, lambda row: f"row {row}", where)


def choose(schema: pa.Schema, image: str | None, label: str | None, where: str) -> Chosen:
    """Choose the columns of images and labels.

    Args:
        schema: of the table.
        image: the name that the user gave for the column of images.
        label: likewise of labels.
        where: the table, for messages.

    Raises:
        SubspectError: there is no column of images, or several of either, or not the one that was named.
    """
    features = _features(schema)
    names = {name: _class_names(features.get(name)) for name in schema.names}
    kinds = {field.name: field.type for field in schema}
    chosen = image_column([Column(name, str(kind), _fits_image(kind)) for name, kind in kinds.items()], image, where)
    known = [
        Column(name, "the images", 0)
        if name == chosen
        else Column(
            name,
            counted(len(names[name] or ()), "class", "classes") if names[name] else str(kind),
            2 * bool(names[name]) or _fits_label(kind),
        )
        for name, kind in kinds.items()
    ]
    labels = label_column(known, label, where)
    return Chosen(chosen, _is_text(kinds[chosen]), labels, names[labels] if labels is not None else None)


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """Return what Hugging Face's metadata say of the columns; nothing if there are none that can be read."""
    try:
        found = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"), "the schema's metadata")
        features = found["info"]["features"]
    except (SubspectError, LookupError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: object) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if len(set(names)) == len(names) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _fits_image(kind: pa.DataType) -> int:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return 2 if position >= 0 and _is_bytes(kind.field(position).type) else 0
    return 2 if _is_bytes(kind) else int(_is_text(kind))


def may_be_images(name: str, kind: pa.DataType) -> bool:
    """Tell whether a column may contain images or paths of images: bytes may, text only under a usual name."""
    fits = _fits_image(kind)
    return fits == 2 or (fits == 1 and name.casefold() in IMAGE_NAMES)


def _fits_label(kind: pa.DataType) -> int:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return int(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind))


def data_of(cell: object, fence: Fence | None, folder: str, where: str) -> bytes:
    """Return the bytes of the image in a cell.

    Args:
        cell: bytes, a path, a struct of both, or None.
        fence: the folder that paths may not lead out of; None for wherever they lead.
        folder: what paths are relative to, itself relative to the fence.
        where: the cell, for messages.

    Raises:
        Unusable: there are no bytes, or too many.
        SubspectError: a path leads outside.
    """
    path = cell.get("path") if isinstance(cell, dict) else cell
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(data, bytes):
        check_size(len(data))
        return data
    if not isinstance(path, str) or not path or "\0" in path:
        raise Unusable("the cell is empty")
    if fence is None:
        return contents(Path(path))
    return contents(fence.root / fence.id(f"{folder}{path}" if not Path(path).is_absolute() else path, where))
