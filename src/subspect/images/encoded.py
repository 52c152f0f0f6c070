"""Images that lie, as the bytes of image files, inside something larger: a shard, a table, a data set.

They are decoded here like files, by the same allow-list and under the same limits, and have the same digests; so a source of
this kind gives the same features, to the bit, as a folder of the same files.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from subspect.ground.errors import SubspectError, Unusable
from subspect.ground.files import fingerprint
from subspect.images.columns import RawLabels
from subspect.images.decoding import FILE_BYTES, decoded_with_digest
from subspect.images.sources import ClassMatch, Example, Images


class _Closes(Protocol):
    def close(self) -> Any: ...


T = TypeVar("T", bound=_Closes)


class Encoded(Images):
    """Images whose bytes are taken by position, and whose labels are known before any is read.

    Args:
        kind: of the source.
        labels: of the images.
        place: what opens them again, such as ``wds:/data/shards.tar``; None if they are in memory.
        image_column: the column that the user named.
    """

    def __init__(self, kind: str, labels: RawLabels, place: str | None, image_column: str | None) -> None:
        self.kind, self._labels, self._place, self.image_column = kind, labels, place, image_column
        self.labelled, self.classes = labels.raw is not None, labels.classes

    @property
    def place(self) -> str | None:
        """What opens the images again."""
        return self._place

    @abstractmethod
    def data(self, index: int) -> bytes:
        """Return the bytes of the image file at a position.

        Raises:
            Unusable: they are missing, or too many.
        """

    @abstractmethod
    def listed(self) -> Iterable[str | bytes]:
        """Return what identifies the list of images without their labels."""

    def read(self, index: int) -> Example:
        """Decode the image at a position into RGB."""
        image, found = decoded_with_digest(self.data(index))
        return Example(image, self.label(index), found)

    def label(self, index: int) -> int | str | None:
        """Return the raw label at a position."""
        return None if self._labels.raw is None else self._labels.raw[index]

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash the list of images and their class indices.

        Raises:
            SubspectError: a label is outside the classes.
        """
        indices: list[int] | None = None
        if match is not None and self._labels.raw is not None:
            known: dict[object, int] = {}
            for index, label in enumerate(self._labels.raw):
                if label not in known:
                    known[label] = self._matched(match, index)
            indices = [known[label] for label in self._labels.raw]
        return fingerprint(*self.listed(), str(indices))

    def _matched(self, match: ClassMatch, index: int) -> int:
        label = self.label(index)
        assert label is not None
        try:
            return match(label)
        except SubspectError as error:
            raise SubspectError(f"image {self.id(index)}: {error}") from error


class OpenFile(Generic[T]):
    """The file that was read last, kept open; every process opens its own, since a shared one would share its place.

    Args:
        open: opens a file of a number.
    """

    def __init__(self, open: Callable[[int], T]) -> None:
        self._open = open
        self._kept: tuple[int, int, T] | None = None

    def __call__(self, number: int) -> T:
        """Return the file of a number, open."""
        if self._kept is None or self._kept[:2] != (os.getpid(), number):
            self._close()
            self._kept = (os.getpid(), number, self._open(number))
        return self._kept[2]

    def _close(self) -> None:
        if self._kept is not None:
            with suppress(OSError):
                self._kept[2].close()
            self._kept = None

    __del__ = _close

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": self._open, "_kept": None}


def check_size(size: int) -> None:
    """Check how many bytes an image has, before they are read.

    Raises:
        Unusable: too many.
    """
    if size > FILE_BYTES:
        raise Unusable(f"{size:,} bytes, more than the {FILE_BYTES:,} that are read of an image")
