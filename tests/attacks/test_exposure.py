"""Exposure: vectors, ties, null behaviour, and brute force over 10,000 candidates."""

import math

import numpy as np
import pytest
from scipy import stats

from fedkd.attacks import exposure


@pytest.mark.parametrize(("size", "ceiling"), [(1000, 9.966), (10_000, 13.288), (1_000_000, 19.932)])
def test_published_ceilings_and_the_sign_trap(size: int, ceiling: float) -> None:
    """Rank 1 gives log2 R, not 0; the worst exact rank gives 0, the worst sampled one is slightly negative."""
    assert exposure.exposure_exact(1, size) == pytest.approx(ceiling, abs=5e-4)
    assert exposure.exposure_sampled(0, size) == pytest.approx(ceiling, abs=5e-4)
    assert exposure.exposure_exact(size, size) == 0.0
    assert exposure.exposure_sampled(size, size) == pytest.approx(math.log2(size / (size + 1)))
    assert exposure.exposure_sampled(size, size) < 0


def test_ties_are_counted_but_do_not_lower_exposure() -> None:
    """Scores 3 > 2 = 2 = 2 > 1: a canary at 2 has one better, three tied; at 0 all five are better."""
    better, tied = exposure.count_better([2.0, 0.0, 9.0], [3.0, 2.0, 2.0, 2.0, 1.0])
    assert better.tolist() == [1, 5, 0]
    assert tied.tolist() == [3, 0, 0]


def test_exact_exposure_equals_brute_force_over_ten_thousand_candidates() -> None:
    """Definition: -log2 of the share of candidates at least as likely, ties excepted in favour of the leak."""
    scores = np.round(np.random.default_rng(0).normal(size=10_000), 2)
    chosen = np.arange(0, 10_000, 97)
    better, tied = exposure.count_better(scores[chosen], scores)
    brute = [math.log2(10_000) - math.log2(1 + sum(other > scores[i] for other in scores.tolist())) for i in chosen]
    assert exposure.exposure_exact(better + 1, 10_000) == pytest.approx(brute)
    report = exposure.audit_exact(
        exposure.Config(), rank=better + 1, tied=tied - 1, space=10_000, repetitions=np.ones(chosen.size)
    )
    assert report.strata[0].mean == pytest.approx(np.mean(brute))
    assert (report.estimator, report.ceiling) == ("exact", math.log2(10_000))


def test_a_constant_model_is_shown_as_tied_and_is_not_significant() -> None:
    sampled = exposure.audit(
        exposure.Config(), canary_score=np.zeros(50), reference_score=np.zeros(1000), repetitions=np.ones(50)
    ).strata[0]
    exact = exposure.audit_exact(
        exposure.Config(), rank=np.ones(50), tied=np.full(50, 999), space=1000, repetitions=np.ones(50)
    ).strata[0]
    for stratum in (sampled, exact):
        assert stratum.mean == pytest.approx(math.log2(1000))
        assert stratum.tied_share == pytest.approx(1.0, abs=2e-3)
        assert stratum.mid_rank_mean == pytest.approx(1.0, abs=5e-3)
        assert stratum.p_value > 0.99


def test_references_of_each_canarys_own_prefix() -> None:
    """Canary i has its own difficulty (sd 5), which shared references would mistake for a leak or hide one."""
    rng = np.random.default_rng(7)
    hard = rng.normal(0, 5, size=(60, 1))
    references = hard + rng.normal(size=(60, 2000))
    clean, leaky = hard[:, 0] + rng.normal(size=60), hard[:, 0] + rng.normal(size=60) + 2.0
    for scores, shown in ((clean, None), (leaky, 1)):
        report = exposure.audit(exposure.Config(), canary_score=scores, reference_score=references, repetitions=np.ones(60))
        assert report.smallest_significant == shown
        expected = [math.log2(2000) - math.log2(1 + (row > own).sum()) for row, own in zip(references, scores, strict=True)]
        assert report.strata[0].mean == pytest.approx(np.mean(expected))
    tied = exposure.audit(
        exposure.Config(), canary_score=np.zeros(9), reference_score=np.zeros((9, 1000)), repetitions=np.ones(9)
    )
    assert tied.strata[0].p_value > 0.99
    with pytest.raises(ValueError, match=r"\[R\] or \[M, R\]"):
        exposure.count_better([1.0, 2.0], np.zeros((3, 5)))


def test_null_exposure_is_1_44_bits() -> None:
    """Uniform ranks: mean 1 / ln 2 = 1.443, sd the same; P(exposure >= 3) = 1 / 8. 20,000 draws, 4 standard errors."""
    bits = exposure.exposure_exact(np.random.default_rng(1).integers(1, 1_000_001, 20_000), 1_000_000)
    assert bits.mean() == pytest.approx(1 / math.log(2), abs=4 * 1.443 / 20_000**0.5)
    assert (bits >= 3).mean() == pytest.approx(0.125, abs=4 * (0.125 * 0.875 / 20_000) ** 0.5)


@pytest.mark.parametrize(("canaries", "least"), [(50, 5), (100, 7), (200, 12)])
def test_published_counts_that_reject(canaries: int, least: int) -> None:
    """P(Bin(m, 2^-5) >= least) <= 5 % < P(Bin(m, 2^-5) >= least - 1): the report's own binomial p value."""
    for hits, rejects in ((least, True), (least - 1, False)):
        rank = np.where(np.arange(canaries) < hits, 1, 1000)
        report = exposure.audit_exact(
            exposure.Config(), rank=rank, tied=np.zeros(canaries), space=1000, repetitions=np.ones(canaries)
        )
        assert (report.strata[0].counted_p <= 0.05) == rejects
    assert stats.binom.sf(5 - 1, 50, 2**-5) == pytest.approx(0.020, abs=5e-4)


def test_report_finds_the_smallest_leaking_count_in_each_group() -> None:
    rng = np.random.default_rng(2)
    repetitions = np.repeat([0, 1, 4, 16, 0, 4], 60)
    group = np.repeat(["teacher", "transfer"], [240, 120])
    shift = np.repeat([0.0, 0.0, 1.5, 4.0, 0.0, 0.0], 60)
    report = exposure.audit(
        exposure.Config(), canary_score=rng.normal(size=360) + shift, reference_score=rng.normal(size=5000),
        repetitions=repetitions, group=group,
    )  # fmt: skip
    assert report.smallest_significant == 4
    shown = {(s.group, s.repetitions): s.p_holm < 0.05 for s in report.strata}
    assert [key for key, hit in shown.items() if hit] == [("teacher", 4), ("teacher", 16)]
    means = {(s.group, s.repetitions): s.mean for s in report.strata}
    assert means["teacher", 16] > means["teacher", 4] > means["teacher", 1]
    for stratum in report.strata:
        assert stratum.low < stratum.mean < stratum.high
        assert stratum.quartiles[0] <= stratum.quartiles[1] <= stratum.quartiles[2]


def test_holm_counts_every_stratum() -> None:
    rng = np.random.default_rng(4)
    report = exposure.audit(
        exposure.Config(), canary_score=rng.normal(size=40), reference_score=rng.normal(size=1000),
        repetitions=np.repeat([1, 2, 4, 8], 10),
    )  # fmt: skip
    raw = sorted(s.p_value for s in report.strata)
    assert min(s.p_holm for s in report.strata) == pytest.approx(min(1.0, 4 * raw[0]))


def test_substitution_epsilon() -> None:
    """4 bits imply 4 ln 2 - 1 = 1.77 for one copy, a quarter of it for four; the null's 1.44 bits imply nothing."""
    assert exposure.substitution_epsilon(4.0) == pytest.approx(1.7726, abs=1e-4)
    assert exposure.substitution_epsilon(4.0, 4) == pytest.approx(1.7726 / 4, abs=1e-4)
    assert exposure.substitution_epsilon(1.44) == 0.0
    with pytest.raises(ValueError, match="at least one copy"):
        exposure.substitution_epsilon(4.0, 0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"1\.\.10"):
        exposure.exposure_exact(0, 10)
    with pytest.raises(ValueError, match=r"0\.\.10"):
        exposure.exposure_sampled(11, 10)
    with pytest.raises(ValueError, match="too few references"):
        exposure.audit(exposure.Config(), canary_score=[1.0], reference_score=np.zeros(999), repetitions=[1])
    with pytest.raises(ValueError, match="NaN"):
        exposure.audit(exposure.Config(), canary_score=[np.nan], reference_score=np.zeros(1000), repetitions=[1])
    with pytest.raises(ValueError, match="at least one canary"):
        exposure.audit(exposure.Config(), canary_score=[], reference_score=np.zeros(1000), repetitions=[])
