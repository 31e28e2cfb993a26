"""A lower bound on epsilon from one training run with many coin-flip canaries.

Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, theorem 5.2. Threat model: the attacker sees one score per
canary and guesses in or out for some of them. The bound is "at least", at confidence 1 - alpha, for the named
unit; **0 proves nothing**, so the ceiling (every guess right) is printed beside it. The number of guesses is
fixed beforehand: the best number on the same data reports a positive epsilon in about 43 % of pure-chance
audits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from fedkd.intervals import check_level


@dataclass(frozen=True)
class Config:
    """Options of the one-run audit."""

    delta: float
    """The claimed delta; mandatory, because leaving it at 0 overstates the bound."""
    guesses: int = 100
    """Guesses r, fixed before the scores are seen: the higher half "in", the lower half "out"."""
    alpha: float = 0.05
    """Error probability of the bound."""
    seed: int = 0
    """Seed that orders tied scores; the order of the file never does."""


@dataclass(frozen=True)
class Bound:
    """A lower confidence bound on epsilon."""

    epsilon: float
    """At least this epsilon, at confidence 1 - ``alpha``; 0 is no bound."""
    ceiling: float
    """The bound that every guess being right would give, at the same delta."""
    delta: float
    """The delta it holds at."""
    alpha: float
    """Error probability."""
    canaries: int
    """Canaries m."""
    guesses: int
    """Guesses r."""
    correct: int
    """Right guesses v."""


def p_value(m: int, guesses: int, correct: int, delta: float, epsilon: float) -> float:
    """Chance of at least ``correct`` right guesses under (epsilon, delta)-DP, bounded from above.

    Raises: ValueError unless 0 <= correct <= guesses <= m, 0 <= delta <= 1 and epsilon >= 0.
    """
    if not 0 <= correct <= guesses <= m or guesses < 1:
        raise ValueError(f"needs 0 <= correct <= guesses <= m and a guess, got {correct}, {guesses}, {m}")
    if not (0.0 <= delta <= 1.0 and epsilon >= 0.0):
        raise ValueError("delta must lie in 0..1 and epsilon must not be negative")
    rate = float(special.expit(epsilon))
    beta = float(stats.binom.sf(correct - 1, guesses, rate))
    if delta == 0.0 or correct == 0:
        return min(1.0, beta)
    steps = np.arange(1, correct + 1)
    slices = stats.binom.sf(correct - 1 - steps, guesses, rate) - beta
    return min(1.0, beta + 2.0 * m * delta * float((slices / steps).max()))


@lru_cache(maxsize=4096)
def epsilon_lower(m: int, guesses: int, correct: int, delta: float, alpha: float = 0.05) -> float:
    """Largest epsilon that ``correct`` of ``guesses`` right guesses about ``m`` canaries reject; 0 where none
    is.

    Raises: ValueError as `p_value`.
    """
    check_level(alpha)
    if p_value(m, guesses, correct, delta, 0.0) >= alpha:
        return 0.0
    low, high = 0.0, 1.0
    while p_value(m, guesses, correct, delta, high) < alpha:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = (low + high) / 2.0
        if p_value(m, guesses, correct, delta, middle) < alpha:
            low = middle
        else:
            high = middle
    return low


def epsilon_ceiling(guesses: int, alpha: float = 0.05) -> float:
    """The bound of all guesses right at delta = 0: nothing above it can be seen with so many guesses.

    Raises: ValueError for fewer than one guess.
    """
    if guesses < 1:
        raise ValueError("needs at least one guess")
    log_rate = math.log(check_level(alpha)) / guesses
    return max(0.0, log_rate - math.log(-math.expm1(log_rate)))


def audit(
    config: Config,
    *,
    score: npt.ArrayLike,  # [m] higher = more likely in
    member: npt.ArrayLike,  # [m] fair-coin membership
) -> Bound:
    """Guess on the highest and lowest scores and turn the number of right guesses into a bound.

    Raises: ValueError for NaN, unequal shapes, or more guesses than canaries.
    """
    scores, inside = np.asarray(score, dtype=np.float64), np.asarray(member, dtype=np.bool_)
    if scores.ndim != 1 or scores.shape != inside.shape or np.isnan(scores).any():
        raise ValueError("needs one score that is not NaN and one membership for each canary")
    if config.guesses > scores.size:
        raise ValueError(f"{config.guesses} guesses need as many canaries, got {scores.size}")
    shuffled = np.random.default_rng(config.seed).permutation(scores.size)
    order = shuffled[np.argsort(scores[shuffled], kind="stable")]
    lows, highs = order[: config.guesses // 2], order[scores.size - (config.guesses - config.guesses // 2) :]
    correct = int((~inside[lows]).sum() + inside[highs].sum())
    sizes = (scores.size, config.guesses)
    return Bound(
        epsilon_lower(*sizes, correct, config.delta, config.alpha),
        epsilon_lower(*sizes, config.guesses, config.delta, config.alpha),
        config.delta,
        config.alpha,
        *sizes,
        correct,
    )
