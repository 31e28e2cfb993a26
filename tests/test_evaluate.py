"""The evaluator: planted leaks, null false alarms, controls that block, groups, and order of the file."""

import json

import numpy as np
import pytest
from scipy import stats

from fedkd.errors import ConfigError
from fedkd.evaluate import Audit, Config, evaluate
from fedkd.scores import Table
from fedkd.verdict import check_words

FAST = Config(permutations=20)


def table(size: int, shift: float, seed: int = 0, **extra) -> Table:
    rng = np.random.default_rng(seed)
    member = np.arange(size) % 2 == 0
    return Table(member, rng.normal(size=size) + shift * member, **extra)


def row(audit: Audit, statistic: str, group: str = "all"):
    return next(r for r in audit.rows if r.statistic == statistic and r.target_group == group)


def test_planted_leak_gives_the_known_answers() -> None:
    """Unit shift: AUC = Phi(1 / sqrt 2) = 0.7602, TPR at 1 % = 1 - Phi(2.326 - 1) = 9.24 %, at 0.1 % = 1.83 %."""
    audit = evaluate(table(60_000, 1.0), FAST)
    for statistic, truth in (
        ("auc", stats.norm.cdf(0.5**0.5)),
        ("tpr_at_fpr_0.01", stats.norm.sf(stats.norm.isf(0.01) - 1)),
        ("tpr_at_fpr_0.001", stats.norm.sf(stats.norm.isf(0.001) - 1)),
    ):
        found = row(audit, statistic)
        assert found.status == "leak shown"
        assert found.value == pytest.approx(truth, rel=0.2)
    assert row(audit, "auc").low < stats.norm.cdf(0.5**0.5) < row(audit, "auc").high
    assert row(audit, "realised_fpr_0.001").low < 0.001 < row(audit, "realised_fpr_0.001").high
    (line,) = audit.verdicts
    shown = row(audit, "tpr_at_fpr_0.001")
    assert line.text == f"leak shown: tpr_at_fpr_0.001 {shown.value:.4g} [{shown.low:.4g}, {shown.high:.4g}]"
    assert shown.n_members == shown.n_non_members == 15_000


def test_no_leak_names_the_sizes_that_would_have_been_found() -> None:
    audit = evaluate(table(4000, 0.0), FAST)
    (line,) = audit.verdicts
    assert line.text.startswith("no leak shown at detectable size auc 0.5")
    assert "tpr_at_fpr_0.01" in line.text
    assert row(audit, "tpr_at_fpr_0.001").status == "not tested"
    assert "5000 needed in each half" in row(audit, "tpr_at_fpr_0.001").reason


def test_negated_scores_are_not_flipped() -> None:
    flipped = table(4000, 1.0)
    audit = evaluate(Table(flipped.member, -flipped.score), FAST)
    assert row(audit, "auc").value < 0.3
    assert row(audit, "auc").status == "no leak shown"


def test_ten_rows_are_inconclusive() -> None:
    audit = evaluate(table(10, 3.0), FAST)
    assert audit.verdicts[0].text == "not tested: inconclusive, the known-leaky control was missed"
    assert audit.controls[0].status == "missed"
    assert row(audit, "auc").value is not None


def test_a_trained_control_decides_instead_of_the_planted_one() -> None:
    leaky, clean = table(400, 2.0, seed=1, source="leaky.csv"), table(400, 0.0, seed=2, source="clean.csv")
    audit = evaluate(table(400, 1.0), FAST, leaky=leaky, clean=clean)
    details = {control.name: control for control in audit.controls}
    assert details["known_leaky"].status == "caught"
    assert "leaky.csv" in details["known_leaky"].detail
    assert details["known_clean"].status == "clean"
    missed = evaluate(table(400, 1.0), FAST, leaky=clean, clean=leaky)
    assert missed.verdicts[0].text.startswith("not tested: inconclusive")
    assert {c.name: c.status for c in missed.controls}["known_clean"] == "flagged"


def test_a_broken_split_withholds_every_number() -> None:
    rng = np.random.default_rng(5)
    split = table(2000, 1.0)
    audit = evaluate(Table(split.member, split.score, blind=rng.normal(size=2000) + split.member), FAST)
    assert all(r.value is None and r.low is None and r.status == "not tested" for r in audit.rows)
    assert "the split is broken" in audit.verdicts[0].text


def test_a_text_column_runs_the_blind_base_line() -> None:
    split = table(400, 1.0)
    texts = np.array(["old page" if m else "new page" for m in split.member])
    audit = evaluate(Table(split.member, split.score, text=texts), FAST)
    assert {c.name: c.status for c in audit.controls}["blind_baseline"] == "broken"
    few = table(12, 1.0)
    audit = evaluate(Table(few.member, few.score, text=texts[:12]), FAST)
    assert {c.name: c.status for c in audit.controls}["blind_baseline"] == "not run"


def test_each_group_has_its_own_line_and_all_share_one_error() -> None:
    rng = np.random.default_rng(6)
    group = np.array(["a", "b", "c"])[rng.integers(3, size=9000)]
    member = rng.random(9000) < 0.5
    score = rng.normal(size=9000) + 1.0 * member * (group == "b")
    member[group == "c"] = True
    audit = evaluate(Table(member, score, group=group), FAST)
    lines = {line.target_group: line.text for line in audit.verdicts}
    assert list(lines) == ["all", "a", "b", "c"]
    assert lines["b"].startswith("leak shown")
    assert lines["a"].startswith("no leak shown")
    assert lines["c"].startswith("not tested: ")
    assert audit.comparisons == 16


def test_a_group_called_all_keeps_its_own_line() -> None:
    split = table(200, 0.0)
    audit = evaluate(Table(split.member, split.score, group=np.full(200, "all")), FAST)
    assert [line.target_group for line in audit.verdicts] == ["all", "group all"]


def test_more_groups_widen_the_decision_but_not_the_printed_interval() -> None:
    split = table(1000, 0.16, seed=1)
    groups = np.array([f"g{i % 20}" for i in range(1000)])
    one, many = evaluate(split, FAST), evaluate(Table(split.member, split.score, group=groups), FAST)
    assert (row(one, "auc").low, row(one, "auc").high) == (row(many, "auc").low, row(many, "auc").high)
    assert row(many, "auc").detectable > row(one, "auc").detectable


def test_same_file_same_bits_and_everything_is_json() -> None:
    first, second = (json.dumps(evaluate(table(3000, 0.5), FAST).to_json(), allow_nan=False) for _ in range(2))
    assert first == second
    check_words(first)


def test_constant_scores_are_quiet_and_finite() -> None:
    member = np.arange(200) % 2 == 0
    audit = evaluate(Table(member, np.zeros(200)), FAST)
    assert row(audit, "auc").value == 0.5
    assert row(audit, "auc").low < 0.5 < row(audit, "auc").high
    json.dumps(audit.to_json(), allow_nan=False)


@pytest.mark.parametrize("change", [{"fprs": (0.0,)}, {"fprs": (1.0,)}, {"level": 1.0}, {"permutations": 0}, {"seeds": 0}])
def test_options_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match="must lie"):
        evaluate(table(100, 0.0), Config(**change))


def false_alarms(repeats: int, size: int) -> int:
    config = Config(permutations=1, fprs=(0.1,))
    return sum(evaluate(table(size, 0.0, seed), config).verdicts[0].text.startswith("leak shown") for seed in range(repeats))


def test_a_file_without_a_leak_is_rarely_called_one() -> None:
    """One-sided 2.5 % shared by all comparisons of the file: P[Bin(150, 2.5 %) > 11] < 0.1 %."""
    assert false_alarms(150, 600) <= 11


@pytest.mark.slow
def test_five_thousand_files_without_a_leak() -> None:
    """At most 2.5 % (the TPR rule over-covers): binomial test at 0.1 %."""
    assert stats.binom.sf(false_alarms(5000, 400) - 1, 5000, 0.025) > 0.001


@pytest.mark.slow
def test_detectable_tpr_is_found_with_the_stated_power() -> None:
    """Members above every non-member with the probability of the detectable size: at least 75 % of 300 files show it.

    The threshold is drawn anew each time, so the realised false-positive rate, and with it the bar, varies.
    """
    config = Config(permutations=1, fprs=(0.01,))
    size = row(evaluate(table(8000, 0.0), config), "tpr_at_fpr_0.01").detectable
    found = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        plain = table(8000, 0.0, seed)
        lifted = plain.score + 100.0 * (plain.member & (rng.random(8000) < size - 0.01))
        found += row(evaluate(Table(plain.member, lifted), config), "tpr_at_fpr_0.01").status == "leak shown"
    assert 0.70 <= found / 300 <= 0.95
