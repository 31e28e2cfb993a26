"""The gate: published rules, the expression language, and exit codes."""

import contextlib
import dataclasses
import json
from importlib import resources
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd import metrics
from fedkd.errors import ConfigError
from fedkd.gate import Config, Outcome, apply, matches, parse, to_json
from fedkd.junit import to_junit
from fedkd.verdict import Row

BASE = Row(
    "server", "lira", "student", "all", "record", "scores", "auc", 0.6, 0.55, 0.65, 0.95, 5000, 5000, "none", 0.52, 1,
    "leak shown", "",
)  # fmt: skip


def row(statistic: str, value: float | None, low: float | None = None, high: float | None = None, **rest) -> Row:
    return dataclasses.replace(BASE, statistic=statistic, value=value, low=low, high=high, **rest)


def tpr(hits: int, members: int = 5000, alarms: int = 5) -> list[Row]:
    """0.56 % is what 5,000 members detect (the power table)."""
    rate, false = metrics.clopper_pearson(hits, members), metrics.clopper_pearson(alarms, 5000)
    return [
        row("tpr_at_fpr_0.001", hits / members, *rate, n_members=members, detectable=0.0056),
        row("realised_fpr_0.001", alarms / 5000, *false, status="measured"),
    ]


def result(rows: list[Row], seeds: int = 3, controls: list[dict] | None = None) -> dict:
    return {"rows": [dataclasses.asdict(r) for r in rows], "config": {"seeds": seeds}, "controls": controls or []}


def status(outcome: Outcome, rule: str) -> str:
    return next(check.status for check in outcome.checks if check.rule == rule)


def test_rule_a_at_its_published_number_of_hits() -> None:
    """5,000 members need 24 hits for a lower end above 0.3 % (the power table); 23 pass."""
    assert apply(result(tpr(24)), Config()).exit_code == 1
    passed = apply(result(tpr(23)), Config())
    assert (passed.status, passed.exit_code) == ("not_failed", 0)


def test_rule_a_follows_a_higher_realised_rate() -> None:
    """20 of 5,000 false alarms: the bar is 3 x 0.4 %, so 24 hits are no failure."""
    assert status(apply(result(tpr(24, alarms=20)), Config()), "tpr_at_fpr_0.001") != "fail"


def test_too_few_members_warn() -> None:
    """Fewer than about 1,050 members cannot find a TPR of 1 %: a warning, exit code 3."""
    assert apply(result(tpr(0, members=1000)), Config()).exit_code == 3
    assert apply(result(tpr(0, members=1100)), Config()).exit_code == 0
    assert apply(result(tpr(0, members=1000)), Config(detectable_ceiling=0.02)).exit_code == 0


@pytest.mark.parametrize(("inherited", "expected"), [(18, "not_failed"), (50, "fail")])
def test_rule_c_on_the_published_runs(inherited: int, expected: str) -> None:
    """Soft 18 of 1,955 = 0.92 % [0.55, 1.45] passes; hard 50 of 1,955 = 2.56 % [1.90, 3.36] fails."""
    low, high = metrics.clopper_pearson(inherited, 1955)
    rows = [*tpr(5), row("inheritance", inherited / 1955, low, high)]
    assert apply(result(rows), Config()).status == expected


def test_rule_b_exposure_at_one_repetition() -> None:
    for p, expected in ((0.01, 1), (0.2, 0)):
        assert apply(result([*tpr(5), row("exposure_p_r1", p)]), Config()).exit_code == expected


def test_rule_d_comes_first_and_needs_a_claim() -> None:
    rows = [*tpr(5), row("epsilon_lower", 2.0)]
    failed = apply(result(rows), Config(claimed_epsilon=1.5))
    assert (failed.checks[0].rule, failed.checks[0].status) == ("epsilon", "fail")
    assert apply(result(rows), Config(claimed_epsilon=2.5)).exit_code == 0
    assert apply(result(rows), Config()).exit_code == 3
    assert apply(result([*rows, row("claimed_epsilon", 1.0, status="measured")]), Config()).exit_code == 1


def test_absent_mandatory_results_warn_and_others_are_listed() -> None:
    outcome = apply(result([BASE]), Config())
    assert status(outcome, "tpr_at_fpr_0.001") == "warn"
    assert status(outcome, "inheritance") == "not_run"
    outcome = apply(result(tpr(5)), Config(mandatory="tpr_at_fpr_0.001, exposure_r1"))
    assert status(outcome, "exposure_r1") == "warn"
    with pytest.raises(ConfigError, match="unknown mandatory rule 'mia'"):
        apply(result(tpr(5)), Config(mandatory="mia"))


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ({"name": "known_leaky", "status": "missed", "detail": ""}, "inconclusive"),
        ({"name": "blind_baseline", "status": "broken", "detail": ""}, "inconclusive"),
        ({"name": "blind_baseline", "status": "not run", "detail": ""}, "warn"),
        ({"name": "known_clean", "status": "flagged", "detail": ""}, "warn"),
        ({"name": "known_leaky", "status": "caught", "detail": ""}, "not_failed"),
    ],
)
def test_controls_and_seeds(control: dict, expected: str) -> None:
    outcome = apply(result(tpr(5), controls=[control]), Config())
    assert outcome.status == expected
    assert outcome.exit_code == (0 if expected == "not_failed" else 3)
    assert apply(result(tpr(24), controls=[control]), Config()).exit_code == 1
    assert apply(result(tpr(5), seeds=2), Config()).status == "warn"
    assert apply(result(tpr(5), seeds=2), Config(minimum_seeds=1)).status == "not_failed"


@pytest.mark.parametrize("name", ["tpr_at_fpr_0.001", "exposure_p_r1", "inheritance", "epsilon_lower"])
def test_refused_rows_warn_with_their_reason(name: str) -> None:
    rows = [*(tpr(5) if name != "tpr_at_fpr_0.001" else []), row(name, None, status="not tested", reason="too few")]
    outcome = apply(result(rows), Config(claimed_epsilon=1.0))
    assert outcome.status == "warn"
    assert any(check.detail == "too few" for check in outcome.checks)


ROWS = {"tpr_at_fpr_0.001": tpr(24)[0], "realised_fpr_0.001": tpr(24)[1], "auc": BASE}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tpr_at_fpr_0.001.low > 0.003", True),
        ("tpr_at_fpr_0.001.low>1e-2", False),
        ("auc.value >= 0.6", True),
        ("0.6 <= auc.value", True),
        ("auc.low < 0.5 or auc.high > 0.64", True),
        ("auc.low > 0.5 and auc.high > 0.9", False),
        ("auc.low > 0.9 and auc.high > 0.9 or auc.n_members >= 5000", True),
        ("auc.low > 0.5 or auc.low > 0.9 and auc.low > 0.9", True),
        ("tpr_at_fpr_0.001.low > 3 * realised_fpr_0.001.value", True),
        ("tpr_at_fpr_0.001.low > 2 * 3 * realised_fpr_0.001.high", False),
        ("exposure.value > 1", None),
        ("exposure.value > 1 or auc.low > 0.5", True),
        ("exposure.value > 1 and auc.low > 0.9", False),
        ("exposure.value > 1 and auc.low > 0.5", None),
    ],
)
def test_expressions(text: str, expected: bool | None) -> None:
    assert matches(parse(text), ROWS) is expected


@pytest.mark.parametrize(
    "text",
    [
        "", "auc.low", "auc.low >", "> 0.5", "auc > 0.5", "auc.lower > 0.5", "auc.low == 0.5", "auc.low > 0.5 0.6",
        "auc.low > 0.5 and", "and auc.low > 0.5", "auc.low > 0.5 not auc.low > 0.4", "__import__('os').system('x') > 1",
        "auc.low > 0.5; 1", "auc.low * 2 > 0.5", "3 * > 1", ".low > 1",
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="gate expression"):
        parse(text)


@given(st.text(max_size=30))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    """Numbers and names only: an accepted text is alternatives of comparisons, anything else is a ConfigError."""
    with contextlib.suppress(ConfigError):
        assert all(len(clause) == 3 for clauses in parse(text) for clause in clauses)


def test_own_rules_fail_warn_where_absent_and_are_named() -> None:
    assert apply(result(tpr(5)), Config(), ["tpr_at_fpr_0.001.low > 0.0001"]).exit_code == 1
    assert apply(result(tpr(5)), Config(), ["tpr_at_fpr_0.001.low > 0.5"]).exit_code == 0
    assert status(apply(result(tpr(5)), Config(), ["auc.low > 0.5"]), "auc.low > 0.5") == "warn"


@pytest.mark.parametrize("content", [{}, {"rows": []}, {"rows": [1]}, {"rows": [{"statistic": "auc"}]}])
def test_malformed_results_are_refused(content: dict) -> None:
    with pytest.raises(ConfigError, match=r"audit result|lacks"):
        apply(content, Config())


def test_json_follows_its_schema_and_junit_counts() -> None:
    outcome = apply(result(tpr(24), seeds=1), Config(), ["auc.low > 0.5"])
    schema = json.loads(resources.files("fedkd.schemas").joinpath("gate.json").read_text())
    jsonschema.validate(to_json(outcome, Config()), schema)
    suite = ElementTree.fromstring(to_junit(outcome))
    assert int(suite.get("tests")) == len(outcome.checks) == len(suite.findall("testcase"))
    assert int(suite.get("failures")) == len(suite.findall(".//failure")) == 1
    assert int(suite.get("skipped")) == len(suite.findall(".//skipped")) > 0


def test_junit_escapes_names_of_others() -> None:
    rows = [dataclasses.replace(r, target_group='<g "&>') for r in tpr(24)]
    suite = ElementTree.fromstring(to_junit(apply(result(rows), Config())))
    assert any(case.get("classname") == 'gate.<g "&>' for case in suite)
