"""Files that appear whole or not at all, and fingerprints of bytes.

A file is written under a temporary name beside its place, flushed to the disk (fsync) and renamed, so that a reader, or
the same command after ``kill -9``, never meets half a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from subspect.errors import SubspectError

PART = ".part"


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an error.

    Raises:
        SubspectError: the place cannot be written, or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise SubspectError(explain(error, path)) from error
    finally:
        _discard(temporary)


def make_folder(path: Path) -> None:
    """Make a folder, with those that it lies in.

    Raises:
        SubspectError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SubspectError(explain(error, path)) from error
    if not os.access(path, os.W_OK):
        raise SubspectError(f"cannot write to {path}; choose a folder that you may write to")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        SubspectError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SubspectError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SubspectError(f"{path} is not JSON: {error}") from error


def explain(error: OSError, path: Path) -> str:
    """Say in one sentence why a file could not be written and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: could not write {path}; free some space or choose another folder, and run again"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"cannot write {path}: it, or what it lies in, is a file, not a folder; choose another place"
    return f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to"


def fingerprint(*parts: bytes | memoryview | str) -> str:
    """Return the SHA-256 of the parts (text, or bytes), each preceded by its length, as 64 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # a rename is durable only once its folder is; Windows has no such call
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _discard(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return  # the folder itself is gone or not a folder: there is nothing to discard
