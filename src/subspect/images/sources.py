"""What a source of images is: an `Example` (image, label, digest) and an id, by position.

A run can resume where it stopped, and worker processes can share the work, since every image is identified by its position.
Labels become class indices through a `ClassMatch`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from subspect.ground.errors import SubspectError, Unusable, shortened
from subspect.images.inputs import Pixels
from subspect.images.preprocessing import visible

Picture = Image.Image | Pixels  #: to be preprocessed, or ready for the network
Labels = npt.NDArray[np.int64]


class Example(NamedTuple):
    """What a source contains at a position.

    Attributes:
        image: RGB, or a tensor, or several by name, ready for the network.
        label: as the source gives it, a name or a class index; None if there is none.
        digest: of the image file's bytes (see `digest`); None for images in memory.
    """

    image: Picture
    label: int | str | None
    digest: bytes | None


class Images(ABC):
    """Images by position, each with an id and, if the source has labels, a label.

    Attributes:
        kind: "folder", "flat folder", "CSV", "arrays", "array file", "dataset", "WebDataset", "Parquet" or "Hugging Face".
        labelled: whether every image has a label.
        classes: the names used as labels, in sorted order, or in the order in which the source numbers them; None if labels
            are class indices.
        root: for files, the folder that ids are relative to.
        table: for files that a table lists, what that file is called.
        sample: of a random sample, how many of how many images it is and how they were drawn; otherwise empty.
        image_column: for tables and shards, which column the images are in, if the user named it.
        ready: whether images are tensors ready for the network, so that no preprocessing applies.

    Example:
        >>> images = subspect.open_images("images/test")
        >>> images.kind, len(images), images.classes
        ('folder', 60, ('bird', 'cat', 'dog', 'horse'))
    """

    kind: str
    labelled: bool
    classes: tuple[str, ...] | None = None
    root: Path | None = None
    table: str | None = None
    sample: str = ""
    image_column: str | None = None
    ready: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Example:
        """Return the image (RGB, or a tensor where ``ready``), its raw label, and the digest of its file.

        Raises:
            Unusable: this one image cannot be used.
        """

    @abstractmethod
    def fingerprint(self, match: ClassMatch | None) -> str:
        """Identify the list of images and their labels as 64 hex digits."""

    @property
    def place(self) -> str | None:
        """Where the images can be opened again: a folder, or a name such as ``wds:/data/shards.tar``; None if in memory."""
        return None if self.root is None else str(self.root.resolve())

    def id(self, index: int) -> str:
        """Return the image's id: its path relative to the root, or its position."""
        return str(index)

    def position(self, id: str) -> int:
        """Return the position of an id.

        Raises:
            Unusable: there is no such id.
        """
        count = str(len(self))
        if not re.fullmatch("0|[1-9][0-9]*", id) or (len(id), id) >= (len(count), count):
            raise self._unknown(id)  # told by its digits: there may be more of them than Python converts
        return int(id)

    def label(self, index: int) -> int | str | None:
        """Return the raw label at a position without reading its image.

        Raises:
            SubspectError: this source knows labels only once it has read the images.
        """
        raise SubspectError(
            f"the labels of a {self.kind} are known only once its images are read; pick the images beforehand, with "
            "torch.utils.data.Subset"
        )

    def given(self, id: str) -> Picture:
        """Return the image of an id: RGB, or a tensor where ``ready``.

        Raises:
            Unusable: there is no such id, or its image is missing or cannot be decoded.
        """
        return self.given_with_digest(id)[0]

    def given_with_digest(self, id: str) -> tuple[Picture, bytes | None]:
        """Return the image of an id, and the digest of its file, where it comes from one.

        Raises:
            Unusable: there is no such id, or its image is missing or cannot be decoded.
        """
        image, _, found = self.read(self.position(id))
        return image, found

    def picture(self, id: str) -> Image.Image:
        """Return the image of an id for display.

        Raises:
            Unusable: it is missing or cannot be decoded, or it is a tensor that can't be shown as a picture.
        """
        image = self.given(id)
        return image if isinstance(image, Image.Image) else visible(image)

    def _unknown(self, id: str) -> Unusable:
        return Unusable(f"no image with id {shortened(id)!r} among {len(self)}")


class NamedImages(Images):
    """Images whose ids are names, and not their positions."""

    def position(self, id: str) -> int:
        """Return the position of an id; only what was listed is ever opened."""
        if id not in self._positions:
            raise self._unknown(id)
        return self._positions[id]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {self.id(index): index for index in range(len(self))}


@dataclass(frozen=True)
class ClassMatch:
    """How raw labels become class indices.

    Attributes:
        n_classes: number of classes of the network.
        index: class index of each name; None if labels are already class indices.
        names: the name of every class.
        how: how labels were matched, in words.
    """

    n_classes: int
    index: Mapping[str, int] | None
    names: tuple[str, ...]
    how: str

    def __call__(self, raw: int | str) -> int:
        """Return the class index of a raw label.

        Raises:
            SubspectError: the label is not one of the network's classes.
        """
        if self.index is not None and isinstance(raw, str):
            return self.index[raw]
        if not isinstance(raw, int) or not 0 <= raw < self.n_classes:
            raise SubspectError(
                f"label {shortened(repr(raw))} is not a class index of this network: expected a whole number from 0 to "
                f"{self.n_classes - 1}{what_labels_are(raw)}"
            )
        return raw


def what_labels_are(label: object) -> str:
    """Say what an image's label seems to be if it is not a class index, and what to give instead; otherwise nothing."""
    if isinstance(label, list | tuple) and len(label) > 1:
        return (
            "; several numbers for an image are a multi-label target, or one-hot, and subspect asks which one class an "
            "image is of: give one class index for each image (for one-hot labels, the position of the 1: "
            "labels.argmax(1)), or no labels, so that the network's predictions are used instead"
        )
    if isinstance(label, str):
        return "; names are matched where they come from a folder, a table or shards; with arrays give class indices"
    if isinstance(label, float):
        return (
            "; floating-point numbers are a regression target, and subspect is about classes: give class indices (if these "
            "already are class indices, convert them with labels.astype(int)), or no labels, so that the network's "
            "predictions are used instead"
        )
    return ""
