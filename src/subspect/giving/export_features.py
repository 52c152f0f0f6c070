"""Hand stored features on to other tools, as plain files: TensorBoard's projector, and FiftyOne.

- ``tensorboard``: ``tensors.tsv``, ``metadata.tsv`` (id, label, prediction, and texts and links where examples have them) and
  ``projector_config.pbtxt``; ``tensorboard --logdir FOLDER`` shows them, and projector.tensorflow.org loads the two tables.
- ``fiftyone``: ``samples.json`` and ``metadata.json`` as FiftyOne's importer reads them, with each image's path, its label, the
  network's prediction with its probability, and its features as a vector:
  ``fiftyone.Dataset.from_dir(FOLDER, dataset_type=fiftyone.types.FiftyOneDataset)``. The images stay where they are.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from subspect.giving.options import FEATURE_FORMATS, FeatureFormat
from subspect.ground.errors import SubspectError, some
from subspect.ground.files import is_file
from subspect.ground.folders import check_free_place, whole_folder
from subspect.ground.progress import progress
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted, legible
from subspect.heads.feature_names import names_json
from subspect.studies.image_set import ImageSet
from subspect.studies.shards import Chunk
from subspect.studies.study import Study, StudyLike, open_study

log = logging.getLogger("subspect")

_PROJECTOR = """embeddings {{
  tensor_name: "{name}"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
}}
"""


@dataclass(frozen=True)
class ExportedFeatures(Result):
    """Features that were handed on.

    Attributes:
        path: the folder.
        format: "tensorboard" or "fiftyone".
        image_set: whose features they are.
        examples: their number.
        features: number of features of each.
        files: name → bytes.

    Example:
        >>> sent = study.export_features("projector", format="tensorboard", show_progress=False)
        >>> sent.examples, sent.features
        (132, 256)
    """

    path: Path
    format: FeatureFormat
    image_set: str
    examples: int
    features: int
    files: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "path": str(self.path)}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each file."""
        return [{"file": name, "bytes": size} for name, size in self.files.items()]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: the files, and how the other tool opens them."""
        opens = {
            "tensorboard": f"tensorboard --logdir {self.path}",
            "fiftyone": f"fiftyone.Dataset.from_dir({str(self.path)!r}, dataset_type=fiftyone.types.FiftyOneDataset)",
        }
        examples, features = (
            counted(self.examples, "example", "examples"),
            counted(self.features, "feature", "features"),
        )
        caption = f"{examples} of {self.image_set!r}, {features} each\n{opens[self.format]}"
        table = Table(title=str(self.path), caption=caption, title_justify="left", caption_justify="left")
        table.add_column("file")
        table.add_column("MB", justify="right")
        for name, size in self.files.items():
            table.add_row(name, f"{size / 1e6:.2g}")
        return [table]


def export_features(
    study: StudyLike,
    *,
    path: str | Path,
    format: FeatureFormat,
    on: str = "train",
    images: str | Path | None = None,
    show_progress: bool = True,
) -> ExportedFeatures:
    """Write the features of an image set as files of another tool's; it needs not be installed.

    Args:
        study: where the features are stored.
        path: the folder; it must not exist.
        format: "tensorboard" or "fiftyone".
        on: the image set.
        images: for FiftyOne, the folder where the images are now; where they were observed unless given.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: a path that exists, a format that is none, no such image set, or for FiftyOne images that are no files.

    Example:
        >>> subspect.export_features("study", path="projector", format="tensorboard", show_progress=False).image_set
        'train'
    """
    study, path = open_study(study), Path(path)
    if format not in FEATURE_FORMATS:
        raise SubspectError(f"features are exported to {' or '.join(FEATURE_FORMATS)}; got {format!r}")
    if images is not None and format != "fiftyone":
        raise SubspectError("images goes with FiftyOne, which shows them; TensorBoard's projector shows points alone")
    check_free_place(path)
    image_set = study.image_set(on)
    if sample := image_set.manifest.of_all(study.identity.examples):
        log.warning("features of %r are kept of %s: those alone are exported", image_set.name, sample)
    root = _root(study, image_set, images) if format == "fiftyone" else Path()
    with whole_folder(path) as part:
        with progress("export", len(image_set), "examples", show=show_progress) as advance:
            if format == "fiftyone":
                _fiftyone(part, study, image_set, root, advance)
            else:
                _tensorboard(part, study, image_set, advance)
        files = {file.name: file.stat().st_size for file in sorted(part.iterdir())}
    return ExportedFeatures(path, format, on, len(image_set), study.identity.n_features, files)


# TensorBoard ----------------------------------------------------------------------------------------------------------


def _tensorboard(folder: Path, study: Study, image_set: ImageSet, advance: Callable[[int], None]) -> None:
    """Write the projector's tables, a line for each example; only the one of what is said of them has a header."""
    (folder / "projector_config.pbtxt").write_text(_PROJECTOR.format(name=image_set.name))
    with _opened(folder / "tensors.tsv") as tensors, _opened(folder / "metadata.tsv") as metadata:
        for number, chunk in enumerate(image_set.chunks()):
            columns = _said(study, image_set, chunk)
            if not number:
                metadata.write("\t".join(columns) + "\n")
            for row in zip(*columns.values(), strict=True):
                metadata.write("\t".join(map(legible, row)) + "\n")
            np.savetxt(tensors, chunk.features, fmt="%.9g", delimiter="\t")  # nine digits give a float32 back
            advance(len(chunk.ids))


def _opened(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


def _said(study: Study, image_set: ImageSet, chunk: Chunk) -> dict[str, list[str]]:
    """Return what is said of examples: name of a column → a value for each."""
    names = study.identity.class_names
    labels = {"label": [names[label] for label in chunk.labels.tolist()]} if image_set.labelled else {}
    written = {name: [one or "" for one in of] for name, of in (("text", chunk.texts), ("link", chunk.links)) if of}
    return {"id": chunk.ids, **labels, "prediction": [names[label] for label in chunk.predictions.tolist()], **written}


# FiftyOne -------------------------------------------------------------------------------------------------------------


def _fiftyone(folder: Path, study: Study, image_set: ImageSet, root: Path, advance: Callable[[int], None]) -> None:
    """Write a sample for each image, in the form of before FiftyOne 0.8, which has no database's own fields in it.

    Newer versions tell that form by the lack of a version in ``metadata.json``, and read it too.
    """
    names = study.identity.class_names
    _write_json(folder / "metadata.json", {"media_type": "image", "info": _info(study, image_set)})
    weight, bias = (tensor.numpy() for tensor in study.head())
    missing = list[str]()
    with _opened(folder / "samples.json") as file:
        file.write('{"samples": [')
        separator = "\n"
        for chunk in image_set.chunks():
            shares = softmax((chunk.features @ weight.T + bias).astype(np.float64), axis=1)
            for sample in _samples(chunk, image_set, names, root, shares):
                missing += [] if is_file(Path(sample["filepath"])) else [sample["example"]]
                file.write(separator + json.dumps(sample, ensure_ascii=False, allow_nan=False))
                separator = ",\n"
            advance(len(chunk.ids))
        file.write("\n]}\n")
    _tell(missing, image_set, root)


def _info(study: Study, image_set: ImageSet) -> dict[str, Any]:
    """Return what a dataset of FiftyOne's is to say of itself; its classes go by that name there."""
    return {
        "classes": list(study.identity.class_names),
        "network": study.identity.network,
        "image_set": image_set.name,
        "feature_names": names_json(study.feature_names),
    }


def _tell(missing: Sequence[str], image_set: ImageSet, root: Path) -> None:
    """Warn of images that aren't where the files say.

    Raises:
        SubspectError: none of them is.
    """
    if len(missing) == len(image_set):
        raise SubspectError(
            f"none of the {len(image_set):,} images of {image_set.name!r} is in {root} (looked for {some(missing, 3)}); say "
            "where they are now (images=, --images), under their ids"
        )
    if missing:
        log.warning(
            "%s of %s images are not in %s: %s; say where they are now: --images FOLDER",
            f"{len(missing):,}",
            f"{len(image_set):,}",
            root,
            some(missing, 3),
        )


def _samples(
    chunk: Chunk, image_set: ImageSet, names: tuple[str, ...], root: Path, shares: npt.NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    for row, id in enumerate(chunk.ids):
        said = int(chunk.predictions[row])
        label = {"ground_truth": _classification(names[int(chunk.labels[row])])} if image_set.labelled else {}
        yield {
            "filepath": str(root / id),
            "tags": [image_set.name],
            "metadata": None,
            "example": id,
            **label,
            "predictions": {**_classification(names[said]), "confidence": float(shares[row, said])},
            "features": _vector(chunk.features[row]),
        }


def _classification(name: str) -> dict[str, Any]:
    return {"_cls": "Classification", "label": name}


def _vector(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return a vector as FiftyOne keeps one: a .npy file, compressed by zlib, in MongoDB's extended JSON."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(buffer.getvalue())).decode(), "subType": "00"}}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _root(study: Study, image_set: ImageSet, images: str | Path | None) -> Path:
    """Return the folder that the ids of images are relative to.

    Raises:
        SubspectError: there are no files, or no such folder.
    """
    if study.identity.features_alone:
        raise SubspectError(
            f"FiftyOne shows images, and the study {study.path} was made from features alone; export them to tensorboard"
        )
    given = image_set.manifest.root if images is None else images
    if given is None:
        raise SubspectError(
            f"FiftyOne shows images from files, and those of {image_set.name!r} were in memory; say in which folder they are "
            "under their ids (images=, --images), or export to tensorboard"
        )
    root = Path(given).absolute()
    if not root.is_dir():
        raise SubspectError(f"no such folder of images: {root}; say where they are now (images=, --images)")
    return root
