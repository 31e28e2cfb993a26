"""AUC, ROC frontier and TPR at fixed FPR against scikit-learn, scipy, brute force and the published size rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from fedkd import metrics

tied_scores = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=30)


@given(tied_scores, tied_scores)
@settings(max_examples=40)
def test_auc_counts_pairs_with_ties_as_half(members: list[float], others: list[float]) -> None:
    """Brute force over all pairs; scikit-learn must agree."""
    pairs = np.subtract.outer(members, others)
    brute = ((pairs > 0).sum() + 0.5 * (pairs == 0).sum()) / pairs.size
    assert metrics.auc(members, others) == pytest.approx(brute)
    labels = [1] * len(members) + [0] * len(others)
    assert metrics.auc(members, others) == pytest.approx(roc_auc_score(labels, members + others))


@given(tied_scores, tied_scores)
@settings(max_examples=40)
def test_negated_scores_mirror_the_auc_and_its_interval(members: list[float], others: list[float]) -> None:
    """Orientation is explicit: nothing flips an AUC below one half."""
    here = metrics.auc_delong(members, others)
    there = metrics.auc_delong([-x for x in members], [-x for x in others])
    assert (there.value, there.low, there.high) == pytest.approx((1 - here.value, 1 - here.high, 1 - here.low))


@given(tied_scores, tied_scores)
@settings(max_examples=40)
def test_delong_variance_by_its_definition(members: list[float], others: list[float]) -> None:
    """Var = S10 / n + S01 / m with S the sample variances of the row and column means of the pair kernel."""
    kernel = np.heaviside(np.subtract.outer(members, others), 0.5)
    expected = kernel.mean(axis=1).var(ddof=1) / len(members) + kernel.mean(axis=0).var(ddof=1) / len(others)
    assert metrics.auc_moments(members, others).variance == pytest.approx(expected, abs=1e-12)


@given(tied_scores, tied_scores)
@settings(max_examples=40)
def test_intervals_hold_the_estimate_inside_0_and_1(members: list[float], others: list[float]) -> None:
    estimate = metrics.auc_delong(members, others)
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0


def test_perfect_separation_is_not_a_point() -> None:
    """20 of 20 disjoint pairs agree: the exact lower end is 0.025 ** (1/20) = 0.832."""
    estimate = metrics.auc_delong(np.arange(20) + 100.0, np.arange(50))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 20))
    tied = metrics.auc_delong(np.zeros(20), np.zeros(50))
    assert tied.value == 0.5
    assert tied.low == pytest.approx(0.5 - (1 - 0.025 ** (1 / 20)) / 2)


def test_bca_agrees_with_scipys_two_sample_bootstrap() -> None:
    """Same formulas, other random numbers: ends agree within 0.02 at 4,000 resamples (Monte Carlo sd about 0.003)."""
    rng = np.random.default_rng(3)
    members, others = np.exp(rng.normal(1.0, 1, 40)).round(1), np.exp(rng.normal(0, 1, 70)).round(1)

    def statistic(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.mannwhitneyu(x, y, axis=axis).statistic / (x.shape[-1] * y.shape[-1])

    reference = stats.bootstrap(
        (members, others), statistic, n_resamples=4000, method="BCa", vectorized=True, paired=False, rng=rng
    ).confidence_interval
    estimate = metrics.auc_bca(members, others, np.random.default_rng(4), resamples=4000)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(reference), abs=0.02)


def test_bca_refuses_few_resamples_and_handles_separation() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="100 resamples"):
        metrics.auc_bca([1.0, 2.0], [0.0, 1.0], rng, resamples=10)
    assert metrics.auc_bca([3.0, 4.0], [0.0, 1.0], rng).low == pytest.approx(0.025**0.5)


@given(tied_scores, tied_scores)
@settings(max_examples=40)
def test_frontier_is_the_upper_concave_envelope(members: list[float], others: list[float]) -> None:
    """Every ROC point of scikit-learn lies on or below it, its slopes fall, and its vertices are ROC points."""
    fpr, tpr = metrics.roc_frontier(members, others)
    labels = [1] * len(members) + [0] * len(others)
    points = np.stack(roc_curve(labels, members + others, drop_intermediate=False)[:2], axis=1)
    assert (metrics.frontier_tpr((fpr, tpr), points[:, 0]) >= points[:, 1] - 1e-9).all()
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    cross = np.diff(tpr)[:-1] * np.diff(fpr)[1:] - np.diff(tpr)[1:] * np.diff(fpr)[:-1]
    assert (cross >= -1e-9).all()
    for vertex in zip(fpr, tpr, strict=True):
        assert np.abs(points - vertex).sum(axis=1).min() < 1e-9


@pytest.mark.parametrize(("size", "rank"), [(999, 1), (1998, 1), (1999, 2), (5000, 5), (5999, 6)])
def test_threshold_rank_at_one_in_a_thousand(size: int, rank: int) -> None:
    """j = floor(0.001 (n + 1)): the j-th largest of 0..n-1 is n - j."""
    shuffled = np.random.default_rng(size).permutation(size).astype(float)
    assert metrics.threshold_at_fpr(shuffled, 0.001) == size - rank


def test_threshold_refuses_where_the_rate_cannot_be_held() -> None:
    with pytest.raises(metrics.TooFew, match="too few non-members"):
        metrics.threshold_at_fpr(np.arange(998.0), 0.001)
    with pytest.raises(ValueError, match="NaN"):
        metrics.threshold_at_fpr([np.nan] * 2000, 0.001)


@given(st.integers(20, 300), st.sampled_from([0.05, 0.1, 0.3]))
@settings(max_examples=30)
def test_expected_false_positive_rate_is_at_most_the_preset_one(size: int, fpr: float) -> None:
    """On exchangeable scores a new one exceeds the j-th largest of n with probability exactly j / (n + 1)."""
    rank = int(np.floor(fpr * (size + 1) + 1e-9))
    sample = np.random.default_rng(0).permutation(size + 1).astype(float)
    alarms = [sample[i] > metrics.threshold_at_fpr(np.delete(sample, i), fpr) for i in range(size + 1)]
    assert np.mean(alarms) == pytest.approx(rank / (size + 1))
    assert np.mean(alarms) <= fpr + 1e-9


def test_size_rules() -> None:
    assert metrics.minimum_non_members(0.001) == 5000
    assert metrics.minimum_non_members(0.01) == 500
    member = np.arange(2998) % 3 == 0
    score = np.random.default_rng(0).normal(size=2998)
    split = metrics.halves(member, np.random.default_rng(1))
    with pytest.raises(metrics.TooFew, match="5000 needed in each half"):
        metrics.tpr_at_fpr(member, score, split, 0.001)
    assert metrics.tpr_at_fpr(member, score, split, 0.01).non_members >= 500


def test_tpr_is_measured_on_the_half_that_did_not_choose_the_threshold() -> None:
    """Calibration non-members are 0..999, evaluation ones 0.5 higher; the 10th largest is 990, so 9 + 1 lie above."""
    calibration, evaluation = np.arange(1000.0), np.arange(1000.0) + 0.5
    members = np.array([990.0, 990.1, 2000.0, 2000.0])
    score = np.concatenate([calibration, evaluation, members])
    member = np.repeat([False, True], [2000, 4])
    chosen = np.concatenate([np.ones(1000, bool), np.zeros(1000, bool), [False, False, False, True]])
    result = metrics.tpr_at_fpr(member, score, metrics.Halves(chosen, ~chosen), 0.01)
    assert result.threshold == 990.0
    assert (result.hits, result.members, result.false_alarms, result.non_members) == (2, 3, 10, 1000)
    assert result.tpr.value == pytest.approx(2 / 3)
    assert (result.realised_fpr.low, result.realised_fpr.high) == metrics.clopper_pearson(10, 1000)


def test_advantage_by_hand() -> None:
    """Calibration: members 2, 3, non-members 0, 1, so the threshold is 1. Evaluation: 2 of 2 members, 1 of 4 others."""
    score = np.array([2.0, 3.0, 0.0, 1.0, 5.0, 6.0, 0.0, 0.5, 1.0, 2.0])
    member = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0, 0], dtype=bool)
    chosen = np.arange(10) < 4
    found = metrics.advantage(member, score, metrics.Halves(chosen, ~chosen))
    assert found.value == 0.75
    rates = metrics.clopper_pearson(2, 2, 0.975), metrics.clopper_pearson(1, 4, 0.975)
    assert (found.low, found.high) == pytest.approx((rates[0][0] - rates[1][1], rates[0][1] - rates[1][0]))


@given(st.integers(0, 60), st.integers(0, 60))
def test_halves_split_each_class_and_miss_nobody(members: int, others: int) -> None:
    member = np.repeat([True, False], [members, others])
    split = metrics.halves(member, np.random.default_rng(0))
    assert (split.calibration ^ split.evaluation).all()
    assert split.calibration[member].sum() == members // 2
    assert split.calibration[~member].sum() == others // 2


@pytest.mark.parametrize("function", [metrics.auc, metrics.auc_delong, metrics.roc_frontier])
def test_empty_and_nan_are_refused(function) -> None:
    with pytest.raises(metrics.TooFew):
        function([], [1.0, 2.0])
    with pytest.raises(metrics.TooFew):
        function([1.0, 2.0], [])
    with pytest.raises(ValueError, match="NaN"):
        function([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="one-dimensional"):
        function([[1.0]], [1.0])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "true_auc"), [("delong", 0.5), ("delong", 0.9), ("bca", 0.7)])
def test_simulated_coverage_of_the_auc(method: str, true_auc: float) -> None:
    """2,000 binormal samples of 50 + 50 with AUC = Phi(d / sqrt 2): at least 93 % of 95 % intervals hold the truth.

    The Monte Carlo sd of a coverage of 95 % is 0.5 points.
    """
    shift = stats.norm.ppf(true_auc) * 2**0.5
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(2000):
        members, others = rng.normal(shift, 1, 50), rng.normal(size=50)
        if method == "delong":
            estimate = metrics.auc_delong(members, others)
        else:
            estimate = metrics.auc_bca(members, others, rng, resamples=300)
        held += estimate.low <= true_auc <= estimate.high
    assert held / 2000 >= 0.93
