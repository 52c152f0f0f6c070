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
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subspect.ground.errors import SubspectError, advice, near, some
from subspect.ground.files import atomic, entries, is_file, is_folder, is_part, locked, refuse_links, sweep
from subspect.ground.schemas import misfit
from subspect.ground.seals import file_checksum, is_sealed, read_tensors, tensor_bytes, write_json
from subspect.heads.decomposition import Decomposition
from subspect.images.preprocessing import described
from subspect.studies.image_set import ImageSet, shards_in
from subspect.studies.manifests import SCHEMA, UNSEALED, Identity, SetManifest, by_number, is_manifest, versioned
from subspect.studies.names import decomposition_names, decomposition_path
from subspect.studies.questions import StudyQuestions
from subspect.studies.shards import Shape

log = logging.getLogger("subspect")


_SAME = (
    "network_fingerprint",
    "preprocessing",
    "images",
    "fingerprint",
    "labelled",
    "batch_size",
    "layers",
    "shard_size",
)
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_WAIT = 10.0  # seconds for another writer of an image set: workers of one that was killed end within five
_OWN = (".lock", "sets", "decompositions", "head.safetensors")  # what a study may hold before its manifest
_told: set[Path] = set()  # studies of which it was said that they have no checksums


class Study(StudyQuestions):
    """A study folder, opened. ``study["pursuit-k5"]`` is one of its decompositions; its questions are methods."""

    def __init__(self, path: Path, identity: Identity, head_checksum: str | None) -> None:
        self.path, self.identity, self.head_checksum = path, identity, head_checksum

    @classmethod
    def open(cls, path: str | Path, *, told: bool = False) -> Study:
        """Open an existing study.

        Args:
            path: its folder.
            told: whether the user knows already if it has no checksums.

        Raises:
            SubspectError: there is none, it is damaged, or a newer version of subspect wrote it.
        """
        path = Path(path)
        if not is_file(path / "study.json"):
            what = "make one with: subspect observe"
            if is_folder(path / "sets"):
                what = "its image sets are there, so restore study.json from a copy"
            raise SubspectError(f"no study in {path}: it has no study.json; {what}")
        with advice("restore it from a copy, or observe into another folder"):
            schema, fields = versioned(path / "study.json")
        checksum = fields.pop("head_checksum", None)
        if schema == UNSEALED and not told and path.absolute() not in _told:
            _told.add(path.absolute())
            log.warning(
                "%s has no checksums yet, so that damage goes unnoticed: subspect verify %s --write adds them",
                path,
                path,
            )
        elif schema != UNSEALED and not isinstance(checksum, str):
            raise SubspectError(f"{path / 'study.json'} is not a manifest of subspect: it has no head_checksum")
        return cls(path, Identity.read(fields, path / "study.json"), checksum)

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
            foreign = [one.name for one in entries(path) if one.name not in _OWN and not is_part(one.name)]
            if foreign:
                raise SubspectError(
                    f"{path} holds {some(sorted(foreign), 3)} and is no study; choose another folder, or a new one within it"
                )
            data = tensor_bytes(
                {"weight": weight.contiguous(), "bias": bias.contiguous()}, {"head": identity.head_name}
            )
            with atomic(path / "head.safetensors", is_sealed) as file:
                file.write(data)
            study = cls(path, identity, None)
            study.seal(f"sha256:{hashlib.sha256(data).hexdigest()}")
        return study

    def seal(self, head_checksum: str) -> None:
        """Write the study's manifest, with the checksum of its head."""
        fields = {"schema": SCHEMA, **self.identity.to_json(), "head_checksum": head_checksum}
        write_json(self.path / "study.json", fields, is_manifest)
        self.head_checksum = head_checksum

    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the dense head's weight (C, d) and bias (C,), float32.

        Raises:
            SubspectError: it is missing, damaged, or another study's.
        """
        path, shape = self.path / "head.safetensors", (self.identity.n_classes, self.identity.n_features)
        with advice("restore it from a copy, or delete the study and observe again"):
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

    @property
    def decomposition_names(self) -> list[str]:
        """Names of the decompositions, the newest last."""
        return decomposition_names(self.path)

    def __contains__(self, name: object) -> bool:
        return name in self.decomposition_names

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the decompositions, the newest last."""
        return iter(self.decomposition_names)

    def __getitem__(self, name: str) -> Decomposition:
        """Return a decomposition.

        Raises:
            SubspectError: there is none of that name, or it is damaged.
        """
        known = self.decomposition_names
        if name not in known:
            raise SubspectError(
                f"no decomposition {name!r} in {self.path}{near(name, known)}; it has: {some(known) or 'none'}"
                + (f"; {name!r} is an image set: study.image_set({name!r})" if name in self.set_names else "")
            )
        found = Decomposition.load(decomposition_path(self.path, name), own=True)
        found.check(self)
        return replace(found, study=self)

    def to_json(self) -> dict[str, Any]:
        """Return what the study is about and its image sets as JSON values."""
        sets = {name: self.image_set(name).manifest.to_json() for name in self.set_names}
        for manifest in sets.values():
            del manifest["shards"]
        known = self.decomposition_names
        about = {"sets": sets, "unfinished": self.unfinished, "decompositions": known}
        return {"path": str(self.path), **self.identity.to_json(), **about}

    def image_set(self, name: str) -> ImageSet:
        """Return an image set that was observed to its end.

        Raises:
            SubspectError: there is none of that name, or it isn't finished.
        """
        if name not in self.set_folders():
            known = self.set_names
            raise SubspectError(
                f"no image set {name!r} in {self.path}{near(name, known)}; it has: {some(known) or 'none'}"
            )
        image_set = self.as_set(name, self.manifest(name))
        if not image_set.manifest.complete:
            raise SubspectError(
                f"image set {name!r} in {self.path} is unfinished: {len(image_set.done)} of {image_set.manifest.n_shards} "
                f"shards; run the same {self.identity.filled_by} command again to resume"
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
        found = self.as_set(name, stored)
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
        with advice(f"restore it from a copy, or delete {path.parent} and observe it again"):
            schema, fields = versioned(path)
        fields["shards"] = by_number(fields.get("shards", {}))
        manifest = SetManifest.read(fields, path)
        if manifest.network_fingerprint != self.identity.fingerprint or dict(manifest.preprocessing) != dict(
            self.identity.preprocessing
        ):
            raise SubspectError(f"{path} belongs to another study: it is of other weights or another preprocessing")
        if schema != UNSEALED and manifest.complete and not manifest.shards:
            raise SubspectError(f"{path} is not a manifest of subspect: it has no checksums of its shards")
        if manifest.complete and len(shards_in(path.parent)) < manifest.n_shards:
            return replace(manifest, complete=False)
        return manifest

    def _begun(self, name: str, manifest: SetManifest) -> ImageSet:
        image_set = self.as_set(name, manifest)
        image_set.save(manifest)
        return image_set

    def as_set(self, name: str, manifest: SetManifest) -> ImageSet:
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


StudyLike = Study | str | os.PathLike[str]  #: a study, or the folder of one


def open_study(study: StudyLike) -> Study:
    """Open a study by its folder; one that is open already is returned as it is.

    Raises:
        SubspectError: there is none, it is damaged, or a newer version of subspect wrote it.
    """
    if isinstance(study, Study):
        return study
    if not isinstance(study, str | os.PathLike):
        raise SubspectError(f"a study must be a folder or a subspect.Study, got {type(study).__name__}")
    return Study.open(Path(study))


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


def check_set_name(name: str) -> None:
    """Check that an image set can be called so.

    Raises:
        SubspectError: it cannot.
    """
    if not _SET_NAME.fullmatch(name):
        raise SubspectError(
            f"image set name {name!r} must be letters, digits, '_', '.' and '-', such as 'train', 100 at most"
        )


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
    if stored.fingerprint != given.fingerprint:
        what = (
            f"another network: it was made with {stored.network!r} (weights {stored.fingerprint[:12]}…), given is "
            f"{given.network!r} (weights {given.fingerprint[:12]}…)"
        )
    elif stored.head_name != given.head_name:
        what = f"another head: {stored.head_name!r}, given is {given.head_name!r}"
    elif dict(stored.preprocessing) != dict(given.preprocessing):
        what = f"another preprocessing: {described(stored.preprocessing)}; given is {described(given.preprocessing)}"
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
