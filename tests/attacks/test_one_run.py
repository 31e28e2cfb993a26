"""The one-run bound: published vectors, exact tail, null simulations, selection, and power on a known mechanism."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from fedkd.attacks import one_run


@pytest.mark.parametrize(
    ("m", "guesses", "correct", "delta", "epsilon"),
    [
        (1000, 100, 95, 0.0, 2.1724),
        (1000, 100, 95, 1e-5, 2.1652),
        (1000, 1000, 600, 0.0, 0.2975),
        (5000, 500, 500, 1e-5, 4.9778),
        (1000, 1000, 526, 0.0, 0.0),
    ],
)
def test_published_bounds(m: int, guesses: int, correct: int, delta: float, epsilon: float) -> None:
    assert one_run.epsilon_lower(m, guesses, correct, delta) == pytest.approx(epsilon, abs=5e-5)


@pytest.mark.parametrize(("guesses", "ceiling"), [(10, 1.05), (70, 3.1), (500, 5.11), (5000, 7.42)])
def test_published_ceilings(guesses: int, ceiling: float) -> None:
    assert one_run.epsilon_ceiling(guesses) == pytest.approx(ceiling, abs=0.05 if guesses == 70 else 5e-3)
    assert one_run.epsilon_lower(guesses, guesses, guesses, 0.0) == pytest.approx(one_run.epsilon_ceiling(guesses))


def test_ceilings_of_the_guarantees_page() -> None:
    """Exceeding 4 needs 166 guesses, exceeding 8 needs 8,932; a guess or two prove nothing."""
    assert one_run.epsilon_ceiling(165) < 4 < one_run.epsilon_ceiling(166)
    assert one_run.epsilon_ceiling(8931) < 8 < one_run.epsilon_ceiling(8932)
    assert one_run.epsilon_ceiling(1) == one_run.epsilon_lower(1, 1, 1, 0.0) == 0.0


def test_p_value_by_the_sum() -> None:
    """beta + 2 m delta max_i P[v > Bin >= v - i] / i, summed term by term."""
    m, r, v, delta, epsilon = 50, 20, 14, 1e-3, 0.4
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    slopes = [sum(pmf[v - i : v]) / i for i in range(1, v + 1)]
    expected = sum(pmf[v:]) + 2 * m * delta * max(slopes)
    assert one_run.p_value(m, r, v, delta, epsilon) == pytest.approx(expected)


@pytest.mark.parametrize("guesses", [10, 100, 201])
def test_exact_null_tail_is_at_most_five_percent(guesses: int) -> None:
    """Pure chance is Bin(r, 1/2): the probability of any bound above 0 is a finite sum."""
    positive = [v for v in range(guesses + 1) if one_run.epsilon_lower(guesses, guesses, v, 0.0) > 0]
    assert stats.binom.pmf(positive, guesses, 0.5).sum() <= 0.05
    assert positive == list(range(positive[0], guesses + 1))


def test_exact_tail_at_a_true_epsilon() -> None:
    """Randomised response answers right with probability q: the bound exceeds epsilon at most 5 % of times."""
    for epsilon in (0.5, 2.0):
        q = 1 / (1 + math.exp(-epsilon))
        above = [v for v in range(101) if one_run.epsilon_lower(100, 100, v, 0.0) > epsilon + 1e-9]
        assert stats.binom.pmf(above, 100, q).sum() <= 0.05


def test_delta_only_lowers_the_bound() -> None:
    bounds = [one_run.epsilon_lower(1000, 200, 170, delta) for delta in (0.0, 1e-6, 1e-4, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == 0.0


def test_audit_guesses_at_both_ends_and_breaks_ties_by_seed() -> None:
    """Perfect scores: all 100 guesses are right. A constant score: half right whatever the order of the file."""
    member = np.arange(1000) < 500
    perfect = one_run.audit(one_run.Config(delta=0.0), score=member.astype(float), member=member)
    assert perfect.correct == 100
    assert perfect.epsilon == perfect.ceiling == pytest.approx(one_run.epsilon_ceiling(100))
    reversed_scores = one_run.audit(one_run.Config(delta=0.0), score=-member.astype(float), member=member)
    assert (reversed_scores.correct, reversed_scores.epsilon) == (0, 0.0)
    right = [one_run.audit(one_run.Config(delta=0.0, seed=s), score=np.zeros(1000), member=member).correct for s in range(40)]
    assert np.mean(right) == pytest.approx(50, abs=4 * 5 / 40**0.5)


def test_refusals() -> None:
    with pytest.raises(TypeError, match="delta"):
        one_run.Config()
    for bad in ((10, 5, 6), (10, 11, 5), (10, 0, 0), (10, 5, -1)):
        with pytest.raises(ValueError, match="correct <= guesses"):
            one_run.epsilon_lower(*bad, 0.0)
    with pytest.raises(ValueError, match="delta"):
        one_run.epsilon_lower(10, 5, 5, 1.5)
    with pytest.raises(ValueError, match="at least one guess"):
        one_run.epsilon_ceiling(0)
    with pytest.raises(ValueError, match="100 guesses need as many"):
        one_run.audit(one_run.Config(delta=0.0), score=np.zeros(99), member=np.ones(99, bool))
    with pytest.raises(ValueError, match="not NaN"):
        one_run.audit(one_run.Config(delta=0.0), score=np.full(200, np.nan), member=np.ones(200, bool))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a mu-Gaussian mechanism: root of Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu) = delta (Dong 2022)."""

    def excess(e: float) -> float:
        return stats.norm.cdf(mu / 2 - e / mu) - math.exp(e + stats.norm.logcdf(-mu / 2 - e / mu)) - delta

    return optimize.brentq(excess, 0.0, 300.0)


def median_bound(epsilon: float, repeats: int, delta: float = 1e-5, m: int = 5000, guesses: int = 500) -> float:
    """Dirac canaries, one Gaussian release: score of canary i is mu * in_i + N(0, 1)."""
    mu = optimize.brentq(lambda x: gaussian_epsilon(x, delta) - epsilon, 0.05, 10.0)
    rng = np.random.default_rng(5)
    bounds = []
    for _ in range(repeats):
        member = rng.random(m) < 0.5
        score = mu * member + rng.normal(size=m)
        bounds.append(one_run.audit(one_run.Config(delta=delta, guesses=guesses), score=score, member=member).epsilon)
    return float(np.median(bounds))


@pytest.mark.parametrize(("epsilon", "best"), [(1.0, 0.4), (4.0, 1.9), (8.0, 3.5)])
def test_power_on_a_known_gaussian_mechanism(epsilon: float, best: float) -> None:
    """m = 5,000: the median bound is at least 35 % of the true epsilon and about what the guarantees page measured."""
    found = max(median_bound(epsilon, 15, guesses=guesses) for guesses in (100, 200, 500, 1000))
    assert 0.35 * epsilon <= found <= epsilon
    assert found == pytest.approx(best, abs=0.3)


def null_rate(repeats: int, tuned: bool) -> float:
    rng = np.random.default_rng(6)
    hits = 0
    for _ in range(repeats):
        member, score = rng.random(1000) < 0.5, rng.normal(size=1000)
        grid = (20, 50, 100, 200, 400, 600, 800, 1000) if tuned else (100,)
        bounds = (one_run.audit(one_run.Config(delta=0.0, guesses=r), score=score, member=member).epsilon for r in grid)
        hits += any(bound > 0 for bound in bounds)
    return hits / repeats


def test_a_number_of_guesses_chosen_on_the_data_inflates_the_bound() -> None:
    """Why r is fixed in the config: the best of eight values of r errs above 5 % (binomial sd at 300: 1.3 points)."""
    assert null_rate(300, tuned=False) <= 0.05 + 3 * 0.0126
    assert null_rate(300, tuned=True) > 0.05 + 3 * 0.0126


@pytest.mark.slow
def test_ten_thousand_null_audits() -> None:
    """At most 5.6 %: three standard errors (0.22 points) above 5 %."""
    assert null_rate(10_000, tuned=False) <= 0.056
