"""Paired bootstrap, Holm, equivalence, rank tests and detectable sizes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkd import metrics
from fedkd.inference import permutation_p


def test_paired_bootstrap_uses_one_index_for_both_models() -> None:
    """Two models that differ by exactly 0.25 on each example: every paired resample gives 0.25, with no spread."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    b = a - 0.25
    result = metrics.paired_bootstrap(lambda i: float(a[i].mean() - b[i].mean()), 200, rng)
    assert (result.value, result.low, result.high) == pytest.approx((0.25, 0.25, 0.25))


def test_bootstrap_width_follows_the_standard_error() -> None:
    """Percentile interval of a mean of 400 standard normals: +- 1.96 / 20, within 10 %."""
    values = np.random.default_rng(1).normal(size=400)
    result = metrics.paired_bootstrap(lambda i: float(values[i].mean()), 400, np.random.default_rng(2))
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_clusters_are_drawn_whole() -> None:
    """Every example of a cluster has the same value: 20 clusters of 10 copies are 20 observations, not 200."""
    values = np.repeat(np.random.default_rng(3).normal(size=20), 10)
    clusters = np.repeat(np.arange(20), 10)
    shuffled = np.random.default_rng(4).permutation(200)
    values, clusters = values[shuffled], clusters[shuffled]

    def mean(index: np.ndarray) -> float:
        return float(values[index].mean())

    clustered = metrics.paired_bootstrap(mean, 200, np.random.default_rng(5), clusters)
    naive = metrics.paired_bootstrap(mean, 200, np.random.default_rng(5))
    assert (clustered.units, naive.units) == (20, 200)
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(10**0.5, rel=0.15)


def test_bootstrap_refusals() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two independent units"):
        metrics.paired_bootstrap(lambda i: 0.0, 1, rng)
    with pytest.raises(ValueError, match="two independent units"):
        metrics.paired_bootstrap(lambda i: 0.0, 5, rng, clusters=[1] * 5)
    with pytest.raises(ValueError, match="cluster label per row"):
        metrics.paired_bootstrap(lambda i: 0.0, 5, rng, clusters=[1, 2])
    with pytest.raises(ValueError, match="finite"):
        metrics.paired_bootstrap(lambda i: math.nan, 5, rng)


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03 times 3, 2, 1 = 0.03, 0.04, 0.03; the running maximum gives 0.03, 0.04, 0.04."""
    assert metrics.holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert metrics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert metrics.holm([]).size == 0
    with pytest.raises(ValueError, match="p values"):
        metrics.holm([1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_raw_and_bonferroni(p_values: list[float]) -> None:
    adjusted = metrics.holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    assert (adjusted <= np.minimum(1.0, np.array(p_values) * len(p_values)) + 1e-12).all()


def test_equivalence_needs_the_whole_interval_inside() -> None:
    close = metrics.tost([0.01, -0.01, 0.02, -0.02, 0.0], 0.05)
    assert close.equivalent
    assert -0.05 < close.low <= close.mean <= close.high < 0.05
    sample = np.array([0.01, -0.01, 0.02, -0.02, 0.0])
    sides = [(-0.05, "greater"), (0.05, "less")]
    assert close.p_value == pytest.approx(max(stats.ttest_1samp(sample, m, alternative=a).pvalue for m, a in sides))
    wide = metrics.tost([1.0, -1.0, 2.0, -2.0, 0.0], 0.05)
    assert not wide.equivalent
    far = metrics.tost([0.2, 0.21, 0.19, 0.2], 0.05)
    assert not far.equivalent
    assert metrics.tost([0.01, 0.01], 0.05).equivalent
    assert not metrics.tost([0.06, 0.06], 0.05).equivalent
    for bad in (([0.0, 0.1], 0.0), ([0.1], 1.0)):
        with pytest.raises(ValueError, match=r"margin|two differences"):
            metrics.tost(*bad)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(0.05, 1))
@settings(max_examples=50)
def test_equivalence_verdict_matches_its_interval(values: list[float], margin: float) -> None:
    """TOST at 5 % rejects exactly where the 90 % interval lies inside the margins."""
    result = metrics.tost(values, margin)
    if abs(abs(result.low) - margin) > 1e-9 and abs(abs(result.high) - margin) > 1e-9:
        assert result.equivalent == (-margin < result.low and result.high < margin)


@pytest.mark.parametrize(
    ("members", "hits", "percent"),
    [(500, 5, 1.34), (1000, 8, 1.02), (2000, 12, 0.74), (5000, 24, 0.56), (10_000, 42, 0.47), (20_000, 77, 0.42)],
)
def test_published_power_of_the_gate(members: int, hits: int, percent: float) -> None:
    found, rate = metrics.detectable_rate(members, 0.003)
    assert found == hits
    assert 100 * rate == pytest.approx(percent, abs=0.005)
    assert stats.binom.sf(hits - 1, members, rate) == pytest.approx(0.8)
    assert metrics.rate_low(hits, members, 0.025) > 0.003 >= metrics.rate_low(hits - 1, members, 0.025)


@pytest.mark.parametrize(
    ("size", "hits", "percent"), [(100, 4, 5.5), (200, 6, 3.9), (500, 11, 2.7), (1000, 18, 2.1), (2000, 30, 1.7)]
)
def test_published_power_of_the_inheritance_rule(size: int, hits: int, percent: float) -> None:
    found, rate = metrics.detectable_rate(size, 0.01)
    assert found == hits
    assert 100 * rate == pytest.approx(percent, abs=0.06)


def test_nothing_is_detectable_in_a_tiny_sample() -> None:
    hits, rate = metrics.detectable_rate(2, 0.5)
    assert hits == 3
    assert math.isnan(rate)
    with pytest.raises(ValueError, match="trial"):
        metrics.detectable_rate(0, 0.1)
    with pytest.raises(ValueError, match="candidate"):
        metrics.detectable_auc(0, 3)


def test_detectable_auc_is_found_with_the_stated_power() -> None:
    """Binormal scores at the detectable AUC: the DeLong rule finds it in 80 +- 5 % of 600 samples (sd 1.6 points)."""
    target = metrics.detectable_auc(150, 250)
    shift = stats.norm.ppf(target) * 2**0.5
    rng = np.random.default_rng(8)
    found = np.mean([metrics.auc_delong(rng.normal(shift, 1, 150), rng.normal(size=250)).low > 0.5 for _ in range(600)])
    assert found == pytest.approx(0.8, abs=0.05)


def test_rank_test_directions_and_refusals() -> None:
    low, high = np.arange(20.0), np.arange(20.0) + 15
    assert metrics.mann_whitney(high, low) < 1e-6
    assert metrics.mann_whitney(low, high) > 0.99
    assert metrics.mann_whitney([1.0, 1.0], [1.0, 1.0]) == 1.0
    with pytest.raises(ValueError, match="at least one score"):
        metrics.mann_whitney([], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        metrics.mann_whitney([np.nan], [1.0])


def test_permutation_null_agrees_with_its_normal_form() -> None:
    rng = np.random.default_rng(9)
    member = rng.random(300) < 0.3
    score = np.round(rng.normal(size=300) + 0.2 * member, 1)
    sampled, used = permutation_p(member, score, rng, 4000)
    normal, none = permutation_p(member, score, rng, 4000, exact_up_to=0)
    assert (used, none) == (4000, 0)
    assert sampled == pytest.approx(normal, abs=0.02)
    swapped, _ = permutation_p(~member, -score, rng, 4000)
    assert swapped == pytest.approx(sampled, abs=0.02)
    assert permutation_p(member, np.zeros(300), rng)[0] == 1.0
    with pytest.raises(ValueError, match="members and non-members"):
        permutation_p(np.ones(3, bool), np.arange(3.0), rng)
