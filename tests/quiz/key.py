"""The answers, computed from a study and its decomposition without what the report's pages are made of.

What the report gets from one pass over the images in blocks is computed here from all of them at once, with the formulas as
they stand in the documentation. An answer is one or more lists of words (several where classes are tied); all the words of one
of them are to be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import subspect
from subspect.checking.finding import Finding
from subspect.images.preprocessing import Preprocessing
from subspect.report.places import in_words, ninths

Answer = Sequence[tuple[str, ...]]
_FEW = 3  # classes that a finding may be about to be one of a class
_IMAGES = 6  # of a class that has a feature most: where these have it is where it looks


class Facts:
    """What is true of a network, by its study: features are chosen on the set train, everything is measured on test."""

    def __init__(self, study: subspect.Study, decomposition: subspect.Decomposition, network: subspect.Network) -> None:
        self.study, self.decomposition, self.network = study, decomposition, network
        self.names = decomposition.class_names
        self.weight, self.bias = (part.astype(np.float64) for part in decomposition.matrix())
        weight, bias = (part.numpy().astype(np.float64) for part in study.head())
        chunks = list(study.image_set("test").chunks())
        self.x = np.concatenate([chunk.features for chunk in chunks]).astype(np.float64)
        self.labels = np.concatenate([chunk.labels for chunk in chunks])
        self.dense = (self.x @ weight.T + bias).argmax(axis=1)
        self.logits = self.x @ self.weight.T + self.bias
        self.few = self.logits.argmax(axis=1)
        self.one = 3
        self.other = next(label for label in (4, 5, 6, 7, 8, 9, 0, 1, 2) if (self.weight[label] < 0).any())

    @property
    def names_asked(self) -> dict[str, object]:
        """What questions and places on the page are about."""
        return {
            "one": self.names[self.one],
            "other": self.names[self.other],
            "feature": self._for(self.one)[0][1],
            "number": self._first[0] + 1,
        }

    def features(self) -> Answer:
        """How many features a class has, of how many."""
        sizes = (self.weight != 0).sum(axis=1)
        low, high = int(sizes.min()), int(sizes.max())
        return [(f"{low if low == high else f'{low}–{high}'} of {self.weight.shape[1]} features",)]

    def right(self) -> Answer:
        """Accuracy with the few features, and with all."""
        few, dense = (np.mean(top == self.labels) for top in (self.few, self.dense))
        return [
            (f"right on {100 * few:.2f} % of {len(self.labels)} images", f"with all of them on {100 * dense:.2f} %")
        ]

    def alike(self) -> Answer:
        """Fidelity."""
        return [(f"decides as before on {100 * np.mean(self.few == self.dense):.2f} %",)]

    def loses(self) -> Answer:
        """The class that loses most accuracy."""
        few, dense = self._of_each(self.few), self._of_each(self.dense)
        most = (dense - few).max()
        if most <= 0:
            return [("No class loses accuracy",)]
        found = np.flatnonzero(np.isclose(dense - few, most)).tolist()
        return [(f"{self.names[c]}, right on {100 * few[c]:.1f} % instead of {100 * dense[c]:.1f} %",) for c in found]

    def least(self) -> Answer:
        """The class that is recognised least often by the few features."""
        few = self._of_each(self.few)
        found = np.flatnonzero(np.isclose(few, few.min())).tolist()
        return [(f"least often right: {self.names[c]}, on {100 * few[c]:.1f} %",) for c in found]

    def speaks_for(self) -> Answer:
        """The feature that adds most to the lead of a class, and where it looks."""
        added, feature = self._for(self.one)[0]
        return [(f"{added:+.1f}".replace("-", "−"), f"feature {feature}", self._looks(self.one, feature))]

    def against(self) -> Answer:
        """The feature of the lowest weight in a class, and the classes on which it is largest, two of them."""
        feature = int(self.weight[self.other].argmin())
        means = np.array([self.x[self.labels == c, feature].mean() for c in range(len(self.names))])
        largest = [c for c in np.argsort(-means)[:3].tolist() if c != self.other][:2]
        return [(f"feature {feature}", *(self.names[c] for c in largest))]

    @property
    def is_suspicious(self) -> bool:
        """Whether something was found of the class that is asked about."""
        return self._is_of_it(self._first[1])

    def suspicion(self) -> Answer:
        """What was found first, of the class if there is anything, up to the figures."""
        return [(self._first[1].text.partition(":")[0].partition(";")[0].partition(" (")[0],)]

    def to_do(self) -> Answer:
        """What to do about it first; a report that is handed on doesn't say where its study lies."""
        return [(self._first[1].do.partition(";")[0].replace(str(self.study.path), "STUDY"),)]

    def confused(self) -> Answer:
        """The classes of which most images are taken for another."""
        n = len(self.names)
        counts = np.bincount(self.labels * n + self.few, minlength=n * n).reshape(n, n)
        images = counts.sum(axis=1)
        np.fill_diagonal(counts, 0)
        pairs = np.argwhere(counts == counts.max()).tolist() if counts.any() else []
        said = [(f"{self.names[a]} taken for {self.names[b]}, {counts[a, b]} of {images[a]}",) for a, b in pairs]
        return said or [("none",)]

    def users(self) -> Answer:
        """The classes that use the feature that speaks most for one, with their weights."""
        column = self.weight[:, self._for(self.one)[0][1]]
        return [
            (
                f"speaks for {self._weighed(column, np.flatnonzero(column > 0).tolist())}",
                f"speaks against {self._weighed(column, np.flatnonzero(column < 0).tolist())}",
            )
        ]

    def most_used(self) -> Answer:
        """The features that most classes use."""
        uses = (self.weight != 0).sum(axis=0)
        return [(f"feature {i}", f"by {uses.max()} classes") for i in np.flatnonzero(uses == uses.max()).tolist()]

    def _of_each(self, top: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return (C,) the share of each class's images on which a head is right."""
        return np.array([np.mean(top[self.labels == c] == c) for c in range(len(self.names))])

    def _for(self, label: int) -> list[tuple[float, int]]:
        """Return what each feature of a positive weight adds to the margin of the class's images on average; most first."""
        mine = self.labels == label
        rivals = self.logits[mine]
        rivals[:, label] = -np.inf
        gain = self.weight[label] - self.weight[rivals.argmax(axis=1)]
        added = (gain * self.x[mine]).mean(axis=0)
        return sorted(((float(added[i]), i) for i in np.flatnonzero(self.weight[label] > 0).tolist()), reverse=True)

    def _looks(self, label: int, feature: int) -> str:
        """Say where a feature is active in those images of a class that have it most."""
        images, preprocessing = self.study.image_set("train"), self.network.preprocessing
        assert isinstance(preprocessing, Preprocessing)
        rows = [
            (float(value), id)
            for chunk in images.chunks()
            for value, own, id in zip(chunk.features[:, feature], chunk.labels, chunk.ids, strict=True)
            if own == label
        ]
        paths = [Path(str(images.manifest.root)) / id for _, id in sorted(rows, reverse=True)[:_IMAGES]]
        pixels = torch.stack([preprocessing(Image.open(path).convert("RGB")) for path in paths])
        self.network.find_head(pixels)
        maps = subspect.read_maps(self.network, pixels).maps
        assert maps is not None
        return in_words([ninths(own[feature].numpy()) for own in maps])

    @cached_property
    def _first(self) -> tuple[int, Finding]:
        """The place of the first finding of the class, or of the first of all, and that finding."""
        found = subspect.check(self.study, self.decomposition, on="test").found
        return next((pair for pair in enumerate(found) if self._is_of_it(pair[1])), (0, found[0]))

    def _is_of_it(self, one: Finding) -> bool:
        return len(one.classes) <= _FEW and self.names[self.one] in one.classes

    def _weighed(self, column: npt.NDArray[np.float64], labels: Iterable[int]) -> str:
        said = ", ".join(f"{self.names[c]} ({column[c]:.3f})" for c in labels).replace("-", "−")
        return said or "no class"
