"""Names for the arrays that are handed around."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Wide = npt.NDArray[np.float64]
