"""The scales of a head with readable weights: ``logit = a · (x37 / s37 + x12 / s12 − x4 / s4) + b``.

A weight is the scale of its class over the scale of its feature, or less that: see `subspect.choosing.ternary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from subspect.heads.feature_names import Names, shown
from subspect.heads.supports import Supports
from subspect.heads.trusted import FeatureRow


@dataclass(frozen=True, eq=False)
class Ternary:
    """The scales of classes and features.

    Attributes:
        class_scales: (C,) float32, a; 0 for classes without images, which keep their dense row.
        feature_scales: (d,) float32, s, the same in all classes; 0 for features that no class used.

    Example:
        >>> readable = study.decompose(5, pool=50, ternary=True)
        >>> readable.ternary.class_scales.shape
        torch.Size([4])
    """

    class_scales: Tensor
    feature_scales: Tensor

    def misfit(self, supports: Supports, weights: Tensor, unseen: Sequence[int]) -> str:
        """Say how weights differ from those of the scales; nothing where they don't."""
        classes, features = (one.double().numpy() for one in (self.class_scales, self.feature_scales))
        own = ~np.isin(supports.rows, list(unseen))
        rows, columns, given = supports.rows[own], supports.flat[own], np.abs(weights.numpy()[own])
        if (classes < 0).any() or (features < 0).any() or not features[columns].all():
            return "its scales are not all above 0"
        if not np.array_equal((classes[rows] / features[columns]).astype(np.float32), given):
            return "its weights are not those of its scales"
        return ""

    def scales(self, label: int, features: Sequence[int]) -> list[float | None]:
        """Return the scales of some features of a class; None of a dense row."""
        if not self.class_scales[label]:
            return [None] * len(features)
        return [float(self.feature_scales[feature]) for feature in features]

    def formula(self, label: int, rows: Sequence[FeatureRow], bias: float) -> str:
        """Write out the logit of a class; nothing for a dense row."""
        if not self.class_scales[label]:
            return ""
        if not rows:
            return f"logit = {bias:.3g}".replace("-", "−")
        terms = [f"{sign(row)} x{row.feature} / {row.scale:.3g}" for row in rows]
        said = " ".join(terms).removeprefix("+ ").replace("− ", "−", 1 if terms[:1] and terms[0][0] == "−" else 0)
        added = f"{'−' if bias < 0 else '+'} {abs(bias):.3g}"
        return f"logit = {self.class_scales[label].item():.3g} · ({said}) {added}"


def sign(row: FeatureRow) -> str:
    """Return + or −."""
    return "+" if row.weight > 0 else "−"


def signed(rows: Sequence[FeatureRow], names: Names) -> str:
    """Return features with their signs in a row."""
    return ", ".join(sign(row) + shown(row.feature, names) for row in rows)
