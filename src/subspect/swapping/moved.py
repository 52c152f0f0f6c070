"""What other answers say of the cues that a study keeps: whether there are any, by which of them features are moved, and by
which a class loses its margin, in all or through a feature.

Cues whose swap takes the thing itself away cost every class much, so they are left out where it is asked what a class rests on
besides.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from subspect.ground.errors import some
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import shown
from subspect.studies.study import Study
from subspect.swapping.result import Cues
from subspect.swapping.stored import kept_cues

MOST = 2  #: cues that a table names
LITTLE = 0.05  #: of a median margin: a loss that is not told
THINGS = ("centre", "layout", "arrangement", "mirror", "place", "scale")  #: cues whose swap takes the thing itself away
Moves = Mapping[int, Sequence[tuple[str, float]]]  #: feature → cues and the share of its variance that each explains
Losses = Mapping[int, Sequence[tuple[str, float]]]  #: feature → cues and what a class loses through it by each


def kept_moves(study: Study, decomposition: Decomposition, features: Iterable[int]) -> Moves | None:
    """Return by which cues some features are moved; None where the study keeps no cues of the decomposition.

    Raises:
        SubspectError: what it keeps is damaged.
    """
    cues = kept_cues(study, decomposition)
    return None if cues is None else {feature: cues.of_feature(feature) for feature in features}


def kept_losses(study: Study, decomposition: Decomposition, uses: Mapping[int, int]) -> Losses | None:
    """Return what classes lose through features, feature → class, by each cue; None where the study keeps none.

    Raises:
        SubspectError: what it keeps is damaged.
    """
    cues = kept_cues(study, decomposition)
    return None if cues is None else {one: lost_through(cues, label, one) for one, label in uses.items()}


def cues_json(cues: Cues | None) -> dict[str, Any] | None:
    """Return which cues are kept, of how many images, as JSON values; None for none."""
    if cues is None:
        return None
    return {"names": cues.names, "left_out": dict(cues.left_out), "images": int(cues.images.sum()), "note": cues.note}


def cues_told(study: Study, decomposition: Decomposition, cues: Cues | None) -> str:
    """Say which cues are kept, of how many images; or how to measure them, where there are images."""
    if cues is not None:
        return f"{decomposition.name}: cues are kept of {cues.note}: {some(cues.names, len(cues.names))}"
    if study.identity.features_alone:
        return f"{decomposition.name}: no cues, as the study was made from features alone"
    command = f"subspect cues {shlex.quote(study.address)} --decomposition {decomposition.name} --network …"
    return f"{decomposition.name}: no cues are kept; measure what its classes rest on: {command}"


def lost_by(cues: Cues, label: int, things: bool = False) -> list[tuple[str, float]]:
    """Return the cues by which a class loses margin, most first; those that take the thing itself away, or the others."""
    pairs = [(one.name, float(one.loss[label])) for one in cues.cues if (one.name in THINGS) is things]
    return _most_first(pairs)


def lost_through(cues: Cues, label: int, feature: int) -> list[tuple[str, float]]:
    """Return the cues by which a class loses margin through a feature, but for those that take the thing itself away.

    First come the cues that the class rests on most: it loses by them, and others gain.
    """
    rests = {one.name: float(min(one.loss[label], np.nan_to_num(one.pull[label]))) for one in cues.cues}
    pairs = [(one.name, float(one.through[label, feature])) for one in cues.cues if one.name not in THINGS]
    return sorted(_most_first(pairs), key=lambda pair: -rests[pair[0]])


def losses(found: Sequence[tuple[str, float]], most: int = MOST) -> str:
    """Write by which cues margin is lost, in median margins."""
    return ", ".join(f"{name} {value:.2f}" for name, value in found[:most])


def losses_json(cues: Cues | None, decomposition: Decomposition, label: int) -> dict[str, dict[str, float]] | None:
    """Return what a class loses through each of its features as JSON values; None where no cues are kept."""
    if cues is None:
        return None
    return moves_json({one: lost_through(cues, label, one) for one in decomposition.supports[label].tolist()})


def class_told(cues: Cues | None, decomposition: Decomposition, label: int) -> list[str]:
    """Say what a class loses through each of its features, a line for each; nothing where no cues are kept."""
    found = losses_json(cues, decomposition, label) or {}
    lines = [
        f"lost through {shown(int(one), decomposition.feature_names)}: {losses(list(lost.items()))}"
        for one, lost in found.items()
        if lost
    ]
    return [*lines, *(["(by cues that are swapped, in median margins)"] if lines else [])]


def _most_first(pairs: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted((pair for pair in pairs if pair[1] >= LITTLE), key=lambda pair: -pair[1])


def moved_by(found: Sequence[tuple[str, float]], most: int = MOST) -> str:
    """Write by which cues a feature is moved."""
    return ", ".join(f"{name} {explained(share)}" for name, share in found[:most])


def explained(share: float) -> str:
    """Write a share of a feature's variance; a swap may move a feature further than two images of the set differ."""
    return f"{'≥ ' if share > 1 else ''}{100 * min(share, 1):.0f} %"


def moves_json(moves: Moves | Losses | None) -> dict[str, dict[str, float]] | None:
    """Return the same as JSON values: feature as text → cue → share."""
    return None if moves is None else {str(feature): dict(found) for feature, found in moves.items()}


def moved_column(feature: int, moves: Moves | None) -> dict[str, Any]:
    """Return a feature's cell in a row of a data frame, where cues are kept."""
    return {} if moves is None else {"moved_by": moved_by(moves[feature])}
