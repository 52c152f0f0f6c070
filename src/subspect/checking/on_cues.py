"""What classes rest on besides what they are, by the cues that the study keeps (see `subspect.cues`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subspect.checking.about import About
from subspect.checking.finding import Check, Finding, Skipped
from subspect.checking.thresholds import (
    BORDER,
    COLOUR,
    CORNER,
    EDGE,
    EDGE_OVER_CENTRE,
    GRAIN,
    GRAIN_OVER_LAYOUT,
    OVER_CENTRE,
    TEXTURE,
    TEXTURE_OVER_LAYOUT,
    TONES,
    Rests,
)
from subspect.ground.errors import some
from subspect.swapping.built_in import CORNERS
from subspect.swapping.moved import explained
from subspect.swapping.result import Cues, Swapped

_CORNERS = tuple(cue.name for cue in CORNERS)
Judged = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """When a class rests on one of some cues.

    Attributes:
        cues: their names.
        least: what must be lost and gained.
        over: another cue, and how many times the loss by it that by these must be above.
    """

    cues: tuple[str, ...]
    least: Rests
    over: tuple[str, float] | None = None

    def measured(self, cues: Cues) -> list[Swapped]:
        """Return the cues that were measured; none where what they are compared with wasn't."""
        known = cues.names if self.over is None or self.over[0] in cues.names else ()
        return [cues[name] for name in self.cues if name in known]

    def holds(self, cues: Cues, one: Swapped) -> Judged:
        """Return (C,): the classes that rest on a cue; false where an interval isn't known."""
        found = (one.loss - one.loss_half >= self.least.loss) & (one.pull - one.pull_half >= self.least.pull)
        return found if self.over is None else found & (one.loss > self.over[1] * cues[self.over[0]].loss)


class RestsOn(Check):
    """A class rests on a cue: the rules are asked in turn, until one holds."""

    how = (
        "the cue is swapped with that of an image of another class (subspect cues): the class's images lose their margin, and "
        "images of others that are given the cue move towards the class; both beyond their 95 % intervals"
    )
    rules: tuple[Rule, ...]

    def find(self, about: About) -> Sequence[Finding]:
        """Return a finding for each class, what rests most first."""
        cues, found = about.cues, dict[int, Swapped]()
        self._check_judged(about)
        for rule in self.rules:
            here = dict[int, Swapped]()
            for one in rule.measured(cues):
                for label in np.flatnonzero(rule.holds(cues, one)).tolist():
                    if label not in here or one.rests[label] > here[label].rests[label]:
                        here[label] = one
            found = here | found
        order = sorted(found, key=lambda label: -found[label].rests[label])
        return [self._finding(about, label, found[label]) for label in order]

    def scope(self, about: About) -> str:
        """Say which classes could be judged, by what."""
        judged, names = int(self._judged(about.cues).sum()), [one.name for one in self._measured(about.cues)]
        return f"{judged:,} of {len(about.names):,} classes could be judged, by {some(names, 6)}"

    def _measured(self, cues: Cues) -> Iterator[Swapped]:
        return (one for rule in self.rules for one in rule.measured(cues))

    def _judged(self, cues: Cues) -> Judged:
        each = [np.isfinite(one.loss_half + one.pull_half) for one in self._measured(cues)]
        return np.any(each, axis=0) if each else np.zeros(len(cues.images), bool)

    def _check_judged(self, about: About) -> None:
        """Skip where no cue was measured, or no class has images enough."""
        cues = about.cues
        if not any(True for _ in self._measured(cues)):
            missing = [*(name for rule in self.rules for name in (*rule.cues, *(rule.over or ())[:1]))]
            missing = [name for name in dict.fromkeys(missing) if name not in cues.names]
            left_out = [f"{name}: {cues.left_out[name]}" for name in missing if name in cues.left_out]
            named = " ".join(f"--cue {name}" for name in missing)
            raise Skipped(some(left_out) or f"needs cues: {about.command('cues', named, '--network …')}")
        if not self._judged(cues).any():
            more = about.command("cues", "--sample …", "--network …")
            raise Skipped(f"no class has the two images that an interval takes ({cues.note}): {more}")

    def _finding(self, about: About, label: int, one: Swapped) -> Finding:
        cues, name = about.cues, about.names[label]
        loss, half, pull = (float(of[label]) for of in (one.loss, one.loss_half, one.pull))
        others = np.delete(one.loss, label)
        rest = float(np.nanmean(others)) if np.isfinite(others).any() else None
        before, after = float(cues.recall()[label]), float(cues.recall(one.name)[label])
        compared = "" if rest is None else f"; the other classes {_number(rest)}"
        text = (
            f"{name} rests on {one.what}: with that of an image of another class it loses {_number(loss)} of the median margin "
            f"({_number(loss - half)}–{_number(loss + half)}{compared}) and {100 * before:.0f} → {100 * after:.0f} % of its "
            f"images are still recognised; others that are given it move {_number(pull)} median margins towards {name}"
        )
        figures = {
            "cue": one.name,
            "loss": [loss, loss - half, loss + half],
            "pull": [pull, pull - float(one.pull_half[label]), pull + float(one.pull_half[label])],
            "loss_of_others": rest,
            "recall": before,
            "recall_swapped": after,
        }
        edit = about.command("edit", f"--without-cue {one.name}", "--network …")
        look = about.command("explain", "IMAGE", "--network …")
        do = f"learn the head anew without it: {edit}; see in an image of it which features look there: {look}"
        return self.found(text, do, [name], figures)


class OnBorder(RestsOn):
    """On a corner, or the border."""

    code, title = "C101", "rests on its border or on one corner"
    why = "a mark, a frame or a background decides: without it the class is missed, and others with it become the class"
    rules = Rule(_CORNERS, CORNER), Rule(("border",), BORDER, ("centre", OVER_CENTRE))


class OnColour(RestsOn):
    """On colour."""

    code, title = "C102", "rests on colour"
    why = "another light, camera or variety of the thing has other colours"
    rules = (Rule(("colour",), COLOUR),)


class OnTones(RestsOn):
    """On brightness, or contrast."""

    code, title = "C103", "rests on brightness or contrast"
    why = "how light an image is tells of its exposure, not of what it shows"
    rules = (Rule(("brightness", "contrast"), TONES),)


class OnTexture(RestsOn):
    """On the finest grain, or texture."""

    code, title = "C104", "rests on grain or texture"
    why = "grain tells of a camera or a file format; texture without shape misleads where another thing has it"
    rules = (
        Rule(("grain",), GRAIN, ("layout", GRAIN_OVER_LAYOUT)),
        Rule(("texture",), TEXTURE, ("layout", TEXTURE_OVER_LAYOUT)),
    )


class Elsewhere(Check):
    """A feature that looks at the border, among features that look at the centre."""

    code, title = "C105", "a feature looks where the class's other features don't"
    how = (
        "the border, or a corner, explains three times as much of the feature's variance as the centre (beyond both 95 % "
        "intervals), and for most of the class's other features it is the other way round (subspect cues)"
    )
    why = "a single feature at the border of an object's image often is a mark or a background"

    def find(self, about: About) -> Sequence[Finding]:
        """Return a finding for each class."""
        cues = about.cues
        edges = [cues[name] for name in ("border", *_CORNERS) if name in cues.names]
        if not edges or "centre" not in cues.names:
            needed = about.command("cues", "--cue border --cue corner --cue centre", "--network …")
            raise Skipped(f"needs cues: {needed}")
        low = np.stack([one.moved - one.moved_half for one in edges])
        most, centre = np.stack([one.moved for one in edges]).max(axis=0), cues["centre"]
        outward = low.max(axis=0) > np.maximum(EDGE, EDGE_OVER_CENTRE * (centre.moved + centre.moved_half))
        inward = most < centre.moved
        found = []
        for label in about.seen:
            own = about.decomposition.supports[label]
            odd = own[outward[own]]
            if len(odd) and len(own) > 2 and inward[own].sum() > (len(own) - 1) / 2:
                where = [edges[place].what for place in low[:, odd].argmax(axis=0).tolist()]
                found.append(self._finding(about, label, odd.tolist(), where, most))
        return found

    def _finding(
        self, about: About, label: int, odd: list[int], where: list[str], most: npt.NDArray[np.float64]
    ) -> Finding:
        name, centre = about.names[label], about.cues["centre"].moved
        each = [
            f"{about.feature(one)} looks at {place} ({explained(most[one])} of its variance; the centre explains "
            f"{explained(centre[one])})"
            for one, place in zip(odd, where, strict=True)
        ]
        text = f"in {name}, {some(each, 3)}, while most of the class's other features look at the centre"
        figures = {
            "features": odd,
            "at": where,
            "moved": [float(most[one]) for one in odd],
            "moved_centre": [float(centre[one]) for one in odd],
        }
        drop = about.command("edit", *(f"--drop {about.called(label)}:{one}" for one in odd))
        return self.found(
            text,
            f"look at its images: {about.command('report', '--network …')}; do without it: {drop}",
            [name],
            figures,
        )


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")


ON_CUES: tuple[Check, ...] = (OnBorder(), OnColour(), OnTones(), OnTexture(), Elsewhere())
