"""Membership by the loss minus the example's difficulty, estimated on models that were not trained on it.

Watson et al. 2022, arXiv 2111.08440, section 3 (difficulty calibration). Threat model: the attacker trains
reference models on data like the target's. Differs from ``reference`` by averaging over many models and by
using, for each example, only those that did not see it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.attacks.loss import mean_logprob
from fedkd.intervals import Floats


@dataclass(frozen=True)
class Config:
    """Options of the calibrated loss."""

    minimum_references: int = 1
    """Models that each example needs among those that did not train on it (*decided here*); 1 or more."""


def score(
    config: Config,
    *,
    target_logprob: npt.ArrayLike,  # [N] or [N, T] under the audited model
    shadow_logprob: npt.ArrayLike,  # [S, N] mean log-probability under each reference model
    shadow_in: npt.ArrayLike,  # [S, N] true where that model trained on that example
    lengths: npt.ArrayLike | None = None,  # [N]
) -> Floats:
    """Target log-probability minus the mean over the models that never saw the example, [N].

    Raises: ValueError for unequal shapes, NaN, or an example with too few such models.
    """
    target = mean_logprob(target_logprob, lengths)
    shadow, inside = np.asarray(shadow_logprob, dtype=np.float64), np.asarray(shadow_in, dtype=np.bool_)
    if shadow.ndim != 2 or shadow.shape != inside.shape or shadow.shape[1] != target.size:
        raise ValueError(f"references must be [S, {target.size}], got {shadow.shape} and membership {inside.shape}")
    if np.isnan(shadow).any():
        raise ValueError("reference log-probabilities contain NaN")
    count = (~inside).sum(axis=0)
    least = max(1, config.minimum_references)
    if (count < least).any():
        raise ValueError(f"{int((count < least).sum())} examples have fewer than {least} models that did not see them")
    return np.asarray(target - np.where(inside, 0.0, shadow).sum(axis=0) / count, dtype=np.float64)
