"""The decompositions that a study keeps: their names, their files, loading and keeping them."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from subspect.ground.errors import SubspectError, advice, near, some
from subspect.ground.files import entries, is_file, read_json, refuse_links
from subspect.ground.seals import is_sealed, open_json, write_json
from subspect.heads.decomposition import Decomposition, is_decomposition
from subspect.heads.names import check_name
from subspect.studies.study import Study, writing

log = logging.getLogger("subspect")
_NAMED = re.compile(r"[^.].*\.safetensors", re.DOTALL)


def decomposition_path(study: Study, name: str) -> Path:
    """Return where a study keeps the decomposition of a name.

    Raises:
        SubspectError: no decomposition can be called so, or a link is in the way.
    """
    refuse_links(study.path, "decompositions")
    return study.path / "decompositions" / f"{check_name(name)}.safetensors"


def decomposition_names(study: Study) -> list[str]:
    """List a study's decompositions, the newest last, as ``order.json`` has them; what it doesn't name goes by its time.

    Raises:
        SubspectError: the folder cannot be read, or ``order.json`` is damaged.
    """
    refuse_links(study.path, "decompositions")
    place = {name: number for number, name in enumerate(_order(study))}
    found = [entry for entry in entries(study.path / "decompositions") if _NAMED.fullmatch(entry.name)]
    regular = [entry for entry in found if entry.is_file(follow_symlinks=False)]
    dated = sorted((entry.stat().st_mtime_ns, entry.name.removesuffix(".safetensors")) for entry in regular)
    return sorted((name for _, name in dated), key=lambda name: place.get(name, -1))


def _order(study: Study) -> list[str]:
    """Return the names in the order in which they were made: copies of a study have other times, and the same order."""
    path = study.path / "decompositions" / "order.json"
    if not is_file(path):
        return []
    with advice("delete it, and name decompositions (--decomposition) until the next is made"):
        names = open_json(path, read_json(path, "list of decompositions")).get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SubspectError(f"{path} is not a list of decompositions")
    return names


def store(study: Study, decomposition: Decomposition) -> None:
    """Write a decomposition under its name and note it as the newest; the caller holds `writing`."""
    others = [name for name in decomposition_names(study) if name != decomposition.name]
    decomposition.save(decomposition_path(study, decomposition.name))
    path = study.path / "decompositions" / "order.json"
    write_json(path, {"names": [*others, decomposition.name]}, is_sealed)


def load_decomposition(study: Study, name: str | None = None) -> Decomposition:
    """Read a decomposition of a study, the newest unless one is named.

    Raises:
        SubspectError: the study has none, or none of that name, or it is damaged.
    """
    known = decomposition_names(study)
    if not known:
        raise SubspectError(f"the study {study.path} has no decomposition; make one: subspect decompose {study.path}")
    if name is not None and name not in known:
        raise SubspectError(f"no decomposition {name!r} in {study.path}{near(name, known)}; it has: {some(known)}")
    found = Decomposition.load(decomposition_path(study, name or known[-1]), own=True)
    found.check(study)
    return found


def keep_in(study: Study, decomposition: Decomposition) -> Decomposition:
    """Write a decomposition into its study and return it, under a name of its own.

    It takes the place of an earlier one of its name only if that was chosen in the same way on the same images; else it gets a
    number behind its name.

    Raises:
        SubspectError: another file has its name, or it cannot be written.
    """
    with writing(study.path):
        for number in count(1):
            name = decomposition.name if number == 1 else f"{decomposition.name}-{number}"
            path = decomposition_path(study, name)
            if not (is_file(path) and is_decomposition(path)) or _choice(Decomposition.load(path)) == _choice(
                decomposition
            ):
                break
        if name != decomposition.name:
            log.warning(
                "%s has another decomposition called %s, which stays as it is; this one is called %s",
                study.path,
                decomposition.name,
                name,
            )
        named = replace(decomposition, name=name)
        store(study, named)
    return named


def _choice(decomposition: Decomposition) -> list[Any]:
    """Return by what two decompositions are told to come from the same choice."""
    chosen, auto = decomposition.chosen, decomposition.auto
    about = [getattr(chosen, key) for key in ("method", "k", "supports", "set", "part", "images", "target", "pool")]
    settled = [auto.sized_on, auto.promise and auto.promise.set] if auto is not None else []
    return [*about, *settled, decomposition.edits]
