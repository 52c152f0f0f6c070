"""All that the pages of a report show, in the words in which templates ask for it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from subspect.ground.pictures import smaller
from subspect.ground.text import counted, legible
from subspect.heads.cost import HeadCost, NetworkSize
from subspect.heads.feature_names import shown
from subspect.heads.head import Kernel
from subspect.images.preprocessing import described
from subspect.report.behind import Behind
from subspect.report.faces import ClassPage, Faces
from subspect.report.figures import calibration_figure, curve_figure, shared_figure, shared_in_words
from subspect.report.gallery import SIDE
from subspect.report.overview import Overview
from subspect.report.resting import SHADES, place_of
from subspect.report.shared import SharedMap, shared_map
from subspect.studies.image_set import ImageSet

_FACES = 24  # cards on the first page, where there are too many classes for all
_BRIEF, _THUMB = 3, 32  # features on a card that is made when searched for, and pixels of its picture


@dataclass(frozen=True)
class Site(Faces):
    """All that the pages show.

    ``running`` is the cost of the dense and of the decomposed head, ``kernels`` how the latter is computed on a CPU, for one
    image and for many, ``whole`` the size of the whole network, if it is at hand. ``behind`` says which
    filters decide, if that is kept. ``index`` is the name of the first page,
    ``folder`` the place of the others seen from it, both as in an address; ``inside`` says that one of those is being written.
    """

    overview: Overview
    features: Mapping[int, Sequence[tuple[int, float]]]
    running: tuple[HeadCost, HeadCost]
    kernels: tuple[Kernel, Kernel]
    whole: NetworkSize | None
    what_if: Mapping[str, Any] | None
    behind: Behind | None
    single: bool
    script: str
    index: str
    folder: str = ""
    inside: bool = False
    side: int = SIDE
    shades: int = SHADES

    @property
    def sets(self) -> list[ImageSet]:
        """The study's image sets."""
        return [self.study.image_set(name) for name in self.study.set_names]

    @property
    def script_hash(self) -> str:
        """What the pages' content security policy lets run."""
        return "sha256-" + base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()

    @property
    def preprocessing(self) -> str:
        """How the images were prepared, in words."""
        return described(self.study.identity.preprocessing)

    @property
    def curve(self) -> str:
        """Cost against the number of features."""
        return curve_figure(self.decomposition.curve)

    @property
    def calibration(self) -> str:
        """Confidence against accuracy."""
        return calibration_figure(self.overview.dense, self.overview.decomposed)

    @property
    def shared(self) -> str:
        """How many features every pair of classes shares."""
        return shared_figure(self.decomposition.supports, self.names, self.decomposition.unseen)

    @property
    def shared_in_words(self) -> str:
        """The same, where no figure is needed for it."""
        return shared_in_words(self.decomposition.supports, self.decomposition.unseen)

    @property
    def faces(self) -> list[ClassPage]:
        """The classes that have a card on the first page: all, or of many those that lose most; findings come first."""
        found = self.classes if self.single else [one for one in self.worst_first if not one.unseen][:_FACES]
        return sorted((one for one in found if not one.unseen), key=lambda one: self.place(one.label))

    @property
    def doubted(self) -> bool:
        """Whether something was found of a class that has a card."""
        return any(self.doubts(one.label) for one in self.faces)

    @property
    def others(self) -> list[dict[str, Any]]:
        """Return what a page needs to make the cards of the other classes when they are searched for; with few nothing."""
        first = {one.label for one in self.faces}
        return [self._brief(one) for one in self.classes if not one.unseen and one.label not in first]

    def _brief(self, one: ClassPage) -> dict[str, Any]:
        says = self.deciding.speaks_for[one.label][:_BRIEF]
        shot = self.best(one.label, says[0].feature, "inside") if says else None
        return {
            "name": legible(one.name),
            "href": self.class_href(one.label),
            "right": f"right on {100 * one.cost.accuracy.value:.1f}\u00a0%" if one.cost else "not measured",
            "says": [
                (
                    legible(self.called(each.feature)),
                    self.feature_href(each.feature),
                    f"{each.added:+.1f}".replace("-", "−"),
                    self.share(each.added),
                    self.gallery.places.get((one.label, each.feature), ""),
                )
                for each in says
            ],
            "picture": smaller(shot.data, _THUMB) if shot and shot.data else "",
        }

    def fires_on(self, feature: int) -> str:
        """Say on which classes a feature is largest on average."""
        return ", ".join(self.names[label] for label in self.deciding.fires_on.get(feature, ()))

    def stand_ins(self, feature: int) -> list[tuple[int, Sequence[tuple[int, float]]]]:
        """Return class → the features that could stand in for one of its own, and what they make good."""
        rows = ((one.label, row) for one in self.classes for row in one.rows if not one.unseen)
        return [(label, row.substitutes) for label, row in rows if row.feature == feature and row.substitutes]

    @property
    def shared_map(self) -> SharedMap | None:
        """Which classes share which features; None where there are too many classes, or none share any."""
        return shared_map(self.decomposition, self.shades) if self.single and not self.shared_in_words else None

    @property
    def alone(self) -> str:
        """How many features decide a single class."""
        number = sum(len(uses) == 1 for uses in self.features.values())
        if not number:
            return ""
        said = counted(number, "feature that decides one class only has", "features that decide one class only have")
        return f"{said} no column."

    @property
    def most_used(self) -> str:
        """Which feature most classes use, as the end of a sentence; nothing where no two share one."""
        feature, uses = max(self.features.items(), key=lambda pair: len(pair[1]), default=(-1, ()))
        if len(uses) < 2:
            return ""
        ties = sum(len(others) == len(uses) for others in self.features.values()) - 1
        also = f" and {counted(ties, 'other', 'others')}" if ties else ""
        return f"; used most: feature {self.named(feature)}{also}, by {len(uses)} classes"

    @property
    def version(self) -> str:
        """Of subspect."""
        return version("subspect")

    def named(self, feature: int) -> str:
        """Return a feature as it is shown, by its number and its name."""
        return shown(feature, self.feature_names)

    def class_href(self, label: int) -> str:
        """Return the address of a class, seen from the page that is being written."""
        return f"#c{label}" if self.single else f"{self._below}class-{label}.html"

    def finding_href(self, number: int | None) -> str:
        """Return the address of a finding, or of all."""
        return f"{self.index_href if self.inside else ''}#{'findings' if number is None else place_of(number)}"

    def feature_href(self, feature: int) -> str:
        """Return the address of a feature."""
        return f"#f{feature}" if self.single else f"{self._below}feature-{feature}.html"

    @property
    def index_href(self) -> str:
        """The first page, seen from a page in the folder."""
        return f"../../{self.index}"

    @property
    def _below(self) -> str:
        return "" if self.inside else f"{self.folder}/"
