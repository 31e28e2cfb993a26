"""What the noise of ``formal = true`` adds up to, over all releases that a student read (specs: swing, section 10).

Two teachers may differ at will (so a record may have any number of copies): each released target then moves by at most the
diameter of clipped, softened distributions, and releases add up by zCDP. The colder the target the larger its diameter, so T_lo
counts for all. The transfer text and the likelihoods must be public; the regime R4 sees to it. Floating-point Laplace noise is
not exactly differentially private (Mironov 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.accounting import DELTA, gaussian_rho, pure_total, total_epsilon
from fedkd.errors import ConfigError
from fedkd.soft_targets import Protection, delta_1, delta_2

UNIT = "the whole private training set of the teacher, so each record in it whatever its copies"
ADJACENCY = "replace: any two teachers"
ADVERSARY = "who reads the student or all its targets, and knows the transfer text and the likelihoods"
OUTSIDE = (
    "simulation: the noise seed is known; outside: the figures and files of the teacher itself, the other students of the "
    "study, choices made by looking at results, and a character alphabet that was read from all texts"
)
"""Rules 2 and 4 of specs: guarantees."""


@dataclass(frozen=True)
class Statement:
    """One student's total, with what must stand beside it."""

    epsilon: float
    """of all releases together"""
    delta: float
    """at this delta"""
    charges: int
    """distinct releases, each charged once"""
    unit: str = UNIT
    """what is protected"""
    adjacency: str = ADJACENCY
    """which neighbours"""
    adversary: str = ADVERSARY
    """against whom"""
    outside: str = OUTSIDE
    """what it does not cover"""


def statement(protection: Protection, charges: int, vocabulary: int, delta: float = DELTA) -> Statement:
    """The total of ``charges`` releases of targets over ``vocabulary`` tokens.

    Raises: ConfigError for noise on logits, whose diameter is not bounded here, or for no noise.
    """
    if protection.noise_on != "probabilities" or not protection.noisy or not protection.logit_range:
        raise ConfigError('a formal total needs noise_on = "probabilities", noise, and logit_range above 0')
    reach, cold = protection.logit_range, protection.temperature_low
    if protection.noise == "gaussian":
        multiplier = float(protection.noise_scale or 0.0) / delta_2(reach, cold, vocabulary)
        return Statement(total_epsilon(gaussian_rho(multiplier, charges), delta), delta, charges)
    each = protection.epsilon  # with Delta_1 = 2 as the bound this is more than the clipped target needs
    if each is None:
        each = delta_1(reach, cold) / float(protection.noise_scale or 0.0)
    return Statement(pure_total(each, charges, delta), delta, charges)


def sentence(epsilon: float, delta: float, charges: int, unit: str, adjacency: str, adversary: str, outside: str) -> str:
    """The line that reports print: never an epsilon of one position."""
    vacuous = " A number this large bounds nothing in practice." if epsilon > 20 else ""
    return (
        f"Total: epsilon = {epsilon:.4g} at delta = {delta:g} over {charges:,} releases, one student. Unit: {unit}. Adjacency: "
        f"{adjacency}. Adversary: {adversary}. {outside.capitalize()}.{vacuous}"
    )
