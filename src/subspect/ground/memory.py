"""How much memory a command may take: a quarter of what was free when it was first asked, or what the user says.

What keeps numbers in memory asks here for its share, and reads from disk again what has no room. No result depends on it.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from subspect.ground.errors import SubspectError

LEAST = 64 * 2**20  #: bytes below which nothing gets done
_OF_FREE = 4  # of what is free, a share of one in so many
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_AS_BLOCK, _HANDED_BACK = -3, -1  # glibc's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD
_LIMITS = (  # a container's: where its limit stands, what it uses, and what of that is files read, which give way at need
    ("/sys/fs/cgroup/memory", ".max", ".current", "inactive_file"),
    ("/sys/fs/cgroup/memory/memory", ".limit_in_bytes", ".usage_in_bytes", "total_inactive_file"),
)
_told: ContextVar[int | None] = ContextVar("memory", default=None)


@contextmanager
def memory_limit(size: int | str) -> Iterator[None]:
    """Keep to so much memory while the block runs, besides what Python, the libraries and the network take.

    Args:
        size: bytes, or text such as "4G" or "500M", in powers of 1,024.

    Raises:
        SubspectError: it is no such size, or less than 64 MB.

    Example:
        >>> with subspect.memory_limit("4G"):
        ...     subspect.evaluate("study", "pursuit-k5").overall.images
        60
    """
    before = _told.set(in_bytes(size))
    try:
        yield
    finally:
        _told.reset(before)


def in_bytes(size: int | str) -> int:
    """Return a size in bytes.

    Raises:
        SubspectError: it is none, or less than 64 MB.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([kmgt]?)i?b?", str(size).strip().lower())
    number = int(float(found[1]) * 1024 ** _UNITS[found[2]]) if found and not isinstance(size, bool) else 0
    if number < LEAST:
        raise SubspectError(
            f"memory (--memory) is a size of at least 64 MB, in bytes or such as 4G or 500M; got {size!r}"
        )
    return number


def budget() -> int:
    """Return how many bytes a command may take."""
    told = _told.get()
    return max(LEAST, free() // _OF_FREE) if told is None else told


@cache
def keep_freed() -> bool:
    """Have the C library keep what is freed for what is asked for next, and tell whether it does; for processes of ours alone.

    A network on the CPU frees and asks for some megabytes in every layer. glibc hands such blocks back to the system and takes
    them again, page by page, which is a fifth of a small network's time, and more than half of that of 32 large images. Nothing
    is changed where the user has (``MALLOC_…`` in the environment), nor in another C library.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is None:
        return False
    kept = change(_AS_BLOCK, 2**31 - 1) or change(_AS_BLOCK, 32 * 2**20)  # an older glibc takes no more
    return bool(kept) and bool(change(_HANDED_BACK, 2**31 - 1))


def told() -> int | None:
    """Return how many bytes the user said that a command may take, if so."""
    return _told.get()


@cache
def free() -> int:
    """Return how many bytes were free when this was first asked: of the machine, or of the container if that has fewer."""
    return min(_of_machine(), *(_of_container(*names) for names in _LIMITS))


def _of_machine() -> int:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names else 2**20
        return int(pages * (os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096) // 2)


def _of_container(place: str, limit: str, used: str, cached: str) -> int:
    try:
        lines = dict(line.split() for line in Path(place + ".stat").read_text().splitlines())
        taken = int(Path(place + used).read_text()) - int(lines[cached])
        return max(0, int(Path(place + limit).read_text()) - taken)
    except (OSError, ValueError, KeyError):  # there is none, or it has no limit
        return 2**62
