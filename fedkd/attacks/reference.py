"""Membership by the gain over one named reference model: NLL(reference) - NLL(target), on the same tokens.

Carlini et al. 2021, arXiv 2012.07805, section 5.2 (ratio to a reference); specs: audit, B6 kind
``reference``. Strongest cheap attack where the reference is the base model before fine-tuning. **One**
reference, fixed beforehand: taking the best of several on the same data inflates the result (published tables
could not be reproduced for that reason).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt

from fedkd.attacks.loss import mean_logprob
from fedkd.intervals import Floats


@dataclass(frozen=True)
class Config:
    """Options of the reference attack."""

    reduce: Literal["mean", "sum"] = "mean"
    """"mean" or "sum" over an example's tokens, for both models alike."""


def score(
    config: Config,
    *,
    target_logprob: npt.ArrayLike,  # [N] or [N, T] under the audited model
    reference_logprob: npt.ArrayLike,  # same shape under the reference
    lengths: npt.ArrayLike | None = None,  # [N]
) -> Floats:
    """Log-probability under the target minus that under the reference, [N].

    Raises: ValueError for unequal shapes, and as `fedkd.attacks.loss.mean_logprob`.
    """
    target = mean_logprob(target_logprob, lengths, config.reduce)
    reference = mean_logprob(reference_logprob, lengths, config.reduce)
    if target.shape != reference.shape:
        raise ValueError(f"the reference scored {reference.size} examples, the target {target.size}")
    return target - reference
