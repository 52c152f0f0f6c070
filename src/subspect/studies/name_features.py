"""Naming features: what a person found out about a feature, said once, then shown wherever the feature is.

Names belong to the study, since they are of its network's features; decompositions and all that is asked of them take them from
there. Names that are added leave the others as they are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from subspect.ground.errors import SubspectError, shortened, some
from subspect.ground.files import is_file, read_json
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.feature_names import Names, check_no_number, checked, columns, feature_index, names_json, shown
from subspect.studies.feature_names import write_feature_names
from subspect.studies.study import Study, StudyLike, open_study, writing

_INDEX = re.compile("0|[1-9][0-9]{0,9}")
log = logging.getLogger("subspect")

_FORM = '{"37": "whiskers", …}, feature → name (null takes a name away), or a list with a name for each feature'


@dataclass(frozen=True)
class FeatureNames(Result):
    """The names that a study keeps for its features.

    Attributes:
        study: its path.
        n_features: number of features d.
        names: feature index → name, of the features that have one.

    Example:
        >>> study.name_features({12: "whiskers"}).names
        {12: 'whiskers'}
    """

    study: str
    n_features: int
    names: Mapping[int, str]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {"study": self.study, "features": self.n_features, "feature_names": names_json(self.names)}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each feature that has a name."""
        return [columns(feature, self.names) for feature in self.names]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each feature that has a name."""
        title = (
            f"{len(self.names):,} of {self.n_features:,} features {'has' if len(self.names) == 1 else 'have'} a name"
        )
        table = Table(title=title, title_justify="left", min_width=len(title))
        table.add_column("feature", justify="right")
        table.add_column("name", overflow="fold")
        for feature, name in self.names.items():
            table.add_row(str(feature), name)
        return [table]


def name_features(
    study: StudyLike, names: Mapping[int, str | None] | Mapping[str, str | None] | Sequence[str]
) -> FeatureNames:
    """Give features of a study names, which are kept there and shown wherever the features are.

    Args:
        study: the study, or its folder.
        names: feature, by its index or the name that it has → name, of at most 100 characters; None takes a feature's name
            away. Or a list of d names. Features that aren't named here keep the name that they have.

    Returns:
        The names that the study now keeps.

    Raises:
        SubspectError: a feature there is not, a name that is none, or one that two features would have.

    Example:
        >>> subspect.name_features("study", {12: "whiskers", 40: "paws"}).names
        {12: 'whiskers', 40: 'paws'}
    """
    study = open_study(study)
    given = as_mapping(names, study.identity.n_features, study.feature_names)
    with writing(study.path):
        write_feature_names(study.path, study.identity, _merged(study.feature_names, given))
    return kept_names(study)


def _merged(known: Names, given: Mapping[int, str | None]) -> dict[int, str]:
    """Return the names that there are, with those that are given, without those that are taken away."""
    return {feature: name for feature, name in {**known, **given}.items() if name is not None}


def kept_names(study: StudyLike) -> FeatureNames:
    """Return the names that a study keeps for its features.

    Raises:
        SubspectError: their file is damaged.
    """
    study = open_study(study)
    return FeatureNames(study.address, study.identity.n_features, dict(study.feature_names))


def filled_in(study: Path, given: Mapping[int, str] | Sequence[str], n_features: int) -> dict[int, str]:
    """Return the names that a study will keep once features have come with names; those that it has stay as they are.

    Args:
        study: its folder, which may not be there yet.
        given: the names that features come with.
        n_features: number of features d.

    Raises:
        SubspectError: a name is another feature's in the study, so that columns lie in another order; or as for
            `name_features`.
    """
    come = checked({one: name for one, name in as_mapping(given, n_features).items() if name is not None}, n_features)
    known = Study.open(study).feature_names if is_file(study / "study.json") else {}
    compare_names(come, known, f"the study {study}")
    return checked({**come, **known}, n_features)


def compare_names(come: Names, known: Names, where: str) -> None:
    """Compare the names that features come with to those that they are known by, and warn where they differ.

    Args:
        come: of columns.
        known: of the features of a study or a head.
        where: which that is.

    Raises:
        SubspectError: a name is known to be another feature's: the columns lie in another order.
    """
    place = {name: feature for feature, name in known.items()}
    moved = [(place[name], feature) for feature, name in come.items() if place.get(name, feature) != feature]
    if moved:
        there, here = moved[0]
        raise SubspectError(
            f"{come[here]!r} is feature {there} in {where}, and {here} here: give the features in the order of the head's "
            f"weight ({len(moved):,} lie elsewhere)"
        )
    others = [feature for feature in come if known.get(feature, come[feature]) != come[feature]]
    if others:
        told = (f"feature {one} is {known[one]!r} there, {come[one]!r} here" for one in others)
        log.warning(
            "%s of %s features are called otherwise in %s: %s; if they are others, the head doesn't fit them. A study keeps "
            "the names that it has",
            f"{len(others):,}",
            f"{len(come):,}",
            where,
            some(told, 3),
        )


def as_mapping(names: object, n_features: int, known: Names = MappingProxyType({})) -> Mapping[int, str | None]:
    """Return names as a mapping of feature index to name; ``known`` are those by which features may be given.

    Raises:
        SubspectError: they are neither such a mapping nor a name for each feature, or a feature is named twice.
    """
    if isinstance(names, Mapping):
        found: dict[int, str | None] = {}
        for one, name in names.items():
            feature = feature_index(one, known, n_features) if isinstance(one, str) else one
            feature = int(feature) if hasattr(feature, "__index__") else feature
            if feature in found:
                raise SubspectError(f"feature {shown(feature, known)} is named twice; give it one name")
            found[feature] = name
        return found
    listed = None if isinstance(names, str | bytes) or not hasattr(names, "__iter__") else list(names)
    if listed is None:
        raise SubspectError(f"names of features must be {_FORM}; got {shortened(repr(names))}")
    if len(listed) != n_features:
        raise SubspectError(
            f"{counted(len(listed), 'name', 'names')} for {n_features:,} features; give one for each, or name some by "
            f"their index: {_FORM}"
        )
    return dict(enumerate(listed))


def read_names(path: Path) -> Mapping[str, str | None] | list[str]:
    """Read a JSON file of names: an object, index or present name → name, or a list with a name for each feature.

    Raises:
        SubspectError: it is missing, or something else.
    """
    found = read_json(path, "names of features")
    if isinstance(found, list):
        return found
    odd = (
        next((one for one in found if one.isdecimal() and not _INDEX.fullmatch(one)), None)
        if isinstance(found, dict)
        else type(found).__name__
    )
    if odd is not None:
        raise SubspectError(f"{path} is no file of names: it must be {_FORM}; got {shortened(repr(odd))}")
    check_no_number(found)
    names: dict[str, str | None] = found
    return names


def changes(before: Names, after: Names) -> str:
    """Say which features have a new name, and which have none any more."""
    differ = [feature for feature in sorted({*before, *after}) if before.get(feature) != after.get(feature)]
    named = some(shown(feature, after) for feature in differ if feature in after)
    bare = some(shown(feature, before) for feature in differ if feature not in after)
    said = [f"named: {named}"] * bool(named) + [f"without a name now: {bare}"] * bool(bare)
    return "; ".join(said) or "the names are as they were"
