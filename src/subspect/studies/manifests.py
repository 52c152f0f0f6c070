"""What a study records about itself and its image sets: the manifests, their schema, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import msgspec

from subspect.ground.errors import SubspectError, some
from subspect.ground.files import read_json
from subspect.ground.schemas import as_type
from subspect.ground.seals import open_json
from subspect.ground.text import counted
from subspect.images.preprocessing import GIVEN_AS_FEATURES
from subspect.studies.options import Keep
from subspect.studies.shards import Entry

SCHEMA = 2  #: version of the folder's layout; a newer one is refused
UNSEALED = 1  #: the version before checksums were kept, which is still read
Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Width = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]  # of a column, which Arrow counts in 32 bits
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Kept:
    """A manifest that is kept as JSON, some of its fields under the names that they had before."""

    _kept_as: ClassVar[Mapping[str, str]]

    @classmethod
    def read(cls, fields: Mapping[str, Any], path: Path) -> Self:
        """Read what a file holds.

        Raises:
            SubspectError: a field is missing, unknown or of another type or range.
        """
        names = {kept: name for name, kept in cls._kept_as.items()} | {
            name: f"{name} (of no manifest)" for name in cls._kept_as
        }
        return as_type(cls, {names.get(name, name): value for name, value in fields.items()}, path)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as its file holds it."""
        values = asdict(self)  # type: ignore[call-overload]  # its kinds are dataclasses
        return {self._kept_as.get(name, name): value for name, value in values.items()}


@dataclass(frozen=True)
class Identity(_Kept):
    """What makes results belong together.

    Attributes:
        network: what the network is called; shown, never imported.
        fingerprint: of its weights.
        head_name: the head's module name.
        n_classes: number of classes C.
        n_features: number of features d.
        class_names: a name for each class.
        preprocessing: what was done to the images.
    """

    _kept_as: ClassVar[Mapping[str, str]] = {"fingerprint": "weights", "head_name": "head"}

    network: str
    fingerprint: str
    head_name: str
    n_classes: Annotated[int, msgspec.Meta(ge=2, lt=2**31)]
    n_features: Width
    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]

    @property
    def features_alone(self) -> bool:
        """Whether features and a head were given, so that there is neither a network nor an image."""
        return dict(self.preprocessing) == GIVEN_AS_FEATURES

    @property
    def examples(self) -> str:
        """What to call what was observed: "images", or "examples" where there are only features."""
        return "examples" if self.features_alone else "images"

    @property
    def what(self) -> str:
        """What to call what was observed on them: "network", or "head" where there are only features."""
        return "head" if self.features_alone else "network"

    @property
    def filled_by(self) -> str:
        """The command that stores image sets in such a study."""
        return "features" if self.features_alone else "observe"

    def __post_init__(self) -> None:
        if len(self.class_names) != self.n_classes:
            raise ValueError(
                f"{counted(len(self.class_names), 'class name', 'class names')} for {self.n_classes} classes"
            )


@dataclass(frozen=True)
class SetManifest(_Kept):
    """Which images an image set contains, and how they are cut into batches and shards.

    Attributes:
        network_fingerprint: of the network's weights.
        preprocessing: what was done to the images.
        kind: of the source (see `subspect.Images`); "features" if those were given alone.
        root: for files, the folder that ids are relative to; for what a name opened, that name, such as ``wds:/data/a.tar``.
        images: number of images in the source.
        fingerprint: of the list of images and labels.
        labelled: whether they have labels.
        matching: how labels became class indices.
        batch_size: images per batch.
        shard_size: images in a shard, a multiple of ``batch_size``.
        layers: name → channels of the layers that were watched besides the features.
        image_column: the column or extension that contains the images, if the user named it.
        table: for files that a table lists, what that file is called.
        sample: of a random sample, how many of how many images it is and how they were drawn; otherwise empty.
        sampled: of about how many images features are kept, where of all images there are statistics alone; otherwise 0.
        statistics: checksum of the file of statistics, once complete; empty where there is none.
        right: with statistics, how many of all images the network classifies correctly, once complete.
        complete: whether every shard is stored.
        rows: images with features, once complete.
        failed: id and reason for each image that could not be used, once complete.
        shards: number → rows and checksum of each shard, once complete; empty in a study made before subspect kept checksums.
    """

    _kept_as: ClassVar[Mapping[str, str]] = {"network_fingerprint": "weights"}

    network_fingerprint: str
    preprocessing: Mapping[str, Any]
    kind: str
    root: str | None
    images: Count
    fingerprint: str
    labelled: bool
    matching: str
    batch_size: Count
    shard_size: Count
    layers: Mapping[str, Width] = field(default_factory=dict)
    image_column: str | None = None
    table: str | None = None
    sample: str = ""
    sampled: Whole = 0
    statistics: str = ""
    right: Whole = 0
    complete: bool = False
    rows: Whole = 0
    failed: tuple[tuple[str, str], ...] = ()
    shards: Mapping[int, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shard_size % self.batch_size:
            raise ValueError(f"shard_size {self.shard_size} is not a multiple of batch_size {self.batch_size}")
        outside = [index for index in self.shards if not 0 <= index < self.n_shards]
        if outside:
            raise ValueError(f"shards {some(outside)} of {self.n_shards}")
        if self.complete and (
            self.seen != self.rows if not self.sampled else self.seen < self.rows or not self.statistics
        ):
            raise ValueError(f"rows: {self.rows}, failed images: {len(self.failed)}, of {self.images}")
        if self.complete and self.shards:
            rows = sum(entry.rows for entry in self.shards.values())
            if len(self.shards) != self.n_shards or rows != self.rows:
                raise ValueError(f"{len(self.shards)} of {self.n_shards} shards with {rows} of {self.rows} rows")

    @property
    def keep(self) -> Keep:
        """What is kept of all images."""
        return "statistics" if self.sampled else "features"

    @property
    def seen(self) -> int:
        """How many images were observed and could be used, once complete, whether or not their features are kept."""
        return self.images - len(self.failed)

    def of_all(self, examples: str = "images") -> str:
        """Say that rows are those of a sample; empty where they are of all images."""
        return f"a sample of {self.rows:,} of {self.seen:,} {examples}" if self.rows < self.seen else ""

    def accuracy_of_all(self, examples: str = "images") -> str:
        """Say the dense network's accuracy over all images, where rows are those of a sample; empty where there is none."""
        if not self.labelled or not self.of_all():
            return ""
        return f"over all {self.seen:,} {examples} the dense network's accuracy is {100 * self.right / self.seen:.2f} %"

    @property
    def n_shards(self) -> int:
        """Number of shards of the whole set."""
        return -(-self.images // self.shard_size)

    def ends(self, shard: int) -> tuple[int, int]:
        """Return the positions between which a shard's images lie: the first, and one behind the last."""
        first = shard * self.shard_size
        return first, min(first + self.shard_size, self.images)


def versioned(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the version and the fields of a manifest, once its seal, if its version has one, is found right."""
    fields = read_json(path, "manifest")
    version = fields.get("schema") if isinstance(fields, dict) else None
    if version not in (UNSEALED, SCHEMA) or isinstance(version, bool):
        raise SubspectError(
            f"{path} has schema version {version!r}, but this version of subspect reads {UNSEALED} and "
            f"{SCHEMA}; use the version of subspect that wrote it"
        )
    if version != UNSEALED or "checksum" in fields:
        fields = open_json(path, fields)
    return version, {key: value for key, value in fields.items() if key != "schema"}


def is_manifest(path: Path) -> bool:
    """Tell whether a file is a manifest of ours, sealed or of before seals were kept."""
    try:
        versioned(path)
    except SubspectError:
        return False
    return True


def by_number(shards: object) -> object:
    """Return the shards of a manifest by their numbers, which JSON has as text."""
    if not isinstance(shards, dict) or not all(re.fullmatch(r"0|[1-9][0-9]{0,11}", key) for key in shards):
        return shards  # which is refused
    return {int(key): value for key, value in shards.items()}
