"""What the report says of findings and of cues: what is kept in the study, for nothing runs the network."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from subspect.checking.check import check
from subspect.checking.finding import Finding
from subspect.ground.errors import shortened
from subspect.heads.decomposition import Decomposition
from subspect.measuring.fidelity import Fidelity, unique
from subspect.studies.study import Study
from subspect.swapping.moved import losses, lost_by, lost_through, moved_by
from subspect.swapping.result import Cues
from subspect.swapping.stored import kept_cues

_EACH = 12  # findings of one code
_CLASSES = 40  # in the table of cues
_NAMED = 3  # cues by which a class loses most
_SHORT = 90  # characters of a finding in a few words
_FULL = 1.5  # median margins: the strongest shade
SHADES = 8  #: of a loss, and of a gain


@dataclass(frozen=True, eq=False)
class Resting:
    """Findings, and what the classes rest on.

    Attributes:
        cues: that are kept of the decomposition; None where there are none.
        found: what somebody should look at; at most 12 of one code.
        more: code → how many more there are.
        passed: code, title and scope of the checks that found nothing.
        skipped: why checks were skipped → their codes.
        names: class names, those of one name told apart, by which findings name classes.
        measurable: whether there are images to measure cues on.
        options: which decomposition, on a command line.
    """

    cues: Cues | None
    found: Sequence[Finding]
    more: Mapping[str, int]
    passed: Sequence[tuple[str, str, str]]
    skipped: Mapping[str, Sequence[str]]
    names: Sequence[str]
    measurable: bool
    options: str

    def classes(self, one: Finding) -> list[int]:
        """Return the classes that a finding is about; those of a check of one's own may be none of the network's."""
        return [self.names.index(name) for name in one.classes[:_EACH] if name in self.names]

    @property
    def rows(self) -> list[tuple[int, list[tuple[str, str]]]]:
        """Return class, and text and shade by each cue; at most 40 classes, those that lose most first."""
        if self.cues is None:
            return []
        loss = self.cues.loss
        order = np.argsort(-np.nan_to_num(loss, nan=-np.inf).max(axis=0), kind="stable").tolist()
        seen = [label for label in order if self.cues.images[label]][:_CLASSES]
        return [(label, [_cell(value) for value in loss[:, label].tolist()]) for label in seen]

    def loses(self, label: int) -> str:
        """Say by which cues a class loses most; nothing where no cues are kept."""
        if self.cues is None:
            return ""
        if not self.cues.images[label]:
            return "No image of this class is among those whose cues were swapped."
        most, things = lost_by(self.cues, label), lost_by(self.cues, label, things=True)
        if not most and not things:
            return "It loses next to nothing by any cue."
        said = ", ".join(f"{name} ({value:.2f})" for name, value in most[:_NAMED])
        also = f" Of cues that take the thing itself away: {losses(things)}." if things else ""
        return (
            f"It loses most by {said}, in median margins." if said else "It loses next to nothing by its context."
        ) + also

    def lost(self, label: int, feature: int) -> str:
        """Say by which cues a class loses its margin through a feature."""
        return "" if self.cues is None else losses(lost_through(self.cues, label, feature))

    def moved(self, feature: int) -> str:
        """Say by which cues a feature is moved."""
        found = [] if self.cues is None else self.cues.of_feature(feature)
        return moved_by(found, len(found))


def in_short(one: Finding) -> str:
    """Return a finding in a few words: its sentence up to the figures."""
    return shortened(re.split(r"[:;] | \(", one.text, maxsplit=1)[0], _SHORT)


def place_of(number: int) -> str:
    """Return the address of a finding on the first page, by its number."""
    return f"finding-{number + 1}"


def resting_of(study: Study, decomposition: Decomposition, fidelity: Fidelity, show_images: bool = True) -> Resting:
    """Look for findings on the images of ``fidelity``, and read the cues; without images, none is named either.

    Raises:
        SubspectError: the file of cues is damaged.
    """
    cues = kept_cues(study, decomposition)
    checked = check(study, decomposition, on=fidelity.where.image_set)
    shown, more, skipped = list[Finding](), dict[str, int](), dict[str, list[str]]()
    for one in checked.found:
        if sum(one.code == other.code for other in shown) < _EACH:
            text = one.text if show_images else _nameless(one)
            shown.append(replace(one, text=text, do=_portable(one.do, study)))
        else:
            more[one.code] = more.get(one.code, 0) + 1
    for code, why in checked.skipped.items():
        skipped.setdefault(_portable(why, study), []).append(code)
    return Resting(
        cues,
        shown,
        more,
        [(code, checked.titles[code], scope) for code, scope in checked.passed.items()],
        skipped,
        unique(decomposition.class_names),
        not study.identity.features_alone,
        f"--decomposition {shlex.quote(decomposition.name)}",
    )


def _portable(text: str, study: Study) -> str:
    """Return text whose commands say STUDY, wherever the study lies: a report may be handed on."""
    place = re.escape(shlex.quote(study.address))
    return re.sub(rf"(subspect [a-z-]+ ){place}(?= |$)", r"\1STUDY", text)


def _nameless(one: Finding) -> str:
    """Return what was found without the ids of the images that it lists."""
    text = one.text
    for image in one.figures.get("listed", ()):
        text = text.replace(f"{image['id']} ({image['label']},", f"an image ({image['label']},")
    return text


def _cell(loss: float) -> tuple[str, str]:
    """Return what is lost, as text, and its shade: loss1 to loss8, or gain1 to gain8; none for what is next to nothing."""
    if np.isnan(loss):
        return "", ""
    text, shade = f"{loss:.1f}", min(SHADES, round(abs(loss) / _FULL * SHADES))
    kind = "gain" if loss < 0 else "loss"
    return text.replace("-0.0", "0.0").replace("-", "−"), f"{kind}{shade}" if shade else ""
