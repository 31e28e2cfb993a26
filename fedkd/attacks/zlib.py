"""Membership by log-probability per compressed byte: discounts text that any model finds easy.

Carlini et al. 2021, arXiv 2012.07805, section 5.2 (zlib); specs: audit, B6 kind ``zlib``.
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
    """Options of the zlib attack."""

    reduce: Literal["mean", "sum"] = "mean"
    """"mean" (the form of the specification) or "sum" (the original's ratio of perplexity to bytes)."""


def score(
    config: Config,
    *,
    target_logprob: npt.ArrayLike,  # [N, T] or [N]
    zlib_bytes: npt.ArrayLike,  # [N] length of the compressed UTF-8 text
    lengths: npt.ArrayLike | None = None,  # [N]
) -> Floats:
    """Log-probability divided by compressed bytes, [N].

    Raises: ValueError for sizes that are not positive or not one per example, and as `loss.mean_logprob`.
    """
    logprob = mean_logprob(target_logprob, lengths, config.reduce)
    size = np.asarray(zlib_bytes, dtype=np.float64)
    if size.shape != logprob.shape or not (size > 0).all():
        raise ValueError(f"needs one positive compressed size for each of {logprob.size} examples")
    return np.asarray(logprob / size, dtype=np.float64)
