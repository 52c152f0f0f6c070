"""Observing in a process of its own, slowly, so that it can be killed in the middle."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch

from conftest import Tiny

SCRIPT = """
import importlib, sys
sys.path[:0] = {paths!r}
from elsewhere import Slow
import subspect
importlib.import_module("subspect.studies.shards")._SHARD_IMAGES = 8
subspect.observe(
    subspect.Network(Slow({pause})), {folder!r}, {study!r}, batch_size=4, part={part!r}, show_progress=False, **{more!r}
)
"""


class Slow(Tiny):
    """A network that waits so many seconds before each batch."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause)
        return super().forward(x)


def observing_slowly(
    folder: Path, study: Path | str, pause: float = 0.0, part: tuple[int, int] | None = None, **more: object
) -> subprocess.Popen[str]:
    """Start a process that observes images in batches of four and shards of eight, or a part of them; `more` of `observe`."""
    source = SCRIPT.format(paths=sys.path, pause=pause, folder=str(folder), study=str(study), part=part, more=more)
    return subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def files(folder: Path) -> dict[str, bytes]:
    """All files of a study but its locks, by relative path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
