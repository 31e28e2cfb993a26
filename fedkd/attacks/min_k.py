"""Membership by the least likely tokens: mean of the lowest k % of an example's token scores.

Min-K%: Shi et al. 2024, arXiv 2310.16789, section 3. Min-K%++: Zhang et al. 2025, arXiv 2404.02936, section 4
(each log-probability standardised by the model's own mean and spread over the vocabulary). Specs: audit, B6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.attacks.loss import token_mask
from fedkd.intervals import Floats


@dataclass(frozen=True)
class Config:
    """Options of Min-K%."""

    k: float = 0.2
    """Share of an example's tokens that is kept, in (0, 1]; at least one token always is."""
    normalise: bool = False
    """True gives Min-K%++, which also needs ``logprob_mean`` and ``logprob_sd``; false is Min-K%."""


def score(
    config: Config,
    *,
    target_logprob: npt.ArrayLike,  # [N, T] natural logarithm
    lengths: npt.ArrayLike | None = None,  # [N]
    logprob_mean: npt.ArrayLike | None = None,  # [N, T] sum_v p log p
    logprob_sd: npt.ArrayLike | None = None,  # [N, T] spread of log p under p, >= 0
) -> Floats:
    """Mean of the lowest k % token scores, [N]. A spread of 0 (a uniform row) scores 0 for that token.

    Raises: ValueError for a share outside (0, 1], wrong shapes, NaN, or missing moments with ``normalise``.
    """
    if not 0.0 < config.k <= 1.0:
        raise ValueError(f"k must lie in (0, 1], got {config.k}")
    values = np.asarray(target_logprob, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"token log-probabilities must be [N, T] with T >= 1, got shape {values.shape}")
    mask = token_mask(values.shape, lengths)
    if config.normalise:
        values = _standardise(values, logprob_mean, logprob_sd)
    if np.isnan(values[mask]).any():
        raise ValueError("token log-probabilities contain NaN")
    counts = mask.sum(axis=1)
    kept = np.maximum(1, np.floor(config.k * counts + 1e-9).astype(np.int64))
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    lowest = np.where(np.arange(values.shape[1])[None, :] < kept[:, None], ordered, 0.0)
    return np.asarray(lowest.sum(axis=1) / kept, dtype=np.float64)


def _standardise(values: Floats, mean: npt.ArrayLike | None, spread: npt.ArrayLike | None) -> Floats:
    if mean is None or spread is None:
        raise ValueError("Min-K%++ needs logprob_mean and logprob_sd")
    centre, sd = np.asarray(mean, dtype=np.float64), np.asarray(spread, dtype=np.float64)
    if centre.shape != values.shape or sd.shape != values.shape:
        raise ValueError(f"moments must have the shape {values.shape} of the log-probabilities")
    divisor = np.where(sd > 0.0, sd, 1.0)
    return np.asarray(np.where(sd > 0.0, (values - centre) / divisor, 0.0), dtype=np.float64)
