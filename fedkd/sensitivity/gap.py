"""Tokens that the private teacher expects far more than a reference model does are likely private.

Decided here, closest to the abstract's words (specs: swing, section 4): p = clip((loss_reference - loss_teacher - offset) /
width, 0, 1) in nats per token. It fires on every overfitted token and p depends on private data, so no formal statement
holds with it; in the pilot it cost 10 % perplexity. Use a reference trained as long on other text, or a higher offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.errors import ConfigError
from fedkd.spans import Likelihood

READS = frozenset({"teacher_loss", "reference_loss"})


@dataclass(frozen=True)
class Config:
    """From gap to likelihood."""

    offset: float = 0.0
    """gap in nats up to which the likelihood is 0"""
    width: float = 3.0
    """nats above the offset at which the likelihood reaches 1, > 0"""

    def __post_init__(self) -> None:
        if not 0 < self.width < float("inf"):
            raise ConfigError(f"width = {self.width}; it must be above 0 and finite")
        if not abs(self.offset) < float("inf"):
            raise ConfigError(f"offset = {self.offset}; it must be finite")


def likelihood(
    config: Config,
    *,
    teacher_loss: npt.ArrayLike,  # [..] -log p of each label token under the private teacher, nats
    reference_loss: npt.ArrayLike,  # [..] under a reference model that never saw the private data
) -> Likelihood:  # [..]
    """Scaled surprise gap of each label. Raises: ValueError for losses of two shapes or not a number."""
    teacher, reference = (np.asarray(loss, dtype=np.float64) for loss in (teacher_loss, reference_loss))
    if teacher.shape != reference.shape:
        raise ValueError(f"teacher_loss {teacher.shape} and reference_loss {reference.shape} must have one shape")
    gap = reference - teacher
    if np.isnan(gap).any():
        raise ValueError("losses contain NaN, or both are infinite at one token")
    return np.asarray(np.clip((gap - config.offset) / config.width, 0.0, 1.0), dtype=np.float32)
