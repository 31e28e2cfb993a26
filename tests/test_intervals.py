"""Exact intervals against the published vectors, scipy, and enumerated coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkd import metrics

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (1698, 1_000_000, 0.1618, 0.1781),
        (18, 1955, 0.55, 1.45),
        (50, 1955, 1.90, 3.36),
        (1, 1000, 0.0025, 0.56),
        (5, 5000, 0.033, 0.23),
        (10, 10_000, 0.048, 0.18),
        (50, 50_000, 0.074, 0.13),
    ],
)
def test_published_rates_in_percent(hits: int, trials: int, low: float, high: float) -> None:
    ends = metrics.clopper_pearson(hits, trials)
    # Printed with two to four significant digits; one is rounded up (0.03248 as 0.033), hence 0.6 of the last unit.
    for got, published in zip(ends, (low, high), strict=True):
        digits = len(str(published).split(".")[1])
        assert 100 * got == pytest.approx(published, abs=0.6 * 10**-digits)


@pytest.mark.parametrize(
    ("a", "b", "published"),
    [((50, 1955), (18, 1955), (2.778, 1.593, 5.059)), ((17, 10_000), (7, 10_000), (2.429, 0.957, 6.927))],
)
def test_published_ratios(a: tuple[int, int], b: tuple[int, int], published: tuple[float, float, float]) -> None:
    assert metrics.rate_ratio(*a, *b) == pytest.approx(published, abs=5e-4)


def test_ratio_scales_by_trials_and_stays_infinite_without_hits() -> None:
    ratio, low, high = metrics.rate_ratio(10, 100, 10, 200)
    assert ratio == 2.0
    assert low < 2.0 < high
    ratio, low, high = metrics.rate_ratio(5, 100, 0, 100)
    assert math.isinf(ratio)
    assert math.isinf(high)
    assert low == pytest.approx(0.025 ** (1 / 5) / (1 - 0.025 ** (1 / 5)))
    with pytest.raises(ValueError, match="at least one hit"):
        metrics.rate_ratio(0, 5, 0, 5)


def test_zero_hits_need_so_many_trials() -> None:
    assert metrics.trials_for_zero_hits(0.001) == 2995
    assert metrics.trials_for_zero_hits(0.0001) == 29_956
    assert metrics.rate_high(0, 2995, 0.05) <= 0.001 < metrics.rate_high(0, 2994, 0.05)


@given(counts, st.sampled_from([0.8, 0.95, 0.999]))
@settings(max_examples=50)
def test_clopper_pearson_is_scipys(pair: tuple[int, int], level: float) -> None:
    hits, trials = pair
    expected = stats.binomtest(hits, trials).proportion_ci(level, method="exact")
    assert metrics.clopper_pearson(hits, trials, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(counts)
@settings(max_examples=25)
def test_mid_p_solves_its_equation_and_lies_inside_the_exact_interval(pair: tuple[int, int]) -> None:
    """At the lower end p: P[X > k] + P[X = k] / 2 = 2.5 %; at the upper end the same sum is 97.5 %."""
    hits, trials = pair
    low, high = metrics.mid_p(hits, trials)
    exact = metrics.clopper_pearson(hits, trials)
    assert exact[0] <= low <= hits / trials <= high <= exact[1]
    for end, target, skipped in ((low, 0.025, hits == 0), (high, 0.975, hits == trials)):
        tail = sum(stats.binom.pmf(range(hits + 1, trials + 1), trials, end)) + stats.binom.pmf(hits, trials, end) / 2
        assert skipped or tail == pytest.approx(target, abs=1e-8)


@pytest.mark.parametrize("trials", [1, 2, 5, 20, 71])
def test_enumerated_coverage_of_exact_intervals(trials: int) -> None:
    """Coverage at p is the summed probability of the outcomes whose interval holds p; it must never fall below 95 %."""
    ends = np.array([metrics.clopper_pearson(k, trials) for k in range(trials + 1)])
    for rate in np.linspace(0.001, 0.999, 333):
        inside = (ends[:, 0] <= rate) & (rate <= ends[:, 1])
        assert stats.binom.pmf(np.arange(trials + 1), trials, rate)[inside].sum() >= 0.95 - 1e-12


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(hits: int, trials: int) -> None:
    for interval in (metrics.clopper_pearson, metrics.mid_p):
        with pytest.raises(ValueError, match=r"trial|hits"):
            interval(hits, trials)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, -0.1, math.nan])
def test_impossible_levels_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        metrics.clopper_pearson(1, 2, level)


def test_t_interval_by_hand() -> None:
    """mean 2, sd 1, n 3: half width 4.302653 / sqrt(3) (t quantile with two degrees of freedom)."""
    mean, low, high, sd = metrics.t_interval([1.0, 2.0, 3.0])
    assert (mean, sd) == (2.0, 1.0)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


def test_one_value_has_no_interval() -> None:
    mean, *rest = metrics.t_interval([0.5])
    assert mean == 0.5
    assert all(math.isnan(value) for value in rest)


def test_paired_t_is_scipys_and_wants_equal_lengths() -> None:
    a, b = np.array([3.0, 4.0, 6.5, 8.0]), np.array([2.0, 4.5, 5.0, 6.0])
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert metrics.paired_t(a, b)[1:3] == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="equal lengths"):
        metrics.paired_t([1.0], [1.0, 2.0])


def test_worst_decile_takes_the_lowest_tenth_rounded_up() -> None:
    assert metrics.worst_decile(list(range(20))) == 0.5
    assert metrics.worst_decile([3.0, 1.0]) == 1.0
    assert metrics.worst_decile(list(range(21))) == 1.0
    assert metrics.worst_decile([0.25]) == 0.25


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_means_refuse_nothing_and_nan(values: list[float]) -> None:
    for function in (metrics.t_interval, metrics.worst_decile):
        with pytest.raises(ValueError, match=r"at least one|finite"):
            function(values)
