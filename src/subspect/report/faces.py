"""A card for each class, as the report and notebooks show it: its features, for and against, and what was found of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subspect.asking.deciding import Deciding
from subspect.ground.errors import SubspectError
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import Names
from subspect.heads.shown import core_first, trusted
from subspect.heads.trusted import FeatureRow
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Cost, Fidelity
from subspect.networks.network import Network
from subspect.report.gallery import Gallery, Shot
from subspect.report.resting import Resting, in_short
from subspect.studies.doubts import near_chance
from subspect.studies.same_network import refuse_features_alone
from subspect.studies.study import Study

_LOST = 8  # classes listed that lose most
_FOR, _AGAINST = 5, 3  # features on a card
_LINES, _DOUBTS = 3, 3  # findings on the first screen, and on a card
_OF_FEW = 3  # classes that a finding on a card may be about


@dataclass(frozen=True)
class ClassPage:
    """What is shown of one class.

    ``cost`` is None where no image of it was measured; ``trusted`` says how far the choice can be trusted; ``lost`` is what
    the class's accuracy loses by the dense and by the decomposed head where each feature is at its mean, NaN without images;
    ``formula`` is the logit written out, where weights are readable.
    """

    label: int
    name: str
    rows: Sequence[FeatureRow]
    bias: float
    unseen: bool
    trusted: str
    cost: Cost | None
    lost: Sequence[tuple[float, float]]
    formula: str

    @property
    def loses(self) -> float:
        """The share of accuracy that the class loses; 0 where none of its images was measured."""
        return self.cost.dense_accuracy.value - self.cost.accuracy.value if self.cost else 0.0


@dataclass(frozen=True)
class Faces:
    """All that cards show; by itself, without pages that they could lead to."""

    study: Study
    decomposition: Decomposition
    fidelity: Fidelity
    gallery: Gallery
    resting: Resting
    deciding: Deciding
    classes: Sequence[ClassPage]
    feature_names: Names

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.decomposition.class_names

    @property
    def sizes(self) -> str:
        """How many features a class has, or from how many to how many; those without images are left out."""
        sizes = [len(one.rows) for one in self.classes if not one.unseen] or [0]
        return f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)}–{max(sizes)}"

    @property
    def lost(self) -> list[ClassPage]:
        """The classes whose accuracy falls most."""
        return [one for one in self.worst_first[:_LOST] if one.loses > 0]

    @property
    def least(self) -> ClassPage | None:
        """The class that is recognised least often; None where all images are recognised, or none were measured."""
        measured = [one for one in self.classes if one.cost and one.cost.accuracy.value < 1]
        return min(measured, key=lambda one: one.cost.accuracy.value if one.cost else 1.0, default=None)

    @property
    def worst_first(self) -> list[ClassPage]:
        """The classes, those that lose most accuracy first."""
        return sorted(self.classes, key=lambda one: -one.loses)

    @property
    def by_chance(self) -> bool:
        """Whether the network itself is right no more often than by chance, so that nothing else means much."""
        overall = self.fidelity.overall
        return near_chance(round(overall.dense_accuracy.value * overall.images), overall.images, len(self.names))

    @property
    def shown_for(self) -> int:
        """How many features a card shows that speak for its class."""
        return _FOR

    @property
    def shown_against(self) -> int:
        """How many features a card shows that speak against its class."""
        return _AGAINST

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Findings in a few words each, with where to read on; what doesn't fit is counted."""
        found = self.resting.found
        said = [(in_short(one), self.finding_href(number)) for number, one in enumerate(found[:_LINES])]
        more = len(found) - len(said) + sum(self.resting.more.values())
        return [
            *said,
            *([(f"and {counted(more, 'other finding', 'other findings')}", self.finding_href(None))] if more else []),
        ]

    def doubts(self, label: int) -> list[tuple[str, str]]:
        """Return what was found of a class, in a few words each, with where to read on."""
        found = self.resting.found
        return [(in_short(found[number]), self.finding_href(number)) for number in self._found_of(label)[:_DOUBTS]]

    def place(self, label: int) -> int:
        """Return where a class comes among those with findings: the number of its first, or one past the last."""
        return next(iter(self._found_of(label)), len(self.resting.found))

    def _found_of(self, label: int) -> list[int]:
        return [
            number
            for number, one in enumerate(self.resting.found)
            if len(one.classes) <= _OF_FEW
            and label in self.resting.classes(one)
            and self.names[label] in in_short(one)  # else it is about the network
        ]

    def best(self, label: int, feature: int, kind: str) -> Shot | None:
        """Return the image in a class, or outside it, that has a feature most."""
        shots = (self.gallery.inside if kind == "inside" else self.gallery.outside).get((label, feature))
        return shots[0] if shots else None

    def share(self, added: float) -> int:
        """Return how long a bar is, in percent of the longest."""
        return round(100 * max(0.0, added) / self.deciding.most) if self.deciding.most > 0 else 0

    def called(self, feature: int) -> str:
        """Return what a feature is called on a card: the name that the user gave it, or its number."""
        return self.feature_names.get(feature, f"feature {feature}")

    def class_href(self, label: int) -> str:
        """Return the address of a class; empty where there is none."""
        return ""

    def feature_href(self, feature: int) -> str:
        """Return the address of a feature; empty where there is none."""
        return ""

    def finding_href(self, number: int | None) -> str:
        """Return the address of a finding, or of all; empty where there is none."""
        return ""


def class_pages(
    decomposition: Decomposition, fidelity: Fidelity, lost: Sequence[tuple[float, float]] | None = None
) -> list[ClassPage]:
    """Return what is shown of each class; ``lost`` is what each entry of the supports' costs, if that was measured."""
    pages = []
    for label, (name, cost) in enumerate(fidelity.classes.items()):
        rows, bias = decomposition.rows(label), float(decomposition.bias[label])
        own = lost[slice(*decomposition.supports.offsets[label : label + 2])] if lost is not None else []
        at = {row.feature: place for place, row in enumerate(rows)}
        order = [at[row.feature] for row in core_first(rows)]
        pages.append(
            ClassPage(
                label,
                name,
                [rows[place] for place in order],
                bias,
                label in decomposition.unseen,
                trusted(decomposition, label),
                cost,
                [own[place] for place in order] if own else [],
                decomposition.ternary.formula(label, rows, bias) if decomposition.ternary else "",
            )
        )
    return pages


def check_given(
    study: Study,
    decomposition: Decomposition,
    fidelity: Fidelity | None,
    network: Network | None,
    images: ImageSource | None,
) -> None:
    """Refuse what doesn't go with a study and a decomposition, before the work.

    Raises:
        SubspectError: the fidelity is of another decomposition; or a network or images were given of features alone.
    """
    if network is not None or images is not None:
        refuse_features_alone(study, "there are no pictures to show, and no network for the places where features look")
    if fidelity is not None and fidelity.decomposition != decomposition.name:
        raise SubspectError(
            f"the fidelity given is that of {fidelity.decomposition!r}, not of {decomposition.name!r}; evaluate that one"
        )
