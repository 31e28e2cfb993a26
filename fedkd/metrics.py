"""What an attack's scores are worth: AUC, ROC frontier and true-positive rate at a fixed false-positive rate.

Scores are one float per candidate, **higher = more likely member**; nothing here ever flips them. Every
estimate has an interval and every threshold is chosen on other data than the estimate; where a sample is too
small, the functions refuse (`TooFew`) and never extrapolate. DeLong, DeLong and Clarke-Pearson 1988 (variance
of the AUC); Sun and Xu 2014 (by mid-ranks); Efron 1987 (BCa); Carlini et al. 2022, arXiv 2112.03570 section
III (why low false-positive rates).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from fedkd.inference import (
    Resampled,
    detectable_auc,
    detectable_rate,
    holm,
    mann_whitney,
    paired_bootstrap,
    tost,
)
from fedkd.intervals import (
    Bools,
    Floats,
    check_level,
    clopper_pearson,
    mid_p,
    paired_t,
    rate_high,
    rate_low,
    rate_ratio,
    t_interval,
    trials_for_zero_hits,
)
from fedkd.spread import worst_decile

__all__ = [
    "AucMoments",
    "Estimate",
    "Halves",
    "Resampled",
    "TooFew",
    "TprAtFpr",
    "advantage",
    "auc",
    "auc_bca",
    "auc_delong",
    "auc_moments",
    "clopper_pearson",
    "detectable_auc",
    "detectable_rate",
    "frontier_tpr",
    "halves",
    "holm",
    "mann_whitney",
    "mid_p",
    "minimum_non_members",
    "paired_bootstrap",
    "paired_t",
    "rate_high",
    "rate_low",
    "rate_ratio",
    "roc_frontier",
    "t_interval",
    "threshold_at_fpr",
    "tost",
    "tpr_at_fpr",
    "trials_for_zero_hits",
    "worst_decile",
]


class TooFew(ValueError):
    """The sample is too small for the statistic asked for: the row prints "n/a", nothing is extrapolated."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    """The point estimate, in the statistic's own unit."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    level: float
    """Nominal level of the two-sided interval, in (0, 1)."""


@dataclass(frozen=True)
class Halves:
    """A random split of candidates into a calibration and an evaluation half, each class split on its own."""

    calibration: Bools
    """[N] true where a candidate may be used for thresholds and other choices."""
    evaluation: Bools
    """[N] true where a candidate may be used for estimates; the complement of ``calibration``."""


@dataclass(frozen=True)
class TprAtFpr:
    """True-positive rate at a preset false-positive rate, both measured on the evaluation half only."""

    fpr: float
    """The preset false-positive rate, in (0, 1)."""
    threshold: float
    """A candidate is called a member iff its score is strictly greater; from calibration non-members."""
    hits: int
    """Evaluation members above the threshold."""
    members: int
    """Evaluation members."""
    false_alarms: int
    """Evaluation non-members above the threshold."""
    non_members: int
    """Evaluation non-members."""
    calibration_non_members: int
    """Non-members that the threshold was chosen on."""
    tpr: Estimate
    """True-positive rate with its Clopper-Pearson interval."""
    realised_fpr: Estimate
    """False-positive rate on the evaluation half with its Clopper-Pearson interval."""


def _sides(members: npt.ArrayLike, non_members: npt.ArrayLike, least: int = 1) -> tuple[Floats, Floats]:
    pair = np.asarray(members, dtype=np.float64), np.asarray(non_members, dtype=np.float64)
    for name, side in zip(("members", "non-members"), pair, strict=True):
        if side.ndim != 1:
            raise ValueError(f"scores of {name} must be one-dimensional, got shape {side.shape}")
        if side.size < least:
            raise TooFew(f"needs at least {least} {name}, got {side.size}")
        if np.isnan(side).any():
            raise ValueError(f"scores of {name} contain NaN")
    return pair


def auc(members: npt.ArrayLike, non_members: npt.ArrayLike) -> float:
    """P(member scores above non-member) + P(tie) / 2, by average ranks; [n] and [m] scores.

    Raises: TooFew for an empty side, ValueError for NaN.
    """
    positives, negatives = _sides(members, non_members)
    ranks = stats.rankdata(np.concatenate([positives, negatives]))
    above = float(ranks[: positives.size].sum()) - positives.size * (positives.size + 1) / 2.0
    return above / (positives.size * negatives.size)


def placements(members: npt.ArrayLike, non_members: npt.ArrayLike) -> tuple[Floats, Floats]:
    """DeLong's structural components: for each member the share of non-members below it, and the reverse.

    Both average to the AUC; ties count one half. Shapes [n] and [m].

    Raises: TooFew for an empty side, ValueError for NaN.
    """
    positives, negatives = _sides(members, non_members)
    ranks = stats.rankdata(np.concatenate([positives, negatives]))
    below = (ranks[: positives.size] - stats.rankdata(positives)) / negatives.size
    above = 1.0 - (ranks[positives.size :] - stats.rankdata(negatives)) / positives.size
    return below, above


@dataclass(frozen=True)
class AucMoments:
    """The AUC and DeLong's variance, from which an interval at any level follows."""

    value: float
    """AUC, 0..1."""
    variance: float
    """DeLong's variance of the AUC."""
    pairs: int
    """Disjoint member and non-member pairs: the smaller class."""

    def interval(self, level: float = 0.95) -> Estimate:
        """Interval on the logit scale, so that its ends stay inside 0..1.

        Where the variance is zero (perfect separation, all ties) it is the exact one over disjoint pairs: wide, not a
        point.

        Raises: ValueError for a level outside (0, 1).
        """
        check_level(level)
        if self.variance < 1e-24 or not 0.0 < self.value < 1.0:
            return _degenerate(round(self.value, 12), self.pairs, level)
        spread = math.sqrt(self.variance) / (self.value * (1.0 - self.value))
        centre = math.log(self.value / (1.0 - self.value))
        half = float(stats.norm.ppf(0.5 + level / 2.0)) * spread
        low, high = (float(special.expit(centre + side * half)) for side in (-1.0, 1.0))
        return Estimate(self.value, low, high, level)


def _degenerate(value: float, pairs: int, level: float) -> Estimate:
    # All sampled pairs agree (or tie), so ``pairs`` disjoint, hence independent, pairs agree too: exact, conservative.
    low, _ = clopper_pearson(pairs, pairs, level)
    if value == 0.5:
        return Estimate(0.5, 0.5 - (1.0 - low) / 2.0, 0.5 + (1.0 - low) / 2.0, level)
    return Estimate(value, low, 1.0, level) if value > 0.5 else Estimate(value, 0.0, 1.0 - low, level)


def auc_moments(members: npt.ArrayLike, non_members: npt.ArrayLike) -> AucMoments:
    """AUC and DeLong's variance of [n] and [m] scores.

    Raises: TooFew with fewer than two candidates on a side, ValueError for NaN.
    """
    positives, negatives = _sides(members, non_members, least=2)
    below, above = placements(positives, negatives)
    variance = float(below.var(ddof=1) / below.size + above.var(ddof=1) / above.size)
    return AucMoments(float(below.mean()), variance, min(below.size, above.size))


def auc_delong(members: npt.ArrayLike, non_members: npt.ArrayLike, level: float = 0.95) -> Estimate:
    """AUC with DeLong's variance on the logit scale; exact and wide where that variance is zero.

    Raises: TooFew with fewer than two candidates on a side, ValueError for NaN.
    """
    return auc_moments(members, non_members).interval(level)


def auc_bca(
    members: npt.ArrayLike,
    non_members: npt.ArrayLike,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> Estimate:
    """AUC with a bias-corrected and accelerated bootstrap interval; members and non-members drawn apart.

    A resample is a vector of counts over the sorted scores, so each costs O(n + m) instead of a sort; the
    acceleration is the exact jackknife, because leaving one out of a U-statistic is its structural component.

    Raises: TooFew with fewer than two candidates on a side, ValueError for NaN or fewer than 100 resamples.
    """
    check_level(level)
    if resamples < 100:
        raise ValueError("BCa needs at least 100 resamples")
    positives, negatives = _sides(members, non_members, least=2)
    below, above = placements(positives, negatives)
    value = float(below.mean())
    draws = _bootstrap_aucs(positives, negatives, rng, resamples)
    if draws.min() == draws.max():
        return _degenerate(round(value, 12), min(below.size, above.size), level)
    share = (float((draws < value).sum()) + 0.5 * float((draws == value).sum())) / resamples
    bias = float(stats.norm.ppf(min(max(share, 0.5 / resamples), 1.0 - 0.5 / resamples)))
    # Two-sample jackknife: leaving out i moves the AUC by (component - AUC) / (n - 1), scaled by (n - 1) / n.
    gaps = np.concatenate([(below - value) / below.size, (above - value) / above.size])
    acceleration = float((gaps**3).sum() / (6.0 * (gaps**2).sum() ** 1.5))
    ends = []
    for tail in ((1.0 - level) / 2.0, (1.0 + level) / 2.0):
        shifted = bias + float(stats.norm.ppf(tail))
        ends.append(float(stats.norm.cdf(bias + shifted / (1.0 - acceleration * shifted))))
    low, high = np.quantile(draws, ends)
    return Estimate(value, float(low), float(high), level)


def _bootstrap_aucs(positives: Floats, negatives: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    grid, codes = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
    own, other = codes[: positives.size], codes[positives.size :]
    rows = max(1, min(resamples, 1_000_000 // codes.size))
    draws = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        hits, misses = (_counts(side, grid.size, count, rng) for side in (own, other))
        draws.append((hits * (np.cumsum(misses, axis=1) - 0.5 * misses)).sum(axis=1))
    return np.asarray(np.concatenate(draws) / (positives.size * negatives.size), dtype=np.float64)


def _counts(codes: npt.NDArray[np.intp], values: int, rows: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """How often each value occurs in each of ``rows`` resamples, [rows, values]."""
    drawn = codes[rng.integers(codes.size, size=(rows, codes.size))] + np.arange(rows)[:, None] * values
    return np.bincount(drawn.ravel(), minlength=rows * values).reshape(rows, values)


def roc_frontier(members: npt.ArrayLike, non_members: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Vertices (fpr, tpr) of the upper concave envelope of the ROC, from (0, 0) to (1, 1).

    Points between vertices are reachable by mixing two thresholds, so interpolation is honest here; "the last index
    with fpr <= x" jumps where points are few. A picture only: estimates come from `tpr_at_fpr`. The envelope is the
    isotonic fit of the member share over falling scores (pool adjacent violators): linear after the sort.

    Raises: TooFew for an empty side, ValueError for NaN.
    """
    positives, negatives = _sides(members, non_members)
    scores = np.concatenate([positives, negatives])
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    hits = np.append(0, np.cumsum(order < positives.size)[last])
    seen = np.append(0, last + 1)
    weights = np.diff(seen).astype(np.float64)
    fit = optimize.isotonic_regression(np.diff(hits) / weights, weights=weights, increasing=False)
    ends = np.asarray(fit.blocks)
    return (seen - hits)[ends] / negatives.size, hits[ends] / positives.size


def frontier_tpr(frontier: tuple[Floats, Floats], fpr: npt.ArrayLike) -> Floats:
    """Interpolated true-positive rate of a `roc_frontier` at given false-positive rates; shapes follow
    ``fpr``."""
    grid, values = frontier
    # A vertical first edge has two points at fpr = 0; np.interp then answers with the upper one only if it is
    # last.
    first = int(np.searchsorted(grid, 0.0, side="right")) - 1
    at = np.asarray(fpr, dtype=np.float64)
    return np.asarray(np.interp(at, grid[first:], values[first:]), dtype=np.float64)


def threshold_at_fpr(non_members: npt.ArrayLike, fpr: float) -> float:
    """The j-th largest calibration non-member score, j = floor(fpr (n + 1)); member iff strictly greater.

    Its expected false-positive rate on exchangeable data is at most j / (n + 1) <= fpr.

    Raises: TooFew where j = 0, ValueError for NaN or a rate outside (0, 1).
    """
    check_level(fpr)
    scores = np.asarray(non_members, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError("scores of non-members contain NaN")
    rank = math.floor(fpr * (scores.size + 1) + 1e-9)
    if rank == 0:
        raise TooFew(f"n/a (too few non-members): {scores.size} cannot hold a false-positive rate of {fpr:g}")
    return float(np.partition(scores, scores.size - rank)[scores.size - rank])


def minimum_non_members(fpr: float) -> int:
    """Non-members that each half needs before a rate at ``fpr`` is reported: 5 / fpr (5,000 at 0.1 %, 500 at
    1 %)."""
    return math.ceil(5.0 / check_level(fpr) - 1e-9)


def halves(member: Bools, rng: np.random.Generator) -> Halves:
    """Split [N] candidates at random into calibration and evaluation; of an odd class the extra one is
    evaluated."""
    calibration = np.zeros(member.shape, dtype=np.bool_)
    for side in (member, ~member):
        index = rng.permutation(np.flatnonzero(side))
        calibration[index[: index.size // 2]] = True
    return Halves(calibration, ~calibration)


def tpr_at_fpr(member: Bools, score: Floats, split: Halves, fpr: float, level: float = 0.95) -> TprAtFpr:
    """True-positive rate at a preset false-positive rate: threshold from calibration, both rates from
    evaluation.

    ``member`` and ``score`` are [N].

    Raises: TooFew below `minimum_non_members` in either half or without evaluation members, ValueError for
    NaN.
    """
    member = np.asarray(member, dtype=np.bool_)
    calibration = score[split.calibration & ~member]
    positives, negatives = score[split.evaluation & member], score[split.evaluation & ~member]
    least = minimum_non_members(fpr)
    sizes = f"{calibration.size} + {negatives.size}"
    if min(calibration.size, negatives.size) < least:
        raise TooFew(f"n/a (too few non-members): {least} needed in each half, got {sizes}")
    positives, negatives = _sides(positives, negatives)
    threshold = threshold_at_fpr(calibration, fpr)
    hits, alarms = int((positives > threshold).sum()), int((negatives > threshold).sum())
    true_rate = Estimate(hits / positives.size, *clopper_pearson(hits, positives.size, level), level)
    false_rate = Estimate(alarms / negatives.size, *clopper_pearson(alarms, negatives.size, level), level)
    return TprAtFpr(fpr, threshold, hits, positives.size, alarms, negatives.size, calibration.size, true_rate, false_rate)


def advantage(member: Bools, score: Floats, split: Halves, level: float = 0.95) -> Estimate:
    """TPR - FPR at the threshold that is best on the calibration half, measured on the evaluation half.

    For single clients, whose candidates are too few for a TPR at a low FPR. Exact and conservative: each rate's
    Clopper-Pearson interval takes half of the error probability. ``member`` and ``score`` are [N].

    Raises: TooFew with no member or non-member in either half, ValueError for NaN.
    """
    sides = [(score[half & member], score[half & ~member]) for half in (split.calibration, split.evaluation)]
    (known, strangers), (positives, negatives) = (_sides(*pair) for pair in sides)
    grid = np.unique(np.concatenate([known, strangers]))
    above = [1.0 - np.searchsorted(np.sort(side), grid, side="right") / side.size for side in (known, strangers)]
    threshold = grid[int(np.argmax(above[0] - above[1]))]
    counts = [(int((side > threshold).sum()), side.size) for side in (positives, negatives)]
    (low_tpr, high_tpr), (low_fpr, high_fpr) = (clopper_pearson(*pair, 0.5 + level / 2.0) for pair in counts)
    value = counts[0][0] / counts[0][1] - counts[1][0] / counts[1][1]
    return Estimate(value, low_tpr - high_fpr, high_tpr - low_fpr, level)
