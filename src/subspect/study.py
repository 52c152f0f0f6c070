"""A study: a folder that holds one network's features on named image sets, and all that was computed from them.

::

    study/
      study.json                     which network, which preprocessing, which classes; the head's checksum
      head.safetensors               the dense head: weight (C, d), bias (C,)
      sets/train/set.json            which images, how they are cut into batches and shards, what failed, shards' checksums
      sets/train/00000.arrow …       features, labels, predictions and ids (Arrow IPC; pandas, polars, DuckDB read them)
      decompositions/NAME.safetensors
      report.html

Every file appears whole or not at all and carries a checksum, which is looked at when a command first reads it. What
doesn't belong (another network, preprocessing or list of images) is refused; so are links within a study, which could lead
anywhere. One lock keeps a second writer out of each image set, one, held for a moment, out of the rest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from subspect.errors import SubspectError, near, some
from subspect.files import atomic, entries, is_file, locked, read_json, refuse_links, sweep
from subspect.schemas import as_type, misfit
from subspect.seals import file_checksum, is_sealed, open_json, read_tensors, tensor_bytes, write_json
from subspect.shards import Chunk, Entry, Shape, joined, read_shard, shard_name, write_shard
from subspect.shards import checksum_of as shard_checksum
from subspect.text import legible

log = logging.getLogger("subspect")

SCHEMA = 2  #: version of the folder's layout; a newer one is refused
UNSEALED = 1  #: the version before checksums were kept, which is still read
Part = Literal["all", "80 %", "20 %"]  #: which images of a set: all, or a split by a hash of the image id
_SPLIT = 0.8
_SAME = ("weights", "preprocessing", "images", "fingerprint", "labelled", "batch_size", "layers", "shard_size")
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NAME_BYTES = 200  # of a decomposition's name, which is a file's
_WAIT = 10.0  # seconds for another writer of an image set: workers of one that was killed end within five
_told: set[Path] = set()  # studies of which it was said that they have no checksums
Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Width = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]  # of a column, which Arrow counts in 32 bits
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


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
    n_classes: Annotated[int, msgspec.Meta(ge=2, lt=2**31)]
    n_features: Width
    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]

    def __post_init__(self) -> None:
        if len(self.class_names) != self.n_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.n_classes} classes")


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
        shards: number → rows and checksum of each shard, once complete; empty in a study of before checksums were kept.
    """

    weights: str
    preprocessing: Mapping[str, Any]
    kind: str
    root: str | None
    images: Count
    fingerprint: str
    labelled: bool
    matching: str
    batch_size: Count
    shard_size: Count
    layers: Mapping[str, Width] = field(default_factory=dict)
    complete: bool = False
    rows: Whole = 0
    failed: tuple[tuple[str, str], ...] = ()
    shards: Mapping[int, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shard_size % self.batch_size:
            raise ValueError(f"shard_size {self.shard_size} is no multiple of batch_size {self.batch_size}")
        outside = [index for index in self.shards if not 0 <= index < self.n_shards]
        if outside:
            raise ValueError(f"shards {some(outside)} of {self.n_shards}")
        if self.complete and self.rows + len(self.failed) != self.images:
            raise ValueError(f"{self.rows} rows and {len(self.failed)} failed images of {self.images}")
        if self.complete and self.shards:
            rows = sum(entry.rows for entry in self.shards.values())
            if len(self.shards) != self.n_shards or rows != self.rows:
                raise ValueError(f"{len(self.shards)} of {self.n_shards} shards with {rows} of {self.rows} rows")

    @property
    def n_shards(self) -> int:
        """Number of shards of the whole set."""
        return -(-self.images // self.shard_size)


class ImageSet:
    """One named image set of a study, observed to its end."""

    def __init__(self, name: str, folder: Path, manifest: SetManifest, shape: Shape) -> None:
        self.name, self.folder, self.manifest, self.shape = name, folder, manifest, shape
        self.entries = dict(manifest.shards)  # and those that were written since

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
        rows = 0
        for index in range(self.manifest.n_shards):
            chunk, _ = self.shard(index, layers)
            rows += len(chunk.ids)
            yield chunk if part == "all" else chunk.at(in_part(chunk.ids, part))
        if rows != self.manifest.rows:
            raise SubspectError(
                f"image set {self.name!r} in {self.folder} is damaged: its shards hold {rows:,} images, its manifest says "
                f"{self.manifest.rows:,}; delete {self.folder} and observe it again"
            )

    def shard(self, index: int, layers: Sequence[str] = ()) -> tuple[Chunk, list[tuple[str, str]]]:
        """Read one shard: its images, and id and reason of each that couldn't be used.

        Raises:
            SubspectError: it is missing or damaged.
        """
        path, entry = self.folder / shard_name(index), self.entries.get(index)
        return read_shard(path, self.shape, entry, self.place(index), layers)

    def write(self, index: int, chunk: Chunk, failed: Sequence[tuple[str, str]]) -> None:
        """Write one shard; it enters the manifest with all others, once the set is complete."""
        path = self.folder / shard_name(index)
        self.entries[index] = write_shard(path, chunk, failed, SCHEMA, self.place(index))

    def save(self, manifest: SetManifest) -> None:
        """Write the manifest; once the set is complete, with the checksums of all its shards.

        Raises:
            SubspectError: it cannot be written, or a shard is damaged.
        """
        known = {index: self._entry(index) for index in range(manifest.n_shards)} if manifest.complete else {}
        self.manifest = replace(manifest, shards=known)
        shards = {str(index): asdict(entry) for index, entry in known.items()}
        fields = {"schema": SCHEMA, **asdict(self.manifest), "shards": shards}
        write_json(self.folder / "set.json", fields, _is_manifest)

    @property
    def done(self) -> list[int]:
        """Numbers of the shards that are there."""
        return [index for index in _shards_in(self.folder) if index < self.manifest.n_shards]

    def _entry(self, index: int) -> Entry:
        """Return what the manifest is to say of a shard; one that isn't known yet is read and looked at."""
        if index not in self.entries:
            chunk, _ = self.shard(index)
            self.entries[index] = Entry(len(chunk.ids), shard_checksum(self.folder / shard_name(index)))
        return self.entries[index]

    def place(self, index: int) -> str:
        """Say which shard of which set one is, as the shard itself does."""
        return f"{self.manifest.fingerprint}, {self.manifest.weights}, {index}"

    def whole(self, part: Part = "all") -> Chunk:
        """Return the stored images, or a part of them, in memory at once.

        Raises:
            SubspectError: a shard is missing or damaged.
        """
        return joined(list(self.chunks(part)))


class Study:
    """A study folder, opened. ``study["train"]`` is an image set."""

    def __init__(self, path: Path, identity: Identity, head_checksum: str | None) -> None:
        self.path, self.identity, self.head_checksum = path, identity, head_checksum

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Open an existing study.

        Raises:
            SubspectError: there is none, it is damaged, or a newer version of subspect wrote it.
        """
        path = Path(path)
        if not is_file(path / "study.json"):
            raise SubspectError(f"no study in {path}: it has no study.json; make one with: subspect observe")
        schema, fields = _versioned(path / "study.json")
        checksum = fields.pop("head_checksum", None)
        if schema == UNSEALED and path.absolute() not in _told:
            _told.add(path.absolute())
            log.warning(
                "%s has no checksums yet, so that damage goes unnoticed: subspect verify %s --write adds them",
                path,
                path,
            )
        elif schema != UNSEALED and not isinstance(checksum, str):
            raise SubspectError(f"{path / 'study.json'} is not a manifest of subspect: it has no head_checksum")
        return cls(path, as_type(Identity, fields, path / "study.json"), checksum)

    @classmethod
    def create(cls, path: str | Path, identity: Identity, weight: torch.Tensor, bias: torch.Tensor) -> Study:
        """Open the study at a path, or make it.

        Args:
            path: the folder.
            identity: what the study is about.
            weight: (C, d) float32, the dense head's weight.
            bias: (C,) float32.

        Raises:
            SubspectError: the study there is about another network or preprocessing, or files of others lie there.
        """
        path = Path(path)
        with locked(path, f"writing to the study {path}"):
            if os.path.lexists(path / "study.json"):
                study = cls.open(path)
                _refuse_other(study, identity)
                return study
            data = tensor_bytes({"weight": weight.contiguous(), "bias": bias.contiguous()}, {"head": identity.head})
            with atomic(path / "head.safetensors", is_sealed) as file:
                file.write(data)
            study = cls(path, identity, None)
            study.seal(f"sha256:{hashlib.sha256(data).hexdigest()}")
        return study

    def seal(self, head_checksum: str) -> None:
        """Write the study's manifest, with the checksum of its head."""
        fields = {"schema": SCHEMA, **asdict(self.identity), "head_checksum": head_checksum}
        write_json(self.path / "study.json", fields, _is_manifest)
        self.head_checksum = head_checksum

    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the dense head's weight (C, d) and bias (C,), float32.

        Raises:
            SubspectError: it is missing, damaged, or another study's.
        """
        path, shape = self.path / "head.safetensors", (self.identity.n_classes, self.identity.n_features)
        tensors, _ = read_tensors(path, "a head", sealed=False)
        wrong = "it is another study's"
        if self.head_checksum is None or self.head_checksum == file_checksum(path):
            wrong = misfit(tensors, {"weight": (torch.float32, shape), "bias": (torch.float32, shape[:1])})
        if wrong:
            raise SubspectError(
                f"{path} is not the head of this study: {wrong}; restore it, or delete the study and observe again"
            )
        return tensors["weight"], tensors["bias"]

    @property
    def set_names(self) -> list[str]:
        """Names of the image sets observed to their end, in the order "train" first, then by name."""
        found = [name for name in self.set_folders() if self.manifest(name).complete]
        return sorted(found, key=lambda name: (name != "train", name))

    @property
    def unfinished(self) -> list[str]:
        """Names of the image sets that were begun and not observed to their end."""
        return [name for name in self.set_folders() if not self.manifest(name).complete]

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}: {self.identity.network}, image sets {', '.join(self.set_names) or 'none'})"

    def to_json(self) -> dict[str, Any]:
        """Return what the study is about and its image sets as JSON values."""
        sets = {name: asdict(self[name].manifest) for name in self.set_names}
        for manifest in sets.values():
            del manifest["shards"]
        return {"path": str(self.path), **asdict(self.identity), "sets": sets, "unfinished": self.unfinished}

    def __getitem__(self, name: str) -> ImageSet:
        """Return an image set.

        Raises:
            SubspectError: there is none of that name, or it isn't finished.
        """
        if name not in self.set_folders():
            known = self.set_names
            raise SubspectError(
                f"no image set {name!r} in {self.path}{near(name, known)}; it has: {some(known) or 'none'}"
            )
        image_set = self.image_set(name, self.manifest(name))
        if not image_set.manifest.complete:
            raise SubspectError(
                f"image set {name!r} in {self.path} is unfinished: {len(image_set.done)} of {image_set.manifest.n_shards} "
                "shards; run the same observe command again to go on"
            )
        return image_set

    def begin(self, name: str, manifest: SetManifest) -> ImageSet:
        """Start an image set or go on with it, and return it as it stands; the caller holds its `observing`.

        Raises:
            SubspectError: an image set of that name holds other images or is cut otherwise, or files of others lie there.
        """
        check_set_name(name)
        folder = self.path / "sets" / name
        sweep(folder)  # a kill may have come before the manifest was there
        if not os.path.lexists(folder / "set.json"):
            foreign = [entry.name for entry in folder.iterdir() if entry.name != ".lock"]
            if foreign:
                raise SubspectError(
                    f"{folder} holds {some(foreign)}, which belongs to no image set; choose another name, or move it away"
                )
            return self._begun(name, manifest)
        stored = self.manifest(name)
        found = self.image_set(name, stored)
        if all(getattr(stored, field) == getattr(manifest, field) for field in _SAME):
            if stored.root != manifest.root:
                found.save(replace(stored, root=manifest.root))  # the same images in another place
            return found
        if stored.complete or found.done:
            raise SubspectError(_difference(self.path, name, stored, manifest))
        return self._begun(name, manifest)

    def observing(self, name: str) -> AbstractContextManager[None]:
        """Keep every other writer out of an image set while the block runs.

        Raises:
            SubspectError: another process is still writing it after ten seconds, or the folder cannot be written.
        """
        check_set_name(name)
        refuse_links(self.path, "sets", name)
        return locked(
            self.path / "sets" / name, f"observing the image set {name!r} of the study {self.path}", wait=_WAIT
        )

    def manifest(self, name: str) -> SetManifest:
        """Read the manifest of an image set.

        Raises:
            SubspectError: it is damaged, or belongs to another study.
        """
        path = self.path / "sets" / name / "set.json"
        schema, fields = _versioned(path)
        fields["shards"] = _by_number(fields.get("shards", {}))
        manifest = as_type(SetManifest, fields, path)
        if manifest.weights != self.identity.weights or dict(manifest.preprocessing) != dict(
            self.identity.preprocessing
        ):
            raise SubspectError(f"{path} belongs to another study: it is of other weights or another preprocessing")
        if schema != UNSEALED and manifest.complete and not manifest.shards:
            raise SubspectError(f"{path} is not a manifest of subspect: it has no checksums of its shards")
        if manifest.complete and len(_shards_in(path.parent)) < manifest.n_shards:
            return replace(manifest, complete=False)
        return manifest

    def _begun(self, name: str, manifest: SetManifest) -> ImageSet:
        image_set = self.image_set(name, manifest)
        image_set.save(manifest)
        return image_set

    def image_set(self, name: str, manifest: SetManifest) -> ImageSet:
        """Return an image set by its manifest, finished or not."""
        shape = Shape(self.identity.n_features, self.identity.n_classes, manifest.labelled, manifest.layers)
        return ImageSet(name, self.path / "sets" / name, manifest, shape)

    def set_folders(self) -> list[str]:
        """List the image sets that were begun, finished or not.

        Raises:
            SubspectError: a folder cannot be read, or is a link.
        """
        refuse_links(self.path, "sets")
        names = [entry.name for entry in entries(self.path / "sets") if _SET_NAME.fullmatch(entry.name)]
        found = []
        for name in sorted(names):
            refuse_links(self.path, "sets", name)
            if any(entry.name == "set.json" for entry in entries(self.path / "sets" / name)):
                found.append(name)
        return found


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Keep every other writer of decompositions out of a study while the block runs; others wait, as it is short.

    Raises:
        SubspectError: the folder cannot be written.
    """
    with locked(path, f"writing to the study {path}"):
        sweep(path)
        sweep(path / "decompositions")
        yield


# Names and places -----------------------------------------------------------------------------------------------------


def check_set_name(name: str) -> None:
    """Check that an image set can be called so.

    Raises:
        SubspectError: it cannot.
    """
    if not _SET_NAME.fullmatch(name):
        raise SubspectError(
            f"image set name {name!r} must be letters, digits, '_', '.' and '-', such as 'train', 100 at most"
        )


def check_name(name: str) -> str:
    """Check that a decomposition can be called so, since its name is that of a file; return it.

    Raises:
        SubspectError: it cannot.
    """
    odd = not name or name[0] in ".- " or any(one in '/\\:*?"<>|' for one in name) or not name.isprintable()
    if odd or legible(name) != name or len(name.encode(errors="replace")) > _NAME_BYTES:
        raise SubspectError(
            f"a decomposition cannot be called {legible(name[:100])!r}: its name is a file's, printable, without / and the "
            f"like, of at most {_NAME_BYTES} bytes, and begins with a letter or a digit"
        )
    return name


def _shards_in(folder: Path) -> list[int]:
    names = (entry.name for entry in entries(folder))
    return sorted(int(name[:-6]) for name in names if re.fullmatch(r"[0-9]{5,12}\.arrow", name))


# Parts ----------------------------------------------------------------------------------------------------------------


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


def _versioned(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the version and the fields of a manifest, once its seal, if its version has one, is found right."""
    fields = read_json(path, "manifest")
    version = fields.get("schema") if isinstance(fields, dict) else None
    if version not in (UNSEALED, SCHEMA) or isinstance(version, bool):
        raise SubspectError(
            f"{path} has schema version {version!r}, this subspect reads {UNSEALED} and {SCHEMA}; use the subspect that "
            "wrote it"
        )
    if version != UNSEALED or "checksum" in fields:
        fields = open_json(path, fields)
    return version, {key: value for key, value in fields.items() if key != "schema"}


def _is_manifest(path: Path) -> bool:
    """Tell whether a file is a manifest of ours, sealed or of before seals were kept."""
    try:
        _versioned(path)
    except SubspectError:
        return False
    return True


def _by_number(shards: object) -> object:
    """Return the shards of a manifest by their numbers, which JSON has as text."""
    if not isinstance(shards, dict) or not all(re.fullmatch(r"0|[1-9][0-9]{0,11}", key) for key in shards):
        return shards  # which is refused
    return {int(key): value for key, value in shards.items()}
