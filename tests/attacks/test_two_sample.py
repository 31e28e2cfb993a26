"""The two-sample bound: published vectors, both sides, exact error rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedkd.attacks import two_sample


@pytest.mark.parametrize(("tp", "fp", "epsilon"), [(50, 1, 1.90), (500, 10, 3.24), (1000, 0, 5.60)])
def test_published_bounds(tp: int, fp: int, epsilon: float) -> None:
    assert two_sample.epsilon_lower(tp, 1000, fp, 1000, 0.0) == pytest.approx(epsilon, abs=5e-3)


def test_second_side_by_hand_and_by_symmetry() -> None:
    """999 of 1,000 members and 500 of 1,000 non-members above: FNR is tiny, so the second side carries the bound."""
    one = two_sample.epsilon_lower(999, 1000, 500, 1000, 0.0, sides="one")
    both = two_sample.epsilon_lower(999, 1000, 500, 1000, 0.0, sides="both")
    fpr_high = stats.binomtest(500, 1000).proportion_ci(0.95).high
    fnr_high = stats.binomtest(1, 1000).proportion_ci(0.95).high
    assert one == pytest.approx(math.log(stats.binomtest(999, 1000).proportion_ci(0.95).low / fpr_high))
    assert both == pytest.approx(math.log((1 - fpr_high) / fnr_high))
    assert both == pytest.approx(two_sample.epsilon_lower(500, 1000, 1, 1000, 0.0), abs=1e-9)


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 0.5))
def test_both_is_never_below_one_and_delta_only_lowers(tp: int, fp: int, delta: float) -> None:
    one = two_sample.epsilon_lower(tp, 50, fp, 50, delta)
    both = two_sample.epsilon_lower(tp, 50, fp, 50, delta, sides="both")
    assert 0.0 <= one <= both <= two_sample.epsilon_lower(50, 50, 0, 50, delta, sides="both")
    assert both <= two_sample.epsilon_lower(tp, 50, fp, 50, 0.0, sides="both") + 1e-12


@pytest.mark.parametrize("epsilon", [0.0, 0.7])
@pytest.mark.parametrize("sides", ["one", "both"])
def test_exact_error_rate_over_all_outcomes(epsilon: float, sides: str) -> None:
    """Randomised response (TPR = q, FPR = 1 - q) over 30 + 30 trials: P[bound > epsilon] is a finite sum <= 5 %."""
    q = 1 / (1 + math.exp(-epsilon))
    tps, fps = stats.binom.pmf(np.arange(31), 30, q), stats.binom.pmf(np.arange(31), 30, 1 - q)
    wrong = sum(
        tps[a] * fps[b]
        for a in range(31)
        for b in range(31)
        if two_sample.epsilon_lower(a, 30, b, 30, 0.0, sides=sides) > epsilon + 1e-12
    )
    assert wrong <= 0.05


def test_audit_chooses_the_threshold_on_other_data() -> None:
    rng = np.random.default_rng(0)
    member = np.arange(4000) % 2 == 0
    bound = two_sample.audit(two_sample.Config(delta=1e-5), score=member * 3.0 + rng.normal(size=4000), member=member)
    assert (bound.members, bound.non_members) == (1000, 1000)
    assert 1.5 < bound.epsilon <= bound.ceiling
    nothing = [
        two_sample.audit(two_sample.Config(delta=0.0, seed=s), score=rng.normal(size=400), member=member[:400]).epsilon > 0
        for s in range(200)
    ]
    assert np.mean(nothing) <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_refusals() -> None:
    with pytest.raises(TypeError, match="delta"):
        two_sample.Config()
    with pytest.raises(ValueError, match="valid: one, both"):
        two_sample.epsilon_lower(1, 2, 1, 2, 0.0, sides="left")
    with pytest.raises(ValueError, match="delta"):
        two_sample.epsilon_lower(1, 2, 1, 2, -0.1)
    with pytest.raises(ValueError, match="two members"):
        two_sample.audit(two_sample.Config(delta=0.0), score=[1.0, 2.0], member=[True, False])
    with pytest.raises(ValueError, match="not NaN"):
        two_sample.audit(two_sample.Config(delta=0.0), score=[np.nan] * 4, member=[True, False] * 2)
