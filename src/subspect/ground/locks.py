"""Locks: files that a process holds locked, which the system frees when it dies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from subspect.ground.errors import SubspectError
from subspect.ground.files import explain, kind

log = logging.getLogger("subspect")


@contextmanager
def locked(folder: Path, what: str, *, wait: float = -1, name: str = ".lock") -> Iterator[None]:
    """Keep every other process that asks for the same out while the block runs; the system frees a killed holder's lock.

    Args:
        folder: where the lock's file, of the name given, lies; made if need be.
        what: that others do meanwhile, for the messages, such as "writing to the study S".
        wait: seconds, at most; as long as it takes unless given. That it waits is said.

    Raises:
        SubspectError: another process holds it for longer, or the folder cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise SubspectError(f"{path} is not a file of subspect's but {kind(os.lstat(path).st_mode)}; remove it")
        guard = filelock.FileLock(path)
        try:
            guard.acquire(timeout=0)
        except filelock.Timeout:
            if wait:
                log.info("waiting: another process is %s", what)
            guard.acquire(timeout=wait)
    except filelock.Timeout as error:
        raise SubspectError(f"another process is {what}; wait for it, or choose another folder") from error
    except OSError as error:
        raise SubspectError(explain(error, path)) from error
    try:
        yield
    finally:
        guard.release()
