"""Weighted means as integer sums: the one averaging function of the project.

A client's contribution is ``rint(K_n * float64(w) * 2**32)`` as int64. Integer sums do not depend on grouping or arrival
order (float partial sums do), so workers may pre-aggregate, and it is the form that secure sums need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedkd.errors import UploadError
from fedkd.types import Arrays

SCALE = 2.0**32
_LIMIT = 2.0**30
"""Largest K_n * |w| of one client; with at most 2**31 as the sum of all, an int64 sum cannot overflow."""
_CHUNK = 32768
"""Numbers that are weighted, rounded and added at a time: what they need stays in the cache of a core."""

Sums = dict[str, npt.NDArray[np.int64]]


def encode(arrays: Arrays, weight: int) -> Sums:
    """One client's weighted arrays as int64 fixed point.

    Raises: UploadError where a weighted value is not finite or outside the range.
    """
    for name, value in arrays.items():
        if not _largest(np.asarray(value), weight) <= _LIMIT:
            raise UploadError(f"{name}: a weighted value is not finite or above 2**30")
    return {n: _rounded(np.asarray(v), weight) for n, v in arrays.items()}


@dataclass(frozen=True)
class Checked:
    """One client's arrays, ready to be added."""

    kinds: Mapping[str, Arrays]
    weight: int
    flat: dict[str, npt.NDArray[Any]]
    """the arrays of each kind below each other"""
    reached: dict[str, int]
    """a bound on every |sum| of each kind once they are added"""


class Running:
    """One worker's sums, grown in place client by client: the same integers as ``encode`` and ``add``, without their copies.

    The arrays of a kind lie in one vector, so that a client costs a few operations and not a few per array.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Sums] = {}
        self._flat: dict[str, npt.NDArray[np.int64]] = {}
        self._reached: dict[str, int] = {}

    def add(self, kinds: Mapping[str, Arrays], weight: int) -> None:
        """Add one client's weighted arrays, all kinds or none. Raises: UploadError as ``encode`` and ``add`` do."""
        self.take(self.check(kinds, weight))

    def check(self, kinds: Mapping[str, Arrays], weight: int) -> Checked:
        """What ``take`` can add without fail, as long as nothing is added in between. Raises: UploadError."""
        checked = Checked(kinds, weight, {}, {})
        for kind, arrays in kinds.items():
            before = self.sums.get(kind, {})
            _fits(before, arrays)
            flat = _joined([arrays[n] for n in before or arrays])
            most = _largest(flat, weight)
            if not most <= _LIMIT:
                encode(arrays, weight)  # says which array
            reached = self._reached.get(kind, 0) + math.ceil(most * SCALE)
            if reached >= 2**63:  # perhaps: no bound on the largest sum rules it out
                after = _added(before, encode(arrays, weight))
                reached = max((abs(int(end)) for v in after.values() if v.size for end in (v.max(), v.min())), default=0)
            checked.flat[kind], checked.reached[kind] = flat, reached
        return checked

    def take(self, checked: Checked) -> None:
        """Add what ``check`` has returned."""
        for kind, flat in checked.flat.items():
            self._open(kind, checked.kinds[kind])
            into = self._flat[kind]
            for start in range(0, into.size, _CHUNK):
                into[start : start + _CHUNK] += _rounded(flat[start : start + _CHUNK], checked.weight)
        self._reached.update(checked.reached)

    def _open(self, kind: str, arrays: Arrays) -> None:
        if kind in self.sums:
            return
        self._flat[kind] = np.zeros(sum(v.size for v in arrays.values()), np.int64)
        self.sums[kind], start = {}, 0
        for name, value in arrays.items():
            self.sums[kind][name] = self._flat[kind][start : start + value.size].reshape(value.shape)
            start += value.size


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([np.ravel(v) for v in arrays]) if arrays else np.zeros(0, np.float32)


def _largest(value: npt.NDArray[Any], weight: int) -> float:
    """The largest weighted |value|; not a number where one is not."""
    return max(float(value.max()) * weight, -float(value.min()) * weight) if value.size else 0.0


def _rounded(value: npt.NDArray[Any], weight: int) -> npt.NDArray[np.int64]:
    # A power of two scales exactly, so this is rint((value * weight) * 2**32).
    scaled = np.asarray(np.multiply(value, weight * SCALE, dtype=np.float64))
    return np.asarray(np.rint(scaled, out=scaled).astype(np.int64))


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
    _fits(total, part)
    out: Sums = {}
    for name, value in part.items():
        before = total[name]
        out[name] = np.asarray(before + value)
        # a wrapped int64 sum has the sign that neither part has
        if np.any(((before ^ out[name]) & (value ^ out[name])) < 0):
            raise UploadError(f"{name}: the sum leaves the range of int64 fixed point")
    return out


def _fits(total: Sums, part: Arrays) -> None:
    if total and total.keys() != part.keys():
        raise UploadError("sums hold different names")
    for name, before in total.items():
        if before.shape != part[name].shape:
            raise UploadError(f"{name}: shape {part[name].shape} does not fit {before.shape}")


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
    running = Running()
    for arrays, weight in pairs:
        running.add({"mean": arrays}, weight)
    return decode(running.sums["mean"], sum(w for _, w in pairs), {n: v.dtype for n, v in pairs[0][0].items()})
