"""Files: written whole or not at all, replaced only where they are ours, read only where they are regular.

A file is written under a name of ours that nobody else uses (``.subspect-…part``), flushed to the disk (fsync) and renamed,
so that a reader, or the same command after ``kill -9``, never meets half a file. While it is written its writer holds it
locked; what a killed writer left is therefore told from what another one still writes, and is removed by the next that
writes into the same folder. What is there already is replaced only if its *seal*, a checksum that it carries (see
`subspect.ground.seals`), says that it is as subspect wrote it. Links are neither followed nor replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from subspect.ground.addresses import check_rights, in_cache, open_copy, refuse_address, restore, upload
from subspect.ground.errors import SubspectError
from subspect.ground.text import is_text
from subspect.ground.unfinished import is_part, part_name

if sys.platform != "win32":  # there, a file that is open cannot be deleted
    import fcntl

JSON_DEPTH = 100  #: deeper JSON is refused: Python could read what it then could not write
JSON_BYTES = 32 * 2**20  #: larger JSON is refused unread, since in memory it can take 25 times as much
_TEXT_BYTES = 256 * 2**20  # likewise of other text
_HERE = "only a study can lie at one: name a place on this machine"
_NOFOLLOW, _NONBLOCK = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK"))


# Writing --------------------------------------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path, ours: Callable[[Path], bool] | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an error.

    Args:
        path: the file.
        ours: whether a regular file that is there already may be replaced; unless given, none may.

    Raises:
        SubspectError: the place cannot be written, or the disk is full, or what is there isn't ours; nothing is left behind.
    """
    check_free(path, ours)
    temporary, seen = None, _stamp(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary, handle = open_part(path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if _stamp(path) != seen:
                check_free(path, ours)  # again: something appeared meanwhile, or was changed
            if upload(temporary, path) or os.path.lexists(path):
                temporary.replace(path)
            else:
                _publish(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise SubspectError(explain(error, path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return by what a file that was changed is told from what it was; None where there is none."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_free(path: Path, ours: Callable[[Path], bool] | None = None) -> None:
    """Check that a file can be written without touching anything that isn't ours.

    Raises:
        SubspectError: something is there that isn't a regular file, or that ``ours`` doesn't know.
    """
    refuse_address(path, _HERE)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise SubspectError(explain(error, path)) from error
    sweep(path.parent)  # what a writer left who was killed between the file's two names, and isn't run again
    if not stat.S_ISREG(mode):
        raise SubspectError(f"{path} is there already, as {kind(mode)}; choose another name")
    if ours is None:
        raise SubspectError(f"{path} exists; choose another name, or delete it")
    if not ours(path):
        raise SubspectError(
            f"{path} is there already, and not as subspect wrote it (another program's, changed or damaged): it stays as it "
            "is; choose another name, or delete it"
        )


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder: regular files with names of ours that no process holds locked."""
    try:
        names = [entry.name for entry in os.scandir(folder) if is_part(entry.name)]
    except OSError:
        return
    for path in (folder / name for name in names):
        with suppress(OSError):
            handle = os.open(path, os.O_RDWR | _NOFOLLOW | _NONBLOCK)
            try:
                if sys.platform != "win32":
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.fstat(handle)
                if stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.lstat(path)):
                    path.unlink()
            finally:
                os.close(handle)


def open_part(folder: Path) -> tuple[Path, int]:
    """Make a file under a new name, held locked, and return its open handle."""
    while True:
        path = folder / part_name()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666)
        if sys.platform == "win32":
            return path, handle
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return path, handle
        os.close(handle)  # another process swept it away before it was locked


def _publish(temporary: Path, path: Path) -> None:
    """Give a file its name, unless something has that name by now."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise SubspectError(f"{path} appeared while it was being written; choose another name") from None
    except OSError:  # a file system without hard links
        temporary.replace(path)


def make_folder(path: Path) -> None:
    """Make a folder, with those that it lies in.

    Raises:
        SubspectError: it cannot be made or written to.
    """
    refuse_address(path, _HERE)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise SubspectError(explain(error, path)) from error
    check_writable(path)


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder, before work whose result is to go there.

    Raises:
        SubspectError: they cannot.
    """
    try:
        path, handle = open_part(folder)
        os.close(handle)
        path.unlink()
    except OSError as error:
        raise SubspectError(explain(error, folder)) from error
    check_rights(folder)


def explain(error: Exception, path: Path) -> str:
    """Say in one sentence why a file could not be written and what to do."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk is full: could not write {path}{in_cache(path)}; free some space or choose another folder, and run "
            "again"
        )
    if number in (errno.EEXIST, errno.ENOTDIR):
        return f"cannot write {path}: it, or what it lies in, is a file, not a folder; choose another place"
    reason = error.strerror or error if isinstance(error, OSError) else error
    return f"cannot write {path}{in_cache(path)}: {reason}; choose a folder that you may write to"


def sync_folder(folder: Path) -> None:
    """Wait until the disk has what was renamed in a folder."""
    if os.name == "posix":  # a rename is durable only once its folder is; Windows has no such call
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_links(folder: Path, *parts: str) -> None:
    """Check that a place within a folder of ours is reached without following a link, which could lead anywhere.

    Raises:
        SubspectError: a part of the way is a link.
    """
    for number in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:number])
        if place.is_symlink():
            raise SubspectError(
                f"{place} is a link, and nothing outside a study is read or written through one; put the folder in its place "
                "(the study as a whole may be a link)"
            )


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what lies in a folder; nothing where there is none.

    Raises:
        SubspectError: it cannot be read.
    """
    restore(folder)
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SubspectError(f"cannot read {folder}: {error.strerror}; make it readable, or move it away") from error


# Reading --------------------------------------------------------------------------------------------------------------


def open_file(path: Path, what: str = "") -> BinaryIO:
    """Open a regular file to read; never a pipe, a device or a folder, which would hang or have no end.

    Args:
        path: the file; a link to one will do.
        what: what it is to be, for the message, such as "the class map".

    Raises:
        SubspectError: it is missing, cannot be read, or isn't a regular file.
    """
    name = f"{what} {path}" if what else f"{path}"
    try:
        handle = open_copy(path, os.O_RDONLY | _NONBLOCK | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        _refuse_reading(name, error)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise SubspectError(f"cannot read {name}: it is {kind(mode)}, not a file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path, what: str = "", limit: int = _TEXT_BYTES) -> bytes:
    """Read a regular file that is no larger than a limit in bytes.

    Raises:
        SubspectError: it is missing, larger, or cannot be read.
    """
    name = f"{what} {path}" if what else f"{path}"
    with open_file(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise SubspectError(f"{name} has {size:,} bytes, more than the {limit:,} that are read of such a file")
        try:
            return file.read(min(limit, size + 2**16))  # a file in /proc says 0
        except OSError as error:
            _refuse_reading(name, error)


def read_text(path: Path, what: str = "") -> str:
    """Read a UTF-8 text file, with or without a byte-order mark.

    Raises:
        SubspectError: it is missing, too large, unreadable or not UTF-8.
    """
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SubspectError(f"{f'{what} ' if what else ''}{path} is not text in UTF-8: {error}") from error


def read_json(path: Path, what: str = "") -> Any:
    """Read strict JSON: no key twice in an object, no NaN, no numbers beyond a double's range, real text only.

    Raises:
        SubspectError: the file is missing, unreadable or not such JSON.
    """
    return parse_json(read_bytes(path, what, JSON_BYTES), path)


def parse_json(data: bytes, path: Path | str) -> Any:
    """Read strict JSON from bytes; ``path`` says where they are from.

    Raises:
        SubspectError: they are not such JSON.
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_in_range)
    except RecursionError as error:
        raise SubspectError(f"{path} is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise SubspectError(f"{path} is not JSON: {error}") from error
    if _is_deep(value):
        raise SubspectError(f"{path} is not JSON that can be read: it is nested more than {JSON_DEPTH} deep")
    if "\\u" in text and not is_text(json.dumps(value, ensure_ascii=False)):
        raise SubspectError(
            f"{path} is not JSON that can be read: it contains half of a surrogate pair, which is not text"
        )
    return value


def _is_deep(value: Any, left: int = JSON_DEPTH) -> bool:
    if not isinstance(value, dict | list):
        return False
    return not left or any(_is_deep(one, left - 1) for one in (value.values() if isinstance(value, dict) else value))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, one in pairs:
        if key in value:
            raise ValueError(f"the key {key!r} stands twice in one object")
        value[key] = one
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _in_range(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def is_file(path: Path) -> bool:
    """Tell whether there is a regular file, or a link to one; no path is too odd to ask."""
    restore(path)
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder, or a link to one; no path is too odd to ask."""
    return stat.S_ISDIR(_mode(path))


def special(path: Path) -> str:
    """Say in brackets what lies somewhere instead of a file or a folder, such as a named pipe; else nothing."""
    mode = _mode(path)
    return f" ({kind(mode)} is there)" if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) else ""


def _mode(path: Path) -> int:
    """Return type and rights of what a path leads to; 0 where there is nothing."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _refuse_reading(name: str, error: Exception) -> NoReturn:
    reason = error.strerror if isinstance(error, OSError) else error
    raise SubspectError(f"cannot read {name}: {reason}") from error


def kind(mode: int) -> str:
    """Say what lies somewhere, by its type and rights."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a file")


def fingerprint(*parts: bytes | memoryview | str) -> str:
    """Return the SHA-256 of the parts (text, or bytes), each preceded by its length, as 64 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
