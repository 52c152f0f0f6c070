"""Shards: the features of some images of a set, as Arrow IPC files that pandas, polars and DuckDB read.

A shard is trusted only after three checks, once per file and process: its bytes have the checksum in the set's manifest (XXH3,
128 bits: on one core as fast as reading from memory, where SHA-256 takes five times as long); Arrow finds it valid; and its
columns, rows, classes and numbers are those that the manifest promises. It is not safe for Arrow to read unchecked bytes, so
nothing is taken from a shard before. A shard of a set that isn't finished has no entry in the manifest yet; it says itself
what its content's checksum is, and which shard of which set it is.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from subspect.ground.errors import SubspectError
from subspect.ground.files import atomic, open_file, parse_json
from subspect.ground.text import counted

_LAYER = "layer:"  # before the name of a layer's column
NOTES = ("text", "link")  #: columns of what an example is, where that is no picture
DIGEST = 16  #: bytes of an image's digest, the SHA-256 of its file cut short
_SHARD_IMAGES, _SHARD_BYTES = 1024, 16 * 2**20  # what a kill loses at most
_MARK = b"ARROW1\0\0"  # what an Arrow file begins with
_U32 = struct.Struct("<I")
_believed: set[tuple[object, ...]] = set()  # shards that were looked at, and how they then were


@dataclass(frozen=True)
class Chunk:
    """Some images of a set, in order.

    Attributes:
        features: (m, d) float32.
        labels: (m,) class indices; the network's own predictions if the set has no labels.
        predictions: (m,) the dense network's top-1 classes.
        ids: the m image ids.
        layers: name → (m, channels) float32 of the layers that were asked for.
        digests: of the m image files, or empty; None where an image wasn't a file.
        texts: of the m examples, or empty; None where one has none.
        links: likewise the addresses at which they are.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    ids: list[str]
    layers: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    digests: list[bytes | None] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    links: list[str | None] = field(default_factory=list)

    def at(self, keep: npt.NDArray[np.bool_]) -> Chunk:
        """Take some of the images."""
        rows = np.flatnonzero(keep).tolist()
        about = ([of[row] for row in rows] if of else [] for of in (self.digests, self.texts, self.links))
        ids = [self.ids[row] for row in rows]
        layers = {name: values[keep] for name, values in self.layers.items()}
        return Chunk(self.features[keep], self.labels[keep], self.predictions[keep], ids, layers, *about)  # type: ignore[arg-type]


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Put some chunks, of the same layers, together in memory."""
    return Chunk(
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate([chunk.labels for chunk in chunks]),
        np.concatenate([chunk.predictions for chunk in chunks]),
        [id for chunk in chunks for id in chunk.ids],
        {name: np.concatenate([chunk.layers[name] for chunk in chunks]) for name in chunks[0].layers},
        [digest for chunk in chunks for digest in chunk.digests],
        [text for chunk in chunks for text in chunk.texts],
        [link for chunk in chunks for link in chunk.links],
    )


@dataclass(frozen=True)
class Entry:
    """What a set's manifest says about one shard.

    Attributes:
        rows: images with features.
        checksum: "xxh3:" and 32 hex digits, of the file's bytes.
    """

    rows: int
    checksum: str


@dataclass(frozen=True)
class Shape:
    """What every shard of a set must be like.

    Attributes:
        n_features: d.
        n_classes: C.
        labelled: whether every image has a label; otherwise none has.
        layers: name → channels of the layers that were watched.
    """

    n_features: int
    n_classes: int
    labelled: bool
    layers: Mapping[str, int]


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"{index:05d}.arrow"


def shard_rows(width: int, batch_size: int) -> int:
    """Return how many images of so many numbers go into a shard, a multiple of the batch size."""
    return max(1, min(_SHARD_IMAGES, _SHARD_BYTES // (4 * width)) // batch_size) * batch_size


def shard_bytes(n_features: int, images: int) -> int:
    """Estimate the bytes on disk of some images: features, label, prediction, digest and an id of about 40 bytes."""
    return images * (4 * n_features + 4 + 4 + DIGEST + 48)


def write_shard(path: Path, chunk: Chunk, failed: Sequence[tuple[str, str]], schema: int, of: str) -> Entry:
    """Write a shard, whole or not at all, replacing an earlier one.

    Args:
        path: the file, in a folder of ours.
        chunk: what to store; labels below 0 are stored as null.
        failed: id and reason for each image of the shard that couldn't be used.
        schema: version of the study's layout.
        of: which shard of which set it is.

    Raises:
        SubspectError: it cannot be written.
    """
    columns = {
        "id": pa.array(chunk.ids, pa.string()),
        "label": pa.array(chunk.labels, pa.int32(), mask=chunk.labels < 0),
        "prediction": pa.array(chunk.predictions, pa.int32()),
        "digest": pa.array(chunk.digests or [None] * len(chunk.ids), pa.binary(DIGEST)),
        "features": _lists(chunk.features),
        **{f"{_LAYER}{name}": _lists(values) for name, values in chunk.layers.items()},
        **{name: pa.array(of, pa.string()) for name, of in zip(NOTES, (chunk.texts, chunk.links), strict=True) if of},
    }
    batch = pa.record_batch(columns)
    about = {"schema": schema, "failed": failed, "of": of, "content": _content(batch, failed)}
    batch = batch.replace_schema_metadata({"subspect": json.dumps(about, ensure_ascii=False)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue()
    with atomic(path, _is_shard) as file:
        file.write(data)
    return Entry(len(chunk.ids), _checksum(data))


def _is_shard(path: Path) -> bool:
    """Tell whether a file is a shard, which is made again."""
    try:
        with open_file(path) as file:
            _opened(_mapped(file), path)
    except (SubspectError, _Damage):
        return False
    return True


def checksum_of(path: Path) -> str:
    """Return the checksum of a file's bytes.

    Raises:
        SubspectError: it cannot be read.
    """
    with open_file(path, "shard") as file, _mapped(file) as data:
        return _checksum(data)


def read_shard(
    path: Path, shape: Shape, entry: Entry | None, of: str, layers: Sequence[str] = ()
) -> tuple[Chunk, list[tuple[str, str]]]:
    """Read a shard; features and layers stay on disk until they are used (memory map).

    Args:
        path: the file.
        shape: what it must be like.
        entry: what the manifest says about it; None in a set that isn't finished, or that was made before subspect kept
            checksums.
        of: which shard of which set it must be.
        layers: which layers to read besides the features.

    Returns:
        Its images, and the id and reason for each image that couldn't be used.

    Raises:
        SubspectError: it is missing or damaged.
    """
    try:
        with open_file(path, "shard") as file:
            found = os.fstat(file.fileno())
            data = _mapped(file)
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, entry, of, repr(shape))
        fresh = key not in _believed
        if fresh and entry is not None and _checksum(data) != entry.checksum:
            raise _Damage("its bytes are not those that were written: their checksum differs")
        batch, said = _opened(data, path)
        if fresh:
            _look(batch, shape, entry)
            if entry is None and "content" in said:
                _look_inside(batch, said, of)
            _believed.add(key)
    except _Damage as error:
        raise SubspectError(
            f"shard {path} is damaged ({error}); delete it and run the same observe command again"
        ) from error
    predictions = batch.column("prediction").to_numpy().astype(np.int64)
    labels = batch.column("label").to_numpy().astype(np.int64) if shape.labelled else predictions
    about = [batch.column(name).to_pylist() if name in batch.schema.names else [] for name in ("digest", *NOTES)]
    columns = {name: _array(batch.column(f"{_LAYER}{name}")) for name in layers}
    ids = batch.column("id").to_pylist()
    return Chunk(_array(batch.column("features")), labels, predictions, ids, columns, *about), said["failed"]


class _Damage(Exception):
    """What is wrong with a shard."""


def _opened(data: mmap.mmap, path: Path) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """Return a shard's columns, and what it says of itself."""
    try:
        schema, batch = _messages(data)
        about = parse_json(schema.metadata[b"subspect"], path)
        return batch, {**about, "failed": [(str(id), str(reason)) for id, reason in about["failed"]]}
    except (
        pa.ArrowException,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        MemoryError,
        struct.error,
        SubspectError,
    ) as error:
        raise _Damage(
            f"Arrow cannot read it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _messages(data: mmap.mmap) -> tuple[pa.Schema, pa.RecordBatch]:
    """Read the schema and the one record batch of an Arrow file, which is a stream of messages between two marks.

    The messages are taken one by one because a batch may be compressed, which no shard is: Arrow would ask for as much memory
    as the file says, and fill it.

    Raises:
        _Damage: it holds something else.
    """
    if data[: len(_MARK)] != _MARK:
        raise _Damage("it doesn't start like an Arrow file")
    messages = list(islice(pa.ipc.MessageReader.open_stream(pa.py_buffer(data).slice(len(_MARK))), 3))
    kinds = [message.type for message in messages]
    if kinds != ["schema", "record batch"]:
        raise _Damage(f"it contains {' and '.join(kinds) or 'nothing'}, expected a schema and one record batch")
    schema = pa.ipc.read_schema(messages[0])
    if not all(name.isprintable() for name in schema.names):  # of bytes that are no text, an error
        raise _Damage("its columns have no readable names")
    if _is_compressed(messages[1].metadata.to_pybytes()):
        raise _Damage("it is compressed")
    return schema, pa.ipc.read_record_batch(messages[1], schema)


def _is_compressed(message: bytes) -> bool:
    """Tell whether a record batch says that it is compressed: Arrow's Message.header, in it RecordBatch.compression."""
    (root,) = _U32.unpack_from(message)
    header = _in_table(message, root, 2)
    return _in_table(message, header + _U32.unpack_from(message, header)[0], 3) != 0


def _in_table(message: bytes, table: int, number: int) -> int:
    """Return where the field of a number lies in a table of FlatBuffers, or 0 where it has none."""
    fields = table - struct.unpack_from("<i", message, table)[0]
    (size,) = struct.unpack_from("<H", message, fields)
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", message, fields + at)[0] if at < size else 0
    return table + offset if offset else 0


def _look(batch: pa.RecordBatch, shape: Shape, entry: Entry | None) -> None:
    """Check that a shard is what its manifest promises.

    Raises:
        _Damage: it isn't.
    """
    widths = {"features": shape.n_features, **{f"{_LAYER}{name}": width for name, width in shape.layers.items()}}
    types = {"id": pa.string(), "label": pa.int32(), "prediction": pa.int32()}
    types |= {"digest": pa.binary(DIGEST)} if "digest" in batch.schema.names else {}
    types |= {name: pa.string() for name in NOTES if name in batch.schema.names}
    types |= {name: pa.list_(pa.float32(), width) for name, width in widths.items()}
    given = {one.name: one.type for one in batch.schema}
    if given != types or len(batch.schema.names) != len(types):
        wrong = sorted(set(given.items()) ^ set(types.items()), key=str)
        raise _Damage(f"its columns are not those of the set: {', '.join(f'{name} ({kind})' for name, kind in wrong)}")
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise _Damage(f"Arrow finds it invalid: {error}") from error
    if entry is not None and batch.num_rows != entry.rows:
        raise _Damage(f"it has {counted(batch.num_rows, 'row', 'rows')}, the manifest says {entry.rows}")
    nulls = {name: batch.column(name).null_count for name in types if name not in ("digest", *NOTES)}
    wanted = 0 if shape.labelled else batch.num_rows
    if nulls.pop("label") != wanted or any(nulls.values()):
        raise _Damage(f"values are missing{'' if shape.labelled else ', or there are labels where none are expected'}")
    for name in ("prediction", "label")[: 1 + shape.labelled]:
        values = batch.column(name).to_numpy()
        if len(values) and not 0 <= values.min() <= values.max() < shape.n_classes:
            raise _Damage(f"a {name} is not a class from 0 to {shape.n_classes - 1}")
    for name in widths:
        if batch.column(name).flatten().null_count or not _finite(_array(batch.column(name))):
            raise _Damage(f"{name} contains NaN, infinite or missing values")


def _look_inside(batch: pa.RecordBatch, about: Mapping[str, Any], of: str) -> None:
    """Check a shard that no manifest knows yet against what it says itself.

    Raises:
        _Damage: it is of another set or place, or not as it was written.
    """
    if about.get("of") != of:
        raise _Damage("it belongs to another place or set")
    if about["content"] != _content(batch, about["failed"]):
        raise _Damage("its content is not what was written: its checksum differs")


def _content(batch: pa.RecordBatch, failed: Sequence[tuple[str, str]]) -> str:
    """Return the checksum of what a shard says, whatever bytes Arrow puts around it."""
    digest = xxhash.xxh3_128(json.dumps([list(pair) for pair in failed]).encode())
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.FixedSizeListArray):
            digest.update(_array(column).data)
        else:
            values = [one.hex() if isinstance(one, bytes) else one for one in column.to_pylist()]
            digest.update(json.dumps([name, values]).encode())
    return f"xxh3:{digest.hexdigest()}"


def _finite(values: npt.NDArray[np.float32]) -> bool:
    """Tell whether all values are finite; a sum of squares, the fastest pass, is finite only then."""
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(flat, flat))) or bool(np.isfinite(flat).all())


def _lists(values: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _array(column: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = column.flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)


def _checksum(data: Any) -> str:
    return f"xxh3:{xxhash.xxh3_128_hexdigest(data)}"


def _mapped(file: BinaryIO) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise _Damage(f"cannot be mapped: {error}") from error
