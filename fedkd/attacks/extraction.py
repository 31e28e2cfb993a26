"""Can training text be pulled out with its prefix? Exact, approximate and (n, p)-discoverable extraction.

Exact: Carlini et al. 2023, arXiv 2202.07646, section 3. Approximate: edit distance of at most 10 % of the
suffix. (n, p): Hayes et al. 2025, arXiv 2410.19482, section 3. Threat model: the attacker holds the prefix
and may query n times. Held-out text extracts too (boilerplate, large n), so a rate is always read against the
held-out rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedkd.intervals import Bools, Floats, Ints, clopper_pearson
from fedkd.metrics import Estimate


@dataclass(frozen=True)
class Config:
    """Options of extraction."""

    kind: Literal["exact", "approximate", "np"] = "exact"
    """"exact" (ranks), "approximate" (edit distances) or "np" (sequence log-probabilities)."""
    distance: float = 0.10
    """Approximate: largest edit distance as a share of the suffix length."""
    probability: float = 0.5
    """(n, p): chance p of at least one extraction, in (0, 1)."""
    queries: int = 1000
    """(n, p): number of queries n, 1 or more."""
    level: float = 0.95
    """Level of the intervals."""


@dataclass(frozen=True)
class Report:
    """Extraction rate on training text against the rate on held-out text."""

    kind: str
    """The kind that was decided on."""
    rate: Estimate
    """Rate on training examples, Clopper-Pearson."""
    held_out: Estimate
    """Rate on held-out examples, Clopper-Pearson."""
    difference: Estimate
    """Training minus held-out; exact but conservative: each end takes half of the error probability."""
    leak_shown: bool
    """True where the lower end of the difference is above 0."""


def chance(log_p_z: npt.ArrayLike, n: npt.ArrayLike) -> Floats:
    """Probability of at least one extraction in ``n`` queries, 1 - (1 - p_z)^n; shapes broadcast.

    Raises: ValueError for a log-probability above 0 or NaN, or fewer than one query.
    """
    queries = np.asarray(n, dtype=np.float64)
    if not (queries >= 1).all():
        raise ValueError("needs at least one query")
    return np.asarray(-np.expm1(queries * _log_miss(log_p_z)), dtype=np.float64)


def queries_needed(log_p_z: npt.ArrayLike, p: float) -> Floats:
    """Smallest n with `chance` >= p, as floats (infinite where the sequence is unreachable); shape of
    ``log_p_z``.

    Raises: ValueError for p outside (0, 1), or a log-probability above 0 or NaN.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie strictly between 0 and 1, got {p}")
    with np.errstate(divide="ignore", over="ignore"):
        exact = np.log1p(-p) / _log_miss(log_p_z)
    return np.asarray(np.maximum(1.0, np.ceil(exact * (1.0 - 1e-12))), dtype=np.float64)


def _log_miss(log_p_z: npt.ArrayLike) -> Floats:
    log_p = np.asarray(log_p_z, dtype=np.float64)
    if not (log_p <= 0.0).all():
        raise ValueError("log p_z must be at most 0 and not NaN")
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(-np.exp(log_p)), dtype=np.float64)


def edit_distance(generated: npt.ArrayLike, truth: npt.ArrayLike) -> Ints:
    """Token Levenshtein distance of each row of [N, L] from the same row of [N, K]; [N].

    Raises: ValueError for arrays that are not two-dimensional with the same number of rows.
    """
    left, right = np.asarray(generated), np.asarray(truth)
    if left.ndim != 2 or right.ndim != 2 or left.shape[0] != right.shape[0]:
        raise ValueError(f"needs two token arrays with the same rows, got {left.shape} and {right.shape}")
    previous = np.tile(np.arange(right.shape[1] + 1), (left.shape[0], 1))
    for i in range(left.shape[1]):
        current = np.empty_like(previous)
        current[:, 0] = i + 1
        for j in range(right.shape[1]):
            swapped = previous[:, j] + (left[:, i] != right[:, j])
            current[:, j + 1] = np.minimum(swapped, np.minimum(previous[:, j + 1], current[:, j]) + 1)
        previous = current
    return np.asarray(previous[:, -1], dtype=np.int64)


def extracted(
    config: Config,
    *,
    target_rank: npt.ArrayLike | None = None,  # exact: [N, L] over the suffix, 1 = greedy choice
    distance: npt.ArrayLike | None = None,  # approximate: [N] edit distance / suffix length
    log_p_z: npt.ArrayLike | None = None,  # np: [N] log-probability of the suffix under the sampling scheme
) -> Bools:
    """Which examples count as extracted, [N], by the kind of the config.

    Raises: ValueError for an unknown kind or where the array of that kind is missing or malformed.
    """
    arrays = {"exact": target_rank, "approximate": distance, "np": log_p_z}
    if config.kind not in arrays:
        raise ValueError(f"unknown kind {config.kind!r}; valid: {', '.join(arrays)}")
    given = arrays[config.kind]
    if given is None:
        raise ValueError(f"kind {config.kind!r} needs its own array: target_rank, distance or log_p_z")
    if config.kind == "np":
        return np.asarray(chance(given, config.queries) >= config.probability)
    if config.kind == "approximate":
        return np.asarray(np.asarray(given, dtype=np.float64) <= config.distance + 1e-12)
    ranks = np.asarray(given)
    if ranks.ndim != 2 or ranks.shape[1] == 0 or (ranks < 1).any():
        raise ValueError("ranks must be [N, L] with L >= 1 and start at 1")
    return np.asarray((ranks == 1).all(axis=1))


def audit(config: Config, *, train: npt.ArrayLike, held_out: npt.ArrayLike) -> Report:
    """Rates of two boolean arrays from `extracted`, [N] training and [H] held-out examples, and their
    difference.

    Raises: ValueError for an empty side.
    """
    own, other = np.asarray(train, dtype=np.bool_), np.asarray(held_out, dtype=np.bool_)
    rate, control = _rate(own, config.level), _rate(other, config.level)
    wide = 0.5 + config.level / 2.0
    (own_low, own_high), (other_low, other_high) = (clopper_pearson(int(side.sum()), side.size, wide) for side in (own, other))
    low, high = own_low - other_high, own_high - other_low
    return Report(config.kind, rate, control, Estimate(rate.value - control.value, low, high, config.level), low > 0.0)


def _rate(hits: Bools, level: float) -> Estimate:
    if hits.size == 0:
        raise ValueError("needs training and held-out examples")
    count = int(hits.sum())
    return Estimate(count / hits.size, *clopper_pearson(count, hits.size, level), level)
