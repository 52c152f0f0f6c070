"""Images in WebDataset shards: tar files on this machine, in which files of one name and several extensions are one sample.

A shard is listed once by its headers, without unpacking anything, and then read by offset, so a run resumes anywhere. A
``.tar.gz`` can only be read in sequence: it is unpacked once to list it, and an image is then reached by going forward from
the last one; going on after a stop passes over what comes before.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, cast

from subspect.ground.errors import SubspectError, Unusable, near, shortened, some
from subspect.ground.files import JSON_BYTES, open_file, parse_json
from subspect.ground.text import counted
from subspect.images.columns import NO_COLUMN, raw_labels
from subspect.images.encoded import Encoded, OpenFile, check_size
from subspect.images.folders import SUFFIXES
from subspect.images.places import below, written_out
from subspect.images.sources import NamedImages

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CLASS, _JSON = "cls", "json"
_CLASS_BYTES = 4096  # a label that is longer is none


@dataclass(slots=True)
class Sample:
    """Where a sample's image lies in its shard, and the sample's label."""

    key: str
    offset: int = -1
    size: int = 0
    label: object = None


@dataclass(frozen=True)
class _Asked:
    """Which extension contains the image, and which extension, or field of a ``.json``, the label."""

    image: str | None
    label: str | None


class Shards(NamedImages, Encoded):
    """Images in tar files, listed once; an id is ``SHARD/KEY``.

    Args:
        place: the name of all, such as ``wds:/data/shards-{000..127}.tar``.
        root: the folder that shards are relative to.
        shards: their paths relative to it.
        image_column: the extension that contains the images, unless each sample contains one image.
        label_column: the extension that contains the labels, or the field of ``.json`` files; ``cls`` unless given.

    Raises:
        SubspectError: a shard is damaged or ends half-way, contains a sample twice, or several images in a sample; there are no
            images; only some samples have labels.
    """

    def __init__(
        self, place: str, root: Path, shards: Sequence[str], image_column: str | None, label_column: str | None
    ) -> None:
        asked = _Asked(image_column, label_column)
        self._root, self._shards, self._samples = root, tuple(shards), list[Sample]()
        self._starts = list[int]()
        seen = _Seen()
        for shard in shards:
            self._starts.append(len(self._samples))
            self._samples += _listed(root / shard, asked, seen)
        _check(place, self._samples, seen, asked)
        self._file = OpenFile(self._open)
        labels = raw_labels([sample.label for sample in self._samples], None, self.id, place)
        super().__init__("WebDataset", labels, place, image_column)

    def __len__(self) -> int:
        return len(self._samples)

    def id(self, index: int) -> str:
        """Return the shard and the sample's key."""
        return f"{self._shards[self._shard(index)]}/{self._samples[index].key}"

    def data(self, index: int) -> bytes:
        """Read the image of a sample."""
        sample, shard = self._samples[index], self._shard(index)
        if sample.offset < 0:
            raise Unusable("the sample has no image")
        check_size(sample.size)
        try:
            file = self._file(shard)
            file.seek(sample.offset)
            data = file.read(sample.size)
        except (OSError, EOFError, zlib.error, SubspectError) as error:
            raise Unusable(f"{self._shards[shard]} cannot be read: {error}") from error
        if len(data) < sample.size:
            raise Unusable(f"{self._shards[shard]} ends before it: the shard was changed since it was listed")
        return data

    def listed(self) -> Iterable[str]:
        """Return each shard, and the keys, sizes and places of its samples."""
        yield from self._shards
        yield "\n".join(f"{one.key}\0{one.offset}\0{one.size}" for one in self._samples)
        yield str(self._starts)

    def _shard(self, index: int) -> int:
        return bisect_right(self._starts, index) - 1

    def _open(self, shard: int) -> BinaryIO:
        return _open(self._root / self._shards[shard])


def from_shards(place: str, outside: bool, image_column: str | None, label_column: str | None) -> Shards:
    """Open the shards of a place: a tar file, a folder of them, a pattern (``*``), or a range (``{000..127}``).

    Raises:
        SubspectError: there are none, some of a range are missing, or see `Shards`.
    """
    if re.match(r"(pipe:|[a-z][a-z0-9+]*://)", place):
        raise SubspectError(
            f"wds:{shortened(place)} is not on this machine; download the shards, and name the files: "
            "wds:FOLDER/shards-{000..127}.tar"
        )
    root, shards = below(place, _SUFFIXES, outside, "WebDataset shards")
    whole = f"wds:{written_out(place)}"
    return Shards(whole, root, shards, image_column, label_column)


@dataclass
class _Seen:
    """Extensions that occur, and fields of ``.json`` files, in the order in which they came."""

    extensions: dict[str, None] = field(default_factory=dict)
    fields: dict[str, None] = field(default_factory=dict)


def _listed(path: Path, asked: _Asked, seen: _Seen) -> list[Sample]:
    """List the samples of a shard by its headers."""
    samples = dict[str, Sample]()
    last = None
    for key, extension, member, file in _members(path, samples):
        if key != last and key in samples:
            raise SubspectError(
                f"{path} contains the sample {shortened(key)!r} twice; files of one sample must stand together, and keys "
                "must differ"
            )
        last = key
        seen.extensions[extension] = None
        sample = samples.setdefault(key, Sample(key))
        if _is_image(extension, asked.image):
            if sample.offset >= 0:
                raise SubspectError(
                    f"the sample {shortened(key)!r} in {path} contains several images, {extension!r} among them; name the "
                    "extension of those to use with --image-column (image_column=)"
                )
            sample.offset, sample.size = member.offset_data, member.size
        elif (found := _label(path, extension, member, file, asked.label, seen)) is not None:
            sample.label = found
    return list(samples.values())


def _is_image(extension: str, asked: str | None) -> bool:
    return extension == asked if asked is not None else "." + extension.rpartition(".")[2] in SUFFIXES


def _label(
    path: Path, extension: str, member: tarfile.TarInfo, file: IO[bytes], asked: str | None, seen: _Seen
) -> object:
    """Read a label, if a member contains one."""
    if asked == NO_COLUMN:
        return None
    if extension == (asked or _CLASS) != _JSON:
        if member.size > _CLASS_BYTES:
            raise SubspectError(f"{path}: {shortened(member.name)} has {member.size:,} bytes, and cannot be a label")
        try:
            return file.read(member.size).decode().strip() or None
        except UnicodeDecodeError as error:
            raise SubspectError(f"{path}: {shortened(member.name)} is not text in UTF-8: {error}") from error
    if extension == _JSON and asked is not None:
        where = f"{path}: {shortened(member.name)}"
        if member.size > JSON_BYTES:
            raise SubspectError(
                f"{where} has {member.size:,} bytes, more than the {JSON_BYTES:,} that are read of JSON"
            )
        values = parse_json(file.read(member.size), where)
        if isinstance(values, dict):
            seen.fields.update(dict.fromkeys(values))
            if asked == _JSON and asked not in values:
                raise SubspectError(
                    f"{where} has fields, and is no label as a whole; name the field that holds the label with --label-column "
                    f"(label_column=): {some(map(shortened, values), 20) or 'it has none'}"
                )
            return values.get(asked)
        return values if asked == _JSON else None
    return None


def _members(path: Path, done: dict[str, Sample]) -> Iterator[tuple[str, str, tarfile.TarInfo, IO[bytes]]]:
    """Go through the files of a shard: key, extension, header, and the shard open at the file's first byte."""
    with _open(path) as raw:
        try:
            archive = tarfile.open(fileobj=raw, mode="r:", encoding="utf-8")  # noqa: SIM115
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # which tarfile would keep, a KB each
                key, extension = _key(member.name)
                if not member.isreg() or member.issparse() or not key:
                    continue
                if not _is_text(member.name):
                    raise SubspectError(f"{path} contains a name that is not UTF-8: {member.name!a}; rename it")
                raw.seek(member.offset_data)
                yield key, extension, member, cast(IO[bytes], raw)
            _check_end(path, raw, archive.offset, len(done))
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise SubspectError(_half(path, len(done), error)) from error


def _key(name: str) -> tuple[str, str]:
    """Cut a name behind the first dot of its last part: key and extension; no key for a hidden file or one without."""
    found = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]+)", name, re.DOTALL)
    return (found[1].removeprefix("./"), found[2].lower()) if found else ("", "")


def _is_text(name: str) -> bool:
    return name == name.encode(errors="ignore").decode()


def _check_end(path: Path, raw: BinaryIO, offset: int, samples: int) -> None:
    """Check that a shard's last file is there to its end, and that the zeros follow that end a tar file.

    Raises:
        SubspectError: they aren't, as where a download was cut off.
    """
    raw.seek(offset)
    rest = raw.read(tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise SubspectError(_half(path, samples, "it lacks the zeros that end a tar file"))


def _half(path: Path, samples: int, why: object) -> str:
    return (
        f"{path} ends half-way, or is damaged, after {counted(max(samples - 1, 0), 'whole sample', 'whole samples')} "
        f"({shortened(str(why))}); fetch it "
        "again, or leave it out"
    )


def _open(path: Path) -> BinaryIO:
    """Open a shard; what a compressed one contains is read as if it were there unpacked."""
    file = open_file(path, "the shard")
    if path.suffix.lower() == ".tar":
        return file
    file.close()  # it is a regular file
    return cast(BinaryIO, gzip.GzipFile(path))


def _check(place: str, samples: Sequence[Sample], seen: _Seen, asked: _Asked) -> None:
    """Check that there are images, and the columns that were asked for."""
    known = [*seen.extensions]
    if asked.image is not None and asked.image not in seen.extensions:
        raise SubspectError(
            f"{shortened(place)} has no images with the extension {shortened(asked.image)!r}{near(asked.image, known)}; "
            f"its samples contain {some(known, 20)}"
        )
    if asked.label not in (None, NO_COLUMN, *seen.extensions, *seen.fields):
        fields = f", and .json files the fields {some(seen.fields, 20)}" if seen.fields else ""
        raise SubspectError(
            f"{shortened(place)} has no labels {shortened(asked.label or '')!r}{near(asked.label, [*known, *seen.fields])}; "
            f"its samples contain {some(known, 20)}{fields}"
        )
    if all(sample.offset < 0 for sample in samples):
        raise SubspectError(
            f"no images in {shortened(place)}: its samples contain {some(known, 20) or 'nothing'}; expected one of "
            f"{' '.join(sorted(SUFFIXES))}"
        )
