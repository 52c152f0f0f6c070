"""The archives of real images that benchmarks measure on."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path


def unpacked(data: Path, name: str, work: Path) -> Path:
    """Unpack an archive of a folder, whole or not at all, unless that was done before; return the folder of its images."""
    if not (work / name).exists():
        with tempfile.TemporaryDirectory(dir=work) as part, tarfile.open(data / f"{name}.tar") as archive:
            archive.extractall(part, filter="data")
            (Path(part) / name).rename(work / name)
    return work / name
