"""Tests and resampling: paired bootstrap with clusters, Holm, equivalence, rank test, detectable sizes.

Efron 1979 (bootstrap), Holm 1979, Schuirmann 1987 (two one-sided tests), Mann and Whitney 1947.
``fedkd.metrics`` re-exports every public name of this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from fedkd.intervals import Bools, Floats, Ints, Numbers, check_level, rate_low, t_interval


@dataclass(frozen=True)
class Resampled:
    """A paired bootstrap result."""

    value: float
    """The statistic on the data themselves."""
    low: float
    """Lower end of the percentile interval."""
    high: float
    """Upper end of the percentile interval."""
    level: float
    """Nominal level, in (0, 1)."""
    units: int
    """Independent units that were drawn: examples, or clusters where those were given."""


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests on paired differences."""

    mean: float
    """Mean difference, in the unit of the values."""
    low: float
    """Lower end of the interval of level 1 - 2 alpha, the one that TOST reads."""
    high: float
    """Upper end of that interval."""
    p_value: float
    """The larger of the two one-sided p values."""
    equivalent: bool
    """True where both tests reject: the interval lies strictly inside the margins."""


def paired_bootstrap(
    statistic: Callable[[Ints], float],
    size: int,
    rng: np.random.Generator,
    clusters: npt.ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Resampled:
    """Percentile interval of ``statistic(index)``, where ``index`` picks rows (with repeats) out of ``size``.

    Paired by construction: the statistic sees one index and uses it on every model, so the same examples are
    drawn in all arms. With ``clusters`` ([size] labels, for near-duplicates or records of one client) whole
    clusters are drawn. The statistic must be finite on every resample.

    Raises: ValueError for no rows, a single unit, a wrong number of labels, or a statistic that is not
    finite.
    """
    check_level(level)
    rows = np.arange(size)
    groups: list[Ints] = []
    if clusters is not None:
        labels = np.asarray(clusters)
        if labels.shape != (size,):
            raise ValueError(f"needs one cluster label per row, got shape {labels.shape} for {size} rows")
        order = np.argsort(labels, kind="stable")
        groups = np.split(order, np.flatnonzero(labels[order][1:] != labels[order][:-1]) + 1)
    units = len(groups) if clusters is not None else size
    if units < 2:
        raise ValueError("a bootstrap needs at least two independent units")
    draws = np.empty(resamples)
    for repeat in range(resamples):
        chosen = rng.integers(units, size=units)
        draws[repeat] = statistic(chosen if clusters is None else np.concatenate([groups[i] for i in chosen]))
    value = float(statistic(rows))
    if not (np.isfinite(draws).all() and math.isfinite(value)):
        raise ValueError("the statistic was not finite on every resample")
    low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Resampled(value, float(low), float(high), level, units)


def holm(p_values: Numbers) -> Floats:
    """Holm's adjusted p values, in the order given; [k] in, [k] out.

    Raises: ValueError for a value outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p values must be a list of numbers in 0..1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def tost(differences: Numbers, margin: float, alpha: float = 0.05) -> Equivalence:
    """Is the mean of [n] paired differences within ±margin? Two one-sided t tests at ``alpha`` each.

    Raises: ValueError for a margin that is not positive, or fewer than two values.
    """
    if not margin > 0.0:
        raise ValueError("the equivalence margin must be positive")
    sample = np.asarray(differences, dtype=np.float64)
    if sample.size < 2:
        raise ValueError("an equivalence test needs at least two differences")
    mean, low, high, sd = t_interval(sample, 1.0 - 2.0 * alpha)
    if sd == 0.0:
        inside = abs(mean) < margin
        return Equivalence(mean, low, high, 0.0 if inside else 1.0, inside)
    distance = (margin - abs(mean)) / (sd / math.sqrt(sample.size))
    p_value = float(stats.t.sf(distance, sample.size - 1))
    return Equivalence(mean, low, high, p_value, p_value < alpha)


def mann_whitney(members: npt.ArrayLike, non_members: npt.ArrayLike) -> float:
    """One-sided p value that members score higher; exact where small and without ties, else tie-corrected
    normal.

    Raises: ValueError for an empty side or NaN.
    """
    first, second = np.asarray(members, dtype=np.float64), np.asarray(non_members, dtype=np.float64)
    if first.size == 0 or second.size == 0:
        raise ValueError("the rank test needs at least one score on each side")
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError("the rank test cannot order NaN")
    if first.min() == first.max() == second.min() == second.max():
        return 1.0
    return float(stats.mannwhitneyu(first, second, alternative="greater").pvalue)


def detectable_rate(trials: int, bar: float, power: float = 0.8, level: float = 0.95) -> tuple[int, float]:
    """Smallest rate found with probability ``power`` by the rule "Clopper-Pearson lower end > bar": (hits,
    rate).

    ``hits`` is the smallest count that passes the rule. Where not even all hits pass, the answer is (trials +
    1, nan).

    Raises: ValueError for no trials or a bar outside [0, 1).
    """
    if trials < 1 or not 0.0 <= bar < 1.0:
        raise ValueError("needs at least one trial and a bar in [0, 1)")
    alpha = (1.0 - check_level(level)) / 2.0
    passed, failed = trials + 1, 0
    while passed - failed > 1:
        middle = (passed + failed) // 2
        if rate_low(middle, trials, alpha) > bar:
            passed = middle
        else:
            failed = middle
    if passed > trials:
        return passed, math.nan
    return passed, float(special.betaincinv(passed, trials - passed + 1, check_level(power)))


def detectable_auc(members: int, non_members: int, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest AUC found with probability ``power`` by the rule "lower end > 1/2", from the rank-sum null
    variance.

    Capped at 1; a normal approximation, held against simulation in the tests.

    Raises: ValueError for an empty side.
    """
    if members < 1 or non_members < 1:
        raise ValueError("needs at least one candidate on each side")
    spread = math.sqrt((members + non_members + 1.0) / (12.0 * members * non_members))
    steps = float(stats.norm.ppf(0.5 + check_level(level) / 2.0) + stats.norm.ppf(check_level(power)))
    return min(1.0, 0.5 + steps * spread)


def permutation_p(
    member: Bools,
    score: Floats,
    rng: np.random.Generator,
    permutations: int = 1000,
    exact_up_to: int = 20_000_000,
) -> tuple[float, int]:
    """One-sided p value of the rank sum under shuffled labels: (p, permutations used); [N] labels and scores.

    Above ``exact_up_to`` label draws in total the permutation distribution is replaced by the normal one with
    its exact mean and tie-corrected variance (0 permutations are then reported).

    Raises: ValueError where one class is missing.
    """
    members, total = int(member.sum()), member.size
    if members in (0, total):
        raise ValueError("the permutation null needs members and non-members")
    ranks = stats.rankdata(score)
    observed = float(ranks[member].sum())
    if permutations * total > exact_up_to:
        variance = float(ranks.var(ddof=0)) * members * (total - members) / (total - 1.0)
        gap = observed - members * (total + 1.0) / 2.0
        return (1.0 if variance == 0.0 else float(stats.norm.sf(gap / math.sqrt(variance)))), 0
    few = min(members, total - members)
    sums = np.array([ranks[rng.permutation(total)[:few]].sum() for _ in range(permutations)])
    sums = sums if few == members else float(ranks.sum()) - sums
    return (1.0 + float((sums >= observed - 1e-9).sum())) / (permutations + 1.0), permutations
