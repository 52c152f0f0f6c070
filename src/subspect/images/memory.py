"""Images in memory: arrays, a torch Dataset, a DataLoader.

Pictures are preprocessed; floating-point tensors, tokens, and dicts of them are used as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
    default_convert,
)

from subspect.ground.errors import SubspectError, Unusable, shortened
from subspect.ground.files import fingerprint
from subspect.images.columns import LABEL_NAMES, Column, image_column, label_column
from subspect.images.decoding import to_rgb
from subspect.images.inputs import Inputs, inputs_from, rows_by_name
from subspect.images.sources import ClassMatch, Example, Images, Labels, Picture, what_labels_are

_TRIED = 64  # items of a Dataset that are tried to learn what its items are


class Arrays(Images):
    """Images in memory.

    Args:
        images: NumPy uint8 (n, height, width) or (n, height, width, 1, 3 or 4), or torch uint8
            (n, 1, 3 or 4, height, width): pictures, to be preprocessed; any floating-point array or tensor (n, …), and tokens,
            whole numbers (n, length): ready for the network; or several of these by name, which it takes by keyword.
        labels: class indices (n,), or None.

    Raises:
        SubspectError: the shape or type is wrong, or there isn't a class index for each image.

    Example:
        >>> images = subspect.Arrays(np.zeros((8, 32, 32, 3), np.uint8), [0, 1, 2, 3, 0, 1, 2, 3])
        >>> len(images), images.label(5)
        (8, 1)
    """

    kind = "arrays"

    def __init__(
        self,
        images: npt.NDArray[Any] | torch.Tensor | Mapping[str, Any],
        labels: npt.ArrayLike | torch.Tensor | None = None,
    ) -> None:
        if isinstance(images, Mapping):
            held = [str(name) for name in images if str(name).casefold() in LABEL_NAMES]
            if held:
                raise SubspectError(
                    f"arrays by name go to the network by keyword, and {shortened(repr(held[0]))} looks like labels: give them "
                    "beside, (arrays, labels), without that name"
                )
            kept: npt.NDArray[Any] | torch.Tensor | Inputs = rows_by_name(images)
        elif not isinstance(images, np.ndarray | torch.Tensor) or images.ndim < 2:
            raise SubspectError(
                "images in memory must be a NumPy array or a tensor (n, …), or a dict of such by name; got "
                f"{type(images).__name__}"
            )
        elif isinstance(images, torch.Tensor):
            kept = images.detach().cpu()
            kept = kept.float() if kept.dtype == torch.bfloat16 else kept  # which NumPy lacks
        else:
            kept = images
        self.images = kept
        if len(self):
            self.ready = not isinstance(picture_from(self.images[0]), Image.Image)
        labels = labels.cpu() if isinstance(labels, torch.Tensor) else labels
        self.labels: Labels | None = None if labels is None else _indices(np.asarray(labels), len(self))
        self.labelled = self.labels is not None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Example:
        """Return the picture or the tensor at a position."""
        return Example(picture_from(self.images[index]), self.label(index), None)

    def label(self, index: int) -> int | None:
        """Return the class index at a position."""
        return None if self.labels is None else int(self.labels[index])

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash type, shape, bytes and labels."""
        parts = self.images.tensors if isinstance(self.images, Inputs) else {"": self.images}
        labels = b"" if self.labels is None else np.ascontiguousarray(self.labels, dtype="<i8").tobytes()
        told: list[str | bytes | memoryview] = []
        for name, part in parts.items():
            data = np.ascontiguousarray(part)
            told += [*([name] if name else []), str(data.dtype), str(data.shape), data.reshape(-1).view(np.uint8).data]
        return fingerprint(*told, labels)


def _indices(labels: npt.NDArray[Any], images: int) -> Labels:
    """Return labels (n,) or (n, 1) as class indices (n,).

    Raises:
        SubspectError: they are of another length or type, several for an image, or numbers to be predicted.
    """
    flat = labels.reshape(-1)
    if len(flat) != images or flat.dtype.kind not in "iu":
        given = f"{len(flat)}" if labels.ndim < 2 else f"{labels.shape}"
        first = None
        if images and len(flat) == images:
            first = flat[0].item()
        elif images and labels.shape[:1] == (images,):
            first = labels[0].tolist()
        raise SubspectError(
            f"labels must be {images} class indices, one per image; got {given} of type "
            f"{labels.dtype}{what_labels_are(first)}"
        )
    return flat


class DatasetImages(Images):
    """A map-style torch Dataset whose items are an image, ``(image, label)``, or a dict that contains them.

    Tensors by name, without an image among them, go to the network by keyword.

    Its contents are not read beforehand: it is identified by its length and the name that the user gives it.

    Args:
        dataset: with ``__len__`` and ``__getitem__``.
        name: what it is called in fingerprints.
        image_column: of items that are dicts, the key of the image, where it isn't clear.
        label_column: likewise of the label; "none" for no labels.

    Raises:
        SubspectError: it can only be iterated, or keys are named and its items are no dicts.

    Example:
        >>> pairs = [(torch.zeros(3, 224, 224), 0), (torch.ones(3, 224, 224), 1)]
        >>> images = subspect.DatasetImages(pairs, name="two squares")
        >>> len(images), images.kind
        (2, 'dataset')
    """

    kind = "dataset"

    def __init__(
        self, dataset: Dataset[Any], name: str, image_column: str | None = None, label_column: str | None = None
    ) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise SubspectError(
                f"{type(dataset).__name__} can only be iterated; subspect reads by position, so that a run can resume where "
                "it stopped: pass a map-style Dataset with __len__ and __getitem__"
            )
        self.dataset, self.name = dataset, name
        self._columns = image_column, label_column
        self.ready = self.labelled = False
        for index in range(min(len(self), _TRIED)):
            try:
                image, label, _ = self.read(index)
            except Unusable:
                continue  # listed when its turn comes
            self.ready, self.labelled = not isinstance(image, Image.Image), label is not None
            break

    def __len__(self) -> int:
        return len(cast(Any, self.dataset))

    def read(self, index: int) -> Example:
        """Return the item at a position."""
        try:
            item = self.dataset[index]
            image, label = _parts(item, *self._columns)
            picture = picture_from(image)
        except OSError as error:  # a broken file
            raise Unusable(f"{type(error).__name__}: {error}") from error
        if isinstance(label, torch.Tensor | np.generic | np.ndarray):
            numbers = label.reshape(-1).tolist()
            label = numbers[0] if len(numbers) == 1 else numbers
        return Example(picture, cast(int | str | None, label), None)

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash the length and the name."""
        return fingerprint(self.name, str(len(self)))


def _parts(item: object, image: str | None, label: str | None) -> tuple[Any, Any]:
    """Return the image and the label of a Dataset's item; None where it has no label."""
    if isinstance(item, Mapping):
        images = [Column(str(key), type(one).__name__, 2 * _may_be_image(one)) for key, one in item.items()]
        if image is None and not any(column.fits for column in images):
            return _by_name({str(key): one for key, one in item.items()}, label)
        chosen = image_column(images, image, "an item of the Dataset")
        labels = [
            Column(one.name, "the image", 0)
            if one.name == chosen
            else Column(one.name, one.contents, int(not one.fits))
            for one in images
        ]
        key = label_column(labels, label, "an item of the Dataset")
        by_name = {str(key): one for key, one in item.items()}
        return by_name[chosen], None if key is None else by_name[key]
    if image is not None or label is not None:
        raise SubspectError(
            f"the Dataset's items are {type(item).__name__}, not dicts, so that they have no columns; leave out image_column "
            "and label_column"
        )
    return (*item, None)[:2] if isinstance(item, tuple | list) else (item, None)


def _by_name(item: Mapping[str, Any], label: str | None) -> tuple[Any, Any]:
    """Part what goes to the network by keyword from the label; None where there is none."""
    columns = [Column(name, type(one).__name__, int(np.ndim(one) == 0)) for name, one in item.items()]
    key = label_column(columns, label, "an item of the Dataset")
    return {name: one for name, one in item.items() if name != key}, None if key is None else item[key]


def _may_be_image(value: object) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 1)


def dataset_of(loader: DataLoader[Any]) -> Dataset[Any]:
    """Return a loader's dataset, after checking that the loader would yield its items unchanged and in order."""
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset  # refused, with its reason, by DatasetImages
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler  # loader.sampler is another one where the user gave a batch_sampler
    if not isinstance(sampler, SequentialSampler):
        raise SubspectError(
            f"this DataLoader shuffles or samples ({type(sampler).__name__}): image ids, resuming and repeatable results "
            "need a fixed order; pass DataLoader(dataset, shuffle=False), or the dataset itself"
        )
    if loader.collate_fn not in (default_collate, default_convert):
        raise SubspectError(
            "this DataLoader has its own collate_fn, which subspect would bypass since it reads image by image; pass a "
            "Dataset whose items are (image, label)"
        )
    return loader.dataset


def picture_from(item: object) -> Picture:
    """Tell a picture from what is ready for the network: floating numbers, tokens (whole numbers in a row), or both by name.

    Raises:
        SubspectError: neither.
    """
    if isinstance(item, Image.Image):
        return to_rgb(item)
    if isinstance(item, Inputs):
        return item
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu()
        if item.is_floating_point():
            return item
    if isinstance(item, Mapping):
        return inputs_from(item)
    given = np.asarray(item)
    if given.ndim == 1 and given.dtype.kind in "iu" and given.dtype != np.uint8:
        return torch.from_numpy(given.astype(np.int64))
    if given.dtype.kind == "f":
        return torch.from_numpy(np.array(given, np.float32, order="C"))  # a copy: it may be read-only or reversed
    channels_first = isinstance(item, torch.Tensor) and given.ndim == 3
    array = given.transpose(1, 2, 0) if channels_first else given
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise SubspectError(
            "an image in memory must be a Pillow image, a uint8 array (height, width[, 1, 3 or 4]) or a uint8 tensor (1, 3 "
            "or 4, height, width) as a picture, or ready for the network: floating-point numbers, tokens (whole numbers in a "
            f"row), or such by name in a dict; got {type(item).__name__} of {given.dtype} {given.shape}"
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)))
