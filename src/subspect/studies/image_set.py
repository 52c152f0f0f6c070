"""One image set of a study: its shards, read and written, and its manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from subspect.ground.addresses import described, place
from subspect.ground.errors import SubspectError
from subspect.ground.files import entries, is_file
from subspect.ground.seals import write_json
from subspect.ground.text import counted
from subspect.heads.history import Part
from subspect.studies.manifests import SCHEMA, SetManifest, is_manifest
from subspect.studies.parts import in_part
from subspect.studies.shards import Chunk, Entry, Shape, joined, read_shard, shard_name, write_shard
from subspect.studies.shards import checksum_of as shard_checksum

SUMMED = "statistics.safetensors"  #: the file of statistics of all images, where the shards hold a sample of them


class ImageSet:
    """One named, complete image set of a study.

    Example:
        >>> test = study.image_set("test")
        >>> test.labelled
        True
    """

    def __init__(self, name: str, folder: Path, manifest: SetManifest, shape: Shape) -> None:
        self.name, self.folder, self.manifest, self.shape = name, folder, manifest, shape
        self.entries = dict(manifest.shards)  # and those that were written since

    def __len__(self) -> int:
        return self.manifest.rows

    def __getstate__(self) -> dict[str, Any]:
        """Return it for another machine, which has a copy of its own of a study at an address."""
        return {**vars(self), "folder": described(self.folder) or self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state["folder"]
        vars(self).update(state, folder=place(folder[0]) / folder[1] if isinstance(folder, tuple) else folder)

    def called(self, examples: str = "images") -> str:
        """Return the name as notes have it, and of how many images these are a sample, where they are one."""
        sample = self.manifest.of_all(examples)
        return f"{self.name!r} ({sample})" if sample else repr(self.name)

    @property
    def labelled(self) -> bool:
        """Whether the images have labels; if not, the network's own predictions are used instead."""
        return self.manifest.labelled

    def chunks(self, part: Part = "all", layers: Sequence[str] = (), *, shards: range | None = None) -> Iterator[Chunk]:
        """Iterate over the stored images once, one memory-mapped shard at a time.

        Args:
            part: the images to read.
            layers: the watched layers to read besides the features.
            shards: the numbers of the shards to read, all unless given.

        Raises:
            SubspectError: a shard is missing or damaged.
        """
        rows = 0
        every = range(self.manifest.n_shards)
        for index in every if shards is None else every[shards.start : shards.stop]:
            chunk, _ = self.shard(index, layers)
            rows += len(chunk.ids)
            yield chunk if part == "all" else chunk.at(in_part(chunk.ids, part))
        if shards is None and rows != self.manifest.rows:
            raise SubspectError(
                f"image set {self.name!r} in {self.folder} is damaged: its shards contain "
                f"{counted(rows, 'image', 'images')}, but "
                f"its manifest says {self.manifest.rows:,}; delete {self.folder} and observe it again"
            )

    def shard(self, index: int, layers: Sequence[str] = ()) -> tuple[Chunk, list[tuple[str, str]]]:
        """Read one shard: its images, and the id and reason for each image that couldn't be used.

        Raises:
            SubspectError: it is missing or damaged.
        """
        path, entry = self.folder / shard_name(index), self.entries.get(index)
        return read_shard(path, self.shape, entry, self.place(index), layers)

    def write(self, index: int, chunk: Chunk, failed: Sequence[tuple[str, str]]) -> None:
        """Write one shard; the manifest lists it, with all others, once the set is complete."""
        path = self.folder / shard_name(index)
        self.entries[index] = write_shard(path, chunk, failed, SCHEMA, self.place(index))

    def save(self, manifest: SetManifest) -> None:
        """Write the manifest, with the checksums of all its shards once the set is complete.

        Raises:
            SubspectError: it cannot be written, or a shard is damaged.
        """
        known = {index: self._entry(index) for index in range(manifest.n_shards)} if manifest.complete else {}
        self.manifest = replace(manifest, shards=known)
        shards = {str(index): asdict(entry) for index, entry in known.items()}
        fields = {"schema": SCHEMA, **self.manifest.to_json(), "shards": shards}
        write_json(self.folder / "set.json", fields, is_manifest)

    @property
    def done(self) -> list[int]:
        """Numbers of the shards that are already stored."""
        return [index for index in shards_in(self.folder) if index < self.manifest.n_shards]

    @property
    def left(self) -> str:
        """Say how much of an unfinished set is there."""
        done, of = len(self.done), self.manifest.n_shards
        if done == of and self.manifest.sampled and not is_file(self.folder / SUMMED):
            return f"{SUMMED} is missing, for which all images are run again"
        return f"{done} of {counted(of, 'shard', 'shards')}"

    def _entry(self, index: int) -> Entry:
        """Return what the manifest is to say of a shard; one that isn't known yet is read and looked at."""
        if index not in self.entries:
            chunk, _ = self.shard(index)
            self.entries[index] = Entry(len(chunk.ids), shard_checksum(self.folder / shard_name(index)))
        return self.entries[index]

    def place(self, index: int) -> str:
        """Say which shard of which set it is, as the shard itself records it."""
        return f"{self.manifest.fingerprint}, {self.manifest.network_fingerprint}, {index}"

    def whole(self, part: Part = "all") -> Chunk:
        """Return the stored images, or a part of them, all in memory at once.

        Raises:
            SubspectError: a shard is missing or damaged.
        """
        return joined(list(self.chunks(part)))


def shards_in(folder: Path) -> list[int]:
    """List the numbers of the shards that lie in a folder."""
    names = (entry.name for entry in entries(folder))
    return sorted(int(name[:-6]) for name in names if re.fullmatch(r"[0-9]{5,12}\.arrow", name))
