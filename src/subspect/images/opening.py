"""One way to pass images of any kind: a path, arrays, ``(images, labels)``, a Dataset, a DataLoader."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
)

from subspect.ground.errors import SubspectError
from subspect.images.folders import from_path
from subspect.images.memory import Arrays, DatasetImages, dataset_of
from subspect.images.sources import Images

Pixels = npt.NDArray[Any] | torch.Tensor  #: (n, …)
Labelled = tuple[Pixels, npt.ArrayLike | torch.Tensor | None]  #: and (n,) class indices
ImageSource = Images | str | PathLike[str] | Pixels | tuple[Pixels] | Labelled | Dataset[Any] | DataLoader[Any]
#: images by their path, as arrays with or without labels, or as PyTorch has them


def open_images(source: ImageSource, name: str = "images", *, outside: bool = False) -> Images:
    """Return the images of a path, arrays, an ``(images, labels)`` pair, a Dataset or a DataLoader.

    Args:
        source: a folder of class folders, a flat folder, a CSV with the columns ``path`` and, if there are labels, ``label``;
            a uint8 or floating-point array or tensor; a Dataset or a DataLoader that doesn't shuffle.
        name: what a Dataset is called in fingerprints.
        outside: whether a folder's links and a CSV's paths may lead out of the folder; if not, such a source is refused.

    Raises:
        SubspectError: the path doesn't exist or is empty, something leads outside, or the layout or loader can't be read in a
            fixed order.
    """
    if isinstance(source, Images):
        images = source
    elif isinstance(source, str | PathLike):
        images = from_path(Path(source), outside)
    elif isinstance(source, np.ndarray | torch.Tensor):
        images = Arrays(source)
    elif isinstance(source, tuple) and len(source) in (1, 2):
        images = Arrays(*source)
    elif isinstance(source, DataLoader):
        images = DatasetImages(dataset_of(source), name)
    elif isinstance(source, Dataset):
        images = DatasetImages(source, name)
    else:
        raise SubspectError(
            f"cannot read images from {type(source).__name__}; pass a folder, a CSV file, an array, (images, labels), a "
            "torch Dataset or a DataLoader"
        )
    if not len(images):
        raise SubspectError(f"no images in the given {images.kind}: its length is 0")
    return images
