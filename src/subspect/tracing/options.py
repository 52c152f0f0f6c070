"""Defaults of tracing; nothing here imports anything heavy."""

from __future__ import annotations

SAMPLE = 1000  #: images that filters are scored on
SHARE = 0.5  #: of a class's effect in a layer, which its filters hold
ABLATE = 2  #: filters of each class and layer that are taken away in earnest: so many of the first, and as many others
ABLATE_SAMPLE = 200  #: images on which that is done
REPEATS = 2  #: draws of random filters that essential ones are compared with
BATCH = 16  #: images in a batch: gradients keep all activations
