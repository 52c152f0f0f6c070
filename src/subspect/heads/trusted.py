"""What is known of a decomposition's features besides their weights: how often, how large, how far to be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeatureRow:
    """One influential feature of a class.

    Attributes:
        feature: its index.
        weight: its weight in the class's logit.
        frequency: the share of the class's images that have it among their largest.
        mean: its mean over the class's images; times the weight, its mean contribution.
        stability: the share of redrawn image samples in which it is chosen again; None where that wasn't measured.
        substitutes: features that could stand in for it, each with the share of its worth that it makes good.
    """

    feature: int
    weight: float
    frequency: float
    mean: float
    stability: float | None = None
    substitutes: tuple[tuple[int, float], ...] = ()

    @property
    def contribution(self) -> float:
        """Mean contribution to the class's logit over the class's images."""
        return self.weight * self.mean


@dataclass(frozen=True, eq=False)
class Trusted:
    """How far the choice of features can be trusted (see `subspect.choosing.stability`).

    Attributes:
        stability: (nnz,) float32, the share of redrawn image samples in which a feature is chosen again.
        jaccard: (C,) float32, mean Jaccard index of a class's supports between two such samples.
        substitutes: (nnz, m) the features that could best stand in for each; −1 where there are fewer.
        recovered: (nnz, m) float32, the share of the feature's worth that each makes good.
    """

    stability: Tensor
    jaccard: Tensor
    substitutes: Tensor
    recovered: Tensor
