"""Take features away that shouldn't matter, re-learn the rest if asked, and see what that changes.

A feature that looks at a watermark or a background can be dropped from a class: its weight becomes zero and nothing else
changes. On a named image set, such as one without the mark, the other weights and biases can then be re-learned: towards the
labels, since the network itself has learned the shortcut. Without such images they are re-learned on copies in which the cue is
swapped (`subspect.giving.without_cue`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
from rich.text import Text

from subspect.choosing.options import TARGETS, Target
from subspect.choosing.refit import refit
from subspect.giving.without_cue import SwappedAccuracy, WithoutCue, accuracies, relearned, share, tell_of_limit
from subspect.ground.errors import SubspectError
from subspect.ground.files import check_writable
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import Names, feature_index, names_json, occurring, shown
from subspect.heads.history import Refitted
from subspect.measuring.fidelity import Estimate, Fidelity, evaluate, percent
from subspect.measuring.heads_say import heads_say
from subspect.measuring.where import Where
from subspect.statistics.outcomes import Confusion
from subspect.studies.decompositions import DecompositionLike, opened, store
from subspect.studies.names import decomposition_path
from subspect.studies.rows import Rows
from subspect.studies.study import Study, StudyLike, writing

log = logging.getLogger("subspect")

_CONFUSIONS = 5  # shown for a class
_PRIOR = 10  # as so many images the head before counts: few labels can be separated, and weights would run off


@dataclass(frozen=True)
class Edited(Result):
    """An edited decomposition, and what changed.

    Attributes:
        decomposition: the edited one, saved in the study.
        before: what the decomposition cost before the edit.
        after: what it costs now, on the same images.
        dropped: class name and feature of each entry that was dropped.
        confusions: class name → name of another class → its images taken for the other, before and after.
        swapped: cue → accuracy on images with it swapped, where weights were re-learned without it.
        limit: accuracy of a head on all features, re-learned in the same way; None where there is none.

    Example:
        >>> edited = decomposition.edit([("cat", 12)], refit_on="unmarked")
        >>> edited.dropped
        (('cat', 12),)
        >>> before, after = edited.before.overall.accuracy, edited.after.overall.accuracy
    """

    decomposition: Decomposition
    before: Fidelity
    after: Fidelity
    dropped: tuple[tuple[str, int], ...]
    confusions: dict[str, dict[str, tuple[int, int]]]
    swapped: Mapping[str, SwappedAccuracy] = field(default_factory=dict)
    limit: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "decomposition": self.decomposition.to_json(),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "dropped": [list(pair) for pair in self.dropped],
            "confusions": self.confusions,
            "swapped": {cue: asdict(one) for cue, one in self.swapped.items()},
            "limit": self.limit and asdict(self.limit),
            "feature_names": names_json(occurring((feature for _, feature in self.dropped), self._names)),
        }

    @property
    def _names(self) -> Names:
        return self.decomposition.feature_names

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for all images and one for each class: accuracy and fidelity before and after."""
        pairs = [(None, self.before.overall, self.after.overall)]
        pairs += [(name, self.before.classes[name], after) for name, after in self.after.classes.items()]  # type: ignore[misc]
        rows = []
        for name, before, after in pairs:
            row: dict[str, Any] = {"class": name}
            for when, cost in (("before", before), ("after", after)):
                if cost is not None:
                    row |= {f"accuracy {when}": cost.accuracy.value, f"fidelity {when}": cost.fidelity.value}
            rows.append(row)
        return rows

    def tables(self) -> list[Table]:
        """Return a table for the terminal: overall, then the classes that were edited with their confusions."""
        classes = dict.fromkeys(name for name, _ in self.dropped)
        dropped = [(name, shown(feature, self._names)) for name, feature in self.dropped]
        of = {name: ", ".join(feature for one, feature in dropped if one == name) for name in classes}
        what = "; ".join(f"{name} without {features}" for name, features in of.items())
        if step := self.decomposition.refitted if not what or self.swapped else None:
            cues = f" without {', '.join(step.without_cues)}" if step.without_cues else ""
            what = "; ".join(filter(None, [what, f"re-learned{cues}"]))
        table = Table(title=f"{self.decomposition.name}: {what}", caption=self.after.note, title_justify="left")
        for column in ("", "before", "after"):
            table.add_column(column, justify="right" if column else "left")
        table.add_row("accuracy", percent(self.before.overall.accuracy), percent(self.after.overall.accuracy))
        table.add_row("fidelity", percent(self.before.overall.fidelity), percent(self.after.overall.fidelity))
        for name, confusions in self.confusions.items():
            before, after = self.before.classes[name], self.after.classes[name]
            table.add_section()
            if before and after:
                table.add_row(f"{name}: accuracy", percent(before.accuracy), percent(after.accuracy))
            for other, (then, now) in list(confusions.items())[:_CONFUSIONS]:
                table.add_row(f"{name} taken for {other}", str(then), str(now))
            rest = np.array(list(confusions.values())[_CONFUSIONS:], dtype=int).reshape(-1, 2).sum(axis=0)
            if rest.any():
                table.add_row(f"{name} taken for others", str(rest[0]), str(rest[1]))
        return [table, *([self._swapped_table()] if self.swapped else [])]

    def _swapped_table(self) -> Table:
        caption = "all features: a head on all features, learned in the same way"
        table = Table(
            title="accuracy with a cue swapped", title_justify="left", caption=caption, caption_justify="left"
        )
        for column in ("swapped", "dense", "before", "after", "all features"):
            left = column == "swapped"
            table.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
        overall = (
            self.before.overall.dense_accuracy,
            self.before.overall.accuracy,
            self.after.overall.accuracy,
            self.limit,
        )
        rows = {"nothing": overall} | {
            cue: (one.dense, one.before, one.after, one.limit) for cue, one in self.swapped.items()
        }
        for name, shares in rows.items():
            cells = [Text(percent(one, 1).replace(" (", "\n(")) for one in shares]  # five of which fit 80 columns
            table.add_row(name, *cells, end_section=name == "nothing")
        return table


def edit(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    drop: Sequence[tuple[int | str, int | str]] = (),
    refit_on: str | None = None,
    target: Target | None = None,
    on: str | None = None,
    without_cue: WithoutCue | None = None,
) -> Edited:
    """Drop features from classes, re-learn the rest if asked, and measure what changes.

    The edited decomposition is saved in the study, under the name of the other with ``-edited``, and with a number where
    another edit has that name.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        drop: class and feature, each by index or name, of each entry to drop; may be empty where ``refit_on`` is given.
        refit_on: the image set to re-learn weights and biases on; unless given, the rest stays as it is.
        target: what to come close to, "labels" or the "dense" network; the labels unless given, where there are any.
        on: the image set to measure on; one that took no part in choice or refit unless given.
        without_cue: cues that weights must not lean on: they are re-learned on ``refit_on``, or else on the images that
            features were chosen on, and on copies with these cues swapped; the labels stay.

    Raises:
        SubspectError: nothing to do, a class that doesn't use the feature, or no such image set.

    Example:
        >>> edited = subspect.edit("study", "pursuit-k5", drop=[("cat", 12)], refit_on="unmarked")
        >>> edited.decomposition.name
        'pursuit-k5-edited'
    """
    study, decomposition = opened(study, decomposition)
    if not drop and refit_on is None and without_cue is None:
        raise SubspectError(
            "nothing to do: name features to drop (--drop CLASS:FEATURE), images to refit on (--refit-on SET), or a cue to do "
            "without (--without-cue CUE)"
        )
    if without_cue is not None and target == "dense":
        raise SubspectError(
            "without a cue a head is re-learned towards the labels, since the dense network itself leans on it; leave out the "
            "target (--target)"
        )
    if target is not None and target not in TARGETS:
        raise SubspectError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    check_writable(study.path)
    entries = _entries(decomposition, drop)
    edited = _dropped(decomposition, entries)
    learned = None
    if without_cue is not None:
        learned = relearned(study, edited, without_cue, refit_on, _PRIOR)
        edited = learned.decomposition
    elif refit_on is not None:
        edited = _relearned(study, edited, refit_on, target)
    if decomposition.ternary is not None and edited.ternary is None:
        log.warning(
            "the weights of %r were readable (--ternary); those that are re-learned are free", decomposition.name
        )
    after = evaluate(study, edited, on=on)
    before = evaluate(study, decomposition, on=after.where.image_set)
    with writing(study.path):
        edited = _named(study, edited)
        store(study, edited)
    swapped, limit = dict[str, SwappedAccuracy](), None
    if without_cue is not None and learned is not None:
        swapped = accuracies(study, after.where, without_cue, decomposition, edited, learned.limit)
        limit = learned.limit and share(after.where.chunks(), learned.limit)
        tell_of_limit(study, swapped)
    counts = [_confusions(study, one, after.where) for one in (decomposition, edited)]
    confusions = _taken_for(list(after.classes), [label for label, _ in entries], counts)
    dropped = tuple((edited.class_names[label], feature) for label, feature in entries)
    return Edited(edited, before, after, dropped, confusions, swapped, limit)


def _dropped(decomposition: Decomposition, entries: Sequence[tuple[int, int]]) -> Decomposition:
    """Drop features from classes.

    Raises:
        SubspectError: one is to be dropped twice, or isn't used.
    """
    edited = decomposition
    for place, (label, feature) in enumerate(entries):
        if (label, feature) in entries[:place]:
            named = shown(feature, edited.feature_names)
            raise SubspectError(
                f"feature {named} of class {edited.class_names[label]!r} is to be dropped twice; name it once"
            )
        edited = edited.without(label, feature)
    for label in dict.fromkeys(label for label, _ in entries):
        if not len(edited.supports[label]):
            log.warning("class %r has no features left: its logit is its bias", edited.class_names[label])
    return edited


def _taken_for(
    called: Sequence[str], labels: Sequence[int], counts: Sequence[Confusion]
) -> dict[str, dict[str, tuple[int, int]]]:
    """Return class name → name of another → images of the class that are taken for it, before and after; most first."""
    before, after = (one.counts for one in counts)
    confusions = {}
    for label in dict.fromkeys(labels):
        both = before[label] + after[label]
        both[label] = 0
        others = [other for other in np.argsort(-both, kind="stable").tolist() if both[other]]
        pairs = {called[other]: (int(before[label, other]), int(after[label, other])) for other in others}
        confusions[called[label]] = pairs
    return confusions


def _entries(decomposition: Decomposition, drop: Sequence[tuple[int | str, int | str]]) -> list[tuple[int, int]]:
    """Return class index and feature of each entry that is to be dropped.

    Raises:
        SubspectError: what was given is no list of pairs, or a class or a feature there is not.
    """
    names, d = decomposition.feature_names, decomposition.supports.n_features
    pairs: list[Any] = list(drop) if isinstance(drop, list | tuple) else [drop]
    for pair in pairs:
        if (
            not isinstance(pair, tuple | list)
            or len(pair) != 2
            or not (isinstance(pair[1], str) or hasattr(pair[1], "__index__"))
        ):
            raise SubspectError(
                f"features to drop are a list of pairs of class and feature, such as [('cat', 12)]; got {str(drop)[:100]}"
            )
    return [(decomposition.label(label), feature_index(feature, names, d)) for label, feature in pairs]


def _named(study: Study, edited: Decomposition) -> Decomposition:
    """Give an edit a name that no other edit has."""
    before, mark, _ = edited.name.rpartition("-edited")
    plain = f"{before if mark else edited.name}-edited"
    names = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
    paths = ((name, decomposition_path(study.path, name)) for name in names)
    free = (name for name, path in paths if not path.exists() or Decomposition.load(path).history == edited.history)
    return replace(edited, name=next(free))


def _relearned(study: Study, edited: Decomposition, refit_on: str, target: Target | None) -> Decomposition:
    """Re-learn weights and biases on the supports that are left."""
    image_set = study.image_set(refit_on)
    target = target or ("labels" if image_set.labelled else "dense")
    if target == "labels" and not image_set.labelled:
        raise SubspectError(f"target 'labels' needs labels, and {refit_on!r} has none; take target 'dense'")
    dense = tuple(tensor.double().numpy() for tensor in study.head())
    weight, bias = (array.astype(np.float64) for array in edited.matrix())
    chosen, part = edited.chosen_on  # what was set apart to evaluate on stays apart
    rows, supports = Rows(image_set, part if refit_on == chosen else "all"), edited.supports
    seen = {label for block in rows for label in np.unique(block.labels).tolist()}
    fixed = sorted(
        {*edited.unseen, *(set(range(len(supports))) - seen)}
    )  # nothing is learned of a class without images
    learned = refit(rows, (dense[0], dense[1]), list(supports), (weight, bias), target, fixed=fixed, prior=_PRIOR)
    step = Refitted(target, learned.loss, learned.steps, learned.converged, refit_on)
    return edited.with_head(*learned.affine, step)


def _confusions(study: Study, decomposition: Decomposition, where: Where) -> Confusion:
    confusion = Confusion(study.identity.n_classes)
    for said in heads_say(study, decomposition, where):
        confusion.update(said.chunk.labels, said.decomposed.argmax(axis=1))
    return confusion
