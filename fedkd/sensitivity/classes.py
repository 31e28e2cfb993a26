"""Named labels or tokens are private, all others are not: digits in a text, one diagnosis among many.

Decided here (specs: swing, section 4): the plainest rule where labels are read instead of text. What it flags depends on the
label alone, so on a public transfer set the likelihood is itself public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.errors import ConfigError
from fedkd.spans import Likelihood

READS = frozenset({"labels"})


@dataclass(frozen=True)
class Config:
    """Which labels, and how likely they are private."""

    private: tuple[int, ...] = ()
    """labels or token ids, each at least 0; none = nothing is private"""
    confidence: float = 1.0
    """likelihood of these labels, in [0, 1]; all others have 0"""

    def __post_init__(self) -> None:
        if any(not isinstance(c, int) or c < 0 for c in self.private):
            raise ConfigError(f"private = {self.private}; valid: whole numbers of at least 0")
        if not 0 <= self.confidence <= 1:
            raise ConfigError(f"confidence = {self.confidence}; valid: 0 to 1")


def likelihood(
    config: Config,
    *,
    labels: npt.ArrayLike,  # [..] integers
) -> Likelihood:  # [..]
    """``confidence`` where the label is one of ``private``, else 0."""
    return np.where(np.isin(np.asarray(labels), config.private), config.confidence, 0.0).astype(np.float32)
