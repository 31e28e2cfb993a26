"""What noised soft targets add up to: zero-concentrated differential privacy over releases, and epsilons of sampled labels.

Bun and Steinke, "Concentrated Differential Privacy: Simplifications, Extensions, and Lower Bounds", 2016, arXiv 1605.02635:
propositions 1.3 (conversion), 1.4 (pure to zCDP), 1.6 (Gaussian) and 1.7 (sums). Labels drawn from a mixture with the uniform
distribution: arXiv 2205.13621. Why these serve swing is in specs: swing, section 10. Adjacency is the caller's: with the
diameters of ``soft_targets`` the teacher may change at will. Pure arithmetic; a test compares it with dp-accounting.
"""

from __future__ import annotations

import math

DELTA = 1e-6
"""Delta of every total where none is given (specs: swing, sections 10 and 11)."""


def gaussian_rho(multiplier: float, charges: int = 1) -> float:
    """rho of ``charges`` Gaussian releases with standard deviation nu Delta_2 each: N / (2 nu^2).

    Raises: ValueError for a multiplier that is not above 0, or a negative count.
    """
    _check(multiplier > 0 and charges >= 0, f"multiplier {multiplier} must be above 0, charges {charges} at least 0")
    return charges / (2.0 * multiplier**2)


def pure_rho(epsilon: float, charges: int = 1) -> float:
    """rho of ``charges`` releases that are epsilon-DP each (Laplace): N epsilon^2 / 2.

    Raises: ValueError for a negative epsilon or count.
    """
    _check(epsilon >= 0 and charges >= 0, f"epsilon {epsilon} and charges {charges} must be at least 0")
    return charges * epsilon**2 / 2.0


def total_epsilon(rho: float, delta: float = DELTA) -> float:
    """epsilon of a rho-zCDP release at delta: rho + 2 sqrt(rho ln(1 / delta)).

    Raises: ValueError for a negative rho or a delta outside (0, 1).
    """
    _check(rho >= 0 and 0 < delta < 1, f"rho {rho} must be at least 0, delta {delta} inside (0, 1)")
    return rho + 2.0 * math.sqrt(rho * math.log(1.0 / delta))


def pure_total(epsilon: float, charges: int, delta: float = DELTA) -> float:
    """epsilon at delta of ``charges`` releases that are epsilon-DP each: the smaller of the plain sum and of zCDP.

    Raises: ValueError as ``pure_rho`` and ``total_epsilon``.
    """
    return min(charges * epsilon, total_epsilon(pure_rho(epsilon, charges), delta))


def mixture_epsilon(share: float, vocabulary: int) -> float:
    """epsilon of one token drawn from share q + (1 - share) uniform, whatever q is: ln(1 + share V / (1 - share)).

    Raises: ValueError for a share outside [0, 1) or an empty vocabulary.
    """
    _check(0 <= share < 1 and vocabulary >= 1, f"share {share} must be in [0, 1), vocabulary {vocabulary} at least 1")
    return math.log1p(share * vocabulary / (1.0 - share))


def _check(met: bool, otherwise: str) -> None:
    if not met:
        raise ValueError(otherwise)
