"""What checks are given: a study, a decomposition, and what several of them ask for, taken once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from subspect.checking.finding import Skipped
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import shown
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import unique
from subspect.measuring.heads_say import Logits, heads_say
from subspect.measuring.where import Where, where
from subspect.networks.network import Network
from subspect.studies.study import Study
from subspect.swapping.result import Cues
from subspect.swapping.stored import kept_cues

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What both heads say of n images.

    Attributes:
        labels: (n,) class indices.
        dense: (n,) what the dense head says.
        decomposed: (n,) what the decomposed head says.
        margins: (2, n) largest logit less the second, dense and decomposed.
        confidence: (2, n) probability of what is said.
        odd: position → id of the images that both heads give the same class, another than the label.
    """

    labels: Counts
    dense: Counts
    decomposed: Counts
    margins: Array
    confidence: Array
    odd: dict[int, str]


@dataclass(frozen=True, eq=False)
class About:
    """What a check may look at.

    Attributes:
        study: the study.
        decomposition: of it.
        network: of the study; None if none was named.
        images: where the images are, if they were in memory or have been moved since.
        on: the image set to measure on, if one was named.
    """

    study: Study
    decomposition: Decomposition
    network: Network | None = None
    images: ImageSource | None = None
    on: str | None = None

    @cached_property
    def names(self) -> list[str]:
        """A name for each class, those of one name told apart."""
        return unique(self.decomposition.class_names)

    @cached_property
    def cues(self) -> Cues:
        """What the classes rest on, as the study keeps it.

        Raises:
            Skipped: it keeps nothing of this decomposition.
        """
        kept = kept_cues(self.study, self.decomposition)
        if kept is None and self.study.identity.features_alone:
            raise Skipped("needs images, which the network runs on: the study was made from features alone")
        if kept is None and len(self.seen) < 2:
            raise Skipped("needs images of two classes: a cue is swapped with that of an image of another class")
        if kept is None:
            raise Skipped(f"needs cues: {self.command('cues', '--network …')}")
        return kept

    @cached_property
    def where(self) -> Where:
        """The images that are measured on."""
        return where(self.study, self.decomposition, self.on)

    @cached_property
    def outcomes(self) -> Outcomes:
        """What both heads say of these images, in one pass."""
        parts, odd, start = [], dict[int, str](), 0
        for said in heads_say(self.study, self.decomposition, self.where):
            tops = [logits.argmax(axis=1) for logits in (said.dense, said.decomposed)]
            rows = np.flatnonzero((tops[0] == tops[1]) & (tops[0] != said.chunk.labels)).tolist()
            odd |= {start + row: said.chunk.ids[row] for row in rows}
            start += len(said.chunk.ids)
            margins, sure = np.stack([_sure(logits) for logits in (said.dense, said.decomposed)], axis=1)
            parts.append((said.chunk.labels, *tops, margins, sure))
        labels, dense, decomposed, margin, confidence = zip(*parts, strict=True)
        return Outcomes(
            np.concatenate(labels),
            np.concatenate(dense),
            np.concatenate(decomposed),
            np.concatenate(margin, axis=1),
            np.concatenate(confidence, axis=1),
            odd,
        )

    def needs_labels(self, name: str) -> None:
        """Skip a check where an image set has no labels.

        Raises:
            Skipped: so it is.
        """
        if not self.study.image_set(name).labelled:
            raise Skipped(f"needs labels: the image set {name!r} has none")

    @cached_property
    def seen(self) -> list[int]:
        """The classes whose features were chosen on images of theirs; the others keep their dense row.

        Raises:
            Skipped: there is none.
        """
        unseen = set(self.decomposition.unseen)
        seen = [label for label in range(len(self.names)) if label not in unseen]
        if not seen:
            raise Skipped("no class had images to choose features on: all keep their dense rows")
        return seen

    def feature(self, index: int) -> str:
        """Name a feature."""
        return f"feature {shown(index, self.decomposition.feature_names)}"

    def called(self, label: int) -> str:
        """Name a class on a command line."""
        names = self.decomposition.class_names
        return shlex.quote(names[label]) if names.count(names[label]) == 1 else str(label)

    @property
    def place(self) -> str:
        """The study's folder or address on a command line."""
        return shlex.quote(self.study.address)

    def command(self, name: str, *arguments: str) -> str:
        """Write a command about this decomposition."""
        own = "--decomposition", self.decomposition.name
        return " ".join(("subspect", name, self.place, *own, *arguments))


def _sure(logits: Logits) -> Array:
    """Return (2, m): margins, and probabilities of the largest logit."""
    largest = np.partition(logits, -2, axis=1).astype(np.float64)
    return np.stack([largest[:, -1] - largest[:, -2], softmax(logits.astype(np.float64), axis=1).max(axis=1)])
