"""The file in which a study keeps the names of its features: sealed JSON, and none where no feature has a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from subspect.ground.errors import SubspectError, advice
from subspect.ground.files import JSON_BYTES, is_file, read_json, refuse_links
from subspect.ground.schemas import as_type
from subspect.ground.seals import open_json, write_json
from subspect.ground.text import counted
from subspect.heads.feature_names import Names, checked, names_json
from subspect.heads.stored import FeatureIndex
from subspect.studies.manifests import Identity

FILE = "feature-names.json"
_NONE: Names = MappingProxyType({})


@dataclass(frozen=True)
class _Kept:
    """What the file holds: of which network, and index → name."""

    weights: str
    names: dict[FeatureIndex, str]


def read_feature_names(study: Path, identity: Identity) -> Names:
    """Return the names that a study keeps: feature index → name.

    Raises:
        SubspectError: their file is damaged, or from another study.
    """
    path = study / FILE
    refuse_links(study, FILE)
    if not is_file(path):
        return _NONE
    found = path.stat()
    stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return _read(path, stamp, identity.fingerprint, identity.n_features)


@lru_cache(maxsize=8)
def _read(path: Path, stamp: tuple[int, ...], fingerprint: str, n_features: int) -> Names:
    with advice(f"restore it from a backup, or delete it and name the features again: subspect name {path.parent}"):
        kept = as_type(_Kept, open_json(path, read_json(path, "names of features")), path, "a file of names")
        if kept.weights != fingerprint:
            raise SubspectError(f"{path} belongs to another study: its weights differ")
        return MappingProxyType(checked({int(feature): name for feature, name in kept.names.items()}, n_features))


def write_feature_names(study: Path, identity: Identity, names: Mapping[int, str]) -> None:
    """Write the names of a study's features in place of those that it keeps; the caller holds `writing`.

    Raises:
        SubspectError: a name is none, or two features have it; they are too many to be read again; it cannot be written.
    """
    fields: dict[str, Any] = {
        "weights": identity.fingerprint,
        "names": names_json(checked(names, identity.n_features)),
    }
    size = len(json.dumps(fields, indent=1, ensure_ascii=False).encode())
    if size > JSON_BYTES - 1000:
        raise SubspectError(
            f"the names of {counted(len(names), 'feature', 'features')} take {size / 2**20:.0f} MiB, more than a study reads "
            f"({JSON_BYTES // 2**20} MiB); name fewer, or name them shorter"
        )
    refuse_links(study, FILE)
    write_json(study / FILE, fields)
