"""The same images in every kind of source: a folder, shards, Parquet files, a data set of Hugging Face."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
import pytest

import subspect
from conftest import Tiny
from subspect.images.opening import open_images
from subspect.images.sources import Images

Member = tuple[str, bytes]


def files_of(folder: Path) -> list[tuple[str, str, bytes]]:
    """Return (path, class, bytes) of the images of class folders, in their order."""
    images = open_images(folder)
    paths = [images.id(index) for index in range(len(images))]
    return [(path, path.partition("/")[0], (folder / path).read_bytes()) for path in paths]


def write_tar(path: Path, members: Iterable[Member], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def members_of(folder: Path, first: int = 0, end: int | None = None) -> list[Member]:
    """Return the images of class folders as samples, an image and its class each."""
    pairs = [
        [(f"{number:06d}{Path(path).suffix}", data), (f"{number:06d}.cls", name.encode())]
        for number, (path, name, data) in enumerate(files_of(folder))
    ]
    return [member for pair in pairs[first:end] for member in pair]


def features_of(*names: str) -> dict[bytes, bytes]:
    """Return the metadata that Hugging Face writes for a column image and a column label of classes."""
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def write_parquet(
    path: Path,
    folder: Path,
    first: int = 0,
    end: int | None = None,
    row_group_size: int = 7,
    **columns: Sequence[object],
) -> Path:
    """Write the images of class folders as Hugging Face does."""
    files = files_of(folder)
    names = sorted({name for _, name, _ in files})
    files = files[first:end]
    table: dict[str, Any] = {
        "image": [{"bytes": data, "path": None} for _, _, data in files],
        "label": [names.index(name) for _, name, _ in files],
    }
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=features_of(*names))
    for name, values in columns.items():
        table[name] = values
        schema = schema.append(pa.field(name, pa.array(values).type))
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(table, schema), path, row_group_size=row_group_size)
    return path


def dataset_of(folder: Path) -> Any:
    """Return the images of class folders as a Dataset of Hugging Face."""
    datasets = pytest.importorskip("datasets")
    files = files_of(folder)
    names = sorted({name for _, name, _ in files})
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    rows = {
        "image": [{"bytes": data, "path": None} for _, _, data in files],
        "label": [names.index(name) for _, name, _ in files],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def stored(source: Any, study: Path, **options: Any) -> dict[str, Any]:
    """Observe images with the tiny network, and return what is stored of them: features, labels, predictions, digests."""
    made = subspect.observe(subspect.Network(Tiny()), source, study, batch_size=4, show_progress=False, **options)
    chunks = list(made.image_set("train").chunks())
    return {
        "features": np.concatenate([np.asarray(chunk.features) for chunk in chunks]).tobytes(),
        "labels": np.concatenate([chunk.labels for chunk in chunks]).tolist(),
        "predictions": np.concatenate([chunk.predictions for chunk in chunks]).tolist(),
        "digests": [digest for chunk in chunks for digest in chunk.digests],
    }


def features_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether the same was stored, but for the ids."""
    return len(one["labels"]) > 0 and one == other


def labels_of(images: Images) -> list[int | str | None]:
    return [images.label(index) for index in range(len(images))]


def pixels_of(images: Images) -> list[npt.NDArray[np.uint8]]:
    return [np.asarray(images.read(index).image) for index in range(len(images))]
