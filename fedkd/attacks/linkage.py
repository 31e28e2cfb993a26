"""Can messages be linked without names: is a message's nearest neighbour one round later its own sender's?

Orekondy et al. 2018, arXiv 1805.05838 (linking updates of one user). Threat model: a receiver, or who reads a shuffled
wire, has the messages of two rounds without client ids (or rows without sample ids) and matches each one to the nearest
of the other round. Arithmetic on a matrix of distances; what a distance is, the caller says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.intervals import clopper_pearson
from fedkd.metrics import Estimate


@dataclass(frozen=True)
class Config:
    """Options of the matching."""

    level: float = 0.95
    """Level of the interval, in (0, 1)."""


@dataclass(frozen=True)
class Report:
    """How often the nearest candidate is the right one."""

    top1: Estimate
    """Share of messages whose nearest candidate is their own sender's, Clopper-Pearson; ties are right with 1 / tied."""
    chance: float
    """1 / candidates."""
    median_rank: float
    """Median rank of the right candidate, 1 = nearest; ties count as nearer."""
    leak_shown: bool
    """True where the lower end lies above chance."""


def audit(
    config: Config,
    *,
    distance: npt.ArrayLike,  # [n, n] of message i to candidate j; the true pairs are the diagonal
) -> Report:
    """Match each row's message to its nearest column.

    Raises: ValueError for a matrix that is not square, fewer than two messages, or a distance that is NaN.
    """
    values = np.asarray(distance, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise ValueError(f"distances must be [n, n] with n >= 2, got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("distances must not be NaN")
    nearest = values == values.min(axis=1, keepdims=True)
    own = np.diagonal(values)
    right = np.diagonal(nearest) / nearest.sum(axis=1)
    ranks = (values <= own[:, None]).sum(axis=1)
    low, high = clopper_pearson(int(right.sum() + 1e-9), len(values), config.level)
    chance = 1.0 / len(values)
    top1 = Estimate(float(right.mean()), low, high, config.level)
    return Report(top1, chance, float(np.median(ranks)), low > chance)
