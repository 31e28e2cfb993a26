"""One likelihood for every token: 0 is the neutral value, plain distillation.

Decided here (specs: swing, section 4). Reads the labels for their shape alone.
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
    """The one likelihood."""

    likelihood: float = 0.0
    """in [0, 1]; 0 = nothing is private"""

    def __post_init__(self) -> None:
        if not 0 <= self.likelihood <= 1:
            raise ConfigError(f"likelihood = {self.likelihood}; valid: 0 to 1")


def likelihood(config: Config, *, labels: npt.ArrayLike) -> Likelihood:  # [..] -> [..]
    """The constant at every label."""
    return np.full(np.shape(labels), config.likelihood, dtype=np.float32)
