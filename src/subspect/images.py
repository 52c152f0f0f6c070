"""Where images come from: a folder, a CSV, arrays in memory, a torch Dataset or DataLoader.

Every source yields an `Example` (image, label, digest) and its id, by position, so that a run can go on where it stopped
and worker processes can share the work. Files are decoded with Pillow into RGB; tensors are taken as they are, ready for
the network. Labels become class indices through a `ClassMatch`: by name, by sorted order, or by the user's own map.

What lies in a folder may come from strangers: nothing is followed out of it, only regular files are opened, only formats
whose readers start no other program are decoded, and sizes are checked before memory is asked for.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, cast

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

from subspect.decoding import decode_with_digest, to_rgb
from subspect.errors import SubspectError, Unusable, near, some
from subspect.files import entries, fingerprint, is_file, is_folder, read_bytes, read_json
from subspect.preprocessing import AnyPreprocessing, visible

log = logging.getLogger("subspect")

SUFFIXES = frozenset(
    ".avif .bmp .gif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)  #: file names that count as images, in upper or lower case
_SETS = frozenset("train test val valid validation".split())
_TRIED = 64  # items of a Dataset that are tried to learn what its items are

Picture = Image.Image | torch.Tensor
Labels = npt.NDArray[np.int64]


class Example(NamedTuple):
    """What a source holds at a position.

    Attributes:
        image: RGB, or a tensor that is ready for the network.
        label: as the source gives it, a name or a class index; None where it has none.
        digest: of the image file's bytes (see `digest`); None for what comes from memory.
    """

    image: Picture
    label: int | str | None
    digest: bytes | None


class Images(ABC):
    """Images by position, each with an id and, where the source has them, a label.

    Attributes:
        kind: "folder", "flat folder", "CSV", "arrays" or "dataset".
        labelled: whether every image has a label.
        classes: the names that labels are given by, in sorted order; None where labels are class indices.
        root: the folder that ids are relative to, for files.
        ready: whether images are tensors ready for the network, so that no preprocessing applies.
    """

    kind: str
    labelled: bool
    classes: tuple[str, ...] | None = None
    root: Path | None = None
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

    def id(self, index: int) -> str:
        """Return the image's id: the path relative to the root, or the position."""
        return str(index)

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
        count = str(len(self))
        if not re.fullmatch("0|[1-9][0-9]*", id) or (len(id), id) >= (len(count), count):
            raise self._unknown(id)  # told by its digits: there may be more of them than Python converts
        image, _, found = self.read(int(id))
        return image, found

    def picture(self, id: str) -> Image.Image:
        """Return the image of an id as a person would look at it.

        Raises:
            Unusable: it is missing or cannot be decoded, or a tensor that is no picture.
        """
        image = self.given(id)
        return image if isinstance(image, Image.Image) else visible(image)

    def _unknown(self, id: str) -> Unusable:
        return Unusable(f"no image with id {_short(id)!r} among {len(self)}")


class Files(Images):
    """Image files below a root, listed once; ids are their paths relative to it, with ``/``."""

    def __init__(self, kind: str, root: Path, paths: Sequence[str], raw: Sequence[str] | None) -> None:
        odd = [path for path in paths if path != path.encode(errors="ignore").decode()]
        if odd:
            raise SubspectError(f"{len(odd)} file names in {root} are not UTF-8: {some(map(ascii, odd))}; rename them")
        self.kind, self.root, self.paths, self.raw = kind, root, paths, raw
        self.labelled = raw is not None
        self.classes = tuple(sorted(set(raw))) if raw is not None else None

    def __len__(self) -> int:
        return len(self.paths)

    def id(self, index: int) -> str:
        """Return the path relative to the root."""
        return self.paths[index]

    def read(self, index: int) -> Example:
        """Decode the file into RGB."""
        assert self.root is not None
        image, found = decode_with_digest(self.root / self.paths[index])
        return Example(image, self.raw[index] if self.raw is not None else None, found)

    def given_with_digest(self, id: str) -> tuple[Picture, bytes | None]:
        """Decode the file of an id into RGB; only files that were listed are ever opened."""
        assert self.root is not None
        if id not in self._listed:
            raise self._unknown(id)
        return decode_with_digest(self.root / id)

    @cached_property
    def _listed(self) -> frozenset[str]:
        return frozenset(self.paths)

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash paths, file sizes and class indices; not the files' bytes, which would cost a second reading."""
        assert self.root is not None
        rows = []
        for index, path in enumerate(self.paths):
            label = match(self.raw[index]) if match is not None and self.raw is not None else None
            rows.append(f"{path}\0{_bytes(self.root / path)}\0{label}")
        return fingerprint("\n".join(rows))


class Arrays(Images):
    """Images in memory.

    Args:
        images: NumPy uint8 (n, height, width) or (n, height, width, 1, 3 or 4), or torch uint8
            (n, 1, 3 or 4, height, width): pictures, to be preprocessed; any floating array or tensor
            (n, …): ready for the network.
        labels: class indices (n,), or None.

    Raises:
        SubspectError: another shape or type, or labels of another length.
    """

    kind = "arrays"

    def __init__(
        self, images: npt.NDArray[Any] | torch.Tensor, labels: npt.ArrayLike | torch.Tensor | None = None
    ) -> None:
        if not isinstance(images, np.ndarray | torch.Tensor) or images.ndim < 2:
            raise SubspectError(
                f"images in memory must be a NumPy array or a tensor (n, …); got {type(images).__name__}"
            )
        if isinstance(images, torch.Tensor):
            images = images.detach().cpu()
            images = images.float() if images.dtype == torch.bfloat16 else images  # which NumPy lacks
        self.images = images
        if len(self):
            self.ready = isinstance(_picture(self.images[0]), torch.Tensor)
        labels = labels.cpu() if isinstance(labels, torch.Tensor) else labels
        self.labels: Labels | None = None if labels is None else np.asarray(labels).reshape(-1)
        self.labelled = self.labels is not None
        if self.labels is not None and (len(self.labels) != len(self) or self.labels.dtype.kind not in "iu"):
            raise SubspectError(
                f"labels must be {len(self)} class indices, one for each image; got {len(self.labels)} of type "
                f"{self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Example:
        """Return the picture or the tensor at a position."""
        return Example(_picture(self.images[index]), None if self.labels is None else int(self.labels[index]), None)

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash type, shape, bytes and labels."""
        data = np.ascontiguousarray(self.images)
        labels = b"" if self.labels is None else np.ascontiguousarray(self.labels, dtype="<i8").tobytes()
        return fingerprint(str(data.dtype), str(data.shape), data.reshape(-1).view(np.uint8).data, labels)


class DatasetImages(Images):
    """A map-style torch Dataset whose items are an image or ``(image, label)``.

    Its bytes are not read beforehand: it is identified by its length and the name that the user gives it.
    """

    kind = "dataset"

    def __init__(self, dataset: Dataset[Any], name: str) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise SubspectError(
                f"{type(dataset).__name__} can only be iterated; subspect reads by position, so that a run can go on "
                "where it stopped: pass a map-style Dataset with __len__ and __getitem__"
            )
        self.dataset, self.name = dataset, name
        self.ready = self.labelled = False
        for index in range(min(len(self), _TRIED)):
            try:
                image, label, _ = self.read(index)
            except Unusable:
                continue  # listed when its turn comes
            self.ready, self.labelled = isinstance(image, torch.Tensor), label is not None
            break

    def __len__(self) -> int:
        return len(cast(Any, self.dataset))

    def read(self, index: int) -> Example:
        """Return the item at a position."""
        try:
            item = self.dataset[index]
            image, label = (*item, None)[:2] if isinstance(item, tuple | list) else (item, None)
            picture = _picture(image)
        except OSError as error:  # a broken file
            raise Unusable(f"{type(error).__name__}: {error}") from error
        if isinstance(label, torch.Tensor | np.generic | np.ndarray):
            numbers = label.reshape(-1).tolist()
            label = numbers[0] if len(numbers) == 1 else numbers
        return Example(picture, cast(int | str | None, label), None)

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash the length and the name."""
        return fingerprint(self.name, str(len(self)))


def open_images(source: object, name: str = "images", *, outside: bool = False) -> Images:
    """Return the images of a path, arrays, an ``(images, labels)`` pair, a Dataset or a DataLoader.

    Args:
        source: a folder of class folders, a flat folder, a CSV with the columns ``path`` and, where there are labels,
            ``label``; a uint8 or floating array or tensor; a Dataset or a DataLoader that doesn't shuffle.
        name: what a Dataset is called in fingerprints.
        outside: whether a folder's links and a CSV's paths may lead out of the folder; else such a source is refused.

    Raises:
        SubspectError: no such path, nothing in it, something that leads outside, a layout or a loader that can't be read in
            a fixed order.
    """
    if isinstance(source, Images):
        images = source
    elif isinstance(source, str | Path):
        images = _from_path(Path(source), outside)
    elif isinstance(source, np.ndarray | torch.Tensor):
        images = Arrays(source)
    elif isinstance(source, tuple) and len(source) == 2:
        images = Arrays(*source)
    elif isinstance(source, DataLoader):
        images = DatasetImages(_dataset_of(source), name)
    elif isinstance(source, Dataset):
        images = DatasetImages(source, name)
    else:
        raise SubspectError(
            f"cannot read images from {type(source).__name__}; pass a folder, a CSV file, an array, (images, labels), a "
            "torch Dataset or a DataLoader"
        )
    if not len(images):
        raise SubspectError(f"no images in the {images.kind} given: it has length 0")
    return images


# Labels ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassMatch:
    """How raw labels become class indices.

    Attributes:
        n_classes: number of classes of the network.
        index: class index of each name; None where labels are class indices already.
        names: the name of every class.
        how: how it was done, in words.
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
                f"label {raw!r} is not a class index of this network: expected a whole number from 0 to "
                f"{self.n_classes - 1}"
            )
        return raw


def match_classes(
    images: Images,
    n_classes: int,
    names: Sequence[str] | None = None,
    class_map: Mapping[str, int] | str | Path | None = None,
) -> ClassMatch:
    """Match the names that labels are given by to the network's classes.

    Args:
        images: the source; labels that are class indices need no matching.
        n_classes: number of classes of the network.
        names: the network's class names, where it has them.
        class_map: folder name → class index, or a JSON file with it; "sorted" insists on sorted order.

    Raises:
        SubspectError: a name that the network doesn't know, another number of folders than classes without a map, or a
            map that doesn't fit.
    """
    if names is not None and len(names) != n_classes:
        raise SubspectError(f"{len(names)} class names for a network with {n_classes} classes; give one for each")
    known = tuple(names) if names is not None else None
    if images.classes is None:
        how = "labels are class indices" if images.labelled else "none"
        return ClassMatch(n_classes, None, known or numbered(n_classes), how)
    if class_map is not None and class_map != "sorted":
        return _by_map(images.classes, n_classes, known, class_map)
    if class_map == "sorted":
        return _by_order(images, n_classes, known)
    numbers = images.kind == "CSV" and all(label.removeprefix("-").isdecimal() for label in images.classes)
    if numbers and not (known and set(images.classes) <= set(known)):
        return _by_number(images.classes, n_classes, known)
    if known is not None:
        return _by_name(images, known)
    return _by_order(images, n_classes, known)


def numbered(n_classes: int) -> tuple[str, ...]:
    """Return the names of classes that have none."""
    return tuple(f"class {index}" for index in range(n_classes))


def _by_name(images: Images, known: tuple[str, ...]) -> ClassMatch:
    def plain(name: str) -> str:
        return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())

    found = cast(tuple[str, ...], images.classes)
    exact, loose = defaultdict(list), defaultdict(list)
    for index, name in enumerate(known):
        exact[name].append(index)
        loose[plain(name)].append(index)
    places = {name: exact.get(name) or loose.get(plain(name), []) for name in found}
    unknown = [name for name in found if not places[name]]
    if unknown:
        raise SubspectError(
            f"{len(unknown)} of {len(found)} class folders or labels are not among the network's {len(known)} class "
            f"names: {some([repr(name) + near(name, known) for name in unknown[:5]])}; rename them, pass --class-map FILE "
            "(name → class index), or --class-map sorted if their sorted order is the network's class order"
            f"{_inside(images, unknown)}"
        )
    twice = [name for name in found if len(places[name]) > 1]
    if twice:
        raise SubspectError(f"class names that stand twice can't be matched: {some(twice)}; pass a class map")
    index_of = {name: places[name][0] for name in found}
    counts = Counter(index_of.values())
    clash = [name for name in found if counts[index_of[name]] > 1]
    if clash:
        raise SubspectError(f"class folders that mean the same class: {some(clash)}; pass a class map")
    return ClassMatch(len(known), index_of, known, "by name")


def _by_number(found: tuple[str, ...], n_classes: int, known: tuple[str, ...] | None) -> ClassMatch:
    outside = [label for label in found if not 0 <= Decimal(label) < n_classes]  # of any length, unlike int
    if outside:
        raise SubspectError(
            f"labels {some(map(_short, outside))} are not class indices of this network: expected 0 to {n_classes - 1}"
        )
    index = {label: int(Decimal(label)) for label in found}
    return ClassMatch(n_classes, index, known or numbered(n_classes), "labels are class indices")


def _by_order(images: Images, n_classes: int, known: tuple[str, ...] | None) -> ClassMatch:
    found = cast(tuple[str, ...], images.classes)
    if len(found) != n_classes:
        raise SubspectError(
            f"{len(found)} class folders or labels ({some(found)}) for a network with {n_classes} classes: expected as "
            f"many; pass --class-map FILE (name → class index) for some of the classes{_inside(images, found)}"
        )
    if images.kind == "folder" and all(name.casefold() in _SETS for name in found):
        raise SubspectError(
            f"the folders in {images.root} look like image sets, not classes: {some(found)}; pass one of them, or a class "
            "map if they are classes"
        )
    if all(name.isdecimal() for name in found) and list(found) != sorted(found, key=Decimal):
        log.warning(
            "class folders are numbers; sorted as text (%s) as torchvision does it, not by value; pass a class map if "
            "the network counts them by value",
            some(found),
        )
    return ClassMatch(n_classes, {name: index for index, name in enumerate(found)}, known or found, "by sorted order")


def _inside(images: Images, names: Sequence[str]) -> str:
    """Return a hint where the folder given holds image sets rather than classes, or nothing."""
    sets = [name for name in names if images.kind == "folder" and name.casefold() in _SETS]
    return f"; did you mean a folder inside it, such as {images.root}/{sets[0]}?" if sets else ""


def _by_map(
    found: tuple[str, ...], n_classes: int, known: tuple[str, ...] | None, class_map: Mapping[str, int] | str | Path
) -> ClassMatch:
    given = class_map if isinstance(class_map, Mapping) else read_json(Path(class_map), "the class map")
    if not isinstance(given, Mapping) or not all(type(value) is int for value in given.values()):
        raise SubspectError(
            f'a class map must be a JSON object of folder name → class index, such as {{"cat": 3}}; got '
            f"{_short(str(class_map))}"
        )
    wrong = [
        f"{_short(name)} → {value if abs(value) < 2**63 else 'a huge number'}"
        for name, value in given.items()
        if not 0 <= value < n_classes
    ]
    if wrong:
        raise SubspectError(f"the class map holds indices outside 0 to {n_classes - 1}: {some(wrong)}")
    missing = [name for name in found if name not in given]
    if missing:
        raise SubspectError(
            f"the class map lacks {len(missing)} of the class folders or labels: {some(map(repr, missing))}; add them"
        )
    first = {value: name for name, value in reversed(list(given.items()))}
    names = known or tuple(first.get(index, f"class {index}") for index in range(n_classes))
    return ClassMatch(n_classes, {name: given[name] for name in found}, names, "by the class map")


# Batches --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """The images of some positions, as the network gets them.

    Attributes:
        pixels: (m, channels, height, width) float32; None where none could be used.
        labels: (m,) class indices, −1 where there are none.
        ids: the m ids.
        digests: the m digests of the images' files (see `digest`), None for what comes from memory.
        failed: id and reason of each image that couldn't be used.
        error: what stops the run, found in a worker process.
    """

    pixels: torch.Tensor | None
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
        tensors: list[torch.Tensor] = []
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

    def _prepare(self, image: Picture) -> torch.Tensor:
        if isinstance(image, torch.Tensor) != self.images.ready:
            raise SubspectError(
                "the images mix pictures and tensors that are ready for the network; give one kind, so that all are "
                "preprocessed or none"
            )
        if isinstance(image, torch.Tensor):
            return image.float()
        assert self.preprocessing is not None
        return self.preprocessing(image)


def batches(
    images: Images,
    preprocessing: AnyPreprocessing | None,
    match: ClassMatch | None,
    positions: Sequence[Sequence[int]],
    workers: int = 0,
) -> Iterator[Batch]:
    """Read the images at given positions, a batch for each list of positions, in order, in worker processes if any.

    Raises:
        SubspectError: pictures without preprocessing, images of different sizes, a label outside the classes, or a worker
            process that was ended from outside.
    """
    if preprocessing is None and not images.ready:
        raise SubspectError(
            "the network declares no preprocessing and none was given: pass resize, crop, mean and std (on the command "
            "line --resize, --crop, --mean, --std; 'none' where nothing is done), as in training"
        )
    loader = DataLoader(
        _Batches(images, preprocessing, match, positions),
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        worker_init_fn=_leave_quietly,
    )
    with lost_workers():
        for batch in loader:
            if batch.error is not None:
                raise SubspectError(batch.error)
            yield batch


def _leave_quietly(_: int) -> None:
    """Keep a process that reads images from printing tracebacks of connections that broke since the main one has ended."""
    print_it = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ConnectionError | EOFError):
            print_it(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def lost_workers() -> Iterator[None]:
    """Say what happened where a worker process was killed.

    PyTorch tells of it by a signal, so that its error comes up wherever the main process happens to be: what consumes
    `batches` from workers is to run in such a block too.

    Raises:
        SubspectError: a worker process was ended from outside.
    """
    try:
        yield
    except RuntimeError as error:
        if re.search(r"DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)) is None:
            raise
        raise SubspectError(
            "a process that reads images was ended from outside, usually for want of memory; what was stored stays: run "
            "again with fewer --workers (0 reads images without such processes)"
        ) from error


def _stack(tensors: list[torch.Tensor], ids: list[str]) -> torch.Tensor | None:
    if not tensors:
        return None
    for tensor, id in zip(tensors, ids, strict=True):
        if tensor.shape != tensors[0].shape:
            raise SubspectError(
                f"images of different sizes: {ids[0]} is {_shape(tensors[0])}, {id} is {_shape(tensor)} after "
                "preprocessing; give resize and crop, so that all are of one size"
            )
    return torch.stack(tensors)


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape))


# Paths ----------------------------------------------------------------------------------------------------------------


def _from_path(path: Path, outside: bool) -> Images:
    if is_folder(path):
        return _from_folder(path, outside)
    if is_file(path) and path.suffix.lower() == ".csv":
        return _from_csv(path, outside)
    if is_file(path):
        raise SubspectError(f"{path} is a file; expected a folder of images or a .csv file with the column 'path'")
    raise SubspectError(f"no such folder or CSV file: {path} (looked in {Path.cwd()})")


class _Fence:
    """Tells what leads out of a folder; with ``outside``, nothing does."""

    def __init__(self, root: Path, outside: bool) -> None:
        self.root, self.outside = root, outside
        self.real = os.path.realpath(root)
        self._inner = self.real.rstrip(os.sep) + os.sep
        self._folders: dict[str, str] = {}  # as a CSV writes them → where they really lie

    def check(self, path: str, name: str) -> None:
        """Check a link.

        Raises:
            SubspectError: it leads outside.
        """
        if not self.outside and self.inside(real := os.path.realpath(path)) is None:
            self.refuse(name, real)

    def inside(self, real: str) -> str | None:
        """Return a real path relative to the root, or None where it lies outside."""
        if real == self.real:
            return ""
        return real.removeprefix(self._inner) if real.startswith(self._inner) else None

    def id(self, given: str, line: int) -> str:
        """Return the id of a CSV's path: as written, or relative to the root if it was absolute or held ``..``.

        Raises:
            SubspectError: it leads outside.
        """
        folder, name = os.path.split(given)
        if name == "..":
            folder, name = given, ""
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(self.root / folder)
        place = Path(self._folders[folder], name)
        within, shown = self.inside(str(place)), f"{_short(given)} in line {line}"
        if within is None:
            self.refuse(shown, str(place))
        if _is_link(place):
            self.check(str(place), shown)
        return Path(within).as_posix() if Path(given).is_absolute() or ".." in given.split("/") else given

    def refuse(self, name: str, real: str) -> NoReturn:
        """Say what leads where."""
        raise SubspectError(
            f"{name} leads outside {self.root}: to {_short(real)}; pass outside=True (--outside) if that is meant"
        )


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # a name that is too long, say
        return False


def _from_folder(root: Path, outside: bool) -> Images:
    fence = _Fence(root, outside)
    found = sorted(_shown(root), key=lambda entry: Path(entry.name))
    flat = [entry.name for entry in found if _is_image(entry, entry.name, fence)]
    folders = {entry.name: _below(entry, fence) for entry in found if _is_folder(entry)}
    filled = [name for name, paths in folders.items() if paths]
    if flat and filled:
        raise SubspectError(
            f"{root} holds both images ({some(flat, 2)}) and folders of images ({some(filled, 2)}): pass a folder of "
            "class folders, or a folder of images alone"
        )
    if flat:
        return Files("flat folder", root, flat, None)
    if not filled:
        others = some([entry.name for entry in found], 3) or "nothing"
        raise SubspectError(
            f"no images in {root}: it holds {others}; expected class folders with images, or images "
            f"({' '.join(sorted(SUFFIXES))})"
        )
    pairs = [(path, name) for name, paths in folders.items() for path in paths]
    files = Files("folder", root, [path for path, _ in pairs], [name for _, name in pairs])
    files.classes = tuple(sorted(folders))  # a class folder without images still holds its place in the order
    return files


def _below(folder: os.DirEntry[str], fence: _Fence) -> list[str]:
    """List the images below a class folder, relative to the root; links to folders further below are passed over."""
    if folder.is_symlink():
        fence.check(folder.path, folder.name)
    found: list[str] = []
    todo = [(folder.path, folder.name)]
    while todo:
        place, prefix = todo.pop()
        for entry in _shown(place):
            name = f"{prefix}/{entry.name}"
            if _is_image(entry, name, fence):
                found.append(name)
            elif entry.is_dir(follow_symlinks=False):
                todo.append((entry.path, name))
    return sorted(found, key=Path)


def _shown(folder: str | Path) -> list[os.DirEntry[str]]:
    """List a folder but for hidden names."""
    return [entry for entry in entries(Path(folder)) if not entry.name.startswith(".")]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return is_folder(Path(entry.path)) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def _is_image(entry: os.DirEntry[str], name: str, fence: _Fence) -> bool:
    """Tell whether an entry is a file named like an image; only links are asked where they lead, which takes time."""
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    if not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    if not is_file(Path(entry.path)):
        return False
    fence.check(entry.path, name)
    return True


def _from_csv(path: Path, outside: bool) -> Images:
    lines, paths, labels = _rows(path)
    blank = [line for line, given in zip(lines, paths, strict=True) if not given.strip()]
    if blank:
        raise SubspectError(f"{path} has no path in line {some(blank)}; give one in every line")
    if labels is not None and "" in labels:
        unlabelled = [line for line, label in zip(lines, labels, strict=True) if not label]
        raise SubspectError(
            f"{path} has no label in {len(unlabelled)} of {len(lines)} lines (line {some(unlabelled)}); label every image, "
            "or leave the column out"
        )
    if not outside:
        fence = _Fence(path.parent, outside)
        paths = [fence.id(given, line) for given, line in zip(paths, lines, strict=True)]
    return Files("CSV", path.parent, paths, labels)


def _rows(path: Path) -> tuple[list[int], list[str], list[str] | None]:
    """Read a CSV: the number of each line, its path with ``/``, and the labels, if there is such a column.

    Raises:
        SubspectError: not a CSV in UTF-8, no column "path", or a line with more fields than there are columns.
    """
    lines, paths, labels = list[int](), list[str](), list[str]()
    with io.TextIOWrapper(io.BytesIO(read_bytes(path)), encoding="utf-8-sig", newline="") as text:
        try:
            reader = csv.reader(text, skipinitialspace=True)
            columns = [name.strip().casefold() for name in next(reader, [])]
            at, label_at = _column(path, columns, "path"), _column(path, columns, "label")
            if at is None:
                raise SubspectError(
                    f"{path} has the columns {_short(', '.join(columns)) or 'none'}; expected 'path' and 'label'"
                )
            for row in reader:
                if not row:
                    continue
                if len(row) > len(columns):
                    raise SubspectError(
                        f"{path} has {len(row)} fields in line {reader.line_num} but {len(columns)} columns; put those that "
                        "hold a comma in quotes"
                    )
                if "\0" in "".join(row):
                    raise SubspectError(f"{path} has a NUL character in line {reader.line_num}, which no path holds")
                row += [""] * (len(columns) - len(row))
                lines.append(reader.line_num)
                paths.append(row[at].replace("\\", "/"))
                labels += [] if label_at is None else [row[label_at].strip()]
        except (UnicodeDecodeError, csv.Error) as error:
            raise SubspectError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from error
    return lines, paths, None if label_at is None else labels


def _column(path: Path, columns: list[str], name: str) -> int | None:
    if columns.count(name) > 1:
        raise SubspectError(f"{path} has the column {name!r} {columns.count(name)} times; keep one of them")
    return columns.index(name) if name in columns else None


def _dataset_of(loader: DataLoader[Any]) -> Dataset[Any]:
    """Take a loader's dataset, once it is sure that the loader would have given its items unchanged and in order."""
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset  # refused, with its reason, by DatasetImages
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler  # loader.sampler is another one where the user gave a batch_sampler
    if not isinstance(sampler, SequentialSampler):
        raise SubspectError(
            f"this DataLoader shuffles or picks ({type(sampler).__name__}): image ids, resuming and repeatable results "
            "need a fixed order; pass DataLoader(dataset, shuffle=False), or the dataset itself"
        )
    if loader.collate_fn not in (default_collate, default_convert):
        raise SubspectError(
            "this DataLoader has a collate_fn of its own, which subspect would bypass by reading image by image; pass a "
            "Dataset whose items are (image, label)"
        )
    return loader.dataset


def _short(text: str, most: int = 100) -> str:
    """Cut text of the user's that may be of any length, for a message."""
    return text if len(text) <= most else text[:most] + "…"


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1  # missing: listed as undecodable when its turn comes


def _picture(item: object) -> Picture:
    """Tell a picture from a tensor that is ready for the network.

    Raises:
        SubspectError: neither.
    """
    if isinstance(item, Image.Image):
        return to_rgb(item)
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu()
        if item.is_floating_point():
            return item
    given = np.asarray(item)
    if given.dtype.kind == "f":
        return torch.from_numpy(np.array(given, np.float32, order="C"))  # a copy: it may be read-only or reversed
    channels_first = isinstance(item, torch.Tensor) and given.ndim == 3
    array = given.transpose(1, 2, 0) if channels_first else given
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise SubspectError(
            "an image in memory must be a Pillow image, a uint8 array (height, width[, 1, 3 or 4]) or a uint8 tensor "
            "(1, 3 or 4, height, width) as a picture, or floating, ready for the network; got "
            f"{type(item).__name__} of {given.dtype} {given.shape}"
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)))
