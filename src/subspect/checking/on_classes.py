"""What two classes have to do with each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subspect.checking.about import About, Counts
from subspect.checking.finding import Check, Finding, Skipped
from subspect.checking.thresholds import CONFUSED, CONFUSED_IMAGES, SHARED


class Alike(Check):
    """Two classes by the same features, which are confused."""

    code, title = "K301", "two classes share their features and are confused"
    how = (
        f"the Jaccard index of their features is {SHARED:g} or more, and {100 * CONFUSED:.0f} % of the images of one, "
        f"{CONFUSED_IMAGES} at least, are taken for the other by the dense or the decomposed head"
    )
    why = "the network hardly has a feature that tells them apart; they may overlap, or need more images"

    def find(self, about: About) -> Sequence[Finding]:
        """Return a finding for each pair, the most confused first."""
        outcomes, n = about.outcomes, len(about.names)
        images = np.bincount(outcomes.labels, minlength=n)
        if (images > 0).sum() < 2:
            raise Skipped(f"needs images of two classes: those of {about.where.image_set!r} are of one")
        worst = dict[tuple[int, int], tuple[float, int, int, str]]()
        for head, said in (("dense", outcomes.dense), ("decomposed", outcomes.decomposed)):
            for label, other, count in _taken(outcomes.labels, said, n):
                share, pair = count / int(images[label]), (min(label, other), max(label, other))
                if share >= CONFUSED and count >= CONFUSED_IMAGES and share > worst.get(pair, (0.0,))[0]:
                    worst[pair] = (share, label, count, head)
        found = []
        for pair, (share, label, count, head) in sorted(worst.items(), key=lambda one: -one[1][0]):
            first, second = (set(about.decomposition.supports[each].tolist()) for each in pair)
            both, either = len(first & second), len(first | second)
            jaccard = both / max(either, 1)
            if jaccard < SHARED or not set(pair) <= set(about.seen):
                continue
            name, than = about.names[label], about.names[sum(pair) - label]
            text = (
                f"{name} and {than} share {both} of {either} features, and the {head} head takes {100 * share:.0f} % of the "
                f"images of {name} ({count} of {images[label]} in {about.where.image_set!r}) for {than}"
            )
            figures = {"jaccard": jaccard, "shared": both, "share": share, "images": count, "head": head}
            do = f"see what tells them apart: {about.command('compare', *map(about.called, pair))}"
            found.append(self.found(text, do, [name, than], figures))
        return found

    def scope(self, about: About) -> str:
        """Say on which images."""
        return about.where.note


def _taken(labels: Counts, said: Counts, n: int) -> list[tuple[int, int, int]]:
    """Return (class, another that its images are taken for, their number)."""
    wrong = labels != said
    pairs, counts = np.unique(labels[wrong] * n + said[wrong], return_counts=True)
    return [(*divmod(pair, n), count) for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)]


ON_CLASSES: tuple[Check, ...] = (Alike(),)
