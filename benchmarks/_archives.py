"""The archives of real images that benchmarks measure on."""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from _rows import Row, publish


def unpacked(data: Path, name: str, work: Path) -> Path:
    """Unpack an archive of a folder, whole or not at all, unless that was done before; return the folder of its images."""
    if not (work / name).exists():
        with tempfile.TemporaryDirectory(dir=work) as part, tarfile.open(data / f"{name}.tar") as archive:
            archive.extractall(part, filter="data")
            (Path(part) / name).rename(work / name)
    return work / name


def on_cifar(about: str | None, title: str, measure: Callable[[Path, Path, Path], list[Row]]) -> int:
    """Run a benchmark on CIFAR-10 as images.

    Args:
        about: what it is, for its help.
        title: of the table of its rows.
        measure: makes them, of the folder of data, that of the images and one to work in.

    Returns:
        1 where a bar is missed.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        images = unpacked(Path(arguments.data), "cifar10-jpeg", Path(folder))
        rows = measure(Path(arguments.data), images, Path(folder))
    return 0 if publish(title, rows, arguments.json) else 1
