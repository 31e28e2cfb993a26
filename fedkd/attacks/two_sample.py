"""A lower bound on epsilon from hits and false alarms of one attack: log((TPR - delta) / FPR).

Jagielski, Ullman and Oprea 2020, arXiv 2006.07709, section 4 (Clopper-Pearson form); Kairouz et al. 2015,
arXiv 1311.0776 (both directions). Strictly valid over independent runs; on the examples of one model it is
"empirical epsilon, descriptive". The threshold is chosen on a calibration half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedkd.intervals import Bools, Floats, rate_high, rate_low
from fedkd.metrics import Halves, halves


@dataclass(frozen=True)
class Config:
    """Options of the two-sample bound."""

    delta: float
    """The claimed delta; mandatory."""
    alpha: float = 0.05
    """Error probability of the bound, split over the two rates."""
    sides: Literal["one", "both"] = "both"
    """"one": log((TPR - delta) / FPR); "both": also log((1 - FPR - delta) / FNR), the larger counts."""
    thresholds: int = 50
    """Candidate thresholds tried on the calibration half (quantiles of its scores)."""
    seed: int = 0
    """Seed of the split into halves."""


@dataclass(frozen=True)
class Bound:
    """A lower confidence bound on epsilon from two rates."""

    epsilon: float
    """At least this epsilon, at confidence 1 - ``alpha``; 0 is no bound."""
    ceiling: float
    """The bound of a perfect attack at these sizes."""
    delta: float
    """The delta it holds at."""
    alpha: float
    """Error probability."""
    true_positives: int
    """Evaluation members above the threshold."""
    members: int
    """Evaluation members."""
    false_positives: int
    """Evaluation non-members above the threshold."""
    non_members: int
    """Evaluation non-members."""


def epsilon_lower(
    tp: int, members: int, fp: int, non_members: int, delta: float, alpha: float = 0.05, sides: str = "one"
) -> float:
    """Lower bound on epsilon from ``tp`` of ``members`` and ``fp`` of ``non_members``; 0 where there is none.

    Both sides read the same two events (TPR above its lower end, FPR below its upper end; FNR = 1 - TPR),
    each wrong with probability alpha / 2, so the larger of the two still holds at 1 - alpha.

    Raises: ValueError for impossible counts, a delta outside 0..1 or an unknown side.
    """
    if sides not in ("one", "both"):
        raise ValueError(f"unknown sides {sides!r}; valid: one, both")
    if not 0.0 <= delta <= 1.0:
        raise ValueError(f"delta must lie in 0..1, got {delta}")
    low, high = rate_low(tp, members, alpha / 2.0), rate_high(fp, non_members, alpha / 2.0)
    bound = math.log((low - delta) / high) if low > delta else 0.0
    if sides == "both" and 1.0 - high > delta:
        bound = max(bound, math.log((1.0 - high - delta) / (1.0 - low)))
    return max(0.0, bound)


def audit(
    config: Config,
    *,
    score: npt.ArrayLike,  # [N] higher = more likely member
    member: npt.ArrayLike,  # [N]
) -> Bound:
    """Choose the threshold on one half, bound epsilon on the other.

    Raises: ValueError for NaN, unequal shapes, or fewer than two candidates of a class.
    """
    scores, inside = np.asarray(score, dtype=np.float64), np.asarray(member, dtype=np.bool_)
    if scores.ndim != 1 or scores.shape != inside.shape or np.isnan(scores).any():
        raise ValueError("needs one score that is not NaN and one membership for each candidate")
    if min(int(inside.sum()), int((~inside).sum())) < 2:
        raise ValueError("needs at least two members and two non-members")
    split = halves(inside, np.random.default_rng(config.seed))
    threshold = _choose(config, scores, inside, split)
    tp, members, fp, non_members = _counts(scores, inside, split.evaluation, threshold)
    tail = (config.delta, config.alpha, config.sides)
    epsilon = epsilon_lower(tp, members, fp, non_members, *tail)
    ceiling = epsilon_lower(members, members, 0, non_members, *tail)
    return Bound(epsilon, ceiling, config.delta, config.alpha, tp, members, fp, non_members)


def _choose(config: Config, scores: Floats, inside: Bools, split: Halves) -> float:
    grid = np.unique(np.quantile(scores[split.calibration], np.linspace(0.0, 1.0, config.thresholds + 1)))
    bounds = []
    for threshold in grid.tolist():
        counts = _counts(scores, inside, split.calibration, threshold)
        bounds.append(epsilon_lower(*counts, config.delta, config.alpha, config.sides))
    return float(grid[int(np.argmax(bounds))])


def _counts(scores: Floats, inside: Bools, half: Bools, threshold: float) -> tuple[int, int, int, int]:
    above = scores > threshold
    members, others = half & inside, half & ~inside
    return int((above & members).sum()), int(members.sum()), int((above & others).sum()), int(others.sum())
