"""A folder of files that appears whole or not at all, under a name that nothing has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subspect.ground.errors import SubspectError
from subspect.ground.files import check_free, explain, make_folder, open_part, sync_folder
from subspect.ground.unfinished import part_name


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a folder under a name of ours, which gets its own name when the block ends without an error; else it goes.

    Args:
        path: the folder; nothing may be there yet.

    Raises:
        SubspectError: something is there, or it cannot be written.
    """
    check_free_place(path)
    make_folder(path.parent)
    part = path.with_name(part_name())
    try:
        part.mkdir()
        yield part
        _sync(part)
        check_free_place(path)  # again: something may have appeared meanwhile
        part.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise SubspectError(explain(error, path)) from error
    finally:
        if part.exists():
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def marked(folder: Path) -> Iterator[str]:
    """Keep a file in a folder while the block runs, by whose name others know whether they see the same folder.

    Raises:
        SubspectError: the folder cannot be written.
    """
    try:
        path, handle = open_part(folder)
    except OSError as error:
        raise SubspectError(explain(error, folder)) from error
    try:
        yield path.name
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Wait until the disk has all files of a folder."""
    for path in [one for one in folder.rglob("*") if one.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def check_free_place(path: Path) -> None:
    """Check that a folder can be made, before the work that fills it.

    Raises:
        SubspectError: something is there.
    """
    check_free(path)
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise SubspectError(f"cannot write {path}: {folder} is a file, not a folder; choose another place")
    if not os.access(folder, os.W_OK):
        raise SubspectError(f"cannot write to {folder}; choose a folder that you may write to")
