"""How unequal clients are, in NumPy alone: a server that scores every round need not import a statistics library."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def worst_decile(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Mean of the lowest ceil(10 %) of [n] values: 20 clients give the mean of the two worst.

    Raises: ValueError for no or non-finite values.
    """
    sample = np.sort(finite(values))
    count = math.ceil(sample.size / 10 - 1e-9)
    return float(sample[:count].mean())


def finite(values: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``values`` as a list of float64. Raises: ValueError for no or non-finite values."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError("needs a list of at least one number")
    if not np.isfinite(sample).all():
        raise ValueError("values must be finite")
    return sample
