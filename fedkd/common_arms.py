"""Arms of the study of what is common at private positions: every setting that is tried, and its target there.

Settings were fixed before seeds 1 to 8 were run. Opponents and references: plain distillation, the control teacher, swing's
default, redaction, typed redaction (uniform; by the digits' frequencies at private positions of the private data, pooled or
per place of the run, each person once), and public substitution. Arms differ in their targets at private positions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd import type_targets


class Evidence(NamedTuple):
    """What is known about the R private lines of a transfer set, k places each, over the type's A symbols."""

    own: Tensor
    """[R, k, A] log p of the private teacher"""
    public: Tensor
    """[R, k, A] log p of the public model"""
    names: Tensor
    """[K, R, k, A] log p of the private teacher under made-up names"""
    votes: Tensor
    """[F, R, k, A] log p of the folds' teachers"""
    name_votes: Tensor
    """[F, R, k, A] log of the mean over made-up names of the folds' teachers"""
    met: Tensor
    """[F, R, k] bool: that fold holds the line's person"""
    counts: Tensor
    """[R, k, A] distinct people of the line's town with that digit there"""
    noise: Tensor
    """[R, k, A] unit Laplace draws, equal for lines of one town"""
    pooled: Tensor
    """[A] digits' frequencies at private positions of the private data"""
    by_place: Tensor
    """[k, A] the same per place"""


@dataclass(frozen=True)
class Variant:
    """One setting of one rule."""

    family: str
    """settings of a family compete with one another"""
    label: str
    """in tables"""
    target: Callable[[Evidence], Tensor]
    """-> [R, k, A] probabilities"""


def _uniform(e: Evidence) -> Tensor:
    return torch.full_like(e.own, 1 / e.own.shape[-1])


def _spread(prior: Tensor, e: Evidence) -> Tensor:
    return prior.expand_as(e.own).clone()


REFERENCES = {
    "kd": "KD",
    "control": "KD, control teacher",
    "swing": "swing (T 20, Laplace 0.2)",
    "redaction": "redaction",
    "public": "public substitution",
}
"""Arms whose private positions are not a distribution over the type."""

TYPED: dict[str, Variant] = {
    "typed": Variant("typed", "typed redaction, uniform", _uniform),
    "typed_prior": Variant("typed", "typed redaction, prior", lambda e: _spread(e.pooled, e)),
    "typed_place": Variant("typed", "typed redaction, prior per place", lambda e: _spread(e.by_place, e)),
}


def _mix(weight: float) -> Callable[[Evidence], Tensor]:
    return lambda e: type_targets.prior_mix(e.own, e.pooled, weight)


def _gap(slope: float) -> Callable[[Evidence], Tensor]:
    return lambda e: type_targets.gap_temperature(e.own, e.public, slope)


def _bound(bound: float) -> Callable[[Evidence], Tensor]:
    return lambda e: type_targets.bounded_odds(e.own, e.public, bound)


def _counted(epsilon: float) -> Callable[[Evidence], Tensor]:
    return lambda e: type_targets.counted(e.counts, e.pooled, e.noise, epsilon, at_least=20)


VARIANTS: dict[str, Variant] = {
    **{f"prior_mix-{w:g}": Variant("prior_mix", f"prior mix, weight {w:g}", _mix(w)) for w in (0.5, 0.8, 0.95)},
    **{f"gap-{s:g}": Variant("gap", f"gap temperature, slope {s:g}", _gap(s)) for s in (1.0, 4.0)},
    **{f"bounded-{b:g}": Variant("bounded", f"log-odds within {b:g} of public", _bound(b)) for b in (0.5, 1.0)},
    "names": Variant("names", "name-marginal teacher", lambda e: type_targets.name_marginal(e.names)),
    "cross_fit": Variant("folds", "cross-fit, mean", lambda e: type_targets.cross_fit(e.votes, e.met)),
    "consensus": Variant("folds", "consensus of folds", lambda e: type_targets.consensus(e.votes, e.met)),
    "consensus_names": Variant(
        "folds", "consensus of folds, made-up names", lambda e: type_targets.consensus(e.name_votes, e.met)
    ),
    **{f"counted-{x:g}": Variant("counted", f"counts of people, eps {x:g} a place", _counted(x)) for x in (0.25, 1.0)},
}
"""Settings among which seeds 1 to 3 choose."""

LABELS = {**REFERENCES, **{name: v.label for name, v in {**TYPED, **VARIANTS}.items()}}
