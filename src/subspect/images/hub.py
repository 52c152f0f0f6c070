"""Images in data sets of Hugging Face: by name, in a folder that ``save_to_disk`` wrote, or as a ``datasets.Dataset``.

The package finds and fetches the rows; the images are taken from it as bytes, and decoded here. No code of a data set is run.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute
from torch.utils.data import Dataset as TorchDataset

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.files import is_file, is_folder
from subspect.ground.packages import package, reading
from subspect.images.cells import choose, data_of, may_be_images
from subspect.images.encoded import Encoded
from subspect.images.fence import Fence
from subspect.images.memory import DatasetImages
from subspect.images.places import written_out

log = logging.getLogger("subspect")

_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.+-]+))?")
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes into a folder
_AT_ONCE = 1000  # rows whose sizes are asked for at once


class HubDataset(Protocol):
    """A ``datasets.Dataset``; the package need not be there for those who have none."""

    @property
    def features(self) -> Any:
        """The columns."""

    def select_columns(self, column_names: Any) -> Any:
        """Return some of the columns."""


def is_dataset(source: object) -> bool:
    """Tell whether something is a data set of the package ``datasets``, or several of them."""
    datasets = sys.modules.get("datasets")
    kinds = ("Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict")
    return datasets is not None and isinstance(source, tuple(getattr(datasets, kind) for kind in kinds))


class HubImages(Encoded):
    """Images in a column of a ``datasets.Dataset``; an id is the number of the row.

    Args:
        dataset: with a column of images.
        place: what opens it again; None for one in memory.
        fence: the folder that paths in the column may not lead out of; None if they may lead anywhere.
        image_column: its name, where it isn't clear.
        label_column: the name of the column of labels, where it isn't clear; "none" for no labels.

    Raises:
        SubspectError: it has no columns of images, or several of images or labels, or labels outside its class names.
    """

    def __init__(
        self,
        dataset: Any,
        place: str | None,
        fence: Fence | None,
        image_column: str | None,
        label_column: str | None,
    ) -> None:
        where = shortened(place or "the data set")
        columns = choose(dataset.features.arrow_schema, image_column, label_column, where)
        if dataset.format["type"] == "custom":
            log.warning(
                "the transform of %s is left out: subspect takes the images as they are stored, and prepares them as the "
                "network's preprocessing says",
                where,
            )
        values: list[object] = []
        if columns.label is not None:
            values = _plain(dataset, columns.label)[:].column(0).to_pylist()
        super().__init__("Hugging Face", columns.labels(values, where), place, image_column)
        self._rows, self._fence, self._column = _plain(dataset, columns.image), fence, columns.image

    def __len__(self) -> int:
        return len(self._rows)

    def data(self, index: int) -> bytes:
        """Read the image in a row."""
        return data_of(self._rows[index].column(0)[0].as_py(), self._fence, "", f"row {index}")

    def listed(self) -> Iterable[str | bytes]:
        """Return the column, and the size of each image."""
        yield self._column
        for rows in self._rows.iter(batch_size=_AT_ONCE):
            cells = rows.column(0)
            data = pyarrow.compute.struct_field(cells, "bytes") if pyarrow.types.is_struct(cells.type) else cells
            yield str(pyarrow.compute.binary_length(data).to_pylist())


class _ByName(TorchDataset[dict[str, Any]]):
    """The columns of numbers of a data set without images, such as tokens: all but the label go to the network by name."""

    def __init__(self, dataset: Any) -> None:
        kinds = {one.name: one.type for one in dataset.features.arrow_schema}
        self.rows = dataset.select_columns([name for name, kind in kinds.items() if _is_numbers(kind)]).with_format(
            None
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = self.rows[index]
        return item


def _is_by_name(dataset: Any) -> bool:
    """Tell whether a data set has lists of numbers, and no column that may be images."""
    kinds = {one.name: one.type for one in dataset.features.arrow_schema}
    return any(map(_is_list, kinds.values())) and not any(may_be_images(*one) for one in kinds.items())


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and _is_numbers(kind.value_type))


def _is_numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind)) or _is_list(kind)


def _plain(dataset: Any, column: str) -> Any:
    """Return a column as it is stored."""
    return dataset.select_columns([column]).with_format("arrow")


def from_dataset(
    dataset: Any, name: str, image_column: str | None, label_column: str | None
) -> HubImages | DatasetImages:
    """Take the images of a ``datasets.Dataset``; of one without images, such as tokens, its numbers by name.

    Raises:
        SubspectError: it is several data sets, or one that can only be iterated, or see `HubImages`.
    """
    kind = type(dataset).__name__
    if kind.endswith("DatasetDict"):
        first = next(iter(dataset), "train")
        raise SubspectError(
            f"a {kind} has several splits: {some(dataset)}; pass one of them, as in datasets[{first!r}]"
        )
    if kind == "IterableDataset":
        raise SubspectError(
            "an IterableDataset can only be iterated; subspect reads by position, so that a run can resume where it "
            "stopped: load the data set without streaming=True"
        )
    if image_column is None and _is_by_name(dataset):
        return DatasetImages(_ByName(dataset), name, None, label_column)
    return HubImages(dataset, None, None, image_column, label_column)


def from_hub(
    place: str,
    split: str | None,
    outside: bool,
    image_column: str | None,
    label_column: str | None,
    offline: bool = False,
) -> HubImages:
    """Open a data set by its name, ``NAME`` or ``NAME:CONFIG``, or a folder that ``save_to_disk`` wrote.

    Args:
        place: the name or the folder.
        split: which of its splits.
        outside: whether paths in it may lead out of the folder, or of the cache.
        image_column: see `HubImages`.
        label_column: see `HubImages`.
        offline: whether to read only what is on this machine.

    Raises:
        SubspectError: there is no such data set or split, it cannot be fetched, or see `HubImages`.
        MissingExtra: the package ``datasets`` is not installed.
    """
    spec = f"hfds:{shortened(place)}"
    datasets = package("datasets", "datasets", f"the data set {spec}")
    local = is_folder(Path(place))
    if local:
        root, whole = Path(place), written_out(place)
        if not any(is_file(root / name) for name in _SAVED):
            raise SubspectError(
                f"{root} is not a data set that save_to_disk wrote ({' or '.join(_SAVED)} is missing); for Parquet files give "
                f"parquet:{root}, for a folder of images the folder itself"
            )
        with reading(spec, hub=False, instead=""):
            found = datasets.load_from_disk(place)
    else:
        root, whole = Path(datasets.config.HF_CACHE_HOME), place
        name = _NAME.fullmatch(place)
        if name is None:
            raise SubspectError(
                f"{spec} is neither a folder nor the name of a data set: expected hfds:NAME, hfds:OWNER/NAME, with several "
                "configurations hfds:NAME:CONFIG, and behind it, in brackets, a split: hfds:cifar10[test]"
            )
        instead = "name a folder that holds it, hfds:FOLDER (save_to_disk) or parquet:FOLDER"
        with reading(spec, hub=True, instead=instead, offline=offline):
            found = datasets.load_dataset(name["name"], name["config"])
    dataset, split = _of_split(spec, found, split)
    whole = f"hfds:{whole}" + (f"[{split}]" if split is not None else "")
    return HubImages(dataset, whole, Fence(root, outside), image_column, label_column)


def _of_split(spec: str, found: Any, asked: str | None) -> tuple[Any, str | None]:
    """Return the split that was asked for, or the only one, and its name."""
    if not isinstance(found, dict):
        if asked not in (None, str(found.split)):
            raise SubspectError(f"{spec} has no splits, so that there is no {shortened(str(asked))!r}; give {spec}")
        return found, asked
    known = [str(name) for name in found]
    if asked is None and len(known) == 1:
        return found[known[0]], known[0]
    if asked not in known:
        wrong = "has several splits" if asked is None else f"has no split {shortened(asked)!r}{near(asked, known)}"
        raise SubspectError(f"{spec} {wrong}; its splits are {some(known, 10)}: give {spec}[{known[0]}], say")
    return found[asked], asked
