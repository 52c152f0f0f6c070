"""Defaults of swapping; nothing here imports anything heavy."""

from __future__ import annotations

SAMPLE = 500  #: images that cues are swapped in
