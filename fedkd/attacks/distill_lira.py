"""Membership through a distillation pipeline: LiRA on the student's answers to an example and to its proxy queries.

After Jagielski et al. 2023, arXiv 2303.03446 (details decided here; specs: audit, B9). Threat model: the attacker asks
the student, which never saw the private example, about the example itself and about transfer examples near it (in the
teacher's embedding), and has shadows that repeat the whole pipeline: a random subset, a teacher, a student. Each query's
log-likelihood ratio is LiRA's; a score is their sum, so queries count as independent evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.attacks import lira
from fedkd.intervals import Floats, Ints


@dataclass(frozen=True)
class Config:
    """Options of distillation-aware LiRA."""

    queries: int = 8
    """Proxy queries per example, the nearest transfer examples; 0 = only the example itself."""
    minimum_sd: float = 1e-6
    """Floor of every spread, in units of ``phi``."""


def nearest(
    embedding: npt.ArrayLike,  # [N, d] of the candidates
    transfer_embedding: npt.ArrayLike,  # [Z, d] of the transfer examples
    queries: int,
) -> Ints:
    """Rows of the nearest transfer examples (Euclidean), [N, queries], nearest first.

    Raises: ValueError for widths that differ or fewer transfer examples than queries.
    """
    points, others = np.asarray(embedding, dtype=np.float64), np.asarray(transfer_embedding, dtype=np.float64)
    if points.ndim != 2 or others.ndim != 2 or points.shape[1] != others.shape[1] or not 0 <= queries <= len(others):
        raise ValueError(f"needs [N, d] and [Z, d] with Z >= {queries}; got {points.shape} and {others.shape}")
    square = (others**2).sum(axis=1)
    found = np.empty((len(points), queries), dtype=np.int64)
    for start in range(0, len(points), 1024):
        distance = square - 2 * points[start : start + 1024] @ others.T
        found[start : start + 1024] = np.argsort(distance, axis=1, kind="stable")[:, :queries]
    return found


def score(
    config: Config,
    *,
    phi: npt.ArrayLike,  # [N] log(p / (1 - p)) of the truth under the audited student
    shadow_phi: npt.ArrayLike,  # [S, N] the same under each shadow's student
    shadow_in: npt.ArrayLike,  # [S, N] true where that shadow's teacher trained on that example
    transfer_phi: npt.ArrayLike | None = None,  # [Z] the audited student's on the transfer examples
    shadow_transfer_phi: npt.ArrayLike | None = None,  # [S, Z]
    proxies: npt.ArrayLike | None = None,  # [N, Q] rows of the transfer examples, from ``nearest``
) -> Floats:
    """Sum over the example and its first ``queries`` proxies of the online log-likelihood ratio, [N].

    Raises: ValueError for wrong shapes, values that are not finite, missing proxies, or examples without shadows on either
    side.
    """
    options = lira.Config(mode="online", minimum_sd=config.minimum_sd)
    total = lira.score(options, phi=phi, shadow_phi=shadow_phi, shadow_in=shadow_in)
    if config.queries == 0:
        return total
    if transfer_phi is None or shadow_transfer_phi is None or proxies is None:
        raise ValueError("proxy queries need transfer_phi, shadow_transfer_phi and proxies; or set queries = 0")
    rows = np.asarray(proxies, dtype=np.int64)
    own, shadow = np.asarray(transfer_phi, dtype=np.float64), np.asarray(shadow_transfer_phi, dtype=np.float64)
    if rows.ndim != 2 or len(rows) != total.size or rows.shape[1] < config.queries:
        raise ValueError(f"proxies must be [{total.size}, at least {config.queries}], got {rows.shape}")
    for query in range(config.queries):
        at = rows[:, query]
        total = total + lira.score(options, phi=own[at], shadow_phi=shadow[:, at], shadow_in=shadow_in)
    return total
