"""What is installed here: versions, devices, and which extra is missing for what."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from subspect.ground.errors import SubspectError
from subspect.ground.packages import package
from subspect.ground.results import Result
from subspect.ground.tables import Table

#: extra → what it is for; those that only we need, for tests and benchmarks, are left out
EXTRAS: Mapping[str, str] = {
    "demo": "the handwritten digits of the demo",
    "pandas": "to_frame of every result",
    "export": "ONNX files",
    "specialise": "removing channels that nothing uses",
    "sklearn": "a classifier of scikit-learn as a head",
    "timm": "networks of timm by name",
    "torchvision": "networks of torchvision by name",
    "hf": "networks of Hugging Face by name",
    "datasets": "data sets of Hugging Face by name",
    "ray": "a cluster, with --engine ray",
    "remote": "a study at an address, such as s3://bucket/study",
}
_WANTED = re.compile(r"""^(?P<name>[\w.-]+).*extra == ["'](?P<extra>\w+)["']""")


@dataclass(frozen=True)
class Doctor(Result):
    """What is installed here.

    Attributes:
        versions: of Python, subspect, torch and every package that subspect needs, and of the extras' that are installed; None
            where one is not installed.
        devices: that a network can run on, as ``--device`` takes them.
        threads: that PyTorch computes with.
        missing: extra → its packages that are not installed; empty for an extra that is complete.
        problems: what is installed and cannot be used.
        unusable: the extras that these problems concern.

    Example:
        >>> installed = subspect.doctor()
        >>> "cpu" in installed.devices
        True
        >>> installed.versions["Python"], installed.missing  # doctest: +SKIP
    """

    versions: Mapping[str, str | None]
    devices: tuple[str, ...]
    threads: int
    missing: Mapping[str, tuple[str, ...]]
    problems: tuple[str, ...]
    unusable: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each package."""
        return [{"package": name, "version": version} for name, version in self.versions.items()]

    def tables(self) -> list[Table]:
        """Return tables for the terminal: versions and devices, then the extras."""
        here = Table(title="what is installed", show_header=False, title_justify="left")
        here.add_column(style="dim")
        here.add_column(overflow="fold")
        for name, version in self.versions.items():
            here.add_row(name, version or "not installed")
        here.add_row("devices", ", ".join(self.devices))
        here.add_row("threads", str(self.threads))
        for problem in self.problems:
            here.add_row("problem", problem)
        extras = Table(title="extras: pip install -c constraints.txt '.[EXTRA]'", title_justify="left")
        for column in ("extra", "for", "missing"):
            extras.add_column(column, overflow="fold")
        for extra, packages in self.missing.items():
            whole = "nothing, but it cannot be used: see the problem" if extra in self.unusable else "nothing"
            extras.add_row(extra, EXTRAS[extra], ", ".join(packages) or whole)
        return [here, extras]


def doctor() -> Doctor:
    """Look at what is installed: versions, devices, and which packages of which extra are missing.

    Example:
        >>> subspect.doctor().threads >= 1
        True
    """
    import torch

    needed, extras = _wanted()
    devices = ["cpu", *(f"cuda:{one}" for one in range(torch.cuda.device_count()))]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    packages = {name: _version(name) for name in ("subspect", "torch", *sorted(needed - {"torch"}))}
    others = sorted({name for extra in EXTRAS for name in extras[extra]} - set(packages))
    packages |= {name: version for name in others if (version := _version(name)) is not None}
    problems = _problems()
    return Doctor(
        versions={"Python": platform.python_version(), **packages},
        devices=tuple(devices),
        threads=torch.get_num_threads(),
        missing={extra: tuple(name for name in extras[extra] if _version(name) is None) for extra in EXTRAS},
        problems=tuple(dict.fromkeys(problems.values())),
        unusable=tuple(problems),
    )


def _wanted() -> tuple[set[str], dict[str, list[str]]]:
    """Return the packages that subspect needs, and those of each extra, as it was installed."""
    needed: set[str] = set()
    extras: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    for line in metadata.requires("subspect") or ():
        found = _WANTED.match(line)
        if found is None:
            needed.add(re.split(r"[^\w.-]", line, maxsplit=1)[0])
        elif found["extra"] in extras:
            extras[found["extra"]].append(found["name"])
    return needed, extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _problems() -> dict[str, str]:
    """Say of which extra a package that is installed cannot be imported: a torchvision of another torch, as a rule."""
    found = {}
    for name, extra in (("torchvision", "torchvision"), ("timm", "timm"), ("transformers", "hf")):
        if _version(name) is not None:
            try:
                package(name, extra, "subspect doctor")
            except SubspectError as error:
                found[extra] = str(error)
    return found
