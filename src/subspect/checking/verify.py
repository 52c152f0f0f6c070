"""Check whether a study is unchanged: every file against its checksum, and the files against each other.

Commands check a file when they first read it, and stop at the first damaged one. This checks all files, and lists what is
wrong with each and what to do. In a study made before subspect kept checksums, it checks what it can without them: the files'
own structure, and whether the stored predictions follow from the stored features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from subspect.ground.errors import SubspectError, some
from subspect.ground.files import entries
from subspect.ground.pages import changed_pages
from subspect.ground.progress import progress
from subspect.ground.results import Result
from subspect.ground.seals import file_checksum, is_sealed
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.ground.unfinished import is_part
from subspect.heads.decomposition import Decomposition
from subspect.studies.feature_names import FILE, read_feature_names
from subspect.studies.image_set import SUMMED, ImageSet
from subspect.studies.names import decomposition_names, decomposition_path
from subspect.studies.pieces import is_lock, observing
from subspect.studies.shards import Chunk, shard_name
from subspect.studies.study import Study, StudyLike
from subspect.studies.summed import read_sums
from subspect.swapping import stored as cues
from subspect.tracing import stored as filters

T = TypeVar("T")
_FAR = 0.05  # of the largest logit: a prediction that is farther below it is none that rounding explains
_MOST = 0.02  # share of images of a shard whose prediction may be so; networks in half precision round more


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file.

    Attributes:
        path: relative to the study.
        what: what was found, what was expected, and what to do.

    Example:
        >>> [(fault.path, fault.what) for fault in study.verify(show_progress=False).faults]
        []
    """

    path: str
    what: str


@dataclass(frozen=True)
class Verified(Result):
    """The result of checking every file of a study.

    Attributes:
        study: its path.
        files: how many were checked.
        images: number of images in the intact image sets.
        faults: what is damaged, missing or not the study's own.
        notes: other files found in the study, which are left alone, and advice.
        checksums: whether the study has checksums now.
        added: whether this run added them.

    Example:
        >>> verified = study.verify(show_progress=False)
        >>> verified.sound, verified.faults
        (True, ())
    """

    study: str
    files: int
    images: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    checksums: bool
    added: bool = False

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "sound": self.sound}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each file that is not as it should be."""
        return [asdict(fault) for fault in self.faults]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: what is wrong, or that nothing is."""
        lines = [*([] if self.faults else [self._verdict]), *(f"note: {note}" for note in self.notes)]
        if not self.faults:
            table = Table(title=self._title, title_justify="left", show_header=False, box=None)
            table.add_column("", overflow="fold")
            for line in lines:
                table.add_row(line)
            return [table]
        caption = "\n".join(lines)
        table = Table(title=self._title, title_justify="left", caption=caption, caption_justify="left")
        table.add_column("file", overflow="fold")
        table.add_column("what is wrong", overflow="fold")
        for fault in self.faults:
            table.add_row(fault.path, fault.what)
        return [table]

    @property
    def _title(self) -> str:
        number = len(self.faults)
        wrong = f"; {number} {'is' if number == 1 else 'are'} damaged, missing or not the study's own" if number else ""
        files, images = counted(self.files, "file", "files"), counted(self.images, "image", "images")
        return f"{self.study}: {files}, {images}{wrong}"

    @property
    def _verdict(self) -> str:
        if self.added:
            return "checksums were added; any damage that couldn't be detected without them is now accepted as correct"
        if self.checksums:
            return "all files are intact"
        return (
            f"nothing is wrong as far as can be seen without checksums; subspect verify {self.study} --write adds them"
        )


def verify(study: StudyLike, *, write: bool = False, show_progress: bool = True) -> Verified:
    """Check every file of a study.

    Args:
        study: the study, or its folder.
        write: whether to add checksums to a study that has none yet, if nothing is wrong.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: there is no study, or its own manifest is damaged, so nothing else can be checked.

    Example:
        >>> subspect.verify("study", show_progress=False).sound
        True
    """
    opened = Study.open(study.address if isinstance(study, Study) else study, told=write)
    look = _Look(opened)
    with progress("verify", look.total, "files", show=show_progress) as advance:
        for _ in look.through():
            advance(1)
    sealed = opened.head_checksum is not None
    added = write and not sealed and not look.faults
    if added:
        _write(opened)
    notes = (*look.notes, *_strays(opened))
    return Verified(opened.address, look.files, look.images, tuple(look.faults), notes, sealed or added, added)


class _Look:
    """Goes through the files of a study, a step for each."""

    def __init__(self, study: Study) -> None:
        self.study, self.files, self.images = study, 1, 0
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.head: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def total(self) -> int:
        return 2 + sum(len(entries(self.study.path / "sets" / name)) for name in self.study.set_folders())

    def through(self) -> Iterator[None]:
        self.head = self.tried("head.safetensors", self.study.head)
        yield
        for name in self.study.set_folders():
            yield from self._set(name)
        for name in self.tried_names():
            self.tried(f"decompositions/{name}.safetensors", partial(self.study.__getitem__, name))
        self._kept("cues", cues.FILES.is_current)
        self._kept("filters", filters.FILES.is_current)
        report = self.study.path / "report.html"
        if os.path.lexists(report) and self.study.head_checksum is None and not is_sealed(report):
            self.notes.append(
                "report.html was written before subspect kept checksums: move it away before you write the next report"
            )
        elif os.path.lexists(report):
            self.tried("report.html", partial(_look_at_report, report))
        if os.path.lexists(self.study.path / FILE):
            self.tried(FILE, partial(read_feature_names, self.study.path, self.study.identity))
        order = self.study.path / "decompositions" / "order.json"
        if os.path.lexists(order):
            self.tried("decompositions/order.json", partial(decomposition_names, self.study.path))
        yield

    def tried_names(self, folder: str = "decompositions") -> list[str]:
        """Return the names of the decompositions, whatever the file of their order holds; or of what is kept of each."""
        found = entries(self.study.path / folder)
        return sorted(one.name.removesuffix(".safetensors") for one in found if one.name.endswith(".safetensors"))

    def _kept(self, folder: str, is_current: Callable[[Study, str], bool]) -> None:
        """Check the files of cues, or filters; those of a decomposition that is gone, or another by now, are told."""
        files = {name: f"{folder}/{name}.safetensors" for name in self.tried_names(folder)}
        left = [
            path for name, path in files.items() if self.tried(path, partial(is_current, self.study, name)) is False
        ]
        if left:
            self.notes.append(
                f"about a decomposition that is gone, damaged or another by now, so delete it: {some(left)}"
            )

    def tried(self, path: str, ask: Callable[[], T]) -> T | None:
        """Return what a question about a file gives; an error of ours is noted as its fault."""
        self.files += 1
        try:
            return ask()
        except SubspectError as error:
            self.faults.append(Fault(path, str(error)))
            return None

    def _set(self, name: str) -> Iterator[None]:
        folder = f"sets/{name}"
        manifest = self.tried(f"{folder}/set.json", partial(self.study.manifest, name))
        if manifest is None:
            return
        if not manifest.complete:
            self.notes.append(f"the image set {name!r} is unfinished: run the same observe command again to resume")
        image_set, before = self.study.as_set(name, manifest), len(self.faults)
        lost = [index for index in manifest.shards if index not in image_set.done]
        if lost:
            are = f"{counted(len(lost), 'shard', 'shards')} {'is' if len(lost) == 1 else 'are'} missing"
            what = f"{are}: {some(map(shard_name, lost))}; run the same observe command again"
            self.faults.append(Fault(folder, what))
        if manifest.statistics and not os.path.lexists(image_set.folder / SUMMED):
            what = f"{image_set.left}; run the same observe command again"
            self.faults.append(Fault(f"{folder}/{SUMMED}", what))
        elif os.path.lexists(image_set.folder / SUMMED):
            self.tried(f"{folder}/{SUMMED}", partial(read_sums, image_set))
        seen: set[str] = set()
        for index in range(manifest.n_shards) if manifest.complete else image_set.done:
            self.tried(f"{folder}/{shard_name(index)}", partial(self._shard, image_set, index, seen))
            yield
        if len(self.faults) > before:
            return
        if manifest.complete and len(seen) != manifest.rows:
            what = f"its shards contain {counted(len(seen), 'image', 'images')}, but set.json says {manifest.rows:,}; {_REDO}"
            self.faults.append(Fault(folder, what))
        self.images += len(seen)

    def _shard(self, image_set: ImageSet, index: int, seen: set[str]) -> None:
        chunk, _ = image_set.shard(index)
        again = seen.intersection(chunk.ids)
        if again or len(set(chunk.ids)) < len(chunk.ids):
            raise SubspectError(f"it contains images twice: {some(sorted(again) or chunk.ids)}; {_REDO}")
        self._predictions(chunk)
        seen.update(chunk.ids)

    def _predictions(self, chunk: Chunk) -> None:
        """Check that stored predictions are what the head says of the stored features.

        Raises:
            SubspectError: for many images they are not.
        """
        if self.head is None or not len(chunk.ids):
            return
        weight, bias = self.head
        logits = torch.addmm(bias, torch.from_numpy(np.array(chunk.features)), weight.T)
        said = logits.gather(1, torch.from_numpy(chunk.predictions)[:, None])[:, 0]
        top, scale = logits.max(dim=1).values, logits.abs().max().clamp_min(1e-12)
        far = float(((top - said) > _FAR * scale).float().mean())
        if far > _MOST:
            raise SubspectError(
                f"for {100 * far:.0f} % of its images the stored prediction is not what the head predicts from "
                f"the stored features; "
                f"{_REDO}"
            )


_BESIDE = ("cues", "filters")  # folders of what is kept beside decompositions
_REDO = "delete it and run the same observe command again"


def _look_at_report(path: Path) -> None:
    if path.is_symlink() or not is_sealed(path):
        raise SubspectError(
            "it is not the file that subspect wrote (it was changed, damaged, or written by "
            "another program); move it away"
        )
    if changed := changed_pages(path):
        raise SubspectError(f"its pages are missing or changed: {some(changed)}; move them away")


def _strays(study: Study) -> Iterator[str]:
    """Tell what lies in a study besides its own files."""
    known = {
        "study.json",
        "head.safetensors",
        "report.html",
        "report-pages",
        ".lock",
        "sets",
        "decompositions",
        *_BESIDE,
        FILE,
    }
    names = [entry.name for entry in entries(study.path) if entry.name not in known]
    for name in study.set_folders():
        try:
            own = {"set.json", SUMMED, *map(shard_name, range(study.manifest(name).n_shards))}
        except SubspectError:  # told as a fault
            continue
        there = [one.name for one in entries(study.path / "sets" / name)]
        names += [f"sets/{name}/{one}" for one in there if one not in own and not is_lock(one)]
    kept = entries(study.path / "decompositions")
    names += [f"decompositions/{one.name}" for one in kept if not one.name.endswith((".safetensors", "order.json"))]
    for name in _BESIDE:
        names += [f"{name}/{one.name}" for one in entries(study.path / name) if not one.name.endswith(".safetensors")]
    left = [name for name in names if is_part(name.rpartition("/")[2])]
    others = sorted(set(names) - set(left))
    if others:
        yield f"not written by subspect, and left alone: {some(others)}"
    if left:
        yield f"left over from a run that was killed; the next command that writes there removes it: {some(left)}"


def _write(study: Study) -> None:
    """Give a study of before checksums were kept its checksums."""
    for name in study.set_folders():
        with observing(study.path, name):
            manifest = study.manifest(name)
            study.as_set(name, manifest).save(manifest)
    for name in study.decomposition_names:
        path = decomposition_path(study.path, name)
        Decomposition.load(path).save(path)
    study.seal(file_checksum(study.path / "head.safetensors"))
