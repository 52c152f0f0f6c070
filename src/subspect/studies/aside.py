"""Blocks that memory has no room for, in a temporary file that no other process sees."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
import weakref
from threading import Lock
from typing import Any

log = logging.getLogger("subspect")


class Aside:
    """Blocks in a temporary file without a name, which is gone with the process, however that ends.

    Args:
        nbytes: of all blocks, about; where the disk has no room for twice as much, or they take none, nothing is put aside.
    """

    def __init__(self, nbytes: int) -> None:
        self._places: dict[int, tuple[int, int]] = {}
        self._end, self._lock = 0, Lock()
        room = nbytes and hasattr(os, "pwrite") and shutil.disk_usage(tempfile.gettempdir()).free > 2 * nbytes
        self._file = tempfile.TemporaryFile(prefix="subspect-") if room else None  # noqa: SIM115
        if self._file is not None:
            weakref.finalize(self, self._file.close)

    def put(self, index: int, block: object) -> None:
        """Put a block aside, if there is room."""
        if self._file is None:
            return
        data = pickle.dumps(block, 5)
        with self._lock:
            start, self._end = self._end, self._end + len(data)
        try:
            if os.pwrite(self._file.fileno(), data, start) == len(data):
                self._places[index] = start, len(data)
        except OSError as error:
            log.debug("nothing more is put aside: %s", error)
            self._file = None

    def get(self, index: int) -> Any:
        """Return a block that was put aside; None where it wasn't."""
        if self._file is None or index not in self._places:
            return None
        start, size = self._places[index]
        return pickle.loads(os.pread(self._file.fileno(), size, start))
