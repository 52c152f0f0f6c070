"""The decompositions that a study keeps: their names, their files, loading and keeping them."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from subspect.ground.errors import SubspectError, near, some
from subspect.ground.files import entries, is_file, refuse_links
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
    """List a study's decompositions, the newest last."""
    refuse_links(study.path, "decompositions")
    found = [entry for entry in entries(study.path / "decompositions") if _NAMED.fullmatch(entry.name)]
    regular = [entry for entry in found if entry.is_file(follow_symlinks=False)]
    return [entry.name[: -len(".safetensors")] for entry in sorted(regular, key=lambda one: one.stat().st_mtime_ns)]


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
        named.save(path)
    return named


def _choice(decomposition: Decomposition) -> list[Any]:
    """Return by what two decompositions are told to come from the same choice."""
    chosen, auto = decomposition.chosen, decomposition.auto
    about = [getattr(chosen, key) for key in ("method", "k", "supports", "set", "part", "images", "target", "pool")]
    settled = [auto.sized_on, auto.promise and auto.promise.set] if auto is not None else []
    return [*about, *settled, decomposition.edits]
