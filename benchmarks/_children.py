"""Commands of subspect in forked children that can be killed, starved of disk or run at once; for `benchmarks/faults.py`.

The parent imports subspect and never runs a network, so that a child starts in milliseconds and shares no threads.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import subspect
from subspect import demo
from subspect.cli import app
from subspect.ground.unfinished import is_part
from subspect.report import curve_file, terminal
from subspect.studies import shards

READY = (
    demo,
    curve_file,
    terminal,
    *(getattr(subspect, name) for name in subspect.__all__),
)  #: loaded once, by the parent
Tree = dict[str, bytes]
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SHARD = 16  # images in a shard, so that small sets have several

LARGE = 61  #: classes, one more than fit into a single page
MODEL = f"""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, classes)
        self.preprocessing = dict(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

def small():
    return Net(3)

class Hungry(Net):
    def forward(self, x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(x)

def hungry():
    return Hungry(3)

class Patchy(Net):
    def forward(self, x):
        dark = x[:, 0].mean((1, 2), keepdim=True)[:, None] < -0.1
        return self.fc(torch.where(dark, torch.nan, self.conv(x).relu()).mean((2, 3)))

def patchy():
    return Patchy(3)

def large():
    return Net({LARGE})
"""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: its exit code; minus the signal's number where one ended it.
        said: what it wrote to stdout and stderr.
        operations: how many file operations it did.
        seconds: how long it ran.
    """

    code: int
    said: str
    operations: int
    seconds: float

    @property
    def in_words(self) -> bool:
        """Whether it ended well, or with one line of ours."""
        return "Traceback" not in self.said and (self.code == 0 or (self.code == 1 and "error: " in self.said))


def run(
    line: list[str] | Callable[[], object],
    folder: Path,
    *,
    kill_at: int | None = None,
    full_at: int | None = None,
    kill_after: float | None = None,
) -> Ended:
    """Run a command line, or a function, in a folder.

    Args:
        line: arguments of subspect.
        folder: the working folder; operations on files within it are counted.
        kill_at: number of the file operation before which the child kills itself with SIGKILL.
        full_at: number of the file operation from which on the disk is full.
        kill_after: seconds after which it is killed.
    """
    child = start(line, folder, kill_at=kill_at, full_at=full_at)
    return child.wait(kill_after)


@dataclass(frozen=True)
class Child:
    """A child that runs."""

    pid: int
    log: Path
    begun: float

    def wait(self, kill_after: float | None = None) -> Ended:
        """Wait for its end, or kill it after some seconds."""
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        said, _, count = self.log.read_text(errors="replace").rpartition("\noperations: ")
        whole = self.log.read_text(errors="replace")
        self.log.unlink()
        code = os.waitstatus_to_exitcode(status)
        operations = int(count) if count.strip().isdecimal() else -1
        return Ended(code, said if operations >= 0 else whole, operations, time.perf_counter() - self.begun)


def start(
    line: list[str] | Callable[[], object],
    folder: Path,
    *,
    kill_at: int | None = None,
    full_at: int | None = None,
) -> Child:
    """Start a child; see `run`."""
    handle, name = tempfile.mkstemp(prefix="log-")  # elsewhere: the folder's disk may be full or read-only
    os.close(handle)
    log = Path(name)
    begun = time.perf_counter()
    pid = os.fork()
    if pid:
        return Child(pid, log, begun)
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        torch.set_num_threads(1)
        shards._SHARD_IMAGES = _SHARD
        counter = _Counter(folder, kill_at, full_at)
        code = _do(line)
        counter.on = False
        sys.stdout.flush()
        os.write(2, f"\noperations: {counter.count}".encode())
    finally:
        os._exit(code)


def _do(line: list[str] | Callable[[], object]) -> int:
    import traceback

    try:
        if callable(line):
            line()
        else:
            from subspect import cli

            for console in (cli.out, cli.err):
                console.file = sys.stderr if console.stderr else sys.stdout
            app(line, standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


class _Counter:
    """Counts what a process does to files of a folder, by Python's audit events and by `os.fsync`."""

    def __init__(self, folder: Path, kill_at: int | None, full_at: int | None) -> None:
        self.folder, self.kill_at, self.full_at = str(folder), kill_at, full_at
        self.count, self.on = 0, True
        sync = os.fsync

        def counted(handle: int) -> None:
            self.step()
            sync(handle)

        os.fsync = counted  # type: ignore[assignment]
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[object, ...]) -> None:
        """Take note of an event."""
        if not self.on or event not in _EVENTS or not isinstance(args[0], str | os.PathLike):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITES):
            return
        if os.path.abspath(os.fspath(args[0])).startswith(self.folder):  # noqa: PTH100
            self.step(event in ("os.remove", "os.rmdir"))

    def step(self, frees: bool = False) -> None:
        """Count one operation, and fail it if its turn has come."""
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.full_at is not None and self.count >= self.full_at and not frees:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tree(folder: Path) -> Tree:
    """Return what lies in a folder: path → bytes, or where a link leads, or that it is a folder; without our empty locks."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = b"-> " + os.fsencode(path.readlink())
        elif path.is_file():
            if not path.name.startswith(".lock") and "__pycache__" not in name:
                found[name] = path.read_bytes()
        elif not path.is_dir():
            found[name] = b"special"
    return found


def parts(folder: Path) -> list[str]:
    """List what writers have left behind."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if is_part(path.name)]


def copy(source: Path, target: Path) -> Path:
    """Copy a folder to a place where there was none or another copy."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)
    return target


def prepare(folder: Path) -> Path:
    """Make images, networks, and two studies with decompositions: one of 3 classes, one of more than fit into a page."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    generator = np.random.default_rng(0)
    for name, classes, each in (("train", 3, 24), ("test", 3, 8), ("many", LARGE, 2)):
        for label in range(classes):
            for index in range(each):
                path = folder / name / f"{label:02d}" / f"{index:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (8, 8, 3))
                pixels[..., label % 3] = pixels[..., label % 3] // 2 + 128
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "mine.json").write_text('{"0": [1, 2], "1": [2, 3], "2": [0, 5]}')
    for line in (
        "observe python:model.py:small train -o study --batch-size 8",
        "observe python:model.py:small test -o study --batch-size 8 --name test",
        "decompose study -k 2 --method frequency",
        "decompose study -k 3",
        "observe python:model.py:large many -o wide --batch-size 8",
        "decompose wide -k 2 --method frequency",
    ):
        ended = run(line.split(), folder)
        if ended.code:
            raise RuntimeError(f"{line}: {ended.said}")
    return folder
