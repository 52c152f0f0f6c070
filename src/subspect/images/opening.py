"""One way to pass images of any kind: a path, a name such as ``hfds:cifar10[test]``, arrays, a data set, a DataLoader.

What a name stands for is told by its scheme, else by what lies there: ``wds:`` WebDataset shards, ``parquet:`` Parquet files,
``hfds:`` a data set of Hugging Face; without a scheme a folder, or a file by its suffix.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
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

from subspect.ground.errors import SubspectError, near, shortened
from subspect.ground.files import is_file, is_folder, special
from subspect.images import array_files, parquet
from subspect.images.array_files import ArrayFile
from subspect.images.folders import from_csv, from_folder
from subspect.images.hub import HubDataset, from_dataset, from_hub, is_dataset
from subspect.images.memory import Arrays, DatasetImages, dataset_of
from subspect.images.parquet import from_parquet
from subspect.images.sampled import Sampled
from subspect.images.sources import Images
from subspect.images.webdataset import from_shards

Pixels = npt.NDArray[Any] | torch.Tensor | Mapping[str, Any]  #: (n, …), or several such by name
Labelled = tuple[Pixels, npt.ArrayLike | torch.Tensor | None]  #: and (n,) class indices
ImageSource = (
    Images | str | PathLike[str] | Pixels | tuple[Pixels] | Labelled | Dataset[Any] | DataLoader[Any] | HubDataset
)
#: images by their path or name, as arrays with or without labels, or as PyTorch and Hugging Face have them

_SCHEMES = ("wds", "parquet", "hfds")
_NAMED = re.compile(  # with a slash as timm's users write them
    r"(?P<scheme>wds|parquet|hfds)(?P<mark>:|(?<!parquet)/)(?P<place>.+?)(?:\[(?P<split>[\w.-]+)\])?", re.DOTALL
)


@dataclass(frozen=True)
class _Asked:
    """How images are to be opened."""

    outside: bool
    image_column: str | None
    label_column: str | None
    offline: bool = False


def open_images(
    source: ImageSource,
    name: str = "images",
    *,
    outside: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    limit_per_class: int | None = None,
    limit_seed: int = 0,
) -> Images:
    """Return the images of a path, a name, arrays, an ``(images, labels)`` pair, a Dataset or a DataLoader.

    Args:
        source: a folder of class folders, a flat folder, a CSV with the columns ``path`` and, if there are labels, ``label``;
            a Parquet file; a ``.npy``, ``.npz`` or ``.safetensors`` of arrays; ``wds:shards-{000..127}.tar``,
            ``parquet:FOLDER``, ``hfds:NAME[SPLIT]`` or ``hfds:FOLDER``; a uint8 or floating-point array or tensor, or a dict of
            arrays that a network takes by keyword; a Dataset of PyTorch or of Hugging Face, or a DataLoader that doesn't
            shuffle.
        name: what a Dataset is called in fingerprints.
        outside: whether links in a folder, and paths in a table, may lead out of the folder; if not, such a source is refused.
        image_column: the column, extension (WebDataset), array or key that contains the images, where it isn't clear.
        label_column: likewise of the labels; "none" for no labels.
        limit: how many images to take, a random sample; all unless given.
        limit_per_class: at most how many images of each class to take, a random sample; all unless given.
        limit_seed: draws another sample.

    Raises:
        SubspectError: the path doesn't exist or is empty, something leads outside, a file is damaged, the columns are not
            clear, or the layout or loader can't be read in a fixed order.
        MissingExtra: ``hfds:`` needs the package ``datasets``.

    Example:
        >>> images = subspect.open_images("images/train", limit_per_class=10)
        >>> len(images)
        40
    """
    images = _opened(source, name, _Asked(outside, image_column, label_column))
    if not len(images):
        raise SubspectError(f"no images in what was given ({images.kind}): its length is 0")
    if limit is not None or limit_per_class is not None:
        return Sampled(images, limit, limit_per_class, limit_seed)
    return images


def reopened_images(place: str, image_column: str | None) -> Images | None:
    """Open again what was opened by a name or an array file, asking no network; None if the place is a folder of files.

    Args:
        place: as an image set records it (see `Images.place`).
        image_column: as an image set records it.

    Raises:
        SubspectError: it is no longer there, or is damaged.
    """
    if place.partition(":")[0] not in _SCHEMES and not place.lower().endswith(array_files.SUFFIXES):
        return None
    # where paths lead doesn't matter: only what was observed is shown, by its digest
    return _from_text(place, _Asked(outside=True, image_column=image_column, label_column="none", offline=True))


def _opened(source: ImageSource, name: str, asked: _Asked) -> Images:
    if isinstance(source, str | PathLike):
        return _from_text(os.fspath(source), asked)
    if isinstance(source, DataLoader):
        source = dataset_of(source)
    if is_dataset(source):
        return from_dataset(source, name, asked.image_column, asked.label_column)
    if isinstance(source, Dataset):
        return DatasetImages(source, name, asked.image_column, asked.label_column)
    _refuse_columns(type(source).__name__, asked)
    if isinstance(source, Images):
        return source
    if isinstance(source, np.ndarray | torch.Tensor | Mapping):
        return Arrays(source)
    if isinstance(source, tuple) and len(source) in (1, 2):
        return Arrays(*source)
    raise SubspectError(
        f"cannot read images from {type(source).__name__}; pass a folder, a CSV file, an array, or several by name in a "
        "dict, (images, labels), a torch Dataset, a DataLoader or a datasets.Dataset, or a name such as wds:, parquet: or "
        "hfds:"
    )


def _from_text(text: str, asked: _Asked) -> Images:
    """Open what a path or a name stands for; what begins like one of timm's, ``wds/train``, may also be a folder."""
    found = _NAMED.fullmatch(text)
    if found is None or (found["mark"] == "/" and os.path.lexists(text)):
        return _from_path(Path(text), asked)
    columns = asked.image_column, asked.label_column
    if found["scheme"] == "hfds":
        return from_hub(found["place"], found["split"], asked.outside, *columns, offline=asked.offline)
    if found["scheme"] == "parquet":
        return from_parquet(found["place"], found["split"], asked.outside, *columns)
    if found["split"] is not None:
        raise SubspectError(
            f"{shortened(text)}: shards have no splits; name those of one split, such as wds:train-{{000..127}}.tar"
        )
    return from_shards(found["place"], asked.outside, *columns)


def _from_path(path: Path, asked: _Asked) -> Images:
    """Open a folder or a file.

    Raises:
        SubspectError: there is no such folder or file, or see the function that reads it.
    """
    suffix = path.suffix.lower()
    if is_folder(path):
        _refuse_columns("a folder of images", asked)
        return from_folder(path, asked.outside)
    if not is_file(path):
        raise SubspectError(
            f"no such folder or file of images: {path}{special(path)} (looked in {Path.cwd()}){_scheme_meant(str(path))}"
        )
    if suffix == ".csv":
        return from_csv(path, asked.outside, asked.image_column, asked.label_column)
    if suffix in parquet.SUFFIXES:
        return from_parquet(str(path), None, asked.outside, asked.image_column, asked.label_column)
    if suffix in array_files.SUFFIXES:
        return ArrayFile(path, asked.image_column, asked.label_column)
    raise SubspectError(
        f"{path} is a file; expected a folder of images, a .csv file with the column 'path', .parquet, "
        f"{', '.join(array_files.SUFFIXES)}, or for shards wds:FILE.tar"
    )


def _scheme_meant(name: str) -> str:
    """Say how names begin, where something may be meant as one; nothing where it can be a path alone."""
    found = re.match(r"([\w-]{2,}):", name)  # one letter is a drive
    if found is None or found[1] in _SCHEMES:
        return ""
    meant = near(f"{found[1]}:", [f"{scheme}:" for scheme in _SCHEMES])
    return f"; nothing goes by {shortened(found[1])}:{meant}; names begin with wds:, parquet: or hfds:"


def _refuse_columns(what: str, asked: _Asked) -> None:
    if asked.image_column is not None or asked.label_column is not None:
        raise SubspectError(
            f"{what} has no columns; leave out image_column and label_column (--image-column, --label-column)"
        )
