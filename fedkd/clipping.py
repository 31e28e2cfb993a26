"""Bounding the L2 norm of what one client or one row adds, strictly: rounding never passes the bound."""

from __future__ import annotations

import math

import numpy as np

from fedkd.types import Array, Kinds

BELOW = 1 - 1e-6
"""A clipped value stays this far below its bound: more than rounding to float32 and to fixed point can add."""


def norm(kinds: Kinds) -> float:
    """L2 norm over every number of a record."""
    return math.sqrt(math.fsum(float(np.square(v.astype(np.float64)).sum()) for a in kinds.values() for v in a.values()))


def clipped(kinds: Kinds, bound: float) -> Kinds:
    """The record scaled so that its joint norm is at most ``bound``; all zeros where it is not finite.

    A record below the bound is returned as the same object.
    """
    size = norm(kinds)
    if size <= bound * BELOW:
        return kinds
    factor = bound * BELOW / size if math.isfinite(size) else 0.0
    return {
        k: {n: (np.nan_to_num(v.astype(np.float64), posinf=0.0, neginf=0.0) * factor).astype(v.dtype) for n, v in a.items()}
        for k, a in kinds.items()
    }


def clipped_rows(rows: Array, bound: float) -> Array:  # [m, d] -> [m, d] float64
    """Each row scaled to a norm of at most ``bound``; a row that is not finite becomes zero."""
    wide = rows.astype(np.float64)
    norms = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.minimum(1.0, bound * BELOW / norms)
        out: Array = np.where(np.isfinite(norms), wide * np.where(norms > 0, factor, 1.0), 0.0)
    return out
