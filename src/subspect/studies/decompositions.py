"""The decompositions that a study keeps: their names, their files, loading and keeping them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from subspect.ground.errors import SubspectError, near, some
from subspect.ground.files import entries, is_file, refuse_links
from subspect.heads.decomposition import Decomposition, is_decomposition
from subspect.heads.names import check_name
from subspect.studies.study import Study, writing

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


def keep_in(study: Study, decomposition: Decomposition) -> None:
    """Write a decomposition into its study, in place of an earlier one that was asked for in the same way.

    Raises:
        SubspectError: another decomposition or another file has its name, or it cannot be written.
    """
    path = decomposition_path(study, decomposition.name)
    with writing(study.path):
        if is_file(path) and is_decomposition(path):
            there = Decomposition.load(path)
            if _asked(there) != _asked(decomposition):
                raise SubspectError(
                    f"the study {study.path} has another decomposition called {decomposition.name!r} (by {there.method}): it "
                    "stays as it is; give yours another name (--name)"
                )
        decomposition.save(path)


def _asked(decomposition: Decomposition) -> list[Any]:
    return [getattr(decomposition.chosen, key) for key in ("method", "k", "supports")]
