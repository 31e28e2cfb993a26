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
        _in_range(name, np.asarray(value), weight)
    return {n: _rounded(np.asarray(v), weight) for n, v in arrays.items()}


@dataclass(frozen=True)
class Checked:
    """One client's arrays, ready to be added."""

    kinds: Mapping[str, Arrays]
    weight: int
    largest: dict[str, int]
    """a bound on the |integers| that each kind becomes"""
    reached: dict[str, int]
    """a bound on every |sum| of each kind once they are added"""


class Running:
    """One worker's sums, grown in place client by client: the same integers as ``encode`` and ``add``, without their copies.

    Whole numbers are added as float64 as long as no sum can exceed 2**53, up to where float64 holds every whole number:
    exact, and a third faster than int64.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Sums] = {}
        self._open: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
        self._open_bound: dict[str, int] = {}
        self._reached: dict[str, int] = {}

    @property
    def sums(self) -> dict[str, Sums]:
        """Kind -> name -> int64 sums so far."""
        for kind in self._open:
            self._close(kind)
        return self._sums

    def add(self, kinds: Mapping[str, Arrays], weight: int) -> None:
        """Add one client's weighted arrays, all kinds or none. Raises: UploadError as ``encode`` and ``add`` do."""
        self.take(self.check(kinds, weight))

    def check(self, kinds: Mapping[str, Arrays], weight: int) -> Checked:
        """What ``take`` can add without fail, as long as nothing is added in between. Raises: UploadError."""
        checked = Checked(kinds, weight, {}, {})
        for kind, arrays in kinds.items():
            _fits(self._sums.get(kind, {}), arrays)
            most = max((_in_range(n, np.asarray(v), weight) for n, v in arrays.items()), default=0.0)
            checked.largest[kind] = math.ceil(most * SCALE)
            reached = self._reached.get(kind, 0) + checked.largest[kind]
            if reached >= 2**63:  # perhaps: no bound on the largest sum rules it out
                after = _added(self.sums.get(kind, {}), encode(arrays, weight))
                reached = max((abs(int(end)) for v in after.values() if v.size for end in (v.max(), v.min())), default=0)
            checked.reached[kind] = reached
        return checked

    def take(self, checked: Checked) -> None:
        """Add what ``check`` has returned."""
        for kind, arrays in checked.kinds.items():
            if kind not in self._sums:
                self._sums[kind] = {n: np.zeros(np.shape(v), np.int64) for n, v in arrays.items()}
                self._open[kind] = {n: np.zeros(np.size(v)) for n, v in arrays.items()}
            if self._open_bound.get(kind, 0) + checked.largest[kind] > 2**53:
                self._close(kind)
            if checked.largest[kind] > 2**53:
                for name, part in encode(arrays, checked.weight).items():
                    self._sums[kind][name] += part
                continue
            self._open_bound[kind] = self._open_bound.get(kind, 0) + checked.largest[kind]
            for name, value in arrays.items():
                _add_whole(self._open[kind][name], np.asarray(value).reshape(-1), checked.weight)
        self._reached.update(checked.reached)

    def _close(self, kind: str) -> None:
        if not self._open_bound.get(kind):
            return
        for name, part in self._open[kind].items():
            self._sums[kind][name] += part.astype(np.int64).reshape(self._sums[kind][name].shape)
            part[:] = 0
        self._open_bound[kind] = 0


def _add_whole(into: npt.NDArray[np.float64], value: npt.NDArray[Any], weight: int) -> None:
    for start in range(0, into.size, _CHUNK):
        scaled = np.multiply(value[start : start + _CHUNK], weight * SCALE, dtype=np.float64)
        into[start : start + _CHUNK] += np.rint(scaled, out=scaled)


def _in_range(name: str, value: npt.NDArray[Any], weight: int) -> float:
    """The largest weighted |value|. Raises: UploadError where one is not finite or outside the range."""
    largest = max(float(value.max()) * weight, -float(value.min()) * weight) if value.size else 0.0
    if not largest <= _LIMIT:
        raise UploadError(f"{name}: a weighted value is not finite or above 2**30")
    return largest


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
