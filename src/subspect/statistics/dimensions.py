"""In how many dimensions do points lie? Linear measures from eigenvalues, intrinsic ones from distances to the nearest points.

- *participation ratio* ``(Σλ)² / Σλ²`` of the eigenvalues λ of the covariance; *principal components* for a share of the
  variance; *effective rank* of a matrix ``exp(−Σ p ln p)``, p its singular values over their sum (Roy & Vetterli 2007).
- *intrinsic dimension*: TwoNN (Facco et al. 2017), maximum likelihood (Levina & Bickel 2005, averaged as MacKay & Ghahramani
  say).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST = 50  #: points for an intrinsic dimension; of fewer it says more of their number
_SHARES = (0.9, 0.95, 0.99)
_NEAREST = 20  # for maximum likelihood
_KEPT = 0.9  # of the ratios, the smallest; Facco et al. leave out the tail
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """In how many dimensions some points lie; NaN where there are too few.

    Attributes:
        points: their number.
        participation: participation ratio.
        components: share of the variance → number of principal components.
        two_nn: intrinsic dimension by TwoNN.
        likelihood: intrinsic dimension by maximum likelihood.

    Example:
        >>> spread = decomposition.geometry().network
        >>> spread.points
        60
    """

    points: int
    participation: float
    components: Mapping[float, float]
    two_nn: float
    likelihood: float

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; NaN as None."""
        components = {f"{share:g}": _json(value) for share, value in self.components.items()}
        values = {name: _json(getattr(self, name)) for name in ("participation", "two_nn", "likelihood")}
        return {"points": self.points, **values, "components": components}


def spread(x: npt.NDArray[np.floating], points: int, generator: np.random.Generator) -> Spread:
    """Return the dimensions of points (n, d); intrinsic ones from at most ``points`` of them, drawn."""
    values = variances(x) if len(x) > 1 else np.zeros(1)
    drawn = x if len(x) <= points else x[np.sort(generator.permutation(len(x))[:points])]
    apart = neighbours(drawn, min(_NEAREST, len(drawn) - 1)) if len(drawn) >= LEAST else None
    nothing = float("nan")
    return Spread(
        points=len(x),
        participation=participation(values),
        components={share: components(values, share) for share in _SHARES},
        two_nn=two_nn(apart) if apart is not None else nothing,
        likelihood=likelihood(apart) if apart is not None else nothing,
    )


def variances(x: npt.NDArray[np.floating]) -> Array:
    """Return the eigenvalues of the covariance of points (n, d), the largest first."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    products = centred.T @ centred if len(x) > x.shape[1] else centred @ centred.T
    return np.maximum(np.linalg.eigvalsh(products)[::-1] / max(len(x) - 1, 1), 0)


def participation(values: Array) -> float:
    """Return ``(Σλ)² / Σλ²``; NaN where nothing varies."""
    return float(values.sum() ** 2 / (values**2).sum()) if values.any() else float("nan")


def components(values: Array, share: float) -> float:
    """Return how many of the largest eigenvalues hold a share of their sum; NaN where nothing varies."""
    if not values.any():
        return float("nan")
    held = values.cumsum() / values.sum()
    return float(min(int(np.searchsorted(held, share - 1e-12)) + 1, len(values)))


def effective_rank(weight: npt.NDArray[np.floating]) -> float:
    """Return ``exp(−Σ p ln p)``, p the singular values over their sum (Roy & Vetterli 2007); 0 for a matrix of zeros."""
    values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    shares = values[values > 0] / max(values.sum(), 1e-300)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def neighbours(x: npt.NDArray[np.floating], count: int) -> Array:
    """Return (n, count): the distances to the nearest other points, the nearest first; equal points count once."""
    wide = np.unique(x.astype(np.float64), axis=0)
    wide = wide - wide.mean(axis=0)
    count = min(count, len(wide) - 1)
    norms = (wide**2).sum(axis=1)
    found = np.empty((len(wide), count))
    for start in range(0, len(wide), 512):
        block = wide[start : start + 512]
        squares = norms - 2 * block @ wide.T  # and the block's own norm, the same for a whole row
        squares[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        near = np.argpartition(squares, count - 1, axis=1)[:, :count]
        for row, places in enumerate(near):  # differences, not products: near points would lose their digits
            found[start + row] = np.sort(np.linalg.norm(wide[places] - block[row], axis=1))
    return found


def two_nn(distances: Array) -> float:
    """Return the TwoNN intrinsic dimension from the distances (n, ≥ 2) to the nearest points (Facco et al. 2017, eq. 2).

    The slope through the origin of ``−ln(1 − F(μ))`` against ``ln μ``, μ the ratio of the second distance to the first, F its
    empirical distribution, over the smallest 90 % of the ratios.
    """
    if distances.shape[1] < 2:
        return float("nan")
    distances = distances[distances[:, 0] > 0]  # points nearer than rounding tells apart
    ratios = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = int(_KEPT * len(ratios))
    ratios, below = ratios[:kept], np.arange(1, kept + 1) / len(distances)
    total = float(ratios @ ratios)
    return float(-np.log(1 - below) @ ratios / total) if total else float("nan")


def likelihood(distances: Array) -> float:
    """Return the maximum-likelihood intrinsic dimension from the distances (n, k) to the nearest points.

    Of each point the inverse of the mean of ``ln(T_k / T_j)`` over j < k (Levina & Bickel 2005, eq. 8); over points their
    inverses are averaged, as MacKay & Ghahramani (2005) say.
    """
    if distances.shape[1] < 2:
        return float("nan")
    distances = distances[distances[:, 0] > 0]
    inverse = np.log(distances[:, -1:] / distances[:, :-1]).mean() if len(distances) else 0.0
    return float(1 / inverse) if inverse else float("nan")


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value
