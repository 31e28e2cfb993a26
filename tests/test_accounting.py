"""The numbers of specs: swing, section 10 (and the rows' total of section 11); dp-accounting agrees; letters of section 12."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.accounting import DELTA, gaussian_rho, mixture_epsilon, pure_rho, pure_total, total_epsilon
from fedkd.attacks.exposure import substitution_epsilon
from fedkd.soft_targets import delta_1, delta_2, sampled_epsilon


# ----- 10.2: sensitivities -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("hot", "expected"), [(1, 2.00), (4, 1.97), (10, 1.52), (20, 0.92), (100, 0.20)])
def test_k_delta_1_at_range_20(hot: float, expected: float) -> None:
    assert round(delta_1(20.0, hot), 2) == expected


@pytest.mark.parametrize(
    ("hot", "one", "two"), [(1, 2.00, 1.41), (5, 1.52, 0.82), (10, 0.92, 0.42), (20, 0.49, 0.21)]
)  # fmt: skip
def test_k_both_bounds_at_ten_classes(hot: float, one: float, two: float) -> None:
    assert round(delta_1(10.0, hot), 2) == one
    assert delta_2(10.0, hot, 10) == pytest.approx(two, abs=6e-3)  # 0.815 at T = 5, which the specification prints as 0.82


@pytest.mark.parametrize(
    ("hot", "bound", "searched"),
    [(1, 1.41, 1.41), (4, 0.0762, 0.0383), (10, 0.0148, 0.0080), (20, 0.0066, 0.0041), (100, 0.0013, 0.0009)],
)
def test_k_delta_2_is_a_bound_and_a_search_stays_below_it(hot: float, bound: float, searched: float) -> None:
    """Two-level logits, high on a of V = 50,257 entries against high on b others, over a grid of a and b."""
    size, r = 50257, 20.0 / hot
    counts = np.unique(np.round(np.geomspace(1, size // 2, 400)))
    a, b = counts[:, None], counts[None, :]
    low_p, low_q = 1 / (a * math.exp(r) + size - a), 1 / (b * math.exp(r) + size - b)
    apart = a * (low_p * math.exp(r) - low_q) ** 2 + b * (low_q * math.exp(r) - low_p) ** 2
    apart = apart + (size - a - b) * (low_p - low_q) ** 2
    found = math.sqrt(apart.max())
    digits = 2 if hot == 1 else 4
    assert round(delta_2(20.0, hot, size), digits) == bound
    assert round(found, digits) == searched
    assert found <= delta_2(20.0, hot, size)


# ----- 10.3: composition -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nu", "charges", "expected", "digits"),
    [
        (100, 1_000, 1.7, 1), (100, 100_000, 21.6, 1), (100, 1_000_000, 103, 0), (1000, 100_000, 1.7, 1),
        (1000, 1_000_000, 5.8, 1), (10, 1_000, 21.6, 1), (10, 100_000, 666, 0), (100, 2_100, 2.5, 1), (100, 21_000, 8.7, 1),
    ],
)  # fmt: skip
def test_k_totals_of_gaussian_releases(nu: float, charges: int, expected: float, digits: int) -> None:
    assert DELTA == 1e-6
    assert round(total_epsilon(gaussian_rho(nu, charges)), digits) == expected


@pytest.mark.parametrize(("nu", "charges"), [(100, 1_000), (100, 100_000), (1000, 1_000_000), (10, 1_000), (10, 100_000)])
def test_k_dp_accounting_agrees_on_gaussian_releases(nu: float, charges: int) -> None:
    """Its Renyi accountant converts the same curve alpha rho more tightly: at most ours, and within a fifth of it."""
    pytest.importorskip("dp_accounting", reason="needs: pip install 'fedkd[privacy]'")
    from dp_accounting import GaussianDpEvent
    from dp_accounting.rdp import RdpAccountant

    orders = list(1 + np.geomspace(1e-3, 1e4, 400))
    theirs = RdpAccountant(orders).compose(GaussianDpEvent(float(nu)), charges).get_epsilon(DELTA)
    ours = total_epsilon(gaussian_rho(nu, charges))
    assert 0.8 * ours <= theirs <= ours


@pytest.mark.parametrize(("epsilon", "charges"), [(0.1, 100), (0.02, 10_000), (1.0, 30)])
def test_k_dp_accounting_agrees_on_laplace_releases(epsilon: float, charges: int) -> None:
    """Ours holds for every epsilon-DP release, so it may be looser than theirs for Laplace, never tighter."""
    pytest.importorskip("dp_accounting", reason="needs: pip install 'fedkd[privacy]'")
    from dp_accounting import LaplaceDpEvent
    from dp_accounting.rdp import RdpAccountant

    theirs = RdpAccountant().compose(LaplaceDpEvent(1.0 / epsilon), charges).get_epsilon(DELTA)
    ours = pure_total(epsilon, charges)
    assert 0.6 * ours <= theirs <= ours


@given(st.floats(0, 50), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_k_rho_adds_up_and_more_charges_never_cost_less(epsilon: float, one: int, two: int) -> None:
    assert pure_rho(epsilon, one) + pure_rho(epsilon, two) == pytest.approx(pure_rho(epsilon, one + two))
    assert gaussian_rho(7.0, one) + gaussian_rho(7.0, two) == pytest.approx(gaussian_rho(7.0, one + two))
    assert pure_total(epsilon, one) <= pure_total(epsilon, one + two) <= (one + two) * epsilon


# ----- 10.5 and 10.8: sampled labels, exposure ---------------------------------------------------------------------------
@pytest.mark.parametrize(("share", "expected"), [(1e-4, 1.8), (0.01, 6.2), (0.5, 10.8)])
def test_k_a_label_drawn_from_a_mixture(share: float, expected: float) -> None:
    assert round(mixture_epsilon(share, 50257), 1) == expected


def test_k_a_mixture_is_never_exceeded_and_reached_by_a_sure_target() -> None:
    """The ratio of two targets' chances of one token is largest where one is sure of it and the other excludes it."""
    share, size = 0.3, 7
    sure, never = share + (1 - share) / size, (1 - share) / size
    assert mixture_epsilon(share, size) == pytest.approx(math.log(sure / never), rel=1e-12)
    assert mixture_epsilon(0.0, size) == 0.0


def test_k_a_label_drawn_from_a_clipped_target() -> None:
    """2R / T bounds the log-ratio of two clipped targets; high on one entry against low on it comes near for large V."""
    reach, hot, size = 6.0, 3.0, 10**6
    assert sampled_epsilon(reach, hot) == 4.0
    one = math.exp(reach / hot) / (math.exp(reach / hot) + size - 1)
    other = math.exp(-reach / hot) / (math.exp(-reach / hot) + size - 1)
    assert 3.99 < math.log(one / other) <= 4.0


def test_k_what_a_measured_exposure_implies() -> None:
    assert round(substitution_epsilon(4.0), 1) == 1.8


def test_refusals() -> None:
    for call in (
        lambda: gaussian_rho(0.0), lambda: gaussian_rho(1.0, -1), lambda: pure_rho(-1.0), lambda: total_epsilon(-1.0),
        lambda: total_epsilon(1.0, 0.0), lambda: total_epsilon(1.0, 1.0), lambda: mixture_epsilon(1.0, 10),
        lambda: mixture_epsilon(0.5, 0), lambda: pure_total(1.0, -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be"):
            call()
