"""What a decomposition costs: accuracy, top-5 accuracy, fidelity and divergence, dense against decomposed.

Shares come with Wilson's 95 % interval (Wilson 1927), the mean Kullback-Leibler divergence ``KL(dense ‖ decomposed)``,
in nats, with a normal one. The images are ones that took no part in choosing the features: another image set, or, where
the study has only one, the fifth of it that a hash of the image id set apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from subspect.ground.errors import MissingExtra, SubspectError
from subspect.ground.tables import Table
from subspect.heads.decomposition import Decomposition
from subspect.heads.history import Part
from subspect.studies.shards import Chunk
from subspect.studies.study import Study

if TYPE_CHECKING:
    import pandas as pd

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_COUNTED = ("dense_accuracy", "accuracy", "dense_top5", "top5", "fidelity")


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What a decomposition costs on some images.

    Attributes:
        images: their number.
        dense_accuracy: accuracy of the dense network, as a share.
        accuracy: accuracy of the decomposed network.
        dense_top5: share of images whose label is among the five largest dense logits; None with five classes or fewer.
        top5: the same of the decomposed logits.
        fidelity: share of images on which both networks agree on the top-1 class.
        divergence: mean Kullback-Leibler divergence from the dense network, in nats.
    """

    images: int
    dense_accuracy: Estimate
    accuracy: Estimate
    dense_top5: Estimate | None
    top5: Estimate | None
    fidelity: Estimate
    divergence: Estimate


@dataclass(frozen=True)
class Fidelity:
    """The cost of a decomposition, overall and per class.

    Attributes:
        decomposition: its name.
        image_set: the image set that was evaluated on.
        part: which part of it.
        held_out: whether these images took no part in choosing the features.
        sized: whether the number of features was chosen on them.
        labelled: whether the images have labels; else the dense network's predictions stand in for them.
        unseen: number of these images whose class had no image to choose features on, and so keeps its dense row.
        overall: on all images.
        classes: class name → cost on the images of that class; None where there are none.
    """

    decomposition: str
    image_set: str
    part: Part
    held_out: bool
    sized: bool
    labelled: bool
    unseen: int
    overall: Cost
    classes: dict[str, Cost | None]

    @property
    def note(self) -> str:
        """Say on which images the figures were taken, and what stands for the labels."""
        part = "" if self.part == "all" else f", {self.part} of it set apart by a hash of the image id"
        note = f"{self.overall.images:,} images of {self.image_set!r}{part}"
        if not self.held_out:
            note += "; these images took part in choosing features or weights, so the figures flatter"
        if self.sized:
            note += "; the number of features was chosen on them, so the figures flatter a little"
        if self.unseen:
            note += f"; {self.unseen:,} are of classes that had no image to choose features on and keep their dense row"
        if not self.labelled:
            note += "; no labels: the dense network's own predictions stand in, so accuracy here is fidelity"
        return note

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "note": self.note}

    def to_frame(self) -> pd.DataFrame:
        """Return a row for all images and one for each class, with a column for each figure and each end of its interval.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtra("pandas", "pandas", "a DataFrame") from error
        rows = {"overall": self.overall, **self.classes}
        return pd.DataFrame.from_dict({name: _flat(cost) for name, cost in rows.items()}, orient="index")

    def table(self) -> Table:
        """Return a table for the terminal: each figure with its 95 % interval, dense against decomposed."""
        table = Table(title=f"What {self.decomposition} costs", caption=self.note, title_justify="left")
        for column in ("", "dense", "decomposed"):
            table.add_column(column, justify="right" if column else "left")
        cost = self.overall
        table.add_row("accuracy", percent(cost.dense_accuracy), percent(cost.accuracy))
        if cost.top5 is not None:
            table.add_row("top-5 accuracy", percent(cost.dense_top5), percent(cost.top5))
        table.add_row("fidelity", "", percent(cost.fidelity))
        kl = cost.divergence
        table.add_row("divergence (KL)", "", f"{kl.value:.3f} nats ({kl.low:.3f}–{kl.high:.3f})")
        return table

    def class_table(self) -> Table:
        """Return a table for the terminal with a row for each class."""
        table = Table(title=f"What {self.decomposition} costs each class", caption=self.note, title_justify="left")
        for column in ("class", "images", "accuracy dense", "decomposed", "fidelity", "KL"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, cost in self.classes.items():
            if cost is None:
                table.add_row(name, "0")
                continue
            shares = (percent(estimate, 0) for estimate in (cost.dense_accuracy, cost.accuracy, cost.fidelity))
            table.add_row(name, f"{cost.images:,}", *shares, f"{cost.divergence.value:.3f}")
        return table


def evaluate(study: Study, decomposition: Decomposition, on: str | None = None) -> Fidelity:
    """Measure what a decomposition costs.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        on: the image set; unless given, one that took no part in choosing the features ("test" if there is one) nor, if
            there is such, their number; or the 20 % of the same set that were set apart.

    Raises:
        SubspectError: no such image set, another network's decomposition, or no image to evaluate on.
    """
    decomposition.check(study)
    image_set, part, held_out = _images(decomposition, study, on)
    tally = _Tally(study.identity.n_classes)
    weight, bias = study.head()
    layer = decomposition.layer().requires_grad_(False)
    for chunk in study[image_set].chunks(part):
        x = torch.from_numpy(np.array(chunk.features))
        tally.update(chunk, torch.addmm(bias, x, weight.T), layer(x))
    if not tally.images.sum():
        raise SubspectError(f"no images to evaluate on: {part} of {image_set!r} is empty; add an image set of its own")
    names = _unique(study.identity.class_names)
    return Fidelity(
        decomposition=decomposition.name,
        image_set=image_set,
        part=part,
        held_out=held_out,
        sized=_sized(decomposition, study, image_set, part),
        labelled=study[image_set].labelled,
        unseen=int(tally.images[list(decomposition.unseen)].sum()),
        overall=tally.cost(slice(None)),
        classes={
            name: tally.cost(slice(label, label + 1)) if tally.images[label] else None
            for label, name in enumerate(names)
        },
    )


def _images(decomposition: Decomposition, study: Study, on: str | None) -> tuple[str, Part, bool]:
    chosen, part = decomposition.chosen_on
    others = [name for name in study.set_names if name not in (chosen, *decomposition.refitted_on)]
    if on is None:
        labelled = [name for name in others if study[name].labelled] or others
        known = {study[name].manifest.fingerprint for name in _settled_on(decomposition) if name in study.set_names}
        fresh = [name for name in labelled if study[name].manifest.fingerprint not in known] or labelled
        on = "test" if "test" in fresh else fresh[0] if fresh else chosen
    if on != chosen:
        learned = (chosen, *(name for name in decomposition.refitted_on if name in study.set_names))
        return on, "all", study[on].manifest.fingerprint not in {study[name].manifest.fingerprint for name in learned}
    return (on, "20 %", True) if part == "80 %" else (on, "all", False)


def _settled_on(decomposition: Decomposition) -> list[str]:
    """Name the image sets whose images had a say in the number of features."""
    if decomposition.auto is None:
        return []
    promise = decomposition.auto["promise"]
    return [decomposition.auto["sized_on"][0], *([promise["set"]] if promise else [])]


def _sized(decomposition: Decomposition, study: Study, image_set: str, part: Part) -> bool:
    """Tell whether the number of features was chosen on these images."""
    chosen = [name for name in _settled_on(decomposition) if name in study.set_names]
    same = {study[name].manifest.fingerprint for name in chosen}
    if decomposition.auto is None or study[image_set].manifest.fingerprint not in same:
        return False
    return image_set != decomposition.chosen_on[0] or part == decomposition.auto["sized_on"][1]


class _Tally:
    """Counts and sums per class, from which every figure comes."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.images = np.zeros(n_classes, np.int64)
        self.counts = {name: np.zeros(n_classes, np.int64) for name in _COUNTED}
        self.divergence = np.zeros(n_classes)
        self.squares = np.zeros(n_classes)

    def update(self, chunk: Chunk, dense: torch.Tensor, decomposed: torch.Tensor) -> None:
        """Take in the logits (m, C) of a chunk."""
        labels, n = torch.from_numpy(chunk.labels), self.n_classes
        predicted, said = decomposed.argmax(dim=1), torch.from_numpy(chunk.predictions)
        hits = {"dense_accuracy": said == labels, "accuracy": predicted == labels, "fidelity": predicted == said}
        if n > 5:
            hits["dense_top5"], hits["top5"] = _in_top5(dense, labels), _in_top5(decomposed, labels)
        self.images += np.bincount(chunk.labels, minlength=n)
        for name, hit in hits.items():
            self.counts[name] += np.bincount(chunk.labels[hit.numpy()], minlength=n)
        log_p, log_q = dense.double().log_softmax(dim=1), decomposed.double().log_softmax(dim=1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1).clamp_min(0).numpy()
        self.divergence += np.bincount(chunk.labels, divergence, n)
        self.squares += np.bincount(chunk.labels, divergence**2, n)

    def cost(self, classes: slice) -> Cost:
        """Return the figures on the images of some classes."""
        n = int(self.images[classes].sum())
        shares: dict[str, Any] = {name: wilson(int(count[classes].sum()), n) for name, count in self.counts.items()}
        if self.n_classes <= 5:
            shares["dense_top5"] = shares["top5"] = None
        mean = float(self.divergence[classes].sum()) / n
        spread = _Z * sqrt(max(float(self.squares[classes].sum()) / n - mean**2, 0) / n)
        return Cost(n, divergence=Estimate(mean, max(mean - spread, 0.0), mean + spread), **shares)


def wilson(successes: int, n: int) -> Estimate:
    """Return a share and its 95 % interval after Wilson (1927), without continuity correction; n ≥ 1."""
    share, z2 = successes / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * sqrt(share * (1 - share) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    low = max(centre - half, 0.0) if successes else 0.0
    return Estimate(share, low, min(centre + half, 1.0) if successes < n else 1.0)


def _in_top5(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.topk(5, dim=1).indices == labels[:, None]).any(dim=1)


def _unique(names: tuple[str, ...]) -> list[str]:
    """Tell classes of one name apart by their index, as ImageNet's two "crane"s."""
    return [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)]


def _flat(cost: Cost | None) -> dict[str, float]:
    if cost is None:
        return {"images": 0}
    row: dict[str, float] = {"images": cost.images}
    for name, value in vars(cost).items():
        if isinstance(value, Estimate):
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return row


def percent(estimate: Estimate | None, digits: int = 2) -> str:
    """Show a share with its interval, in percent; the ends with a digit less than the share."""
    if estimate is None:
        return ""
    ends = f"{100 * estimate.low:.{max(digits - 1, 0)}f}–{100 * estimate.high:.{max(digits - 1, 0)}f}"
    return f"{100 * estimate.value:.{digits}f} % ({ends})"
