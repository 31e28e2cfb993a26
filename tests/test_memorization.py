"""Sets, dose-response, crossing and predictor against published figures and hand-made oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize
from sklearn.metrics import precision_recall_curve

from fedkd import memorization as m
from fedkd import rng
from fedkd.intervals import Bools, Floats, Ints
from fedkd.metrics import auc, clopper_pearson, rate_ratio


def published() -> tuple[Bools, Bools, Bools]:
    """The paper's main run as sets (specs: memorization, section 8): T 3,327, B 1,698, S 706 of a million, of which 676 are
    easy, 18 inherited and 12 others (here: in B alone)."""
    t, b, s = (np.zeros(1_000_000, np.bool_) for _ in range(3))
    t[:3327] = True
    b[:1372] = b[10_000:10_326] = True
    s[:676] = s[1372:1390] = s[10_000:10_012] = True
    return t, b, s


def test_the_papers_main_run_passes_our_arithmetic() -> None:
    t, b, s = published()
    counts = {name: int(mask.sum()) for name, mask in m.regions(t, b, s).items()}
    assert counts == {"TBS": 676, "TB": 696, "TS": 18, "BS": 12, "T": 1937, "B": 314, "S": 0, "none": 996_347}
    assert (int(b.sum()), int(s.sum())) == (1698, 706)
    soft = m.inheritance(t, b, s)
    assert (soft.count, soft.of) == (18, 1955)
    assert soft.value is not None and soft.low is not None and soft.high is not None
    assert [round(100 * v, 2) for v in (soft.value, soft.low, soft.high)] == [0.92, 0.55, 1.45]
    hard = m.share(50, 1955)
    assert hard.value is not None and hard.low is not None and hard.high is not None
    assert [round(100 * v, 2) for v in (hard.value, hard.low, hard.high)] == [2.56, 1.90, 3.36]
    easy = m.easy_share(t, b, s)
    assert (easy.count, easy.of) == (676, 706)
    assert [round(v, 3) for v in rate_ratio(50, 1955, 18, 1955)] == [2.778, 1.593, 5.059]
    assert [round(v, 3) for v in rate_ratio(17, 10_000, 7, 10_000)] == [2.429, 0.957, 6.927]
    assert [round(100 * v, 4) for v in clopper_pearson(1698, 1_000_000)] == [0.1618, 0.1781]
    assert round(int(b.sum()) / int(s.sum()), 1) == 2.4


def test_regions_are_disjoint_and_cover_everything() -> None:
    draw = rng.experiment(0, "test regions").random((3, 200)) < 0.4
    masks = m.regions(*draw)
    assert set(masks) == set(m.REGIONS)
    assert (np.sum(list(masks.values()), axis=0) == 1).all()
    assert sum(m.patterns({"T": draw[0], "B": draw[1]}).values()) == 200
    assert m.patterns({"T": np.array([True, True]), "B": np.array([False, True])}) == {"T": 1, "T+B": 1}
    with pytest.raises(ValueError, match="flags of one length"):
        m.regions(draw[0], draw[1], draw[2][:5])


def test_what_cannot_be_inherited_is_not_a_rate_of_zero() -> None:
    same = np.array([True, False, True])
    assert m.inheritance(same, same, same) == m.Share(0, 0, None, None, None)
    assert m.easy_share(same, same, np.zeros(3, np.bool_)).value is None
    assert m.inheritance(same, np.zeros(3, np.bool_), same).value == 1.0


def test_a_student_without_the_teacher_inherits_nothing_beyond_the_baseline() -> None:
    """Trained as the baseline is, its set is the baseline's: nothing of T without B can be in it."""
    draw = rng.experiment(1, "test inheritance").random((2, 500)) < 0.3
    found = m.inheritance(draw[0], draw[1], draw[1])
    assert found.count == 0
    assert found.of > 50


# ----- dose and response -------------------------------------------------------------------------------------------------
def test_the_dose_is_found_that_the_hits_were_drawn_from() -> None:
    stream = rng.experiment(0, "test dose")
    copies = np.repeat([1, 2, 3, 4, 6, 8, 16, 32], 4000)
    hits = stream.random(len(copies)) < 1 / (1 + np.exp(-2.5 * (np.log2(copies) - math.log2(5.0))))
    found = m.dose_response(copies, hits)
    assert found.r50 == pytest.approx(5.0, rel=0.03)
    assert found.slope == pytest.approx(2.5, rel=0.05)
    assert found.inside


@pytest.mark.parametrize("step", [(0, 0, 10, 10), (0, 3, 10, 10), (1, 0, 10, 10)])
def test_firth_maximises_the_penalised_likelihood(step: tuple[int, ...]) -> None:
    """Oracle: a general optimiser on log likelihood + log det(information) / 2; finite where the counts are separated."""
    dose = np.array([1, 2, 4, 8])
    copies = np.repeat(dose, 10)
    hits = np.concatenate([np.arange(10) < k for k in step])
    x = np.log2(dose)
    design = np.stack([np.ones(4), x], axis=1)

    def objective(beta: Floats) -> float:
        p = 1 / (1 + np.exp(-(design @ beta)))
        information = design.T @ (design * (10 * p * (1 - p))[:, None])
        likelihood = float((np.array(step) * np.log(p) + (10 - np.array(step)) * np.log1p(-p)).sum())
        return -likelihood - 0.5 * math.log(max(1e-300, float(np.linalg.det(information))))

    best = optimize.minimize(objective, [-3.0, 2.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    found = m.dose_response(copies, hits)
    assert found.slope == pytest.approx(best[1], rel=1e-3)
    assert math.log2(found.r50) == pytest.approx(-best[0] / best[1], abs=1e-3)


def test_a_dose_outside_of_what_was_planted_says_so() -> None:
    copies = np.repeat([1, 2, 4], 10)
    assert m.dose_response(copies, np.zeros(30, np.bool_)).r50 == math.inf
    assert m.dose_response(copies, np.ones(30, np.bool_)).r50 == 0.0
    few = m.dose_response(copies, np.arange(30) >= 28)
    assert few.r50 > 4
    assert not few.inside
    assert math.isnan(m.dose_response(copies, np.arange(30) < 10).r50), "memorization that falls with copies has no r50"
    assert math.isnan(m.dose_response(np.repeat([2], 4), np.array([True, False, True, False])).r50)
    with pytest.raises(ValueError, match="at least one copy"):
        m.dose_response(np.array([0, 1]), np.array([True, False]))


def test_p_z_crosses_where_the_median_gap_changes_its_sign() -> None:
    copies = np.repeat([1, 2, 4, 8], 3)
    gap = np.repeat([-8.0, -4.0, 2.0, 1.0], 3)
    found = m.crossing(copies, gap, np.zeros(12))
    assert found == pytest.approx(2 ** (1 + 4 / 6)), "between 2 and 4 copies, two thirds of a doubling up"
    assert m.crossing(copies, -gap, np.zeros(12)) is None, "behind at 8 copies: nothing is crossed for good"
    assert m.crossing(copies, np.abs(gap), np.zeros(12)) is None, "ahead everywhere"


def test_the_matched_epoch_is_the_nearest_in_loss_and_the_later_of_two() -> None:
    assert m.matched_epoch([5.0, 4.0, 4.5, 6.0], 4.4) == 2
    assert m.matched_epoch([5.0, 4.0, 5.0], 5.0) == 2
    with pytest.raises(ValueError, match="no loss to match"):
        m.matched_epoch([], 1.0)


def test_entropy_points_are_those_of_the_set() -> None:
    found = m.entropy_points(np.array([True, False, True]), np.array([-1.0, -2.0, -5.0]), np.array([0.1, 0.2, 0.3]))
    assert found == {"count": 2, "points": [[-1.0, 0.1], [-5.0, 0.3]], "log_pz": -3.0, "entropy": pytest.approx(0.2)}
    assert m.entropy_points(np.zeros(2, np.bool_), np.zeros(2), np.zeros(2))["log_pz"] is None


# ----- predictor ---------------------------------------------------------------------------------------------------------
def test_a_precision_of_99_percent_at_one_to_three_is_20_percent_among_a_million() -> None:
    """Published 0.9917 with recall 1 and 706 positives among a million (specs: memorization, section 6)."""
    fpr = m.false_positive_rate(0.9917, 1.0)
    assert round(100 * fpr, 2) == 0.28
    assert 2700 < fpr * (1_000_000 - 706) < 2850
    precision = m.precision_at_base_rate(1.0, fpr, 706 / 1_000_000)
    assert precision is not None and round(precision, 2) == 0.20
    assert m.precision_at_base_rate(1.0, fpr, 0.25) == pytest.approx(0.9917)
    assert m.precision_at_base_rate(0.0, 0.0, 0.25) is None


def planted(seed: int, signal: float) -> tuple[Floats, Bools, Ints]:
    stream = rng.experiment(seed, "test predictor")
    labels = np.arange(400) < 60
    features = stream.standard_normal((400, 4))
    features[:, 0] -= signal * labels
    return features, labels, np.where(labels, 8, 1).astype(np.int64)


def test_a_predictor_finds_a_signal_and_none_in_shuffled_labels() -> None:
    features, labels, copies = planted(0, 4.0)
    stream = rng.experiment(0, "test trials")
    found = [m.trial(features, labels, copies, stream) for _ in range(20)]
    assert np.mean([f["auc"] for f in found if f]) > 0.98
    assert np.mean([f["coefficient_teacher_ppl"] for f in found if f]) < -1
    assert np.mean([f["auc_copies"] for f in found if f]) == 1.0
    assert {f"auc_{n}" for n in m.trivial(features, copies)} <= set(found[0] or {}), (
        "the three trivial predictors stand beside it"
    )
    null = []
    for _ in range(60):
        result = m.trial(features, labels[stream.permutation(400)], copies, stream)
        null.append(result["auc"] if result else 0.5)
    assert abs(np.mean(null) - 0.5) < 0.03


def test_precision_at_the_base_rate_is_below_that_at_one_to_three() -> None:
    features, labels, copies = planted(1, 1.5)
    labels[20:] = False
    stream = rng.experiment(1, "test trials")
    found = [f for f in (m.trial(features, labels, copies, stream) for _ in range(30)) if f]
    assert np.mean([f["precision"] for f in found]) < np.mean([f["precision_1_3"] for f in found])
    assert m.trial(features, np.zeros(400, np.bool_), copies, stream) is None


def test_a_filter_keeps_none_of_the_cheaper_runs_positives() -> None:
    features, labels, _ = planted(2, 3.0)
    called = m.prefilter(features, labels, rng.experiment(2, "test filter"))
    assert called[labels].all()
    assert called.sum() < 200
    with pytest.raises(ValueError, match="memorized and not memorized"):
        m.prefilter(features, np.zeros(400, np.bool_), rng.experiment(2, "test filter"))


def test_scores_of_other_folds_and_within_groups() -> None:
    features, labels, copies = planted(3, 4.0)
    score = m.crossfit(features, labels, rng.experiment(3, "test folds"))
    assert auc(score[labels], score[~labels]) > 0.97
    assert m.within(copies.tolist(), score, labels) is None, "each count holds one class"
    groups = [i % 2 for i in range(400)]
    inside = m.within(groups, score, labels)
    assert inside is not None and inside > 0.97


def test_the_curve_is_scikit_learns() -> None:
    stream = rng.experiment(4, "test curve")
    labels = stream.random(50) < 0.3
    score = np.round(stream.standard_normal(50) + labels, 1)
    recall, precision = m.precision_recall(score, labels)
    theirs_precision, theirs_recall, _ = precision_recall_curve(labels, score)
    assert recall == pytest.approx(theirs_recall[:-1][::-1].tolist())
    assert precision == pytest.approx(theirs_precision[:-1][::-1].tolist())
    with pytest.raises(ValueError, match="needs a positive"):
        m.precision_recall(score, np.zeros(50, np.bool_))
