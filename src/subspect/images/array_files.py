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
from subspect.images.memory import Arrays, picture_from
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
        name, images, labels = _read(path, image_column, label_column)
        _check_pictures(path, name, images)
        try:
            super().__init__(images, labels)
        except SubspectError as error:
            raise SubspectError(f"{path}: {error}") from error
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


def _check_pictures(path: Path, name: str | None, images: Any) -> None:
    """Refuse whole numbers in the shape of pictures that are none, before anything runs.

    Raises:
        SubspectError: they are no uint8, or their channels are in another place.
    """
    try:
        if images.ndim in (3, 4) and len(images):
            picture_from(images[0])
    except SubspectError as error:
        kind, torch_order = str(images.dtype).removeprefix("torch."), path.suffix.lower() == ".safetensors"
        expected, turned, cast = (
            ("first (n, 1, 3 or 4, height, width)", "last: images.permute(0, 3, 1, 2)", "images.to(torch.uint8)")
            if torch_order
            else ("last (n, height, width, 1, 3 or 4)", "first: images.transpose(0, 2, 3, 1)", "images.astype('uint8')")
        )
        raise SubspectError(
            f"{path}: {shortened(name or 'the array')!r} is {tuple(images.shape)} {kind}; expected pictures with channels "
            f"{expected} uint8, or floating-point numbers ready for the network; where channels come {turned}; where numbers "
            f"from 0 to 255 are of another type: {cast}"
        ) from error


def _read(path: Path, image: str | None, label: str | None) -> tuple[str | None, Any, Any]:
    """Return what the array of images is called, that array, and the labels."""
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
            return None, np.lib.format.open_memmap(path, mode="r"), None
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as found:
                name, labels = _names(path, found.files, image, label)
                return name, found[name], found[labels] if labels else None
        with safe_open(path, "pt") as tensors:
            name, labels = _names(path, list(tensors.keys()), image, label)
            return name, tensors.get_tensor(name), tensors.get_tensor(labels) if labels else None
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
