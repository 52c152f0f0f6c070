"""What a study's image sets and decompositions are called, and where each decomposition lies."""

from __future__ import annotations

import re
from pathlib import Path

from subspect.ground.errors import SubspectError, advice
from subspect.ground.files import entries, is_file, read_json, refuse_links
from subspect.ground.seals import open_json
from subspect.heads.names import check_name

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  #: of an image set
_NAMED = re.compile(r"[^.].*\.safetensors", re.DOTALL)


def decomposition_path(study: Path, name: str) -> Path:
    """Return where a study keeps the decomposition of a name.

    Raises:
        SubspectError: the name is not allowed, or a link is in the way.
    """
    refuse_links(study, "decompositions")
    return study / "decompositions" / f"{check_name(name)}.safetensors"


def decomposition_names(study: Path) -> list[str]:
    """List a study's decompositions, the newest last, as ``order.json`` has them; what it doesn't name goes by its time.

    Raises:
        SubspectError: the folder cannot be read, or ``order.json`` is damaged.
    """
    refuse_links(study, "decompositions")
    place = {name: number for number, name in enumerate(_order(study))}
    found = [entry for entry in entries(study / "decompositions") if _NAMED.fullmatch(entry.name)]
    regular = [entry for entry in found if entry.is_file(follow_symlinks=False)]
    dated = sorted((entry.stat().st_mtime_ns, entry.name.removesuffix(".safetensors")) for entry in regular)
    return sorted((name for _, name in dated), key=lambda name: place.get(name, -1))


def _order(study: Path) -> list[str]:
    """Return the names in the order in which they were made: copies of a study have other times, and the same order."""
    path = study / "decompositions" / "order.json"
    if not is_file(path):
        return []
    with advice("delete it, and name the decomposition (--decomposition) until the next one is made"):
        names = open_json(path, read_json(path, "list of decompositions")).get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SubspectError(f"{path} is not a list of decompositions")
    return names


def check_set_name(name: str) -> None:
    """Check the name of an image set.

    Raises:
        SubspectError: the name is not allowed.
    """
    if not SET_NAME.fullmatch(name):
        raise SubspectError(
            f"image set name {name!r} must be letters, digits, '_', '.' and '-', at most 100 of them, such as 'train'"
        )
