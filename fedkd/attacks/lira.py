"""Likelihood-ratio membership: is the model's confidence likelier among models that saw the example?

Carlini et al. 2022, arXiv 2112.03570, sections V and VI (algorithm 1, offline form). Threat model: the
attacker trains shadow models on data like the target's; in distillation a shadow is the whole
teacher-and-student pipeline. The reference script's fixed-variance branch takes the out spread from the *in*
scores; here each side has its own, and scores rise with membership (the script's are negative log densities).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedkd.intervals import Bools, Floats, Ints


@dataclass(frozen=True)
class Config:
    """Options of LiRA."""

    mode: Literal["online", "offline"] = "online"
    """"online": log-ratio of in and out densities; "offline": z-value under the out density only."""
    own_variance_from: int = 64
    """Shadows from which each example gets its own spread; below, one pooled spread per side (section
    VI-C)."""
    minimum_sd: float = 1e-6
    """Floor of every spread, in units of ``phi`` (*decided here*; guards against identical shadows)."""


def _centres(phi: Floats, chosen: Bools) -> tuple[Floats, Ints]:
    # Medians over the chosen shadows of each example: sort with the others at infinity, take the middle; NaN
    # where none.
    counts = np.asarray(chosen.sum(axis=0), dtype=np.int64)
    ordered = np.sort(np.where(chosen, phi, np.inf), axis=0)
    columns = np.arange(phi.shape[1])
    upper = ordered[np.minimum(counts // 2, phi.shape[0] - 1), columns]
    lower = ordered[np.maximum(counts - 1, 0) // 2, columns]
    return np.where(counts > 0, lower / 2.0 + upper / 2.0, np.nan), counts


def _spread(phi: Floats, chosen: Bools, counts: Ints, config: Config, shadows: int) -> Floats:
    # Within-example sums of squares about the mean; pooled by degrees of freedom, never across examples'
    # centres.
    mean = np.where(chosen, phi, 0.0).sum(axis=0) / np.maximum(counts, 1)
    squares = np.where(chosen, (phi - mean) ** 2, 0.0).sum(axis=0)
    freedom = np.maximum(counts - 1, 0)
    pooled = float(np.sqrt(squares.sum() / freedom.sum())) if freedom.sum() > 0 else 1.0
    sd = np.full(phi.shape[1], pooled)
    if shadows >= config.own_variance_from:
        sd = np.where(freedom > 0, np.sqrt(squares / np.maximum(freedom, 1)), pooled)
    return np.asarray(np.maximum(sd, config.minimum_sd), dtype=np.float64)


def _check(phi: Floats, shadow: Floats, inside: Bools, config: Config) -> None:
    if config.mode not in ("online", "offline"):
        raise ValueError(f"unknown mode {config.mode!r}; valid: online, offline")
    if phi.ndim != 1 or shadow.ndim != 2 or shadow.shape != inside.shape or shadow.shape[1] != phi.size:
        raise ValueError(f"phi is [N], shadows are [S, N]; got {phi.shape}, {shadow.shape} and {inside.shape}")
    if shadow.shape[0] == 0:
        raise ValueError("needs at least one shadow model")
    if not (np.isfinite(phi).all() and np.isfinite(shadow).all()):
        raise ValueError("phi must be finite (compute it from logits, not from saturated probabilities)")


def score(
    config: Config,
    *,
    phi: npt.ArrayLike,  # [N] log(p / (1 - p)) of the truth under the audited model
    shadow_phi: npt.ArrayLike,  # [S, N] the same under each shadow
    shadow_in: npt.ArrayLike,  # [S, N] true where that shadow trained on that example
) -> Floats:
    """Log-likelihood ratio (online) or z-value (offline), [N]; any number of shadows.

    Online, an example without shadows on one side borrows that centre: the other side's centre shifted by the
    median in - out gap (*decided here*). The z-value is kept instead of its Gaussian CDF, which saturates and
    creates ties.

    Raises: ValueError for wrong shapes, values that are not finite, or missing out shadows (offline) or in
    and out shadows together (online).
    """
    own = np.asarray(phi, dtype=np.float64)
    shadow, inside = np.asarray(shadow_phi, dtype=np.float64), np.asarray(shadow_in, dtype=np.bool_)
    _check(own, shadow, inside, config)
    out_centre, out_counts = _centres(shadow, ~inside)
    out_sd = _spread(shadow, ~inside, out_counts, config, shadow.shape[0])
    if config.mode == "offline":
        if (out_counts == 0).any():
            raise ValueError(f"{int((out_counts == 0).sum())} examples have no shadow that did not train on them")
        return np.asarray((own - out_centre) / out_sd, dtype=np.float64)
    in_centre, in_counts = _centres(shadow, inside)
    in_sd = _spread(shadow, inside, in_counts, config, shadow.shape[0])
    both = (in_counts > 0) & (out_counts > 0)
    if own.size and not both.any():
        raise ValueError("no example has shadows on both sides; use mode = offline or more shadows")
    gap = float(np.median((in_centre - out_centre)[both])) if own.size else 0.0
    in_centre = np.where(in_counts > 0, in_centre, out_centre + gap)
    out_centre = np.where(out_counts > 0, out_centre, in_centre - gap)
    log_in = -np.log(in_sd) - 0.5 * ((own - in_centre) / in_sd) ** 2
    log_out = -np.log(out_sd) - 0.5 * ((own - out_centre) / out_sd) ** 2
    return np.asarray(log_in - log_out, dtype=np.float64)
