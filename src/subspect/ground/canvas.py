"""Figures that a notebook shows by itself: IPython draws those of matplotlib only once pyplot has been asked for."""

from __future__ import annotations

from matplotlib import figure

from subspect.ground.drawing import picture_of

_DPI = 100


class Figure(figure.Figure):
    """A figure of matplotlib's, with a picture for notebooks."""

    def _repr_png_(self) -> bytes:
        """Return it as PNG, as IPython and Sphinx show it."""
        return picture_of(self, "png", _DPI)
