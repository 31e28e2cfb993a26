"""Rare tokens or labels are likely private: a count at most ``rare`` gives 1, at least ``common`` gives 0.

Decided here (specs: swing, section 4): between the two the likelihood falls with the logarithm of the count. Counts are
public (another text) or the labels' own; own counts are themselves private data where the labels are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.errors import ConfigError
from fedkd.spans import Likelihood

READS = frozenset({"labels", "counts"})


@dataclass(frozen=True)
class Config:
    """From count to likelihood."""

    rare: int = 1
    """counts up to this one have likelihood 1; at least 1"""
    common: int = 100
    """counts from this one on have likelihood 0; above rare"""

    def __post_init__(self) -> None:
        if not 1 <= self.rare < self.common:
            raise ConfigError(f"rare = {self.rare}, common = {self.common}; valid: 1 <= rare < common")


def likelihood(
    config: Config,
    *,
    labels: npt.ArrayLike,  # [..] integers in [0, V)
    counts: npt.ArrayLike | None = None,  # [V] how often each token occurs elsewhere; None = among the labels
) -> Likelihood:  # [..]
    """Rarity of each label; a token that the counts never saw counts as rare. Raises: ValueError for labels outside counts."""
    values = np.asarray(labels, dtype=np.int64)
    known = np.bincount(values.reshape(-1), minlength=1) if counts is None else np.asarray(counts, dtype=np.float64)
    if values.size and not 0 <= values.min() <= values.max() < len(known):
        raise ValueError(f"labels {values.min()} to {values.max()} do not fit counts of {len(known)} tokens")
    fall = np.log(np.maximum(known, 1.0) / config.rare) / np.log(config.common / config.rare)
    return np.asarray(np.clip(1.0 - fall, 0.0, 1.0), dtype=np.float32)[values]
