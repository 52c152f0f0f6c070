"""How a decomposition came to be."""

from __future__ import annotations

from typing import Literal

Part = Literal["all", "80 %", "20 %"]  #: which images of a set: all, or a split by a hash of the image id
