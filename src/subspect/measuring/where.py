"""Which images a figure is measured on, and what may be said of it.

Figures are to be of images that took no part in choosing features or weights: another image set, or, where the study has only
one, those of it that a hash of the image id held out. A set of another name may still hold images of the choice; those
are found by what they are, a hash of their row of features, and left out. Where nothing else is left, the figure is taken all
the same, and its note says that it flatters.

Where an image set has images of a few of the classes only, a figure is of a choice among all classes, or, if so wanted, among
those few, which is easier; its note says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from subspect.ground.errors import SubspectError
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.history import Part
from subspect.studies.blocks import total
from subspect.studies.doubts import classes_of, lacking
from subspect.studies.parts import counterpart, in_words
from subspect.studies.rows import Shards, printed, prints
from subspect.studies.shards import Chunk
from subspect.studies.study import Study

Prints = npt.NDArray[np.uint64]
_NONE = np.zeros(4, np.int64)
_known: WeakKeyDictionary[Study, dict[tuple[str, str, Part], Prints]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Where:
    """Some images of a study, for a decomposition to be measured on.

    Attributes:
        image_set: its name.
        part: which part of it.
        images: how many.
        held_out: whether they took no part in choosing features or weights.
        sized: whether the number of features was chosen on them.
        labelled: whether they have labels; else the dense network's predictions stand in for them.
        unseen: how many are of classes that had no image to choose features on, and so keep their dense row.
        left_out: images of the set that are the same as ones of the choice, and are none of these.
        given: of how many classes the image set has images; all of them where there are no labels.
        lacking: names of the classes that the set chosen on has images of, and this one hasn't.
        among: whether the networks choose among "all" classes or among the "given" ones.
        among_classes: how many those are.

    Example:
        >>> where = decomposition.evaluate(on="test").where
        >>> where.image_set, where.images, where.held_out
        ('test', 60, True)
    """

    image_set: str
    part: Part
    images: int
    held_out: bool
    sized: bool
    labelled: bool
    unseen: int
    left_out: int
    given: int
    lacking: tuple[str, ...]
    among: Literal["all", "given"]
    among_classes: int
    _study: Study = field(repr=False, compare=False)
    _skip: Prints = field(repr=False, compare=False)
    _given: npt.NDArray[np.int64] = field(repr=False, compare=False)
    _lacking: str = field(repr=False, compare=False)
    _called: str = field(repr=False, compare=False)
    _of_all: str = field(repr=False, compare=False)

    @property
    def classes(self) -> npt.NDArray[np.int64] | None:
        """The classes that the networks choose among; None for all."""
        return self._given if self.among == "given" else None

    @property
    def examples(self) -> str:
        """What to call them: "images" or "examples"."""
        return self._study.identity.examples

    @property
    def among_in_words(self) -> str:
        """Say among which classes the networks choose."""
        if self.among == "given":
            return f"among the {counted(self.given, 'class', 'classes')} given"
        few = f" ({self.examples} of {self.given:,})" if self.given < self.among_classes else ""
        return f"among all {self.among_classes:,} classes{few}"

    @property
    def note(self) -> str:
        """Say which images these are, and what stands for the labels."""
        note = (
            f"{counted(self.images, self.examples[:-1], self.examples)} of "
            f"{self._called}{in_words(self.part, self.examples)}"
        )
        if self.among == "given" or self.given < self.among_classes:
            note += f", {self.among_in_words}"
        if self.lacking and self.among == "all":
            note += f"; {self._lacking}; accuracies are over the others"
        if self.left_out:
            note += f"; {counted(self.left_out, 'more is', 'more are')} left out, the same as ones that took part in choosing "
            note += "features or weights"
        if not self.held_out:
            note += f"; these {self.examples} took part in choosing features or weights, so the figures flatter"
        if self.sized:
            note += "; the number of features was chosen on them, so the figures flatter a little"
        if self.unseen:
            note += f"; {counted(self.unseen, 'is', 'are')} of classes that had no {self.examples[:-1]} to choose features on"
            note += " and keep their dense row"
        if not self.labelled:
            note += f"; no labels: the dense {self._study.identity.what}'s own predictions stand in, so accuracy here "
            note += "is fidelity"
        return f"{note}; {self._of_all}" if self._of_all else note

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")} | {"note": self.note}

    def chunks(self) -> Shards:
        """Return these images, a shard at a time."""
        return Shards(self._study.image_set(self.image_set), self.part, self._skip if self.left_out else None)


def where(study: Study, decomposition: Decomposition, on: str | None = None, *, among_given: bool = False) -> Where:
    """Tell on which images a decomposition is measured.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        on: the image set; unless given, one that took no part in choosing the features ("test" if there is one) nor, if
            there is such, their number; or the images of the same set that were held out.
        among_given: whether the networks are to choose among the classes alone that the image set has images of.

    Raises:
        SubspectError: no such image set, another network's decomposition, no image to measure on, or no labels that tell which
            classes are given.
    """
    decomposition.check(study)
    image_set, part = _set_and_part(study, decomposition, on)
    learned = [one for one in _learned_on(study, decomposition) if one[0] in study.set_names]
    taken = _same_images(study, image_set, learned) or (image_set, part) in learned
    skip = np.empty(0, np.uint64)
    if not taken:
        skip = np.setdiff1d(np.concatenate([skip, *(_prints(study, *one) for one in learned)]), _nothing(study))
    shards = Shards(study.image_set(image_set), part)
    images, left_out, unseen, all_unseen = total(
        shards, _NONE.copy, partial(_seen, skip, decomposition.unseen)
    ).tolist()
    if not images and left_out:  # every one of them: measured all the same, and said
        images, left_out, unseen, taken = left_out, 0, all_unseen, True
    if not images:
        raise SubspectError(
            f"no {(examples := study.identity.examples)} to evaluate on: there are none of {image_set!r}"
            f"{in_words(part, examples)}; add an image set of its own"
        )
    sized = _sized(decomposition, study, image_set, part)
    labelled = study.image_set(image_set).labelled
    if among_given and not labelled:
        raise SubspectError(
            f"{image_set!r} has no labels, so nothing tells which classes are given; leave out among_given (--among-given)"
        )
    given, n_classes = _given(study, image_set), study.identity.n_classes
    absent, said = _lacking(study, decomposition.chosen_on[0], image_set, given)
    return Where(
        image_set,
        part,
        images,
        not taken,
        sized,
        labelled,
        unseen,
        left_out,
        given=len(given),
        lacking=tuple(study.identity.class_names[label] for label in absent.tolist()),
        among="given" if among_given else "all",
        among_classes=len(given) if among_given else n_classes,
        _study=study,
        _skip=skip,
        _given=given,
        _lacking=said,
        _called=study.image_set(image_set).called(study.identity.examples),
        _of_all=study.image_set(image_set).manifest.accuracy_of_all(study.identity.examples),
    )


def _given(study: Study, name: str) -> npt.NDArray[np.int64]:
    """Return the classes that an image set has images of, whatever part of it is measured on; all where nothing tells."""
    image_set = study.image_set(name)
    if not image_set.labelled:
        return np.arange(study.identity.n_classes)
    return classes_of(image_set)


def _lacking(study: Study, chosen: str, name: str, given: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], str]:
    """Return the classes that the set chosen on has images of and another set hasn't, and say so."""
    identity = study.identity
    if (
        name == chosen
        or len(given) == identity.n_classes
        or chosen not in study.set_names
        or not study.image_set(chosen).labelled
    ):
        return given[:0], ""
    theirs = _given(study, chosen)
    absent = np.setdiff1d(theirs, given)
    return absent, lacking(absent, len(theirs), chosen, identity.class_names, identity.examples)


def _set_and_part(study: Study, decomposition: Decomposition, on: str | None) -> tuple[str, Part]:
    chosen, part = decomposition.chosen_on
    if on is None:
        others = [name for name in study.set_names if name not in (chosen, *decomposition.refitted_on)]
        labelled = [name for name in others if study.image_set(name).labelled] or others
        known = {
            study.image_set(name).manifest.fingerprint for name in _settled_on(decomposition) if name in study.set_names
        }
        fresh = [name for name in labelled if study.image_set(name).manifest.fingerprint not in known] or labelled
        on = "test" if "test" in fresh else fresh[0] if fresh else chosen
    return on, counterpart(part) if on == chosen else "all"


def _learned_on(study: Study, decomposition: Decomposition) -> list[tuple[str, Part]]:
    """List the image sets, and the parts of them, on which features and weights were learned."""
    chosen, part = decomposition.chosen_on
    return [(chosen, part), *((name, part if name == chosen else "all") for name in decomposition.refitted_on)]


def _same_images(study: Study, image_set: str, learned: Sequence[tuple[str, Part]]) -> bool:
    """Tell whether another image set that was learned on is of the same list of images."""
    same = study.image_set(image_set).manifest.fingerprint
    return any(name != image_set and study.image_set(name).manifest.fingerprint == same for name, _ in learned)


def _prints(study: Study, name: str, part: Part) -> Prints:
    """Return the prints of an image set's rows; kept for as long as the study is."""
    known = _known.setdefault(study, {})
    key = (name, study.image_set(name).manifest.fingerprint, part)
    if key not in known:
        known[key] = printed(Shards(study.image_set(name), part))
    return known[key]


def _seen(skip: Prints, unseen: Sequence[int], so_far: npt.NDArray[np.int64], chunk: Chunk) -> npt.NDArray[np.int64]:
    """Count images, those left out, and those of classes that had none to choose on, without and with those left out."""
    seen = np.isin(prints(chunk.features), skip) if len(skip) else np.zeros(len(chunk.ids), bool)
    lost = np.isin(chunk.labels, unseen)
    so_far += np.array([(~seen).sum(), seen.sum(), (lost & ~seen).sum(), lost.sum()])
    return so_far


def _nothing(study: Study) -> Prints:
    """Return the print of a row of zeros, which tells no image from another: they all leave the features silent."""
    return prints(np.zeros((1, study.identity.n_features), np.float32))


def _settled_on(decomposition: Decomposition) -> list[str]:
    """Name the image sets whose images had a say in the number of features."""
    if decomposition.auto is None:
        return []
    promise = decomposition.auto.promise
    return [decomposition.auto.sized_on[0], *([promise.set] if promise else [])]


def _sized(decomposition: Decomposition, study: Study, image_set: str, part: Part) -> bool:
    """Tell whether the number of features was chosen on these images."""
    chosen = [name for name in _settled_on(decomposition) if name in study.set_names]
    same = {study.image_set(name).manifest.fingerprint for name in chosen}
    if decomposition.auto is None or study.image_set(image_set).manifest.fingerprint not in same:
        return False
    return image_set != decomposition.chosen_on[0] or part == decomposition.auto.sized_on[1]
