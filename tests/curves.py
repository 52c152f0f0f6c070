"""Curves of cost against the number of features, written down."""

from __future__ import annotations

from subspect.heads.history import CurvePoint


def point(k: float, fidelity: float, accuracy: float, *, refit: bool = True, dense: float = 0.8) -> CurvePoint:
    return CurvePoint(k, refit, 1234, fidelity, accuracy, dense)


BOTH = [
    point(1, 0.42, 0.35, refit=False),
    point(2, 0.61, 0.55, refit=False),
    point(8, 0.9, 0.78, refit=False),
    point(5, 0.93, 0.79),
]

REFITTED = [point(1, 0.42, 0.35), point(2.5, 0.61, 0.55), point(40, 0.97, 0.795)]
