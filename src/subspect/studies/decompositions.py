"""The decompositions that a study keeps: loading and keeping them."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subspect.ground.errors import SubspectError
from subspect.ground.files import fingerprint, is_file
from subspect.ground.seals import is_sealed, write_json
from subspect.heads.decomposition import Decomposition, is_decomposition
from subspect.studies.names import decomposition_path
from subspect.studies.study import Study, StudyLike, open_study, writing

log = logging.getLogger("subspect")


def store(study: Study, decomposition: Decomposition) -> None:
    """Write a decomposition under its name and note it as the newest; the caller holds `writing`."""
    others = [name for name in study.decomposition_names if name != decomposition.name]
    _nameless(decomposition).save(decomposition_path(study.path, decomposition.name))
    path = study.path / "decompositions" / "order.json"
    write_json(path, {"names": [*others, decomposition.name]}, is_sealed)


def _nameless(decomposition: Decomposition) -> Decomposition:
    """Return a decomposition without the names of its features, which the study keeps, and which may change."""
    return replace(decomposition, study=None, names_in_file={})


def made_by(decomposition: Decomposition) -> str:
    """Return the fingerprint of a decomposed head."""
    weight, bias = decomposition.matrix()
    return fingerprint(decomposition.fingerprint, np.ascontiguousarray(weight).data, np.ascontiguousarray(bias).data)


DecompositionLike = Decomposition | str  #: a decomposition, or the name of one in the study


def opened(study: StudyLike, decomposition: DecompositionLike) -> tuple[Study, Decomposition]:
    """Open a study and one of its decompositions; what is already open is returned as is.

    Raises:
        SubspectError: there is no such study, the study has no decomposition of that name, or the decomposition is of another
            network.
    """
    study = open_study(study)
    if isinstance(decomposition, str):
        return study, study[decomposition]
    if not isinstance(decomposition, Decomposition):
        raise SubspectError(
            "a decomposition must be a subspect.Decomposition, such as study['pursuit-k5'], or the name of one in the "
            f"study, got {type(decomposition).__name__}"
        )
    decomposition.check(study)
    return study, decomposition


def load_decomposition(study: StudyLike, name: str | None = None) -> Decomposition:
    """Read a decomposition of a study, the newest unless one is named.

    Raises:
        SubspectError: the study has no decomposition, or none of that name, or it is damaged.

    Example:
        >>> subspect.load_decomposition("study", "pursuit-k5").class_names
        ('bird', 'cat', 'dog', 'horse')
    """
    study = open_study(study)
    known = study.decomposition_names
    if not known:
        raise SubspectError(f"the study {study.path} has no decomposition; make one: subspect decompose {study.path}")
    return study[known[-1] if name is None else name]


def keep_in(study: Study, decomposition: Decomposition) -> Decomposition:
    """Write a decomposition into its study and return it, under a name of its own.

    It replaces an earlier one of the same name only if that was chosen in the same way on the same images; otherwise a number
    is appended to its name.

    Raises:
        SubspectError: another file has its name, or it cannot be written.
    """
    with writing(study.path):
        name = _free_name(study, decomposition)
        if name != decomposition.name:
            log.warning(
                "%s already has a different decomposition called %s, which is kept; this one is called %s",
                study.path,
                decomposition.name,
                name,
            )
        named = _as_trusted(replace(decomposition, name=name, study=study), decomposition_path(study.path, name))
        store(study, named)
    return named


def _as_trusted(decomposition: Decomposition, path: Path) -> Decomposition:
    """Return a decomposition with what the same one in a file, which it replaces, says of its stability from more halves."""
    if not (is_file(path) and is_decomposition(path)):
        return decomposition
    known, now = Decomposition.load(path), decomposition.trust
    draws = 0 if now is None else int(now.draws.max())
    same = np.array_equal(known.supports.flat, decomposition.supports.flat) and torch.equal(
        known.weights, decomposition.weights
    )
    if known.trust is None or known.trust.draws.max() <= draws or not same:
        return decomposition
    log.info(
        "%s was chosen before, and repeated on %d halves: what that says is kept", known.name, known.trust.draws.max()
    )
    return replace(decomposition, trust=known.trust)


def _free_name(study: Study, decomposition: Decomposition) -> str:
    """Return the first of NAME, NAME-2, … that no other choice has."""
    for number in count(1):
        name = decomposition.name if number == 1 else f"{decomposition.name}-{number}"
        path = decomposition_path(study.path, name)
        if not (is_file(path) and is_decomposition(path)):
            return name
        if _choice(Decomposition.load(path)) == _choice(decomposition):
            return name
    raise AssertionError("numbers have no end")


def _choice(decomposition: Decomposition) -> list[Any]:
    """Return by what two decompositions are told to come from the same choice."""
    chosen, auto = decomposition.chosen, decomposition.auto
    about = [getattr(chosen, key) for key in ("method", "k", "supports", "set", "part", "images", "target", "pool")]
    settled = [auto.sized_on, auto.promise and auto.promise.set] if auto is not None else []
    return [*about, *settled, _nameless(decomposition).edits]
