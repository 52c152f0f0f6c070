"""The pages beside the first one: whole or not there, and known again by what they hold.

::

    report.html                  links to report-pages/1f0c5b29aa31/class-3.html
    report-pages/
        .lock                    held by who writes
        1f0c5b29aa31/            a generation of pages, named by the SHA-256 of its SHA256SUMS
            SHA256SUMS           the pages' checksums, for `sha256sum -c`
            class-0.html …
        .subspect-….part/        one that is being written, or was when its writer was killed

A generation is written beside the old one and gets its name once it is whole. Then the first page is replaced, in one step,
and only then the old generation goes: at every moment the first page's links lead to its own pages. A page is removed only
if its folder's SHA256SUMS names it and it has that checksum; all else stays.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from subspect.ground.addresses import remove, upload
from subspect.ground.errors import SubspectError, some
from subspect.ground.files import check_free, explain, read_bytes, sweep, sync_folder
from subspect.ground.unfinished import is_part, part_name

log = logging.getLogger("subspect")

SUMS = "SHA256SUMS"  #: the file of checksums
_LINE = re.compile(r"([0-9a-f]{64})  ((?:class|feature)-[0-9]+\.html)\n")
_GENERATION = re.compile("[0-9a-f]{12}")
_MOST = 2**32  # bytes of a page


def check_pages(folder: Path) -> None:
    """Check that nothing but pages of ours lies where pages are to go.

    Raises:
        SubspectError: it is no folder, or holds something else.
    """
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            check_free(folder)
        strange = sorted(entry.name for entry in os.scandir(folder) if not _is_ours(Path(entry.path)))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise SubspectError(explain(error, folder)) from error
    if strange:
        raise SubspectError(
            f"{folder}, where the report's pages go, contains {some(strange)}, which subspect didn't write; choose another -o"
        )


def changed_pages(first: Path) -> list[str]:
    """List the pages that are missing or not as subspect wrote them, of the generation that a first page links to."""
    linked = re.search(rb'href="([^"/]+)-pages/([0-9a-f]{12})/', read_bytes(first, limit=_MOST))
    if linked is None:
        return []  # a single page
    folder = first.with_name(f"{first.stem}-pages") / linked[2].decode()
    sums = _sums(folder)
    if sums is None:
        return [f"{folder.name}/{SUMS}"]
    return [f"{folder.name}/{name}" for name, digest in sums.items() if not _has(folder / name, digest)]


def write_generation(folder: Path, pages: Iterable[tuple[str, bytes]]) -> str:
    """Write pages into a folder of their own that then appears as a whole; the caller holds the lock.

    Each page waits for the disk: of the 15 s that a report of 1,438 pages (52 MB) takes on two cores that is one, and a first
    page must not be there without the others after the power failed either.

    Args:
        folder: where generations lie.
        pages: name (``class-3.html``, ``feature-7.html``) and bytes of each.

    Returns:
        The name of the folder: the same pages have the same.

    Raises:
        SubspectError: it cannot be written, or pages that are there already under that name were changed.
    """
    part, sums = folder / part_name(), dict[str, str]()
    try:
        part.mkdir()
        with (part / SUMS).open("xb") as file:
            for name, data in pages:
                sums[name] = hashlib.sha256(data).hexdigest()
                unnamed = _put(part, data)
                file.write(_line(name, sums[name]))  # before the page has its name: it is known even if this is killed
                file.flush()
                unnamed.rename(part / name)
        said = b"".join(_line(name, sums[name]) for name in sorted(sums))
        _put(part, said).replace(part / SUMS)
        generation = folder / hashlib.sha256(said).hexdigest()[:12]
        for name in (SUMS, *sums):  # the checksums first: what a kill leaves of them is known
            if not os.path.lexists(generation / name):
                upload(part / name, generation / name)
        _name(part, generation, sums)
        sync_folder(generation)
        sync_folder(folder)
    except OSError as error:
        raise SubspectError(explain(error, folder)) from error
    finally:
        if part.exists():
            _remove(part)
    return generation.name


def remove_others(folder: Path, kept: str) -> None:
    """Remove all generations but one, and what killed writers left; the caller holds the lock."""
    sweep(folder)
    left = list[str]()
    for path in sorted(folder.iterdir()):
        if path.name != kept and _is_ours(path) and not path.is_file():
            left += [f"{path.name}/{name}" for name in _remove(path)]
    if left:
        log.warning(
            "%s: %s stayed, since it is not as subspect wrote it; remove it if it isn't needed", folder, some(left)
        )


def _is_ours(path: Path) -> bool:
    found = os.lstat(path)
    if stat.S_ISREG(found.st_mode):
        return is_part(path.name) or (path.name == ".lock" and not found.st_size)
    if not stat.S_ISDIR(found.st_mode):
        return False
    return is_part(path.name) or (
        _GENERATION.fullmatch(path.name) is not None and (_sums(path) is not None or not any(path.iterdir()))
    )


def _sums(folder: Path) -> dict[str, str] | None:
    """Return page → checksum of a generation, or of as much of one as there is; None where they aren't as we write them."""
    data = _regular(folder / SUMS)
    if data is None:
        return None
    if is_part(folder.name):
        data = data[: data.rfind(b"\n") + 1]  # a line that a kill cut short
    elif hashlib.sha256(data).hexdigest()[:12] != folder.name:
        return None
    lines = [_LINE.fullmatch(line) for line in data.decode("latin-1").splitlines(keepends=True)]
    return None if None in lines else {line[2]: line[1] for line in lines if line is not None}


def _remove(folder: Path) -> list[str]:
    """Remove pages of ours, then their folder; return the names of what stays, and with it the checksums."""
    sweep(folder)
    sums = _sums(folder)
    for name, digest in (sums or {}).items():
        if _has(folder / name, digest):
            with suppress(OSError):
                remove(folder / name)
    left = sorted(path.name for path in folder.iterdir() if sums is None or path.name != SUMS)
    if not left:
        with suppress(OSError):
            if os.path.lexists(folder / SUMS):
                remove(folder / SUMS)
            folder.rmdir()
    return left


def _name(part: Path, generation: Path, sums: Mapping[str, str]) -> None:
    """Give a folder its name; where that is there already, add the pages that it lacks (its removal was cut short)."""
    try:
        part.rename(generation)
        return
    except OSError:
        if not generation.is_dir():
            raise
    missing = [name for name in (SUMS, *sums) if not os.path.lexists(generation / name)]  # the checksums first
    changed = [name for name, digest in sums.items() if name not in missing and not _has(generation / name, digest)]
    if changed:
        raise SubspectError(
            f"{generation} holds pages that are not as subspect wrote them: {some(changed)}; remove them, or choose another -o"
        )
    for name in missing:
        (part / name).rename(generation / name)


def _put(folder: Path, data: bytes) -> Path:
    """Write a file under a name that stands for something unfinished."""
    path = folder / part_name()
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def _line(name: str, digest: str) -> bytes:
    return f"{digest}  {name}\n".encode()


def _has(path: Path, digest: str) -> bool:
    data = _regular(path)
    return data is not None and hashlib.sha256(data).hexdigest() == digest


def _regular(path: Path) -> bytes | None:
    """Return what a regular file holds, and None for anything else."""
    try:
        return read_bytes(path, limit=_MOST) if stat.S_ISREG(os.lstat(path).st_mode) else None
    except (OSError, SubspectError):
        return None
