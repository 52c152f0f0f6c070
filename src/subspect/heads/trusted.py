"""What is known of a decomposition's features besides their weights: how often, how large, how far to be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

FOUND = 100  #: near-equal supports, from which on no more are looked for
_Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class FeatureRow:
    """One influential feature of a class.

    Attributes:
        feature: its index.
        weight: its weight in the class's logit.
        frequency: the share of the class's images that have it among their largest.
        mean: its mean over the class's images; times the weight, its mean contribution.
        stability: the share of halves of the images in which it is chosen again; None where that wasn't measured.
        substitutes: features that could stand in for it, each with the share of what is lost without it that they win back.
        core: whether all near-equal supports of the class have it; None where that wasn't measured.
        equals: those of the substitutes with which the class's support is near-equal.
        interval: of the stability, 95 %, after Wilson (1927): the halves are few.
        scale: how much of it counts as 1, where weights are readable; then the weight is the class's scale over this, or less
            that (see `subspect.choosing.ternary`). None where weights are free.

    Example:
        >>> row = decomposition.rows(1)[0]
        >>> abs(row.contribution - row.weight * row.mean) < 1e-6
        True
    """

    feature: int
    weight: float
    frequency: float
    mean: float
    stability: float | None = None
    substitutes: tuple[tuple[int, float], ...] = ()
    core: bool | None = None
    equals: tuple[int, ...] = ()
    interval: tuple[float, float] | None = None
    scale: float | None = None

    @property
    def sign(self) -> int:
        """1 where it speaks for the class, −1 where it speaks against it, 0 where its weight is 0."""
        return (self.weight > 0) - (self.weight < 0)

    @property
    def contribution(self) -> float:
        """Mean contribution to the class's logit over the class's images."""
        return self.weight * self.mean


@dataclass(frozen=True, eq=False)
class Trusted:
    """How far the choice of features can be trusted (see `subspect.choosing.stability`).

    Attributes:
        stability: (nnz,) float32, the share of halves of the images in which a feature is chosen again; 0 where there was none.
        jaccard: (C,) float32, mean Jaccard index of a class's supports of two such halves; 0 where there were
            fewer than three.
        draws: (C,) halves with images of the class.
        distinct: (C,) how many different supports they gave.
        substitutes: (nnz, m) the features that could best stand in for each; −1 where there are fewer.
        recovered: (nnz, m) float32, of what is lost without the feature, the share that each wins back.
        equal: (nnz, m) whether the support with it instead is near-equal.
        core: (nnz,) whether all near-equal supports that were found have the feature.
        near_equal: (C,) how many near-equal supports were found, the chosen one included; 0 where unknown.
        tolerance: (C,) float32, what a near-equal support may explain less, in nats, as a mean over all images.

    Example:
        >>> trust = study.decompose(5, draws=20).trust
        >>> trust.stability.shape
        torch.Size([20])
    """

    stability: Tensor
    jaccard: Tensor
    draws: Tensor
    distinct: Tensor
    substitutes: Tensor
    recovered: Tensor
    equal: Tensor
    core: Tensor
    near_equal: Tensor
    tolerance: Tensor

    def without(self, label: int, own: slice, place: int) -> Trusted:
        """Return the same without one of a class's own entries: of what is left of it nothing is known any more."""
        kept = torch.arange(len(self.stability)) != place
        blank = {"draws": 0, "distinct": 0, "near_equal": 0, "jaccard": 0}
        nothing = {"stability": 0, "substitutes": -1, "recovered": 0, "equal": False, "core": False}
        classes = {name: _with(getattr(self, name), label, value) for name, value in blank.items()}
        return replace(
            self, **classes, **{name: _with(getattr(self, name), own, value)[kept] for name, value in nothing.items()}
        )

    def about(self, label: int) -> dict[str, Any]:
        """Return what is known of a class as a whole, as JSON values; None for what isn't known."""
        counts = {name: int(getattr(self, name)[label]) for name in ("draws", "distinct", "near_equal")}
        return {
            "jaccard": float(self.jaccard[label]) if counts["draws"] > 2 else None,
            **counts,
            "tolerance_nats": float(self.tolerance[label]),
        }

    def rows(self, label: int, part: slice) -> Iterator[dict[str, Any]]:
        """Return for each feature of a class, whose entries are a part, what of a `FeatureRow` is known here."""
        draws, known = int(self.draws[label]), bool(self.near_equal[label])
        columns = (getattr(self, name)[part].tolist() for name in ENTRIES)
        for stability, substitutes, recovered, equal, core in zip(*columns, strict=True):
            there = [place for place, feature in enumerate(substitutes) if feature >= 0]
            came = round(stability * draws)  # a count, which float32 doesn't hold as a share
            yield {
                "stability": came / draws if draws else None,
                "substitutes": tuple((substitutes[place], recovered[place]) for place in there),
                "core": core if known else None,
                "equals": tuple(substitutes[place] for place in there if equal[place]),
                "interval": interval(came, draws) if draws else None,
            }


def _with(values: Tensor, where: int | slice, value: float) -> Tensor:
    """Return a copy with some entries of one value."""
    values = values.clone()
    values[where] = value
    return values


#: attributes of `Trusted` that have an entry for each feature of a support
ENTRIES = ("stability", "substitutes", "recovered", "equal", "core")


def interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share after Wilson (1927), without continuity correction; n ≥ 1."""
    share, z2 = successes / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * sqrt(share * (1 - share) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return (max(centre - half, 0.0) if successes else 0.0), (min(centre + half, 1.0) if successes < n else 1.0)


def falsely_chosen(size: int, features: int, share: float) -> float:
    """Return how many features with at least a share of the halves are, at most and on average, there by chance.

    By chance is a feature that a half gives with a probability of no more than size / features, as if features were drawn
    from a hat. The bound, ``size² / features / (2 share − 1)``, assumes no more than that images are independent, and that
    halves come in pairs without an image in common (Shah, Samworth 2013, theorem 1).

    Args:
        size: features that each half gives to the class.
        features: there are.
        share: of the halves, above one half.
    """
    return min(float(size), size**2 / features / (2 * share - 1)) if share > 0.5 else float(size)
