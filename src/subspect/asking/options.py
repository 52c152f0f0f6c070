"""Defaults of the questions; nothing here imports anything heavy."""

from __future__ import annotations

REPEATS = 20  #: draws of noise, of random sets and of random orders
POINTS = 3000  #: images, and boundary points, whose intrinsic dimension is taken
SHARE = 0.9  #: of the mass that Ψ is about
FIDELITY = 0.95  #: at which the number of features is read
