"""Weighted means as integer sums: the one averaging function of the project.

A client's contribution is ``rint(K_n * float64(w) * 2**32)`` as int64. Integer sums do not depend on grouping or arrival
order (float partial sums do), so workers may pre-aggregate, and it is the form that secure sums need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedkd.errors import UploadError
from fedkd.types import Arrays

SCALE = 2.0**32
_LIMIT = 2.0**30
"""Largest K_n * |w| of one client; with at most 2**31 as the sum of all, an int64 sum cannot overflow."""

Sums = dict[str, npt.NDArray[np.int64]]


def encode(arrays: Arrays, weight: int) -> Sums:
    """One client's weighted arrays as int64 fixed point.

    Raises: UploadError where a weighted value is not finite or outside the range.
    """
    out: Sums = {}
    for name, value in arrays.items():
        scaled = np.asarray(value, dtype=np.float64) * weight
        if not np.all(np.abs(scaled) <= _LIMIT):
            raise UploadError(f"{name}: a weighted value is not finite or above 2**30")
        out[name] = np.rint(scaled * SCALE).astype(np.int64)
    return out


def add(total: Sums, part: Sums) -> None:
    """Add ``part`` into ``total`` (an empty total becomes a copy); a refused part leaves the total as it was.

    Raises: UploadError where names or shapes differ or the sum leaves the range.
    """
    total.update(_added(total, part))


def add_kinds(totals: dict[str, Sums], parts: Mapping[str, Sums]) -> None:
    """``add`` for every kind of an upload, all or nothing. Raises: UploadError."""
    totals.update({kind: _added(totals.get(kind, {}), part) for kind, part in parts.items()})


def _added(total: Sums, part: Sums) -> Sums:
    if not total:
        return {n: v.copy() for n, v in part.items()}
    if total.keys() != part.keys():
        raise UploadError("sums hold different names")
    out: Sums = {}
    for name, value in part.items():
        before = total[name]
        if before.shape != value.shape:
            raise UploadError(f"{name}: shape {value.shape} does not fit {before.shape}")
        out[name] = np.asarray(before + value)
        # a wrapped int64 sum has the sign that neither part has
        if np.any(((before ^ out[name]) & (value ^ out[name])) < 0):
            raise UploadError(f"{name}: the sum leaves the range of int64 fixed point")
    return out


def decode(total: Sums, weight: int, dtypes: dict[str, np.dtype[np.generic]] | None = None) -> Arrays:
    """The mean: sum / (weight * 2**32), float32 unless ``dtypes`` says otherwise (integers are rounded)."""
    out: Arrays = {}
    for name, value in total.items():
        mean = value.astype(np.float64) / (weight * SCALE)
        dtype = (dtypes or {}).get(name, np.dtype(np.float32))
        out[name] = (np.rint(mean) if dtype.kind in "iu" else mean).astype(dtype)
    return out


def mean(parts: Iterable[tuple[Arrays, int]], cohort: int) -> Arrays:
    """Weighted mean of (arrays, K_n) pairs. A cohort of one client is returned as it is: averaging is the identity.

    Raises: UploadError from ``encode`` and ``add``; ValueError where nothing has weight.
    """
    pairs: Sequence[tuple[Arrays, int]] = [p for p in parts if p[1] > 0]
    if not pairs:
        raise ValueError("a mean needs at least one upload with weight")
    if cohort == 1 and len(pairs) == 1:
        return {n: v.copy() for n, v in pairs[0][0].items()}
    total: Sums = {}
    for arrays, weight in pairs:
        add(total, encode(arrays, weight))
    return decode(total, sum(w for _, w in pairs), {n: v.dtype for n, v in pairs[0][0].items()})
