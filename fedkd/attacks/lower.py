"""Membership by what lower-casing costs: a memorized text loses more likelihood when its capitals go.

Carlini et al. 2021, arXiv 2012.07805, section 5.2 (lower-case); specs: audit, B6 kind ``lower``. The lower-cased text may
have another number of tokens. Text without capitals has no signal: it scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedkd.attacks.loss import mean_logprob
from fedkd.intervals import Floats


@dataclass(frozen=True)
class Config:
    """Options of the lower-case attack."""

    form: Literal["difference", "ratio"] = "difference"
    """"difference": NLL(lower-cased) - NLL(text); "ratio": NLL(lower-cased) / NLL(text)."""
    reduce: Literal["mean", "sum"] = "mean"
    """"mean" or "sum" over an example's tokens, for both texts alike."""


def score(
    config: Config,
    *,
    target_logprob: npt.ArrayLike,  # [N] or [N, T]
    lowered_logprob: npt.ArrayLike,  # [N] or [N, T'] of the lower-cased texts under the same model
    lengths: npt.ArrayLike | None = None,  # [N]
    lowered_lengths: npt.ArrayLike | None = None,  # [N]
) -> Floats:
    """Loss of the lower-cased text minus, or over, the loss of the text, [N].

    Raises: ValueError for unequal numbers of texts, a loss of zero below a ratio, and as `fedkd.attacks.loss.mean_logprob`.
    """
    if config.form not in ("difference", "ratio"):
        raise ValueError(f"unknown form {config.form!r}; valid: difference, ratio")
    own = mean_logprob(target_logprob, lengths, config.reduce)
    lowered = mean_logprob(lowered_logprob, lowered_lengths, config.reduce)
    if own.shape != lowered.shape:
        raise ValueError(f"{lowered.size} lower-cased texts for {own.size} texts")
    if config.form == "difference":
        return own - lowered
    if (own == 0).any():
        raise ValueError("a text of loss zero has no ratio; use form = difference")
    return np.asarray(lowered / own, dtype=np.float64)
