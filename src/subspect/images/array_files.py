"""Images in a file of arrays: ``.npy``, ``.npz`` or ``.safetensors``, with labels beside them. Pickles are never opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.files import open_file
from subspect.images.columns import NO_COLUMN
from subspect.images.decoding import digest
from subspect.images.memory import Arrays
from subspect.images.sources import Example

SUFFIXES = (".npy", ".npz", ".safetensors")  #: file names that count as arrays
_IMAGES = ("images", "image", "x", "data", "pixels")
_LABELS = ("labels", "label", "y", "targets", "target")


class ArrayFile(Arrays):
    """Images in a file of arrays; an image's digest is that of its bytes.

    Args:
        path: the file; images in NumPy's as channels last, in safetensors channels first (see `Arrays`).
        image_column: the name of the array of images in the file, where it isn't clear.
        label_column: likewise of class indices; "none" for no labels.

    Raises:
        SubspectError: the file is damaged or contains Python objects, has no such arrays, or see `Arrays`.
    """

    def __init__(self, path: Path, image_column: str | None, label_column: str | None) -> None:
        self._path, self.image_column, self._label_column = path, image_column, label_column
        super().__init__(*_read(path, image_column, label_column))
        self.kind = "array file"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self._path,
            self.image_column,
            self._label_column,
        )  # an array that is mapped would be copied

    @property
    def place(self) -> str | None:
        """The file; None for tensors, which can't be told from those of another network's preprocessing."""
        return None if self.ready else str(self._path.resolve())

    def read(self, index: int) -> Example:
        """Return the picture or the tensor at a position."""
        image, label, _ = super().read(index)
        return Example(image, label, digest(np.ascontiguousarray(self.images[index]).tobytes()))


def _read(path: Path, image: str | None, label: str | None) -> tuple[Any, Any]:
    """Return the arrays of images and labels."""
    with open_file(path) as file:
        start = file.read(6)
    try:
        if path.suffix.lower() == ".npy":
            if start != b"\x93NUMPY":
                raise ValueError("it does not start like a NumPy file")
            if image is not None or label not in (None, NO_COLUMN):
                raise SubspectError(
                    f"{path} contains one array without a name; leave out --image-column and --label-column, or save images "
                    "and labels in one .npz: numpy.savez(FILE, images=…, labels=…)"
                )
            return np.lib.format.open_memmap(path, mode="r"), None
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return tuple(found[name] if name else None for name in _names(path, found.files, image, label))  # type: ignore[return-value]
        with safe_open(path, "pt") as tensors:
            names = _names(path, list(tensors.keys()), image, label)
            return tuple(tensors.get_tensor(name) if name else None for name in names)  # type: ignore[return-value]
    except SubspectError:
        raise
    except Exception as error:  # a damaged file ends in almost any error of its reader
        objects = "Object arrays" in str(error) or "Python objects" in str(error)
        what = "contains Python objects, which subspect doesn't open" if objects else "cannot be read"
        raise SubspectError(
            f"{path} {what} ({shortened(str(error).partition(chr(10))[0])}); save arrays of numbers, labels as class indices: "
            "numpy.savez(FILE, images=…, labels=…)"
        ) from error


def _names(path: Path, known: Sequence[str], image: str | None, label: str | None) -> tuple[str, str | None]:
    """Return what the arrays of images and of labels are called."""
    for asked in (image, label):
        if asked not in (None, NO_COLUMN, *known):
            raise SubspectError(
                f"{path} has no array {shortened(str(asked))!r}{near(asked, known)}; its arrays are {some(known, 20) or 'none'}"
            )
    images = [image] if image else [name for name in known if name.casefold() in _IMAGES]
    labels = [label] if label else [name for name in known if name.casefold() in _LABELS]
    if len(images) != 1 or len(labels) > 1:
        raise SubspectError(
            f"{path} has {'several' if images else 'no'} arrays of {'images' if len(images) != 1 else 'labels'}: its "
            f"arrays are {some(known, 20) or 'none'}; call them 'images' and 'labels', or name them with --image-column and "
            "--label-column"
        )
    return images[0], labels[0] if labels and labels[0] != NO_COLUMN else None
