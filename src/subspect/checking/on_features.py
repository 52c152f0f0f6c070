"""What the chosen features say of themselves: one that decides alone, doubtful choices, classes that nothing speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from subspect.checking.about import About
from subspect.checking.finding import Check, Finding, Skipped
from subspect.checking.thresholds import ALONE, MANY, SUBSTITUTE, UNSTABLE
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.trusted import Trusted, interval


class Alone(Check):
    """One feature decides a class."""

    code, title = "F201", "decided by one feature alone"
    how = f"of what the class's features say for it on average over its images, one makes {100 * ALONE:.0f} % or more"
    why = "whatever else moves this feature moves the class"

    def find(self, about: About) -> Sequence[Finding]:
        """Return a finding for each class."""
        own, found = about.decomposition, []
        if own.k == 1 or own.supports.sizes[about.seen].max() <= 1:
            raise Skipped("every class has one feature, as was asked for")
        for label in about.seen:
            said = contributions(own, label)
            if not (total := said.clip(0).sum()) or said.max() / total < ALONE:
                continue
            feature, share = int(own.supports[label][said.argmax()]), float(said.max() / total)
            name, size = about.names[label], len(said)
            text = (
                f"{name} is decided by {about.feature(feature)} alone: of what its {size} feature{'s' * (size > 1)} say for "
                f"it, that makes {100 * share:.0f} %"
            )
            figures = {"feature": feature, "share": share, "size": size}
            found.append(self.found(text, _show(about, label), [name], figures))
        return found


class Unstable(Check):
    """Features that another sample of images wouldn't have led to."""

    code, title = "F202", "unstable choice of features"
    how = (
        f"the whole choice was repeated on halves of the images, and less than {100 * UNSTABLE:.0f} % of them give the class "
        "this feature, the upper end of the 95 % interval included; it says nothing of other networks or other training"
    )
    why = "with other images of the same kind, another feature would have been named: don't read much into this one"

    def find(self, about: About) -> Sequence[Finding]:
        """Return one finding for all classes."""
        own, trust = about.decomposition, trusted(about)
        if not trust.draws.any():
            raise Skipped(
                f"the choice wasn't repeated: decompose again, without --draws 0: subspect decompose {about.place}"
            )
        draws = trust.draws.numpy()[own.supports.rows]
        stability = np.where(_seen_entries(about) & (draws > 0), trust.stability.numpy(), np.nan)
        measured = np.flatnonzero(np.isfinite(stability))
        ends = [interval(round(stability[place] * draws[place]), int(draws[place]))[1] for place in measured.tolist()]
        places = measured[np.array(ends) < UNSTABLE]
        if not len(places):
            return []
        worst = int(places[stability[places].argmin()])
        feature, label = int(own.supports.flat[worst]), int(own.supports.rows[worst])
        text = (
            f"{len(places):,} of {len(measured):,} features {'is' if len(places) == 1 else 'are'} chosen "
            f"again on less than {100 * UNSTABLE:.0f} % of the halves of the {own.examples}; the least stable is "
            f"{about.feature(feature)} of {about.names[label]}: on {100 * stability[worst]:.0f} % of them"
        )
        do = _show(about, label)
        if not own.chosen.stable:
            options = replace(own.chosen, stable=True).options
            do = f"choose again in the same way, with --stable: subspect decompose {about.place} {options}; or {do}"
        figures = {"features": len(places), "worst": _entry(about, worst), "stability": float(stability[worst])}
        return [self.found(text, do, _classes(about, places), figures)]


class Substitutes(Check):
    """Features that another could stand in for."""

    code, title = "F203", "a feature has a full substitute"
    how = f"another feature, put in its place, explains {100 * SUBSTITUTE:.0f} % or more of what it explains"
    why = "dropping it, or explaining by it, is arbitrary: the class may lean on the other just as well"

    def find(self, about: About) -> Sequence[Finding]:
        """Return one finding for all classes."""
        own, trust = about.decomposition, trusted(about)
        recovered = np.where(trust.substitutes.numpy() >= 0, trust.recovered.numpy(), 0)
        best = np.where(_seen_entries(about), recovered.max(axis=1, initial=0), 0)
        places = np.flatnonzero(best >= SUBSTITUTE)
        if not len(places):
            return []
        worst = int(places[best[places].argmax()])
        other = int(trust.substitutes[worst, int(recovered[worst].argmax())])
        feature, label = int(own.supports.flat[worst]), int(own.supports.rows[worst])
        text = (
            f"of {int(_seen_entries(about).sum()):,} features, {len(places):,} could be replaced by another; for "
            f"{about.names[label]}, {about.feature(other)} does {100 * best[worst]:.0f} % of what {about.feature(feature)} does"
        )
        figures = {
            "features": len(places),
            "worst": {**_entry(about, worst), "substitute": other},
            "recovered": float(best[worst]),
        }
        return [self.found(text, _show(about, label), _classes(about, places), figures)]


class OnlyAgainst(Check):
    """A class that no feature speaks for."""

    code, title = "F204", "no feature speaks for the class"
    how = "none of its features has a weight and a mean over its images that are of one sign"
    why = "the class is what is left over: any image that moves nothing becomes it"

    def find(self, about: About) -> Sequence[Finding]:
        """Return a finding for each class."""
        found = []
        for label in about.seen:
            said, name = contributions(about.decomposition, label), about.names[label]
            if said.max(initial=0) > 0:
                continue
            what = f"all {len(said)} of its features speak against it" if len(said) else "it has no feature"
            bias = float(about.decomposition.bias[label])
            text = f"{name} is decided by its bias and by other classes: {what}; its bias is {bias:.2f}"
            figures = {"size": len(said), "most": float(said.max()) if len(said) else None, "bias": bias}
            found.append(self.found(text, _show(about, label), [name], figures))
        return found


class ManyFeatures(Check):
    """A class that needs many more features than the others."""

    code, title = "F205", "needs many more features than the others"
    how = f"the class was given more than {MANY:g} times the median number of features"
    why = "its images may be of several kinds, or wrongly labelled: no few features hold them together"

    def find(self, about: About) -> Sequence[Finding]:
        """Return a finding for each class."""
        sizes, seen = about.decomposition.supports.sizes, about.seen
        own = sizes[seen]
        if isinstance(about.decomposition.k, int) or own.min() == own.max():
            raise Skipped(
                "all classes have the same number of features, as was asked for; -k auto and -k mean:5 vary it"
            )
        median, found = float(np.median(own)), []
        for label in sorted((one for one in seen if sizes[one] > MANY * median), key=lambda one: -sizes[one]):
            text = (
                f"{about.names[label]} has {counted(int(sizes[label]), 'feature', 'features')}; the median of all classes "
                f"is {median:g}"
            )
            figures = {"size": int(sizes[label]), "median": median}
            found.append(self.found(text, _show(about, label), [about.names[label]], figures))
        return found


def contributions(decomposition: Decomposition, label: int) -> npt.NDArray[np.float64]:
    """Return (k,): the mean contribution of each feature of a class over its images."""
    part = slice(*decomposition.supports.offsets[label : label + 2])
    return (decomposition.weights[part] * decomposition.mean[part]).double().numpy()


def trusted(about: About) -> Trusted:
    """Return how far the choice can be trusted.

    Raises:
        Skipped: that wasn't measured.
    """
    if about.decomposition.trust is None and about.decomposition.method == "pursuit":
        raise Skipped(f"it was made before this was measured: decompose again: subspect decompose {about.place}")
    if about.decomposition.trust is None:
        raise Skipped(f"stability is measured with pursuit alone: subspect decompose {about.place} --method pursuit")
    return about.decomposition.trust


def _seen_entries(about: About) -> npt.NDArray[np.bool_]:
    return ~np.isin(about.decomposition.supports.rows, about.decomposition.unseen)


def _entry(about: About, place: int) -> dict[str, object]:
    supports = about.decomposition.supports
    return {"class": about.names[int(supports.rows[place])], "feature": int(supports.flat[place])}


def _classes(about: About, places: npt.NDArray[np.int64]) -> list[str]:
    return [about.names[label] for label in np.unique(about.decomposition.supports.rows[places]).tolist()]


def _show(about: About, label: int) -> str:
    return f"look at its features: {about.command('show', f'--class {about.called(label)}')}"


ON_FEATURES: tuple[Check, ...] = (Alone(), Unstable(), Substitutes(), OnlyAgainst(), ManyFeatures())
