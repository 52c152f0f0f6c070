"""The copy on this machine of a study at an address, in step with the store that has it.

::

    ~/.cache/subspect/studies/1f0c5b29aa31…/       or below SUBSPECT_CACHE; a folder for each address
        study/                   the copy: the store's names; a file is empty until it is first opened
        known/                   for each file of the copy, by what the store's and this one were told when they were the same
        coming/                  what is being fetched

A file is fetched when it is first opened. One that is written is uploaded, and only then gets its name here. So nothing in the
copy pretends to be stored, and all of it may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from subspect.ground.errors import SubspectError, shortened
from subspect.ground.unfinished import is_part, part_name

_FOLDERS = ("sets", "decompositions", "cues", "filters", "report-pages")  # of a study; no other is looked into
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")  # where what is uploaded appears whole
_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")
_MOMENT = 0.02  # by so much the clock of files may be behind
_SETTINGS = "for S3, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


def protocol(address: str) -> str:
    """Return by what an address says which kind of store it is of."""
    return address.partition("://")[0]


def cache_folder() -> Path:
    """Return where copies lie."""
    own = os.environ.get("SUBSPECT_CACHE")
    cache = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "subspect"
    return cache.absolute()


class Mirror:
    """The copy of one study.

    Args:
        address: as the user gave it.
        store: the file system of fsspec.
        root: the study's path there.
    """

    def __init__(self, address: str, store: Any, root: str) -> None:
        self.address, self.store, self.root = address, store, root.rstrip("/")
        own = cache_folder() / "studies" / hashlib.sha256(address.encode()).hexdigest()[:32]
        self.folder, self._known, self._coming = (own / name for name in ("study", "known", "coming"))
        self._names: set[str] = set()  # of the store, when it was last looked up, and since
        self._whole = protocol(address) in _WHOLE

    def clear(self) -> None:
        """Remove what processes left that were killed while they fetched."""
        with suppress(OSError):
            for path in list(self._coming.iterdir()):
                if _time(path) < time.time() - 86_400:
                    path.unlink(missing_ok=True)

    def look(self) -> None:
        """Have the copy hold the names that the store holds, what changed there as an empty file that is still to be fetched.

        Raises:
            SubspectError: the store can't be listed, or the copy not be written.
        """
        began = time.time()
        with asking(self.address, "read"):
            listed = self._listed()
        with self._copying():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name, entry in listed.items():
                self._put_off(name, entry)
            self._names = set(listed)
            for folder, _, names in os.walk(self.folder, topdown=False):
                self._prune(Path(folder), names, listed, began)

    def restore(self, path: Path) -> None:
        """Have an empty file stand for each of the store in a folder, or at a path, that isn't there.

        Raises:
            SubspectError: the copy can't be written.
        """
        own = path.relative_to(self.folder).as_posix()
        with self._copying():
            for name in [one for one in self._names if one == own or one.startswith(f"{own}/")]:
                if not (self.folder / name).exists():
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (self.folder / name).touch()

    def knows(self, path: Path, found: os.stat_result) -> bool:
        """Tell whether a file of the copy is one that was fetched or uploaded."""
        return self._record(path)[1] == _local(found)

    def fetch(self, path: Path) -> None:
        """Fetch a file.

        Raises:
            FileNotFoundError: the store doesn't have it.
            SubspectError: it cannot be fetched.
        """
        part, remote = self._coming / part_name(), self._remote(path)
        try:
            with self._copying():
                self._coming.mkdir(parents=True, exist_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
            with asking(self.address, "read"):
                try:
                    entry = self.store.info(remote)
                    self.store.get_file(remote, str(part))
                    _sync(part)
                except FileNotFoundError as error:
                    raise _Gone from error
                if part.stat().st_size != entry["size"]:
                    raise OSError(f"{remote} changed while it was read; try again")
            with self._copying():
                self._note(path, _mark(entry), part)
                part.replace(path)
        except _Gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        finally:
            part.unlink(missing_ok=True)

    def put(self, file: Path, path: Path) -> None:
        """Upload a finished file under the name that it will have here.

        Raises:
            SubspectError: it cannot be written there.
        """
        remote = self._remote(path)
        with asking(self.address, "write to"):
            if self._whole:
                self.store.put_file(str(file), remote)
            else:
                part = self._made_part(remote.rpartition("/")[0])
                try:
                    self.store.put_file(str(file), part)
                    self.store.mv(part, remote)
                except BaseException:
                    with suppress(Exception):
                        self.store.rm_file(part)
                    raise
            entry = self.store.info(remote)
        self._names.add(path.relative_to(self.folder).as_posix())
        with self._copying():
            self._note(path, _mark(entry), file)

    def remove(self, path: Path) -> None:
        """Remove a file from the store.

        Raises:
            OSError: it cannot be removed.
        """
        try:
            with suppress(FileNotFoundError):
                self.store.rm_file(self._remote(path))
        except OSError:
            raise
        except Exception as error:  # of the client's own
            raise OSError(said(error)) from error
        self._names.discard(path.relative_to(self.folder).as_posix())

    def check_rights(self) -> None:
        """Write something that is removed again.

        Raises:
            SubspectError: it cannot be written.
        """
        with asking(self.address, "write to"):
            part = self._made_part(self.root)
            self.store.pipe_file(part, b"")
            with suppress(Exception):  # who may only add files, may
                self.store.rm_file(part)

    def _listed(self) -> dict[str, Mapping[str, Any]]:
        """Return name → what the store says of each file; folders that no study has count as files, which nobody opens.

        Raises:
            SubspectError: something leads out of the study.
        """
        self.store.invalidate_cache()
        try:
            found = {entry["name"]: entry for entry in self.store.ls(self.root, detail=True)}
            for folder in _FOLDERS:
                path = f"{self.root}/{folder}"
                if found.pop(path, {}).get("type") == "directory":
                    found |= self.store.find(path, detail=True)
        except FileNotFoundError as error:
            if error.__cause__ is not None:  # of S3: no such bucket
                raise
            return {}
        named = {path[len(self.root) + 1 :]: entry for path, entry in found.items()}
        return {name: entry for name, entry in named.items() if self._is_seen(name, entry)}

    def _is_seen(self, name: str, entry: Mapping[str, Any]) -> bool:
        parts = name.split("/")
        if entry.get("islink") or (self._local_store and not _is_itself(self.root, name)):
            raise SubspectError(
                f"{self.address}/{name} is a link, and nothing outside a study is read or written through one"
            )
        odd = any(one in ("", ".", "..") or "\\" in one or "\0" in one for one in parts)
        return not (odd or parts[-1].startswith(".lock") or any(map(is_part, parts)))

    @property
    def _local_store(self) -> bool:
        """Whether the store is a file system of this machine."""
        return protocol(self.address) in ("file", "local")

    def _put_off(self, name: str, entry: Mapping[str, Any]) -> None:
        """Have an empty file stand for one of the store, unless the copy has it as it is."""
        path = self.folder / name
        try:
            found = path.stat()
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            return
        if found.st_size and self._record(path) != (_mark(entry), _local(found)):
            self._coming.mkdir(parents=True, exist_ok=True)
            empty = self._coming / part_name()
            empty.touch()
            empty.replace(path)  # in its place, since another process may have the other one mapped

    def _prune(self, folder: Path, names: list[str], listed: Mapping[str, object], began: float) -> None:
        """Remove from a folder of the copy what the store no longer has; what is newer than its list may be there by now."""
        for path in (folder / name for name in names if not name.startswith(".lock")):
            parts = path.relative_to(self.folder).parts
            if "/".join(parts) not in listed and not any(map(is_part, parts)):
                record = self._known.joinpath(*parts)
                if max(_time(path), _time(record)) < began - _MOMENT:
                    path.unlink(missing_ok=True)
                    record.unlink(missing_ok=True)
        if folder != self.folder and _time(folder) < began - 60:
            with suppress(OSError):
                folder.rmdir()

    def _record(self, path: Path) -> tuple[str, str]:
        """Return by what the store's file and the copy's were told when they were the same; else nothing."""
        try:
            mark, found = (self._known / path.relative_to(self.folder)).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return "", ""
        return mark, found

    def _note(self, path: Path, mark: str, file: Path) -> None:
        """Note that a file, which will have its name in the copy next, is what the store has."""
        record, part = self._known / path.relative_to(self.folder), self._coming / part_name()
        for folder in (record.parent, part.parent):
            folder.mkdir(parents=True, exist_ok=True)
        part.write_text(f"{mark}\n{_local(file.stat())}\n", encoding="utf-8")
        part.replace(record)

    def _remote(self, path: Path) -> str:
        return f"{self.root}/{path.relative_to(self.folder).as_posix()}"

    def _made_part(self, folder: str) -> str:
        """Return a name for something unfinished in a folder of the store, which is made if need be."""
        if not self._whole:
            self.store.makedirs(folder, exist_ok=True)
        return f"{folder}/{part_name()}"

    @contextmanager
    def _copying(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SubspectError(
                f"cannot keep a copy of {self.address} below {cache_folder()}: {error.strerror or error}; have "
                "SUBSPECT_CACHE name a folder with room that you may write to"
            ) from error


class _Gone(Exception):
    """The store doesn't have a file."""


@contextmanager
def asking(address: str, what: str) -> Iterator[None]:
    """Have an error of the store's client become one of ours."""
    try:
        yield
    except (SubspectError, _Gone):
        raise
    except PermissionError as error:
        raise SubspectError(
            f"no rights to {what} {address} ({said(error)}); check the credentials ({_SETTINGS})"
        ) from error
    except FileNotFoundError as error:
        raise SubspectError(f"cannot {what} {address}: {error}; check the address") from error
    except Exception as error:  # each client has its own
        raise SubspectError(
            f"cannot {what} {address} ({said(error)}); check the address, the connection and the settings "
            f"({_SETTINGS}), and run the same command again"
        ) from error


def _mark(entry: Mapping[str, Any]) -> str:
    """Return by what the store's file is told from others of its name."""
    tag = next((str(entry[name]) for name in _MARKS if entry.get(name)), "")
    return json.dumps([entry.get("size"), tag, entry.get("ino")])


def _local(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"


def _sync(path: Path) -> None:
    """Wait until the disk has a file: what is noted of it must hold after a power failure too."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_itself(root: str, name: str) -> bool:
    """Tell whether a file below a folder lies there, not behind a link."""
    return os.path.realpath(os.path.join(root, name)) == os.path.join(os.path.realpath(root), *name.split("/"))  # noqa: PTH118


def said(error: BaseException) -> str:
    """Return an error's kind and the first line of what it says."""
    return shortened(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", 300)
