"""Targets at private positions that keep what is common and hide what is rare: pure functions over the secret's type.

Redaction teaches a student nothing where a secret stands, and typed redaction teaches the type alone. What many people share
there (area codes of a town, usual amounts) is neither. Each function here turns what is known about a private position into
a distribution over the type's A symbols; all of them are decided here, none is from a paper unless said:

- ``prior_mix`` flattens the teacher towards the type's prior; ``gap_temperature`` divides the teacher's log-odds against a
  public model by a temperature that grows with that gap; ``bounded_odds`` clips them (the idea of InvisibleInk, arXiv
  2507.02974: only the difference to public logits is bounded). These three ask one teacher about the person itself.
- ``name_marginal`` averages over counterfactual contexts: the same line with made-up names. What belongs to a person is asked
  of nobody; what many copies made likely for everybody stays.
- ``consensus`` asks teachers that never met this person (each was trained without that person's fold of the data) and
  keeps a symbol as far as *every* one of them expects it, so that no single person, however often copied, can push it up.
  The cross-fit is the grouping of SeqPATE and PATE (arXiv 1610.05755), with a minimum in place of a noisy mean.
- ``counted`` uses no teacher: counts of distinct persons per context class with Laplace noise; classes and symbols of too
  few persons fall back to the prior.

Only ``counted`` has a guarantee of its own, about its table alone (see there). None makes a student formally protected.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import ConfigError

MASS = 1e-6
"""Smallest probability of a symbol: a target of 0 would ask for infinite certainty."""


def of_type(logits: Tensor, alphabet: Tensor) -> Tensor:  # [.., V], [A] -> [.., A]
    """Log-probabilities over the type's symbols alone."""
    return F.log_softmax(logits[..., alphabet].float(), dim=-1)


def prior_mix(teacher: Tensor, prior: Tensor, weight: float) -> Tensor:  # [.., A] log p, [A] or [.., A] p -> [.., A] p
    """(1 - w) teacher + w prior; 0 is the teacher, 1 typed redaction. Raises: ConfigError for a weight outside 0..1."""
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight = {weight}; valid: 0 to 1")
    return _distribution((1 - weight) * teacher.exp() + weight * prior)


def gap_temperature(teacher: Tensor, public: Tensor, slope: float) -> Tensor:  # [.., A] log p, [.., A] log p -> [.., A] p
    """public * (teacher / public)^(1/T) with T = 1 + slope * g, g the largest |log-odds| of teacher to public in the type.

    The more a position surprises a public model, the flatter: no symbol's odds move by more than exp(1 / slope), softly.
    Slope 0 is the teacher. Raises: ConfigError for a negative slope.
    """
    if slope < 0:
        raise ConfigError(f"slope = {slope}; valid: 0 or more")
    gap = _centred(teacher - public)
    hot = 1 + slope * gap.abs().amax(-1, keepdim=True)
    return F.softmax(public + gap / hot, dim=-1)


def bounded_odds(teacher: Tensor, public: Tensor, bound: float) -> Tensor:  # [.., A] log p, [.., A] log p -> [.., A] p
    """public * exp(clip(log teacher - log public, -B, B)), normalised; 0 is the public model.

    Raises: ConfigError for a negative bound.
    """
    if bound < 0:
        raise ConfigError(f"bound = {bound}; valid: 0 or more")
    return F.softmax(public + _centred(teacher - public).clamp(-bound, bound), dim=-1)


def name_marginal(draws: Tensor) -> Tensor:  # [K, .., A] log p under K made-up names -> [.., A] p
    """The mean over counterfactual contexts."""
    return _distribution(draws.exp().mean(dim=0))


def consensus(
    votes: Tensor,  # [F, .., A] log p of each fold's teacher
    met: Tensor,  # [F, ..] bool: this teacher was trained with this person's rows
) -> Tensor:  # [.., A] p
    """The smallest probability that any teacher which never met the person gives, normalised.

    Persons that every teacher has met, and persons that none has met, have no such selection: the minimum over all teachers
    serves the latter; the former are refused. Raises: ConfigError for a position that every teacher has met.
    """
    if bool(met.all(dim=0).any()):
        raise ConfigError("consensus needs a teacher that has not met the person; give two folds or more")
    return _distribution(votes.masked_fill(met.unsqueeze(-1), torch.inf).amin(dim=0).exp())


def cross_fit(votes: Tensor, met: Tensor) -> Tensor:  # [F, .., A] log p, [F, ..] bool -> [.., A] p
    """The mean over the teachers that never met the person: ``consensus`` without its minimum, for comparison.

    Raises: ConfigError for a position that every teacher has met.
    """
    if bool(met.all(dim=0).any()):
        raise ConfigError("a cross-fit needs a teacher that has not met the person; give two folds or more")
    free = (~met).unsqueeze(-1).float()
    return _distribution((votes.exp() * free).sum(dim=0) / free.sum(dim=0))


def counted(
    counts: Tensor,  # [.., A] distinct persons of the position's context class that hold the symbol there
    prior: Tensor,  # [A] or [.., A] p
    noise: Tensor,  # [.., A] unit Laplace draws, one per cell of the table (equal cells share theirs)
    epsilon: float,
    at_least: int = 0,
) -> Tensor:  # [.., A] p
    """Noisy counts plus one symbol's worth of the prior: max(n + Laplace / epsilon, 0) + prior, normalised.

    A class whose noisy total is below ``at_least`` is its prior. A person adds one count per cell column, so one column is
    epsilon-DP in that person's row and a secret of k symbols costs k * epsilon; what else a student learns is not covered.

    Raises: ConfigError for an epsilon of 0 or less.
    """
    if not epsilon > 0:
        raise ConfigError(f"epsilon = {epsilon}; valid: above 0, inf = no noise")
    noisy = (counts + noise / epsilon).clamp_min(0)
    few = noisy.sum(-1, keepdim=True) < at_least
    return _distribution(torch.where(few, torch.zeros_like(noisy), noisy) + prior)


def _centred(gap: Tensor) -> Tensor:  # log-odds have no level of their own: the middle of their range is 0
    return gap - (gap.amax(-1, keepdim=True) + gap.amin(-1, keepdim=True)) / 2


def _distribution(mass: Tensor) -> Tensor:
    mass = mass.clamp_min(MASS)
    return mass / mass.sum(-1, keepdim=True)
