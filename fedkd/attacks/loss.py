"""Membership by the model's own loss: members tend to get a higher log-probability.

Yeom et al. 2018, arXiv 1709.01604, section 3; specs: audit, B6 kind ``loss``. Threat model: the attacker sees
the log-probability of the true label or tokens. The base line of all other attacks; needs no reference model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedkd.intervals import Floats


@dataclass(frozen=True)
class Config:
    """Options of the loss attack."""

    reduce: Literal["mean", "sum"] = "mean"
    """"mean" or "sum" over an example's tokens (*decided here*: mean, so that length alone does not rank)."""


def token_mask(shape: tuple[int, ...], lengths: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    """[N, T] true where a token exists; ``lengths`` [N] counts an example's tokens, None means all of them.

    Raises: ValueError for a length outside 1..T or of the wrong shape.
    """
    if lengths is None:
        return np.ones(shape, dtype=np.bool_)
    counts = np.asarray(lengths, dtype=np.int64)
    if counts.shape != shape[:1] or (counts.size and not ((counts >= 1) & (counts <= shape[1])).all()):
        raise ValueError(f"lengths must be one count in 1..{shape[1]} for each of {shape[0]} examples")
    return np.asarray(np.arange(shape[1])[None, :] < counts[:, None])


def mean_logprob(
    target_logprob: npt.ArrayLike,  # [N] labels or [N, T] tokens, natural logarithm
    lengths: npt.ArrayLike | None = None,  # [N] tokens that exist
    reduce: str = "mean",
) -> Floats:
    """Log-probability per example, [N]; padding after ``lengths`` is never read.

    Raises: ValueError for a wrong shape, NaN, a positive log-probability, or an unknown reduction.
    """
    values = np.asarray(target_logprob, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"log-probabilities must be [N] or [N, T] with T >= 1, got shape {values.shape}")
    if reduce not in ("mean", "sum"):
        raise ValueError(f"unknown reduction {reduce!r}; valid: mean, sum")
    mask = token_mask(values.shape, lengths)
    if np.isnan(values[mask]).any() or (values[mask] > 1e-6).any():
        raise ValueError("log-probabilities must not be NaN or above 0 (pass log p, not the loss)")
    total = np.where(mask, values, 0.0).sum(axis=1)
    return np.asarray(total / mask.sum(axis=1) if reduce == "mean" else total, dtype=np.float64)


def score(
    config: Config,
    *,
    target_logprob: npt.ArrayLike,  # [N] or [N, T]
    lengths: npt.ArrayLike | None = None,  # [N]
) -> Floats:
    """Mean (or summed) log-probability of the truth, [N].

    Raises: ValueError as `mean_logprob`.
    """
    return mean_logprob(target_logprob, lengths, config.reduce)
