"""Coarser features: neighbouring numbers of each feature row are replaced by their mean before the row leaves.

Decided here (specs: fedd2s, section 7, ``head_pool`` does the same inside the method). A deterministic map has no guarantee;
what it hides is measured by attacks only. With pooled maps of 4x4 a group of 16 keeps one number per channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd import guarantees
from fedkd.errors import ConfigError
from fedkd.outgoing import Outgoing, Secret
from fedkd.setting import Setting
from fedkd.types import Array, Arrays, ClientData, Kinds


@dataclass(frozen=True)
class Config:
    """Neutral: group = 1."""

    group: int = 4
    """neighbouring numbers that share their mean, >= 1; the last group of a row may be smaller; neutral: 1"""

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ConfigError(f"pool: group = {self.group}; it must be at least 1")


def check(setting: Setting) -> None:
    """Raises: ConfigError where no features are sent."""
    if setting.mechanism.config.group > 1 and "features" not in guarantees.sent(setting):
        raise ConfigError('pool averages features, but none are sent; valid: method.args with knowledge = "features"')


def upload(
    setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, secret: Secret
) -> Outgoing:
    """Features coarser, of the same shape; everything else as the same objects."""
    group = setting.mechanism.config.group
    if group == 1 or "features" not in kinds:
        return Outgoing(kinds, held)
    return Outgoing({**kinds, "features": {n: coarse(v, group) for n, v in kinds["features"].items()}}, held)


def coarse(rows: Array, group: int) -> Array:  # [m, d] -> [m, d]
    """Each group of neighbours replaced by its mean, in float64, rounded once."""
    starts = np.arange(0, rows.shape[1], group)
    sizes = np.diff(np.append(starts, rows.shape[1]))
    means = np.add.reduceat(rows.astype(np.float64), starts, axis=1) / sizes
    out: Array = np.repeat(means, sizes, axis=1).astype(rows.dtype)
    return out


def notes(setting: Setting) -> dict[str, Any]:
    """Name, statement and what is not protected; {} where nothing is changed."""
    group = setting.mechanism.config.group
    if group == 1:
        return {}
    said = f"Each {group} neighbouring numbers of a feature row leave as their mean. No guarantee is stated."
    return {"name": "pool", "statement": said, "not_protected": sorted(guarantees.sent(setting))}
