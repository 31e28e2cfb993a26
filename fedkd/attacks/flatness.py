"""Reading from the flatness of a released soft label whether its sender took it for private.

Decided here, against swing distillation (arXiv 2212.08349; specs: swing, section 11): neither the likelihood p nor a flag
travels, but a temperature that follows p flattens a row, so whoever receives rows can rank them by flatness. Threat model: an
honest-but-curious receiver of protected rows, who knows the mechanism but neither p nor the temperatures. Higher = flatter =
more likely private ("member" of the private rows). Where p is the same for all rows only the model's own confidence is left:
compare with that arm, not with 1/2 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedkd.intervals import Floats


@dataclass(frozen=True)
class Config:
    """Options of the flatness attack."""

    statistic: Literal["entropy", "top", "gap"] = "entropy"
    """entropy of the row in nats; minus the log of its largest probability; or minus the difference of its two largest logs"""


def score(
    config: Config,
    *,
    log_q: npt.ArrayLike,  # [N, C] released rows as logarithms, up to a constant per row
) -> Floats:  # [N]
    """How flat each row is.

    Raises: ValueError for a wrong shape, fewer than two classes, NaN or plus infinity.
    """
    z = np.asarray(log_q, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 2 or np.isnan(z).any() or np.isposinf(z).any():
        raise ValueError(f"rows must be logarithms [N, C] with C >= 2 and without NaN, got shape {z.shape}")
    z = z - z.max(axis=1, keepdims=True)
    z = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    if config.statistic == "entropy":
        q = np.exp(z)
        return np.asarray(-np.where(q > 0, q * np.where(q > 0, z, 0.0), 0.0).sum(axis=1))
    top = np.sort(z, axis=1)[:, ::-1]
    if config.statistic == "top":
        return np.asarray(-top[:, 0])
    return np.asarray(-np.minimum(top[:, 0] - top[:, 1], 1e6))  # a row with one class only is as sharp as can be
