"""A study: a folder with one network's features on named image sets, and everything computed from them.

::

    study/
      study.json                     which network, which preprocessing, which classes; the head's checksum
      head.safetensors               the dense head: weight (C, d), bias (C,)
      sets/train/set.json            which images, how they are cut into batches and shards, what failed, shards' checksums
      sets/train/00000.arrow …       features, labels, predictions and ids (Arrow IPC; pandas, polars, DuckDB read them)
      sets/train/statistics.safetensors  of all images, where the shards hold a sample of them
      decompositions/NAME.safetensors
      feature-names.json             what features are called, where they were given names
      report.html

Every file appears whole or not at all and carries a checksum, which is checked when a command first reads the file. What
doesn't belong (another network, preprocessing or list of images) is refused; so are links within a study, which could lead
anywhere. One lock keeps a second writer out of each image set; another, held only for a moment, out of the rest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subspect.ground.addresses import check_rights, in_cache, look_again, place
from subspect.ground.errors import SubspectError, advice, as_called, near, some
from subspect.ground.files import atomic, entries, is_file, is_folder, refuse_links, sweep
from subspect.ground.locks import locked
from subspect.ground.schemas import misfit
from subspect.ground.seals import file_checksum, is_sealed, read_tensors, tensor_bytes, write_json
from subspect.ground.unfinished import is_part
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import Names, names_json
from subspect.images.preprocessing import described
from subspect.studies.feature_names import read_feature_names
from subspect.studies.image_set import SUMMED, ImageSet, shards_in
from subspect.studies.manifests import SCHEMA, UNSEALED, Identity, SetManifest, by_number, is_manifest, versioned
from subspect.studies.names import SET_NAME, check_set_name, decomposition_names, decomposition_path
from subspect.studies.pieces import Piece, busy, is_lock
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
    "sampled",
)
_OWN = (".lock", "sets", "decompositions", "head.safetensors")  # what a study may hold before its manifest
_told: set[Path] = set()  # studies of which it was said that they have no checksums


class Study(StudyQuestions):
    """A study folder, opened. ``study["pursuit-k5"]`` is one of its decompositions; its methods ask the questions.

    Example:
        >>> study = subspect.open_study("study")
        >>> study.set_names
        ['train', 'test', 'unmarked', 'unseen']
        >>> study.decompose(5).name
        'pursuit-k5'
    """

    def __init__(self, path: Path, identity: Identity, head_checksum: str | None) -> None:
        self.path, self.identity, self.head_checksum = path, identity, head_checksum

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, told: bool = False) -> Study:
        """Open an existing study.

        Args:
            path: its folder, or its address, such as "s3://bucket/study".
            told: whether the user already knows if it has no checksums.

        Raises:
            SubspectError: there is none, it is damaged, or a newer version of subspect wrote it.
        """
        path = place(path)
        if not is_file(path / "study.json"):
            what = "make one with: subspect observe"
            if is_folder(path / "sets") and any((path / "sets").glob("*/*.arrow")):
                what = "its image sets are there, so restore study.json from a backup"
            raise SubspectError(f"no study in {path}: it has no study.json; {what}")
        with advice("restore it from a backup, or observe into another folder"):
            schema, fields = versioned(path / "study.json")
        checksum = fields.pop("head_checksum", None)
        if schema == UNSEALED and not told and path.absolute() not in _told:
            _told.add(path.absolute())
            log.warning(
                "%s has no checksums yet, so damage would go unnoticed; subspect verify %s --write adds them",
                path,
                path,
            )
        elif schema != UNSEALED and not isinstance(checksum, str):
            raise SubspectError(f"{path / 'study.json'} is not a manifest of subspect: it has no head_checksum")
        return cls(path, Identity.read(fields, path / "study.json"), checksum)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], identity: Identity, weight: torch.Tensor, bias: torch.Tensor
    ) -> Study:
        """Open the study at a path, or create it.

        Args:
            path: the folder, or the address.
            identity: what the study is about.
            weight: (C, d) float32, the dense head's weight.
            bias: (C,) float32.

        Raises:
            SubspectError: the study there is about another network or preprocessing, or the folder contains files that are not
                subspect's.
        """
        path = place(path)
        with locked(path, f"writing to the study {path}"):
            look_again(path)
            check_rights(path)
            if os.path.lexists(path / "study.json"):
                study = cls.open(path)
                _refuse_other(study, identity)
                return study
            foreign = [one.name for one in entries(path) if one.name not in _OWN and not is_part(one.name)]
            if foreign:
                raise SubspectError(
                    f"{path} contains {some(sorted(foreign), 3)} and is not a study; choose another folder, or a new one in it"
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
            SubspectError: it is missing, damaged, or from another study.
        """
        path, shape = self.path / "head.safetensors", (self.identity.n_classes, self.identity.n_features)
        with advice("restore it from a backup, or delete the study and observe again"):
            tensors, _ = read_tensors(path, "a head", sealed=False)
        wrong = "it is from another study"
        if self.head_checksum is None or self.head_checksum == file_checksum(path):
            wrong = misfit(tensors, {"weight": (torch.float32, shape), "bias": (torch.float32, shape[:1])})
        if wrong:
            raise SubspectError(
                f"{path} is not the head of this study: {wrong}; restore it, or delete the study and observe again"
            )
        return tensors["weight"], tensors["bias"]

    @property
    def set_names(self) -> list[str]:
        """Names of the complete image sets, "train" first, then sorted by name."""
        found = [name for name in self.set_folders() if self.manifest(name).complete]
        return sorted(found, key=lambda name: (name != "train", name))

    @property
    def unfinished(self) -> list[str]:
        """Names of the image sets that were begun but are not complete."""
        return [name for name in self.set_folders() if not self.manifest(name).complete]

    @property
    def feature_names(self) -> Names:
        """Feature index → name, of the features that have one (see `subspect.name_features`).

        Raises:
            SubspectError: their file is damaged.
        """
        return read_feature_names(self.path, self.identity)

    @property
    def address(self) -> str:
        """Where it is: its folder, or the address whose copy ``path`` is."""
        return as_called(str(self.path))

    def __repr__(self) -> str:
        return f"Study({self.address!r}: {self.identity.network}, image sets {', '.join(self.set_names) or 'none'})"

    @property
    def decomposition_names(self) -> list[str]:
        """Names of the decompositions, newest last."""
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
        about["feature_names"] = names_json(self.feature_names)
        return {"path": self.address, **self.identity.to_json(), **about}

    def image_set(self, name: str) -> ImageSet:
        """Return a complete image set.

        Raises:
            SubspectError: there is no image set of that name, or it isn't finished.
        """
        if name not in self.set_folders():
            known, begun = self.set_names, self.unfinished
            raise SubspectError(
                f"no image set {name!r} in {self.path}{near(name, known)}; it has: {some(known) or 'none'}"
                + (f"; unfinished: {some(begun)}" if begun else "")
            )
        image_set = self.as_set(name, self.manifest(name))
        if not image_set.manifest.complete:
            raise SubspectError(
                f"image set {name!r} in {self.path} is unfinished: {image_set.left}; run the same "
                f"{self.identity.filled_by} command again to resume"
            )
        return image_set

    def begin(self, name: str, manifest: SetManifest, piece: Piece | None = None) -> ImageSet:
        """Start an image set or resume it, and return it as it is; the caller holds its `observing`, or a piece of it.

        Raises:
            SubspectError: an image set of that name contains other images or is cut differently, or the folder contains files
                that are not subspect's.
        """
        check_set_name(name)
        folder = self.path / "sets" / name
        sweep(folder)  # a kill may have come before the manifest was there
        if not os.path.lexists(folder / "set.json"):
            foreign = [entry.name for entry in folder.iterdir() if not is_lock(entry.name)]
            if foreign:
                raise SubspectError(
                    f"{folder} contains {some(foreign)}, which doesn't belong to an image set; choose another "
                    f"name, or move it away"
                )
            return self._begun(name, manifest)
        stored = self.manifest(name)
        found = self.as_set(name, stored)
        if all(getattr(stored, field) == getattr(manifest, field) for field in _SAME):
            if stored.root != manifest.root:  # the same images in another place
                root, table, column = manifest.root, manifest.table, manifest.image_column
                found.save(replace(stored, root=root, table=table, image_column=column))
            return found
        if stored.complete or found.done or is_file(folder / SUMMED) or busy(folder, but=piece):
            raise SubspectError(_difference(self.path, name, stored, manifest))
        return self._begun(name, manifest)

    def manifest(self, name: str) -> SetManifest:
        """Read the manifest of an image set.

        Raises:
            SubspectError: it is damaged, or belongs to another study.
        """
        path = self.path / "sets" / name / "set.json"
        with advice(f"restore it from a backup, or delete {path.parent} and observe it again"):
            schema, fields = versioned(path)
        fields["shards"] = by_number(fields.get("shards", {}))
        manifest = SetManifest.read(fields, path)
        if manifest.network_fingerprint != self.identity.fingerprint or dict(manifest.preprocessing) != dict(
            self.identity.preprocessing
        ):
            raise SubspectError(f"{path} belongs to another study: its weights or preprocessing differ")
        if schema != UNSEALED and manifest.complete and not manifest.shards:
            raise SubspectError(f"{path} is not a manifest of subspect: it has no checksums for its shards")
        lost = len(shards_in(path.parent)) < manifest.n_shards
        lost = lost or (manifest.sampled > 0 and not is_file(path.parent / SUMMED))
        if manifest.complete and lost:
            return replace(manifest, complete=False)
        return manifest

    def _begun(self, name: str, manifest: SetManifest) -> ImageSet:
        image_set = self.as_set(name, manifest)
        image_set.save(manifest)
        return image_set

    def as_set(self, name: str, manifest: SetManifest) -> ImageSet:
        """Return the image set of a manifest, finished or not."""
        shape = Shape(self.identity.n_features, self.identity.n_classes, manifest.labelled, manifest.layers)
        return ImageSet(name, self.path / "sets" / name, manifest, shape)

    def set_folders(self) -> list[str]:
        """List the image sets that were begun, finished or not.

        Raises:
            SubspectError: a folder cannot be read, or is a link.
        """
        refuse_links(self.path, "sets")
        names = [entry.name for entry in entries(self.path / "sets") if SET_NAME.fullmatch(entry.name)]
        found = []
        for name in sorted(names):
            refuse_links(self.path, "sets", name)
            if any(entry.name == "set.json" for entry in entries(self.path / "sets" / name)):
                found.append(name)
        return found


StudyLike = Study | str | os.PathLike[str]  #: a study, or the folder or address of one


def open_study(study: StudyLike) -> Study:
    """Open a study by its folder or address; one that is already open is returned as is.

    Raises:
        SubspectError: there is none, it is damaged, or a newer version of subspect wrote it.

    Example:
        >>> study = subspect.open_study("study")
        >>> study["pursuit-k5"].name
        'pursuit-k5'
    """
    if isinstance(study, Study):
        return study
    if not isinstance(study, str | os.PathLike):
        raise SubspectError(f"a study must be a folder, an address or a subspect.Study, got {type(study).__name__}")
    return Study.open(study)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Keep every other writer of decompositions out of a study while the block runs; others wait, since it doesn't take long.

    Raises:
        SubspectError: the folder cannot be written.
    """
    with locked(path, f"writing to the study {path}"):
        look_again(path)
        sweep(path)
        sweep(path / "decompositions")
        sweep(path / "cues")
        sweep(path / "filters")
        yield


def check_disk(path: Path, needed: int) -> None:
    """Check before a run that the disk has room for what it will write.

    Raises:
        SubspectError: it doesn't; the message says how much is needed and how much is free.
    """
    folder = next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SubspectError(
            f"not enough disk for the study {path}{in_cache(path)}: about {needed / 1e6:,.0f} MB needed, "
            f"{free / 1e6:,.0f} MB free; free some space or choose another folder"
        )


def _refuse_other(study: Study, given: Identity) -> None:
    stored = study.identity
    what = None
    if stored.fingerprint != given.fingerprint:
        kind = "head" if stored.features_alone and given.features_alone else "network"
        what = (
            f"another {kind}: it was made with {stored.network!r} (weights {stored.fingerprint[:12]}…), but "
            f"this is {given.network!r} (weights {given.fingerprint[:12]}…)"
        )
    elif stored.head_name != given.head_name:
        what = f"another head: {stored.head_name!r}, but this is {given.head_name!r}"
    elif dict(stored.preprocessing) != dict(given.preprocessing):
        what = f"another preprocessing: {described(stored.preprocessing)}; this one is {described(given.preprocessing)}"
    elif stored.class_names != given.class_names:
        pairs = zip(stored.class_names, given.class_names, strict=True)
        index, (old, new) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        what = f"other class names: class {index} is {old!r} there, {new!r} here"
    if what:
        raise SubspectError(f"the study {study.path} belongs to {what}; choose another study folder")


def _difference(study: Path, name: str, stored: SetManifest, given: SetManifest) -> str:
    if stored.fingerprint == given.fingerprint and stored.sampled != given.sampled:
        was, now = (_kept(one) for one in (stored, given))
        return (
            f"image set {name!r} in {study} was begun to keep {was}, but {now} were asked for; leave that as it was, choose "
            f"another name or study, or delete {study / 'sets' / name} to start again"
        )
    if stored.fingerprint == given.fingerprint and stored.batch_size != given.batch_size:
        return (
            f"image set {name!r} in {study} was begun with batch size {stored.batch_size}, but "
            f"{given.batch_size} was given; continue with {stored.batch_size}, or delete {study / 'sets' / name} to start again"
        )
    if dict(stored.layers) != dict(given.layers) and stored.fingerprint == given.fingerprint:
        return (
            f"image set {name!r} in {study} was begun with the layers {some(stored.layers) or 'none'}, but "
            f"{some(given.layers) or 'none'} were given; choose another name or study, or delete "
            f"{study / 'sets' / name} to start again"
        )
    alike = (stored.images, stored.kind, stored.root) == (given.images, given.kind, given.root) and stored.root
    why = (
        " (as many of the same place: another sample by --limit, other columns or labels, or changed files)"
        if alike
        else ""
    )
    return (
        f"image set {name!r} in {study} contains other images or labels: {stored.images:,} ({stored.kind}, "
        f"{stored.root or stored.fingerprint[:12]}), but these are {given.images:,} ({given.kind}, "
        f"{given.root or given.fingerprint[:12]}){why}; choose another name or study, or delete {study / 'sets' / name}"
    )


def _kept(manifest: SetManifest) -> str:
    """Say what is kept of the images of a set."""
    of = f" and features of a sample of {manifest.sampled:,}" if manifest.sampled else ""
    return f"{manifest.keep} (--keep {manifest.keep}){of}"
