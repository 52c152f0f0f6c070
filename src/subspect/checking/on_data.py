"""What the images, their labels and their preparation look like from the network's side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from subspect.checking.about import About, Counts
from subspect.checking.finding import Check, Finding, Skipped
from subspect.checking.thresholds import APART, BETTER, LISTED, MISCALIBRATED, PREPARED, SUSPECT_IMAGES, SUSPECTS
from subspect.ground.errors import some
from subspect.ground.text import counted
from subspect.images.batches import batches
from subspect.images.preprocessing import Preprocessing
from subspect.measuring.fidelity import Estimate, percent, wilson
from subspect.networks.network import Network
from subspect.statistics.outcomes import Calibration
from subspect.studies.reopen import Reopened, open_again
from subspect.studies.spread import spread
from subspect.swapping.pixels import Tones, checked
from subspect.swapping.through import read

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Apart(Check):
    """Accuracy that differs between image sets, and confidence that isn't accuracy."""

    code, title = "D401", "accuracy differs between image sets, or from confidence"
    how = (
        f"the dense accuracy of a class differs by {100 * APART:.0f} points or more between the set that features were chosen "
        "on and the one measured on, and the 95 % intervals don't touch; or the decomposed head's expected calibration error "
        f"is {100 * MISCALIBRATED:.0f} points or more above what chance alone gives with as many images"
    )
    why = "the network knows some images by heart, or the sets differ in kind; a confidence that isn't the accuracy misleads"

    def find(self, about: About) -> Sequence[Finding]:
        """Return up to two findings."""
        about.needs_labels(about.where.image_set)
        return [*self._between(about), *self._calibration(about)]

    def scope(self, about: About) -> str:
        """Say on which images, and where there was nothing to compare."""
        alone = "calibration alone, as there is no other image set with labels; " if self._other(about) is None else ""
        return alone + about.where.note

    def _other(self, about: About) -> str | None:
        chosen = about.decomposition.chosen_on[0]
        if chosen == about.where.image_set or chosen not in about.study.set_names:
            return None
        return chosen if about.study.image_set(chosen).labelled else None

    def _between(self, about: About) -> list[Finding]:
        other, here, outcomes = self._other(about), about.where.image_set, about.outcomes
        if other is None:
            return []
        n, pairs = len(about.names), [(c.labels, c.predictions) for c in about.study.image_set(other).chunks()]
        labels, said = (np.concatenate(one) for one in zip(*pairs, strict=True))
        on_other = _accuracies(labels, said, n)
        on_here = _accuracies(outcomes.labels, outcomes.dense, n)
        apart = {
            label: (there, on_here[label])
            for label, there in on_other.items()
            if label in on_here and _differ(there, on_here[label])
        }
        if not apart:
            return []
        worst = max(apart, key=lambda label: abs(apart[label][0].value - apart[label][1].value))
        shares = [percent(share, 0) for share in apart[worst]]
        one, own = (about.study.image_set(name).called() for name in (other, here))
        many, most = f"{len(apart):,} of {n:,} classes", f"; most for {about.names[worst]}"
        whose, for_whom = (many, most) if len(apart) > 1 else (about.names[worst], "")
        text = (
            f"the dense accuracy of {whose} differs between {one} and {own}{for_whom}: {shares[0]} on {other!r}, "
            f"{shares[1]} on {here!r}"
        )
        figures = {
            "classes": {about.names[label]: [share.value for share in pair] for label, pair in apart.items()},
            "sets": [other, here],
        }
        do = f"look at its images of both: {about.command('report', f'--on {here}', '--network …')}"
        return [self.found(text, do, [about.names[label] for label in apart], figures)]

    def _calibration(self, about: About) -> list[Finding]:
        outcomes, counted = about.outcomes, (Calibration(), Calibration())
        for place, said in enumerate((outcomes.dense, outcomes.decomposed)):
            counted[place].update(outcomes.confidence[place], said == outcomes.labels)
        dense, own = (one.error() for one in counted)
        chance = _by_chance(counted[1])
        if own - chance < MISCALIBRATED:
            return []
        accuracy, sure = float((outcomes.decomposed == outcomes.labels).mean()), float(outcomes.confidence[1].mean())
        text = (
            f"the decomposed head's confidence is off by {100 * own:.1f} points on average (by chance {100 * chance:.1f}, "
            f"the dense head's is off by {100 * dense:.1f}): it says {100 * sure:.0f} % and is right on {100 * accuracy:.0f} %"
        )
        figures = {"error": own, "by_chance": chance, "error_dense": dense, "confidence": sure, "accuracy": accuracy}
        do = f"don't read its probabilities as such; learn weights anew: subspect decompose {about.place} --refit"
        if dense >= own - MISCALIBRATED:
            do = "don't read probabilities as such: the dense network's are no better, so train or calibrate that one first"
        return [self.found(text, do, (), figures)]


class Prepared(Check):
    """Images that are prepared in another way than the network was trained on."""

    code, title = "D402", "preprocessing looks wrong"
    how = (
        f"runs the network on {PREPARED[0]} images of each of both image sets, with red and blue exchanged, with pixels from 0 "
        f"to 255, and with ImageNet's mean and std: one of these is better by {100 * BETTER:.0f} points or more, and its 95 % "
        f"interval above what is; where only the interval isn't, on {PREPARED[1]} images"
    )
    why = "all that is measured is of images as the network never saw them"

    def find(self, about: About) -> Sequence[Finding]:
        """Return a finding for each image set: the one measured on, and the one that features were chosen on."""
        if about.network is None:
            raise Skipped("name the network: --network … on the command line, network=… in Python")
        here, other = about.where.image_set, self._other(about)
        found = self._of(about, about.network, here)
        try:
            return found if other is None else [*found, *self._of(about, about.network, other)]
        except Skipped:  # the scope says so
            return found

    def scope(self, about: About) -> str:
        """Say of which image sets, and why not of the other."""
        here, other = about.where.image_set, self._other(about)
        if other is None or about.network is None:
            return self._tried(about, here)
        try:
            _images(about, about.network, other, PREPARED[0])
        except Skipped as reason:
            return f"{self._tried(about, here)} alone; {other!r}: {reason}"
        return f"{self._tried(about, here)}, and {self._tried(about, other)}"

    def _tried(self, about: About, name: str) -> str:
        return f"{counted(min(len(about.study.image_set(name)), PREPARED[0]), 'image', 'images')} or more of {name!r}"

    def _other(self, about: About) -> str | None:
        chosen = about.decomposition.chosen_on[0]
        return chosen if chosen != about.where.image_set and chosen in about.study.set_names else None

    def _of(self, about: About, network: Network, name: str) -> list[Finding]:
        for count in PREPARED:
            pixels, labels = _images(about, network, name, count)
            ways = _ways(network, pixels)
            right = {way: int((_said(network, changed) == labels).sum()) for way, changed in ways.items()}
            n, before = len(labels), right.pop("")
            best = max(right, key=lambda way: right[way])
            better = wilson(right[best], n)
            if n < count or better.value - before / n < BETTER or better.low > before / n:
                break
        if better.value - before / n < BETTER or better.low <= before / n:
            return []
        text = (
            f"with {best} the network is right on {percent(better, 0)} of {n} images of {name!r}, as they are prepared now on "
            f"{100 * before / n:.0f} %"
        )
        figures = {"set": name, "images": n, "accuracy": before / n, **{way: count / n for way, count in right.items()}}
        do = (
            "compare the preprocessing with that of the training, and observe again with the right one, into another study: "
            "subspect observe … --mean … --std …"
        )
        return [self.found(text, do, (), figures)]


class Suspects(Check):
    """Images whose label both heads contradict."""

    code, title = "D403", "labels that look wrong"
    how = (
        "the dense and the decomposed head agree on another class than the label, each with at least its median margin; "
        f"{100 * SUSPECTS:.0f} % of the images, or {SUSPECT_IMAGES} of them"
    )
    why = "wrong labels cost accuracy in every figure, and teach wrong features"

    def find(self, about: About) -> Sequence[Finding]:
        """Return one finding."""
        about.needs_labels(about.where.image_set)
        outcomes = about.outcomes
        relative = outcomes.margins / np.maximum(np.median(outcomes.margins, axis=1, keepdims=True), 1e-12)
        sure = relative.min(axis=0)
        rows = sorted((row for row in outcomes.odd if sure[row] >= 1), key=lambda row: -sure[row])
        n = len(outcomes.labels)
        if not rows or (len(rows) < SUSPECT_IMAGES and len(rows) / n < SUSPECTS):
            return []
        listed = [
            {
                "id": outcomes.odd[row],
                "label": about.names[int(outcomes.labels[row])],
                "said": about.names[int(outcomes.dense[row])],
            }
            for row in rows
        ]
        first = some([f"{one['id']} ({one['label']}, said to be {one['said']})" for one in listed], 3)
        text = (
            f"both heads are sure that {len(rows):,} of {n:,} {about.study.identity.examples} of {about.where.image_set!r} "
            f"({100 * len(rows) / n:.1f} %) are of another class than their label: {first}"
        )
        on = f"--on {about.where.image_set}"
        do = f"look at them; their ids: {about.command('check', on, '--json')}; mend labels, then observe again"
        classes = [about.names[one] for one in np.unique(outcomes.labels[rows]).tolist()]
        return [self.found(text, do, classes, {"images": len(rows), "share": len(rows) / n, "listed": listed[:LISTED]})]

    def scope(self, about: About) -> str:
        """Say on which images."""
        return about.where.note


def _accuracies(labels: Counts, said: Counts, n: int) -> dict[int, Estimate]:
    images, right = np.bincount(labels, minlength=n), np.bincount(labels[labels == said], minlength=n)
    return {label: wilson(int(right[label]), int(images[label])) for label in np.flatnonzero(images).tolist()}


def _differ(one: Estimate, other: Estimate) -> bool:
    low, high = sorted((one, other), key=lambda each: each.value)
    return high.value - low.value >= APART and high.low > low.high


def _by_chance(counted: Calibration) -> float:
    """Return the calibration error of a head whose confidence is its accuracy, on so many images of each confidence."""
    n = np.maximum(counted.images, 1)
    mean = counted.confidence / n
    gaps = np.sqrt(2 / np.pi * counted.images * mean * (1 - mean).clip(0))
    return float(gaps.sum() / max(counted.images.sum(), 1))


def _images(about: About, network: Network, name: str, count: int) -> tuple[Tensor, Counts]:
    """Return so many images of an image set as the network gets them, and their labels.

    Where the user says where images are, those of the set that is measured on are meant; the other's are where they were.

    Raises:
        Skipped: it has no labels, none can be opened again, or they have no three channels.
    """
    about.needs_labels(name)
    image_set = about.study.image_set(name)
    given = about.images if name == about.where.image_set else None
    listed = [(chunk.ids, chunk.labels) for chunk in image_set.chunks()]
    ids, labels = [id for own, _ in listed for id in own], np.concatenate([own for _, own in listed])
    drawn = spread(labels, count, 0)
    known = {ids[place]: int(labels[place]) for place in drawn.tolist()}
    images = Reopened(image_set, list(known), open_again(given, image_set))
    [batch] = batches(images, network.preprocessing, None, [list(range(len(images)))])
    if batch.pixels is None:
        reasons = some((f"{id}: {why}" for id, why in batch.failed), 1)
        raise Skipped(
            f"none of {len(known)} images could be opened again ({reasons}); say where they are: --images FOLDER"
        )
    pixels = checked(batch.pixels)
    if pixels.shape[1] != 3:
        raise Skipped(f"needs images of three channels; the network's have {pixels.shape[1]}")
    return pixels, np.array([known[id] for id in batch.ids])


def _ways(network: Network, pixels: Tensor) -> dict[str, Tensor]:
    """Return the images as they are, under "", and prepared in other ways."""
    own, tones = network.preprocessing, Tones.of(network.preprocessing, pixels)
    pictures = tones.pictures(pixels)
    ways = {
        "": pixels,
        "red and blue exchanged": tones.pixels(pictures.flip(1)),
        "pixels from 0 to 255": 255 * pictures,
    }
    if not (isinstance(own, Preprocessing) and (own.mean, own.std) == _IMAGENET):
        mean, std = (torch.tensor(one)[:, None, None] for one in _IMAGENET)
        ways["ImageNet's mean and std"] = (pictures - mean) / std
    return ways


def _said(network: Network, pixels: Tensor) -> Counts:
    with network.running():
        return read(network, pixels, PREPARED[0])[1]


ON_DATA: tuple[Check, ...] = (Apart(), Prepared(), Suspects())
