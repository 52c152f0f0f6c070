"""A study: a folder that holds one network's features on named image sets, and all that was computed from them.

::

    study/
      study.json                     which network, which preprocessing, which classes
      head.safetensors               the dense head: weight (C, d), bias (C,)
      sets/train/set.json            which images, how they are cut into batches and shards, what failed
      sets/train/00000.arrow …       features, labels, predictions and ids (Arrow IPC; pandas, polars, DuckDB read them)
      decompositions/NAME.safetensors
      report.html

Every file appears whole or not at all. What doesn't belong (another network, preprocessing or list of images) is
refused, and a lock keeps a second writer out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors.torch import load_file, save

from subspect.errors import SubspectError, near, some
from subspect.files import atomic, locked, read_json, sweep
from subspect.seals import write_json

SCHEMA = 1  #: version of the folder's layout; a newer one is refused
Part = Literal["all", "80 %", "20 %"]  #: which images of a set: all, or a split by a hash of the image id
_SPLIT = 0.8
_SAME = ("weights", "preprocessing", "images", "fingerprint", "labelled", "batch_size", "layers", "shard_size")
_LAYER = "layer:"  # before the name of a layer's column
T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """What makes results belong together.

    Attributes:
        network: what the network is called; shown, never imported.
        weights: fingerprint of its weights.
        head: the head's module name.
        n_classes: number of classes C.
        n_features: number of features d.
        class_names: a name for each class.
        preprocessing: what was done to the images.
    """

    network: str
    weights: str
    head: str
    n_classes: int
    n_features: int
    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]


@dataclass(frozen=True)
class SetManifest:
    """Which images an image set holds, and how they are cut.

    Attributes:
        weights: fingerprint of the network's weights.
        preprocessing: what was done to the images.
        kind: "folder", "flat folder", "CSV", "arrays" or "dataset".
        root: the folder that ids are relative to, for files.
        images: number of images in the source.
        fingerprint: of the list of images and labels.
        labelled: whether they have labels.
        matching: how labels became class indices.
        batch_size: images in a batch of the network.
        shard_size: images in a shard, a multiple of ``batch_size``.
        layers: name → channels of the layers that were watched besides the features.
        complete: whether every shard is there.
        rows: images with features, once complete.
        failed: id and reason of each image that could not be used, once complete.
    """

    weights: str
    preprocessing: Mapping[str, Any]
    kind: str
    root: str | None
    images: int
    fingerprint: str
    labelled: bool
    matching: str
    batch_size: int
    shard_size: int
    layers: Mapping[str, int] = field(default_factory=dict)
    complete: bool = False
    rows: int = 0
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def n_shards(self) -> int:
        """Number of shards of the whole set."""
        return -(-self.images // self.shard_size)


@dataclass(frozen=True)
class Chunk:
    """Some images of a set, in order.

    Attributes:
        features: (m, d) float32.
        labels: (m,) class indices; the network's own predictions where the set has no labels.
        predictions: (m,) the dense network's top-1 classes.
        ids: the m image ids.
        layers: name → (m, channels) float32 of the layers that were asked for.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    ids: list[str]
    layers: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def at(self, keep: npt.NDArray[np.bool_]) -> Chunk:
        """Take some of the images."""
        ids = [id for id, kept in zip(self.ids, keep, strict=True) if kept]
        layers = {name: values[keep] for name, values in self.layers.items()}
        return Chunk(self.features[keep], self.labels[keep], self.predictions[keep], ids, layers)


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Put some chunks, of the same layers, together in memory."""
    return Chunk(
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate([chunk.labels for chunk in chunks]),
        np.concatenate([chunk.predictions for chunk in chunks]),
        [id for chunk in chunks for id in chunk.ids],
        {name: np.concatenate([chunk.layers[name] for chunk in chunks]) for name in chunks[0].layers},
    )


class ImageSet:
    """One named image set of a study, observed to its end."""

    def __init__(self, name: str, folder: Path, manifest: SetManifest) -> None:
        self.name, self.folder, self.manifest = name, folder, manifest

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def labelled(self) -> bool:
        """Whether the images have labels; else the network's own predictions stand in for them."""
        return self.manifest.labelled

    def chunks(self, part: Part = "all", layers: Sequence[str] = ()) -> Iterator[Chunk]:
        """Go through the stored images once, a shard at a time, memory-mapped.

        Args:
            part: which images.
            layers: which of the layers that were watched to read besides the features.

        Raises:
            SubspectError: a shard is missing or damaged.
        """
        for index in range(self.manifest.n_shards):
            chunk = read_shard(self.folder / shard_name(index), layers)
            yield chunk if part == "all" else chunk.at(in_part(chunk.ids, part))

    def whole(self, part: Part = "all") -> Chunk:
        """Return the stored images, or a part of them, in memory at once.

        Raises:
            SubspectError: a shard is missing or damaged.
        """
        return joined(list(self.chunks(part)))


class Study:
    """A study folder, opened. ``study["train"]`` is an image set."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path, self.identity = path, identity

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Open an existing study.

        Raises:
            SubspectError: there is none, or a newer version of subspect wrote it.
        """
        path = Path(path)
        if not (path / "study.json").is_file():
            raise SubspectError(f"no study in {path}: it has no study.json; make one with: subspect observe")
        manifest = _versioned(path / "study.json")
        manifest["class_names"] = tuple(manifest["class_names"])
        return cls(path, _load(Identity, manifest, path / "study.json"))

    @classmethod
    def create(cls, path: str | Path, identity: Identity, weight: torch.Tensor, bias: torch.Tensor) -> Study:
        """Open the study at a path, or make it; the caller holds its `lock`.

        Args:
            path: the folder.
            identity: what the study is about.
            weight: (C, d) float32, the dense head's weight.
            bias: (C,) float32.

        Raises:
            SubspectError: the study there is about another network or preprocessing.
        """
        path = Path(path)
        if (path / "study.json").exists():
            study = cls.open(path)
            _refuse_other(study, identity)
            return study
        with atomic(path / "head.safetensors") as file:
            file.write(save({"weight": weight.contiguous(), "bias": bias.contiguous()}))
        write_json(path / "study.json", {"schema": SCHEMA, **asdict(identity)})
        return cls(path, identity)

    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the dense head's weight (C, d) and bias (C,), float32."""
        tensors = load_file(self.path / "head.safetensors")
        return tensors["weight"], tensors["bias"]

    @property
    def set_names(self) -> list[str]:
        """Names of the image sets observed to their end, in the order "train" first, then by name."""
        found = [path.parent.name for path in (self.path / "sets").glob("*/set.json")]
        return sorted(
            (name for name in found if self._manifest(name).complete), key=lambda name: (name != "train", name)
        )

    @property
    def unfinished(self) -> list[str]:
        """Names of the image sets that were begun and not observed to their end."""
        found = sorted(path.parent.name for path in (self.path / "sets").glob("*/set.json"))
        return [name for name in found if not self._manifest(name).complete]

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}: {self.identity.network}, image sets {', '.join(self.set_names) or 'none'})"

    def to_json(self) -> dict[str, Any]:
        """Return what the study is about and its image sets as JSON values."""
        sets = {name: asdict(self[name].manifest) for name in self.set_names}
        return {"path": str(self.path), **asdict(self.identity), "sets": sets, "unfinished": self.unfinished}

    def __getitem__(self, name: str) -> ImageSet:
        """Return an image set.

        Raises:
            SubspectError: there is none of that name, or it isn't finished.
        """
        folder = self.path / "sets" / name
        if not (folder / "set.json").is_file():
            known = self.set_names
            raise SubspectError(
                f"no image set {name!r} in {self.path}{near(name, known)}; it has: {some(known) or 'none'}"
            )
        manifest = self._manifest(name)
        if not manifest.complete:
            raise SubspectError(
                f"image set {name!r} in {self.path} is unfinished: {len(shards_done(folder))} of {manifest.n_shards} shards; "
                "run the same observe command again to go on"
            )
        return ImageSet(name, folder, manifest)

    def begin(self, name: str, manifest: SetManifest) -> SetManifest:
        """Start an image set or go on with it, and return its manifest as it stands.

        Raises:
            SubspectError: an image set of that name holds other images or is cut otherwise.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise SubspectError(f"image set name {name!r} must be letters, digits, '_', '.' and '-', such as 'train'")
        folder = self.path / "sets" / name
        if (folder / "set.json").is_file():
            stored = self._manifest(name)
            if all(getattr(stored, field) == getattr(manifest, field) for field in _SAME):
                moved = replace(stored, root=manifest.root)
                if moved != stored:
                    self.write_set(name, moved)  # the same images in another place
                return moved
            if stored.complete or shards_done(folder):
                raise SubspectError(_difference(self.path, name, stored, manifest))
        self.write_set(name, manifest)
        return manifest

    def write_set(self, name: str, manifest: SetManifest) -> None:
        """Write an image set's manifest."""
        write_json(self.path / "sets" / name / "set.json", {"schema": SCHEMA, **asdict(manifest)})

    def _manifest(self, name: str) -> SetManifest:
        path = self.path / "sets" / name / "set.json"
        values = _versioned(path)
        values["failed"] = tuple((id, reason) for id, reason in values["failed"])
        return _load(SetManifest, values, path)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep every other writer out of a study while the block runs; a killed writer's lock is released by the system.

    Raises:
        SubspectError: another process is writing there, or the folder cannot be written.
    """
    with locked(path, f"writing to the study {path}", wait=0):
        sweep(path)
        yield


# Shards ---------------------------------------------------------------------------------------------------------------


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"{index:05d}.arrow"


def shards_done(folder: Path) -> list[int]:
    """List the shards that are there."""
    return sorted(int(path.stem) for path in folder.glob("[0-9]*.arrow"))


def shard_bytes(n_features: int, images: int) -> int:
    """Estimate the bytes on disk of some images: features, label, prediction and an id of about 40 bytes."""
    return images * (4 * n_features + 4 + 4 + 44)


def write_shard(path: Path, chunk: Chunk, failed: list[tuple[str, str]]) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: the file.
        chunk: what to store; labels below 0 are stored as null.
        failed: id and reason of each image of the shard that couldn't be used.
    """
    columns = [
        pa.array(chunk.ids, pa.string()),
        pa.array(chunk.labels, pa.int32(), mask=chunk.labels < 0),
        pa.array(chunk.predictions, pa.int32()),
        *(
            pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            for values in (chunk.features, *chunk.layers.values())
        ),
    ]
    names = ("id", "label", "prediction", "features", *(f"{_LAYER}{name}" for name in chunk.layers))
    schema = pa.schema(
        list(zip(names, (column.type for column in columns), strict=True)),
        metadata={"subspect": json.dumps({"schema": SCHEMA, "failed": failed}, ensure_ascii=False)},
    )
    with atomic(path) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def read_shard(path: Path, layers: Sequence[str] = ()) -> Chunk:
    """Read a shard; features and layers stay on disk until they are used (memory map).

    Raises:
        SubspectError: it is missing or damaged.
    """
    batch, _ = _open_shard(path)
    predictions = batch.column("prediction").to_numpy().astype(np.int64)
    labels = batch.column("label")
    return Chunk(
        _rows(batch.column("features")),
        predictions if labels.null_count else labels.to_numpy().astype(np.int64),
        predictions,
        batch.column("id").to_pylist(),
        {name: _rows(batch.column(f"{_LAYER}{name}")) for name in layers},
    )


def _rows(column: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = column.flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)


def read_failed(path: Path) -> list[tuple[str, str]]:
    """Read which images of a shard couldn't be used, and why."""
    _, metadata = _open_shard(path)
    return [(id, reason) for id, reason in metadata["failed"]]


def _open_shard(path: Path) -> tuple[pa.RecordBatch, dict[str, Any]]:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        return reader.get_batch(0), json.loads(reader.schema.metadata[b"subspect"])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise SubspectError(
            f"shard {path} is missing or damaged ({error}); delete it and run the same observe command again"
        ) from error


def in_part(ids: list[str], part: Part) -> npt.NDArray[np.bool_]:
    """Tell which images lie in a part of a set: the 80/20 split is by BLAKE2b of the image id, the same in every run."""
    if part == "all":
        return np.ones(len(ids), dtype=bool)
    first = hashed(ids) < _SPLIT
    return first if part == "80 %" else ~first


def hashed(ids: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return for each image id a number from 0 to 1 that depends on nothing but the id: what splits are made by."""
    digests = (hashlib.blake2b(id.encode(), digest_size=8).digest() for id in ids)
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests], dtype=np.float64)


# Refusals -------------------------------------------------------------------------------------------------------------


def check_disk(path: Path, needed: int) -> None:
    """Check before a run that what it will write fits on the disk.

    Raises:
        SubspectError: it doesn't; the message says how much is needed and how much is free.
    """
    folder = next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SubspectError(
            f"not enough disk for the study {path}: about {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free; "
            "free some space or choose another folder"
        )


def _refuse_other(study: Study, given: Identity) -> None:
    stored = study.identity
    what = None
    if stored.weights != given.weights:
        what = (
            f"another network: it was made with {stored.network!r} (weights {stored.weights[:12]}…), given is "
            f"{given.network!r} (weights {given.weights[:12]}…)"
        )
    elif stored.head != given.head:
        what = f"another head: {stored.head!r}, given is {given.head!r}"
    elif dict(stored.preprocessing) != dict(given.preprocessing):
        what = f"another preprocessing: {dict(stored.preprocessing)}, given is {dict(given.preprocessing)}"
    elif stored.class_names != given.class_names:
        pairs = zip(stored.class_names, given.class_names, strict=True)
        index, (old, new) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        what = f"other class names: class {index} is {old!r} there, {new!r} here"
    if what:
        raise SubspectError(f"the study {study.path} belongs to {what}; choose another study folder")


def _difference(study: Path, name: str, stored: SetManifest, given: SetManifest) -> str:
    if stored.fingerprint == given.fingerprint and stored.batch_size != given.batch_size:
        return (
            f"image set {name!r} in {study} was begun with batch size {stored.batch_size}, given is {given.batch_size}; "
            f"go on with {stored.batch_size}, or delete {study / 'sets' / name} to start again"
        )
    if dict(stored.layers) != dict(given.layers) and stored.fingerprint == given.fingerprint:
        return (
            f"image set {name!r} in {study} was begun with the layers {some(stored.layers) or 'none'}, given are "
            f"{some(given.layers) or 'none'}; choose another name or study, or delete {study / 'sets' / name} to start again"
        )
    return (
        f"image set {name!r} in {study} holds other images or labels: {stored.images:,} ({stored.kind}, "
        f"{stored.root or stored.fingerprint[:12]}), given are {given.images:,} ({given.kind}, "
        f"{given.root or given.fingerprint[:12]}); choose another name or study, or delete {study / 'sets' / name}"
    )


def _versioned(path: Path) -> dict[str, Any]:
    values = read_json(path)
    version = values.pop("schema", None) if isinstance(values, dict) else None
    values.pop("checksum", None)
    if version != SCHEMA:
        raise SubspectError(
            f"{path} has schema version {version}, this subspect reads {SCHEMA}; use the subspect that wrote it"
        )
    return cast(dict[str, Any], values)


def _load(kind: type[T], values: dict[str, Any], path: Path) -> T:
    try:
        return kind(**values)
    except TypeError as error:
        raise SubspectError(f"{path} is not a manifest of subspect: {error}") from error
