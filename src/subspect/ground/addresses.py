"""A study at an address, such as ``s3://bucket/study``: worked on in a copy on this machine (`subspect.ground.mirrors`).

What of ours opens, writes or removes a file asks here, so that it happens in the store as well; of other files, nothing does.
Which names the store has, and of which files it has others by now, is looked up when a study is opened and when a lock of it is
taken (`look_again`).
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from subspect.ground.errors import SubspectError, as_called, call, near, shortened
from subspect.ground.mirrors import Mirror, asking, cache_folder, protocol, said
from subspect.ground.unfinished import is_part

T = TypeVar("T")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://.*", re.DOTALL)
_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+:/[^/]")  # what pathlib makes of an address
_PATIENCE = 15.0  #: seconds that the first request may take
_QUICK = {"connect_timeout": 3, "read_timeout": 5, "retries": {"max_attempts": 1}}  # of it, where the store speaks S3
_mirrors: dict[tuple[str, str], Mirror] = {}  # by address and cache


def place(study: str | os.PathLike[str]) -> Path:
    """Return the folder in which a study is worked on: its own, or of an address the copy on this machine.

    Raises:
        SubspectError: the address has no store that is known, needs a package that isn't installed, doesn't answer, or gives
            no rights; or it is one that pathlib has shortened.
    """
    text = os.fspath(study)
    if _ADDRESS.fullmatch(text) is None:
        refuse_address(text, "give it with two slashes, and as text: pathlib drops one of them")
        return Path(study)
    address = text.rstrip("/")
    own = address, str(cache_folder())
    if own not in _mirrors:
        _mirrors[own] = _connected(address)
    _mirrors[own].look()
    return _mirrors[own].folder


def described(folder: Path) -> tuple[str, str] | None:
    """Return by what others find a folder of a copy: the study's address, and what is below; None of other folders."""
    mirror = _mirror_of(folder)
    return None if mirror is None else (mirror.address, folder.relative_to(mirror.folder).as_posix())


def look_again(folder: Path) -> None:
    """Look up what the store has by now, where a folder is the copy of a study, or lies in one."""
    mirror = _mirror_of(folder / "study.json")
    if mirror is not None:
        mirror.look()


def refuse_address(path: str | os.PathLike[str], instead: str) -> None:
    """Refuse an address where a path is expected, rather than make a folder called ``s3:``.

    Raises:
        SubspectError: it is one.
    """
    text = os.fspath(path)
    if _AS_PATH.match(text) and not os.path.lexists(text.partition("/")[0]):
        raise SubspectError(f"{text} is an address, not a path; {instead}")


def open_copy(path: Path, flags: int) -> int:
    """Open a file as `os.open` does; of a copy, once it is what the store has.

    Raises:
        OSError: it cannot be opened, or isn't there.
        SubspectError: it cannot be fetched.
    """
    mirror = _mirror_of(path)
    for _ in range(3 if mirror is not None else 0):  # another process may find it changed just then
        assert mirror is not None
        with suppress(FileNotFoundError):
            handle = os.open(path, flags)
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or mirror.knows(path, found):
                return handle
            os.close(handle)
        mirror.fetch(path)
    return os.open(path, flags)


def restore(path: Path) -> None:
    """Have a copy hold what the store has in a folder, or a file, if that was deleted here: as a file still to be fetched."""
    mirror = _mirror_of(path)
    if mirror is not None:
        mirror.restore(path)


def upload(file: Path, path: Path) -> bool:
    """Upload what is to be a file of a copy; False where it is none, but a file like others.

    Raises:
        SubspectError: it cannot be written there.
    """
    mirror = _mirror_of(path)
    if mirror is not None:
        mirror.put(file, path)
    return mirror is not None


def remove(path: Path) -> None:
    """Remove a file, of a copy from its store as well.

    Raises:
        OSError: it cannot be removed.
    """
    mirror = _mirror_of(path)
    if mirror is not None:
        mirror.remove(path)
    path.unlink(missing_ok=mirror is not None)


def check_rights(folder: Path) -> None:
    """Check that a store can be written to, before work whose result is to go there; of no copy, nothing.

    Raises:
        SubspectError: it cannot.
    """
    mirror = _mirror_of(folder / "study.json")
    if mirror is not None:
        mirror.check_rights()


def in_cache(path: Path) -> str:
    """Say, to follow the name of a file of a copy, where the copy lies; nothing for other files."""
    mirror = _mirror_of(path)
    return f" (in its copy below {cache_folder()}; SUBSPECT_CACHE names another place)" if mirror is not None else ""


def _mirror_of(path: Path) -> Mirror | None:
    """Return the copy that a file belongs to; None where it is in none, or unfinished."""
    for mirror in list(_mirrors.values()):
        if str(path).startswith(f"{mirror.folder}{os.sep}"):
            return None if any(map(is_part, path.relative_to(mirror.folder).parts)) else mirror
    return None


def _connected(address: str) -> Mirror:
    """Try the connection with little patience, and return the copy of the study there.

    Raises:
        SubspectError: there is no such store, no package for it, no answer, or no right to read.
    """
    parts, own = urlsplit(address), protocol(address)
    if parts.password:
        raise SubspectError(
            f"{parts.scheme}://{parts.hostname}/… has a password in it, which would be shown; leave it to the "
            "environment or to the files of the store's own client"
        )
    if not parts.path and not parts.netloc:
        raise SubspectError(f"{address}// names no place in the store; give one such as s3://bucket/study")
    purpose = f"a study at {address}"
    from subspect.ground.packages import package  # which imports torch

    fsspec = package("fsspec", "remote", purpose)
    if own in ("s3", "s3a"):
        package("s3fs", "remote", purpose)
    if own not in fsspec.available_protocols():
        raise SubspectError(
            f"{shortened(address)} begins with {own!r}, and fsspec knows no store of that name"
            f"{near(own, fsspec.available_protocols())}; give one such as s3://bucket/study"
        )
    quick = {"config_kwargs": _QUICK} if own in ("s3", "s3a") else {}
    try:
        tried, root = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True, **quick)
        store, _ = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise SubspectError(f"{purpose} needs another package: {said(error).removeprefix('ImportError: ')}") from error
    except Exception as error:  # each client has its own
        raise SubspectError(f"{address} cannot be opened: {said(error)}; check the address") from error
    if quick:
        tried.retries = 1
    with asking(address, "read"):
        _in_time(lambda: _tried(tried, root), address)
    mirror = Mirror(address, store, root)
    mirror.clear()
    call(str(mirror.folder), address)
    logger = logging.getLogger("subspect")
    if not any(isinstance(one, _Called) for one in logger.filters):
        logger.addFilter(_Called())
    return mirror


def _tried(store: Any, root: str) -> None:
    """Ask a store for a study, which need not be there."""
    try:
        store.ls(root, detail=True)
    except FileNotFoundError as error:
        if error.__cause__ is not None:  # of S3: no such bucket
            raise


class _Called(logging.Filter):
    """Has messages name addresses, not copies."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Put it into a message's text."""
        record.msg, record.args = as_called(record.getMessage()), ()
        return True


def _in_time(ask: Callable[[], T], address: str) -> T:
    """Return what is asked for, if that doesn't take longer than one waits.

    Raises:
        SubspectError: it does.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def asked() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=asked, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if failed:
        raise failed[0]
    if not found:
        raise SubspectError(f"{address} does not answer within {_PATIENCE:.0f} s; check the address and the connection")
    return found[0]
