"""Images in batches, as the network receives them, read in this process or in workers."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from traceback import clear_frames
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
)

from subspect.ground.errors import SubspectError, Unusable
from subspect.images.inputs import Pixels, plain, shape_of, stacked
from subspect.images.preprocessing import AnyPreprocessing
from subspect.images.sources import ClassMatch, Images, Labels, Picture

_LOST = (
    "a process that reads images was killed from outside, usually because memory ran out; what was stored is kept: run again "
    "with fewer --workers (0 reads images without such processes)"
)


@dataclass(frozen=True)
class Batch:
    """The images at some positions, as the network receives them.

    Attributes:
        pixels: (m, …), of pictures (m, channels, height, width) float32; None if none could be used.
        labels: (m,) class indices, −1 for images without a label.
        ids: the m ids.
        digests: the m digests of the image files (see `digest`), None for images in memory.
        failed: id and reason for each image that couldn't be used.
        error: an error found in a worker process, which stops the run.
    """

    pixels: Pixels | None
    labels: Labels
    ids: list[str]
    digests: list[bytes | None]
    failed: list[tuple[str, str]]
    error: str | None = None


class _Batches(Dataset[Batch]):
    def __init__(
        self,
        images: Images,
        preprocessing: AnyPreprocessing | None,
        match: ClassMatch | None,
        positions: Sequence[Sequence[int]],
    ) -> None:
        self.images, self.preprocessing, self.match, self.positions = images, preprocessing, match, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Batch:
        try:
            return self._batch(self.positions[index])
        except SubspectError as error:  # raised again in the main process, without the worker's traceback in its text
            return Batch(None, np.empty(0, np.int64), [], [], [], str(error))

    def _batch(self, positions: Sequence[int]) -> Batch:
        tensors: list[Pixels] = []
        labels: list[int] = []
        ids: list[str] = []
        digests: list[bytes | None] = []
        failed: list[tuple[str, str]] = []
        for position in positions:
            try:
                image, raw, found = self.images.read(position)
                tensor = self._prepare(image)
            except Unusable as error:
                failed.append((self.images.id(position), str(error)))
                continue
            tensors.append(tensor)
            labels.append(self._label(raw, position))
            ids.append(self.images.id(position))
            digests.append(found)
        return Batch(_stack(tensors, ids), np.array(labels, dtype=np.int64), ids, digests, failed)

    def _label(self, raw: int | str | None, position: int) -> int:
        try:
            return -1 if raw is None or self.match is None else self.match(raw)
        except SubspectError as error:
            raise SubspectError(f"image {self.images.id(position)}: {error}") from error

    def _prepare(self, image: Picture) -> Pixels:
        if isinstance(image, Image.Image) == self.images.ready:
            raise SubspectError(
                "the images mix pictures and tensors that are ready for the network; give only one kind, so that either all "
                "or none are preprocessed"
            )
        if not isinstance(image, Image.Image):
            return plain(image)
        assert self.preprocessing is not None
        return self.preprocessing(image)


def batches(
    images: Images,
    preprocessing: AnyPreprocessing | None,
    match: ClassMatch | None,
    positions: Sequence[Sequence[int]],
    workers: int = 0,
) -> Iterator[Batch]:
    """Read the images at given positions, one batch per list of positions, in order, in worker processes if there are any.

    Raises:
        SubspectError: pictures without preprocessing, images of different sizes, a label outside the classes, or a worker
            process was killed from outside.
    """
    if preprocessing is None and not images.ready:
        raise SubspectError(
            "the network does not declare its preprocessing and none was given: pass resize, crop, mean and std (on the "
            "command line --resize, --crop, --mean, --std; 'none' for a step that is left out), as in training"
        )
    loader = DataLoader(
        _Batches(images, preprocessing, match, positions),
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        worker_init_fn=_leave_quietly,
    )
    with lost_workers():
        try:
            for batch in loader:
                if batch.error is not None:
                    raise SubspectError(batch.error)
                yield batch
        except (ConnectionError, EOFError) as error:  # its sockets are gone before the signal comes
            if not workers:
                raise
            _end_workers(error)
            raise SubspectError(_LOST) from error


def _leave_quietly(_: int) -> None:
    """Keep a process that reads images from printing tracebacks of connections that broke since the main one has ended."""
    print_it = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ConnectionError | EOFError):
            print_it(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def lost_workers() -> Iterator[None]:
    """Report it when a worker process was killed.

    PyTorch reports it by a signal, so the error is raised wherever the main process happens to be: code that consumes
    `batches` from workers must run in such a block too.

    Raises:
        SubspectError: a worker process was killed from outside.
    """
    try:
        yield
    except RuntimeError as error:
        if re.search(r"DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)) is None:
            raise
        raise SubspectError(_LOST) from error


def _end_workers(error: BaseException) -> None:
    """End the processes of a loader that raised an error, which keeps it alive, before the signal of one's death comes."""
    chld = getattr(signal, "SIGCHLD", None)
    told = signal.signal(chld, signal.SIG_DFL) if chld and current_thread() is main_thread() else None
    clear_frames(error.__traceback__)
    if chld and told is not None:
        signal.signal(chld, told)


def _stack(tensors: list[Pixels], ids: list[str]) -> Pixels | None:
    if not tensors:
        return None
    for tensor, id in zip(tensors, ids, strict=True):
        if _shape(tensor) != _shape(tensors[0]):
            pictures = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            raise SubspectError(
                f"images of different sizes: {ids[0]} is {_shape(tensors[0])}, {id} is {_shape(tensor)} after preprocessing; "
                + ("give resize and crop, so that all have the same size" if pictures else "pad tokens to one length")
            )
    return stacked(tensors)


def _shape(tensor: Pixels) -> str:
    return "×".join(map(str, tensor.shape)) if isinstance(tensor, torch.Tensor) else shape_of(tensor)
