"""Intervals for rates, ratios of rates and small samples of means; exact wherever an exact form exists.

Clopper and Pearson 1934 (binomial rates), Lancaster 1961 (mid-p), the exact conditional interval of a rate
ratio. Exact intervals cover too often by design; the mid-p interval stands *beside* them, never instead of
them. ``fedkd.metrics`` re-exports every name of this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from fedkd.spread import finite

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Numbers = Sequence[float] | npt.NDArray[np.float64]


def check_level(level: float) -> float:
    """Return ``level`` where it is a probability strictly between 0 and 1.

    Raises: ValueError otherwise.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    return level


def _check_counts(hits: int, trials: int) -> None:
    if trials < 1:
        raise ValueError("a rate needs at least one trial")
    if not 0 <= hits <= trials:
        raise ValueError(f"hits must lie in 0..{trials}, got {hits}")


def rate_low(hits: int, trials: int, alpha: float) -> float:
    """One-sided exact lower end of a rate: wrong with probability at most ``alpha``; 0 at zero hits.

    Raises: ValueError for impossible counts.
    """
    _check_counts(hits, trials)
    check_level(alpha)
    return 0.0 if hits == 0 else float(special.betaincinv(hits, trials - hits + 1, alpha))


def rate_high(hits: int, trials: int, alpha: float) -> float:
    """One-sided exact upper end of a rate: wrong with probability at most ``alpha``; 1 where every trial hit.

    Raises: ValueError for impossible counts.
    """
    _check_counts(hits, trials)
    check_level(alpha)
    return 1.0 if hits == trials else float(special.betainccinv(hits + 1, trials - hits, alpha))


def clopper_pearson(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval (low, high) of a rate from ``hits`` out of ``trials``.

    Raises: ValueError for no trials or impossible counts.
    """
    alpha = (1.0 - check_level(level)) / 2.0
    return rate_low(hits, trials, alpha), rate_high(hits, trials, alpha)


def mid_p(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Mid-p interval (low, high): half the observed outcome's probability counts in each tail.

    Closer to the nominal level on average, below it at some rates: shown beside the exact one, never instead.

    Raises: ValueError for no trials or impossible counts.
    """
    _check_counts(hits, trials)
    alpha = (1.0 - check_level(level)) / 2.0

    def upper_tail(rate: float) -> float:
        return float(stats.binom.sf(hits, trials, rate) + 0.5 * stats.binom.pmf(hits, trials, rate))

    def root(target: float) -> float:
        return float(optimize.brentq(lambda rate: upper_tail(rate) - target, 0.0, 1.0, xtol=1e-14))

    low = 0.0 if hits == 0 else root(alpha)
    high = 1.0 if hits == trials else root(1.0 - alpha)
    return low, high


def rate_ratio(hits_a: int, trials_a: int, hits_b: int, trials_b: int, level: float = 0.95) -> tuple[float, float, float]:
    """Ratio of two rates, (ratio, low, high): Clopper-Pearson of a/(a+b) turned into odds (exact,
    conditional).

    Takes the two sets as disjoint. No hit in b gives an infinite ratio and upper end.

    Raises: ValueError for impossible counts, or where neither side has a hit.
    """
    _check_counts(hits_a, trials_a)
    _check_counts(hits_b, trials_b)
    if hits_a + hits_b == 0:
        raise ValueError("a ratio of rates needs at least one hit on either side")
    low, high = clopper_pearson(hits_a, hits_a + hits_b, level)
    scale = trials_b / trials_a
    ratio = math.inf if hits_b == 0 else hits_a / hits_b * scale
    return ratio, low / (1.0 - low) * scale, math.inf if high >= 1.0 else high / (1.0 - high) * scale


def trials_for_zero_hits(rate: float, alpha: float = 0.05) -> int:
    """Trials without a hit that bound a rate: the one-sided upper end at zero hits is then at most ``rate``.

    Raises: ValueError for a rate outside (0, 1).
    """
    check_level(rate)
    return math.ceil(math.log(check_level(alpha)) / math.log1p(-rate) - 1e-9)


def t_interval(values: Numbers, level: float = 0.95) -> tuple[float, float, float, float]:
    """Mean over seeds or clients with its Student interval: (mean, low, high, sd); ``values`` is [n].

    One value has no spread: the ends and the sd are NaN, so that no table can show a false precision.

    Raises: ValueError for no or non-finite values.
    """
    sample = finite(values)
    mean = float(sample.mean())
    if sample.size < 2:
        return mean, math.nan, math.nan, math.nan
    sd = float(sample.std(ddof=1))
    half = float(stats.t.ppf(0.5 + check_level(level) / 2.0, sample.size - 1)) * sd / math.sqrt(sample.size)
    return mean, mean - half, mean + half, sd


def paired_t(a: Numbers, b: Numbers, level: float = 0.95) -> tuple[float, float, float, float]:
    """Mean of a - b over the same seeds with its Student interval: (difference, low, high, sd); both [n].

    Raises: ValueError for different lengths, no or non-finite values.
    """
    first, second = finite(a), finite(b)
    if first.shape != second.shape:
        raise ValueError(f"paired samples need equal lengths, got {first.size} and {second.size}")
    return t_interval(first - second, level)
