"""Membership from client updates: does one client's value stand out among the other clients', round by round?

FedMIA: Zhu et al. 2024, arXiv 2402.06289, section 4 (all-for-one hypothesis test), re-derived from the
formulas. Threat model: a passive server that sees each client's update or model. The other clients' values
for the same example form the OUT sample (values above mean + 3 sd are dropped: those clients may hold the
example too); the score is the Gaussian CDF of the audited client's value, averaged over rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedkd.intervals import Floats, Ints, clopper_pearson
from fedkd.metrics import Estimate


@dataclass(frozen=True)
class Config:
    """Options of the attack on updates."""

    variant: Literal["cosine", "loss"] = "cosine"
    """"cosine" reads ``update_cosine`` (higher = member); "loss" reads ``client_loss``, negated."""
    combine: Literal["cdf", "z"] = "cdf"
    """"cdf" (FedMIA) or "z": mean z-value, which does not saturate into ties (*decided here*)."""
    drop_above: float = 3.0
    """Standard deviations above the mean from which another client's value leaves the OUT sample."""


@dataclass(frozen=True)
class SourceReport:
    """Source inference: is the example's own client the one with the highest score?"""

    accuracy: Estimate
    """Share of examples whose owner scores highest, Clopper-Pearson; ties are right with 1 / tied."""
    chance: float
    """1 / clients."""
    leak_shown: bool
    """True where the lower end lies above chance."""


def _oriented(config: Config, cosine: npt.ArrayLike | None, loss: npt.ArrayLike | None) -> Floats:
    given = {"cosine": cosine, "loss": loss}
    if config.variant not in given:
        raise ValueError(f"unknown variant {config.variant!r}; valid: {', '.join(given)}")
    chosen = given[config.variant]
    if chosen is None:
        name = "update_cosine" if config.variant == "cosine" else "client_loss"
        raise ValueError(f"variant {config.variant!r} needs {name}")
    values = np.asarray(chosen, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] < 3 or values.shape[2] < 1:
        raise ValueError(f"values must be [N, clients >= 3, rounds >= 1], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    return values if config.variant == "cosine" else -values


def per_client(
    config: Config,
    *,
    update_cosine: npt.ArrayLike | None = None,  # [N, clients, rounds]
    client_loss: npt.ArrayLike | None = None,  # [N, clients, rounds]
) -> Floats:
    """Score of every example against every client in every round, [N, clients, rounds]; higher = that
    client's member.

    Raises: ValueError for a missing or malformed array, fewer than three clients, or values that are not
    finite.
    """
    if config.combine not in ("cdf", "z"):
        raise ValueError(f"unknown combination {config.combine!r}; valid: cdf, z")
    values = _oriented(config, update_cosine, client_loss)
    scores = np.empty_like(values)
    for client in range(values.shape[1]):
        others = np.delete(values, client, axis=1)
        limit = others.mean(axis=1, keepdims=True) + config.drop_above * others.std(axis=1, ddof=1, keepdims=True)
        kept = others <= limit
        count = kept.sum(axis=1)
        mean = np.where(kept, others, 0.0).sum(axis=1) / count
        squares = np.where(kept, (others - mean[:, None, :]) ** 2, 0.0).sum(axis=1)
        sd = np.sqrt(squares / np.maximum(count - 1, 1))
        gap = values[:, client, :] - mean
        scores[:, client, :] = np.where(gap == 0.0, 0.0, gap / np.maximum(sd, 1e-12))
    return np.asarray(stats.norm.cdf(scores), dtype=np.float64) if config.combine == "cdf" else scores


def score(
    config: Config,
    *,
    client: npt.ArrayLike,  # [N] the client that each example is tested against
    update_cosine: npt.ArrayLike | None = None,  # [N, clients, rounds]
    client_loss: npt.ArrayLike | None = None,  # [N, clients, rounds]
) -> Floats:
    """Mean over rounds of the audited client's score, [N].

    Raises: ValueError as `per_client`, or for client numbers out of range.
    """
    scores = per_client(config, update_cosine=update_cosine, client_loss=client_loss)
    rows = _owners(client, scores)
    return np.asarray(scores[np.arange(rows.size), rows].mean(axis=1), dtype=np.float64)


def source_inference(scores: Floats, owner: npt.ArrayLike, level: float = 0.95) -> SourceReport:
    """How often the owner's mean score is the highest; ``scores`` [N, clients, rounds], ``owner`` [N].

    Raises: ValueError for no example or owners out of range.
    """
    owners = _owners(owner, scores)
    if owners.size == 0:
        raise ValueError("needs at least one example")
    means = scores.mean(axis=2)
    best = means == means.max(axis=1, keepdims=True)
    right = best[np.arange(owners.size), owners] / best.sum(axis=1)
    low, high = clopper_pearson(int(right.sum()), owners.size, level)
    chance = 1.0 / scores.shape[1]
    return SourceReport(Estimate(float(right.mean()), low, high, level), chance, low > chance)


def _owners(client: npt.ArrayLike, scores: Floats) -> Ints:
    owners = np.asarray(client, dtype=np.int64)
    if owners.shape != scores.shape[:1] or (owners.size and not ((owners >= 0) & (owners < scores.shape[1])).all()):
        raise ValueError(f"needs one client number in 0..{scores.shape[1] - 1} for each of {scores.shape[0]} examples")
    return owners
