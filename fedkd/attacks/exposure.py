"""Exposure of planted secrets: how far above never-used secrets of the same format does the model rank them?

Carlini et al. 2019 (The Secret Sharer), arXiv 1802.08232, sections 4 and 5. Threat model: the attacker scores
candidate secrets. Exposure is in bits; without a leak P(exposure >= x) <= 2^-x, mean 1 / ln 2 = 1.44. Two
estimators that never share a table: ``exact`` (rank among the whole space) and ``sampled`` (rank among R
references, capped near log2 R). A tie counts as a leak (only strictly better candidates lower exposure); as a
constant model would then score the maximum, the tied share and the mid-rank exposure stand beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedkd.inference import holm, mann_whitney
from fedkd.intervals import Floats, Ints


@dataclass(frozen=True)
class Config:
    """Options of the exposure audit."""

    alpha: float = 0.05
    """Level of the tests after Holm's correction over repetitions and groups."""
    counted_bits: float = 5.0
    """Preset exposure of the counting test, bits (*specs: audit, section 4*)."""
    minimum_references: int = 1000
    """References below which the sampled audit refuses: shared references make canaries dependent."""


@dataclass(frozen=True)
class Stratum:
    """Exposure of the canaries of one repetition count in one group."""

    group: str
    """Where the canaries were planted, for example "teacher", "transfer" or "both"."""
    repetitions: int
    """Copies planted; 0 is the null group."""
    canaries: int
    """Number of canaries."""
    mean: float
    """Mean exposure, bits."""
    low: float
    """Lower end of the 95 % Student interval of the mean, bits."""
    high: float
    """Upper end of that interval, bits."""
    quartiles: tuple[float, float, float]
    """25 %, 50 % and 75 % quantiles, bits."""
    mid_rank_mean: float
    """Mean exposure where half of the tied candidates count as better, bits."""
    tied_share: float
    """Mean share of candidates that tie with a canary; near 1 for a constant model."""
    p_value: float
    """One-sided p value: Mann-Whitney against the references, or Fisher's product of exact ranks; ties cost
    power."""
    p_holm: float
    """The same after Holm over all strata."""
    counted: int
    """Canaries at or above ``counted_bits``."""
    counted_p: float
    """Binomial p value of that count (optimistic where references are shared)."""


@dataclass(frozen=True)
class Report:
    """Exposure by repetition and group."""

    estimator: str
    """"exact" or "sampled": values of the two never share a table."""
    candidates: int
    """Size of the space, or number of references."""
    ceiling: float
    """Largest reachable exposure, log2 of ``candidates``, bits."""
    strata: tuple[Stratum, ...]
    """One entry per group and repetition count, sorted."""
    smallest_significant: int | None
    """Smallest repetition count (1 or more) with a significant stratum; None where there is none."""


def exposure_exact(rank: npt.ArrayLike, space: int) -> Floats:
    """Exposure in bits of canaries at exact ``rank`` (1 = most likely) in a ``space`` of candidates; shape of
    ``rank``.

    Raises: ValueError for a rank outside 1..space.
    """
    ranks = np.asarray(rank, dtype=np.float64)
    if space < 1 or not ((ranks >= 1) & (ranks <= space)).all():
        raise ValueError(f"ranks must lie in 1..{space}")
    return np.asarray(math.log2(space) - np.log2(ranks), dtype=np.float64)


def exposure_sampled(better: npt.ArrayLike, references: int) -> Floats:
    """Exposure in bits from the number of ``references`` strictly better than the canary; shape of
    ``better``.

    The worst rank, references + 1, gives a slightly negative value, which is kept.

    Raises: ValueError for a count outside 0..references.
    """
    counts = np.asarray(better, dtype=np.float64)
    if references < 1 or not ((counts >= 0) & (counts <= references)).all():
        raise ValueError(f"counts of better references must lie in 0..{references}")
    return np.asarray(math.log2(references) - np.log2(counts + 1.0), dtype=np.float64)


def count_better(canary_score: npt.ArrayLike, reference_score: npt.ArrayLike) -> tuple[Ints, Ints]:
    """References strictly better than each canary, and references that tie with it: two arrays [M].

    References are [R] for all canaries alike, or [M, R] where each canary has its own prefix.

    Raises: ValueError for NaN or shapes that do not fit.
    """
    canaries = np.asarray(canary_score, dtype=np.float64)
    references = np.asarray(reference_score, dtype=np.float64)
    if np.isnan(canaries).any() or np.isnan(references).any():
        raise ValueError("exposure cannot rank NaN scores")
    if canaries.ndim != 1 or references.ndim not in (1, 2) or references.shape[:-1] not in ((), canaries.shape):
        raise ValueError(f"needs canaries [M], references [R] or [M, R]; got {canaries.shape}, {references.shape}")
    if references.ndim == 2:
        own = canaries[:, None]
        return (references > own).sum(axis=1, dtype=np.int64), (references == own).sum(axis=1, dtype=np.int64)
    ordered = np.sort(references)
    right = np.searchsorted(ordered, canaries, side="right")
    left = np.searchsorted(ordered, canaries, side="left")
    return (references.size - right).astype(np.int64), (right - left).astype(np.int64)


def substitution_epsilon(mean_low: float, copies: int = 1) -> float:
    """Lower bound on epsilon for substitution of **one** copy, from a lower confidence end of the mean
    exposure.

    eps-DP in the secret gives mean exposure <= (1 + eps) / ln 2; c copies compose to c eps.

    Raises: ValueError for fewer than one copy.
    """
    if copies < 1:
        raise ValueError("a planted secret has at least one copy")
    return max(0.0, mean_low * math.log(2.0) - 1.0) / copies


def audit(
    config: Config,
    *,
    canary_score: npt.ArrayLike,  # [M] log-probability of each planted secret
    reference_score: npt.ArrayLike,  # [R] or [M, R] log-probability of never-used secrets of the same format
    repetitions: npt.ArrayLike,  # [M] copies planted
    group: npt.ArrayLike | None = None,  # [M] names
) -> Report:
    """Sampled exposure per repetition and group with its tests.

    Shared references are compared by Mann-Whitney; references scored under each canary's own prefix by the product of
    ranks, as in `audit_exact`.

    Raises: ValueError for NaN, wrong shapes, or fewer than ``minimum_references`` references.
    """
    scores, references = np.asarray(canary_score, dtype=np.float64), np.asarray(reference_score, dtype=np.float64)
    count = references.shape[-1] if references.ndim else 0
    if count < config.minimum_references:
        raise ValueError(f"n/a (too few references): {config.minimum_references} needed, got {count}")
    better, tied = count_better(scores, references)
    middle = math.log2(count) - np.log2(better + tied / 2.0 + 1.0)
    last = (better + tied + 1.0) / (count + 1.0)
    tests = {}
    for key, rows in _strata(repetitions, group, scores.size):
        tests[key] = mann_whitney(scores[rows], references) if references.ndim == 1 else _product(last[rows])
    bits = exposure_sampled(better, count)
    return _report(config, "sampled", count, bits, middle, tied / count, repetitions, group, tests)


def _product(shares: Floats) -> float:
    """Fisher's product: under the null each share is uniform or larger, so the sum of -ln is at most Gamma(n)."""
    return float(stats.gamma.sf(-np.log(shares).sum(), shares.size))


def audit_exact(
    config: Config,
    *,
    rank: npt.ArrayLike,  # [M] 1 + candidates strictly more likely
    tied: npt.ArrayLike,  # [M] other candidates with the same probability
    space: int,
    repetitions: npt.ArrayLike,  # [M]
    group: npt.ArrayLike | None = None,  # [M]
) -> Report:
    """Exact exposure per repetition and group; the p value counts ties as worse ranks, so a constant model
    has p = 1.

    Raises: ValueError for ranks outside 1..space or wrong shapes.
    """
    ranks, ties = np.asarray(rank, dtype=np.float64), np.asarray(tied, dtype=np.float64)
    bits = exposure_exact(ranks, space)
    last = np.minimum(ranks + ties, space) / space
    middle = exposure_exact(ranks + ties / 2.0, space)
    tests = {key: _product(last[rows]) for key, rows in _strata(repetitions, group, ranks.size)}
    return _report(config, "exact", space, bits, middle, ties / space, repetitions, group, tests)


def _strata(repetitions: npt.ArrayLike, group: npt.ArrayLike | None, size: int) -> list[tuple[tuple[str, int], Ints]]:
    counts = np.asarray(repetitions, dtype=np.int64)
    names = np.full(size, "all") if group is None else np.asarray(group).astype(str)
    if size == 0 or counts.shape != (size,) or names.shape != (size,):
        raise ValueError(f"needs at least one canary, and one repetition count and group for each of {size}")
    keys = sorted(set(zip(names.tolist(), counts.tolist(), strict=True)))
    return [((name, copies), np.flatnonzero((names == name) & (counts == copies))) for name, copies in keys]


def _report(
    config: Config,
    estimator: str,
    candidates: int,
    bits: Floats,
    middle: Floats,
    tied: Floats,
    repetitions: npt.ArrayLike,
    group: npt.ArrayLike | None,
    tests: dict[tuple[str, int], float],
) -> Report:
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    strata = []
    for key, rows in _strata(repetitions, group, bits.size):
        own = bits[rows]
        half = float(stats.t.ppf(0.975, rows.size - 1) * own.std(ddof=1) / rows.size**0.5) if rows.size > 1 else math.nan
        mean, counted = float(own.mean()), int((own >= config.counted_bits).sum())
        q25, q50, q75 = (float(q) for q in np.quantile(own, [0.25, 0.5, 0.75]))
        counted_p = float(stats.binom.sf(counted - 1, rows.size, 2.0**-config.counted_bits))
        strata.append(
            Stratum(
                *key, rows.size, mean, mean - half, mean + half, (q25, q50, q75), float(middle[rows].mean()),
                float(tied[rows].mean()), tests[key], float(adjusted[key]), counted, counted_p,
            )
        )  # fmt: skip
    shown = [s.repetitions for s in strata if s.repetitions > 0 and s.p_holm < config.alpha]
    return Report(estimator, candidates, math.log2(candidates), tuple(strata), min(shown, default=None))
