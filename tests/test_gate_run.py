"""The gate on a run's audit: rules (a) to (d), channels nobody attacked, own rules by target group, and lack of power."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedkd.cli import app
from fedkd.errors import ConfigError
from fedkd.gate import Check, Config, Outcome, apply
from tests.report.audit_example import UP, example, membership, write_audit
from tests.report.conftest import write

ONE_SEED = Config(minimum_seeds=1)


def of(outcome: Outcome, rule: str) -> dict[str, Check]:
    return {check.target_group: check for check in outcome.checks if check.rule == rule}


def passing() -> dict[str, Any]:
    """An audit that fails nothing and lacks no power: 12,000 members, as many others, no leak, a bracket with room."""
    rows, verdicts, curves = membership("server", UP, "loss", 0.0, 12_000)
    content = example(0.0)
    rows = [r for r in rows if r["target_group"] == "all"]
    content |= {"rows": rows, "verdicts": verdicts, "curves": curves, "inversion": [], "exposure": [], "not_run": []}
    content["channels"] = [c for c in content["channels"] if c["channel"] == UP]
    return content


def test_a_run_that_fails_nothing_and_lacks_no_power_passes() -> None:
    outcome = apply(passing(), ONE_SEED, ["auc.low > 0.55"])
    assert (outcome.status, outcome.exit_code) == ("not_failed", 0), [c for c in outcome.checks if c.status != "not_failed"]


@pytest.mark.parametrize("gap", [0.3, 1.0])
def test_a_planted_leak_fails_rule_a(gap: float) -> None:
    """Members 0.3 standard deviations higher: TPR at 0.1 % FPR = 1 - Phi(3.09 - 0.3) = 0.26 %, not found; 1.0: 1.8 %, found."""
    content = passing()
    content["rows"] = membership("server", UP, "loss", gap, 12_000)[0]
    failed = apply(content, ONE_SEED)
    assert (failed.exit_code == 1) is (gap == 1.0)
    assert (of(failed, "tpr_at_fpr_0.001")[f"{UP} | loss | all"].status == "fail") is (gap == 1.0)


def test_too_few_candidates_never_pass() -> None:
    content = passing()
    content["rows"] = membership("server", UP, "loss", 0.0, 200)[0]
    outcome = apply(content, ONE_SEED, ["auc.low > 0.55"])
    assert outcome.exit_code == 3
    assert "too few" in of(outcome, "tpr_at_fpr_0.001")[f"{UP} | loss | all"].detail
    blunt = of(outcome, "auc.low > 0.55")[f"{UP} | loss | client 0"]
    assert blunt.status == "warn" and "would be found with 80 % power, the rule's bar is 0.55" in blunt.detail


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({}, "not_failed", "at least 1.9, claimed 4 (user, add/remove, delta = 1e-05); it could have shown 6.2"),
        ({"claimed": 1.5}, "fail", "at least 1.9, claimed 1.5"),
        ({"claimed": 7.0}, "warn", "it could have shown 6.2 at most"),
        ({"claimed": None}, "warn", "no finite epsilon is claimed"),
    ],
)
def test_a_bracket_feeds_rule_d(change: dict[str, Any], status: str, said: str) -> None:
    content = passing()
    content["brackets"][0] |= change
    check = of(apply(content, ONE_SEED), "epsilon")["user_clip_noise | the releases of 20 rounds"]
    assert check.status == status and said in check.detail


@pytest.mark.parametrize(
    ("p", "strings", "status"),
    [(0.001, 12, "fail"), (0.001, 3, "fail"), (0.4, 12, "not_failed"), (0.4, 9, "warn"), (None, 0, "warn")],
)
def test_exposure_of_planted_labels_feeds_rule_b(p: float | None, strings: int, status: str) -> None:
    content = passing()
    content["exposure"] = [example()["exposure"][0] | {"p": p, "strings": strings}]
    assert of(apply(content, ONE_SEED), "exposure_r1")["released | label strings"].status == status


def test_exposure_is_corrected_over_its_views() -> None:
    """Holm over two views: the smaller p of 0.03 and 0.9 counts twice, 0.06."""
    content = passing()
    one = example()["exposure"][0]
    content["exposure"] = [one | {"p": 0.03}, one | {"view": "own model", "p": 0.9}]
    check = of(apply(content, ONE_SEED), "exposure_r1")["released | label strings"]
    assert check.status == "not_failed" and "Holm p = 0.06" in check.detail


def test_a_channel_that_nobody_attacked_warns_with_its_reason() -> None:
    content = passing()
    others = example()["channels"]
    content["channels"] += others[1:]
    content["not_run"] = [{"attack": "logits_membership", "reason": "does not apply here"}]
    found = of(apply(content, ONE_SEED), "attacked")
    assert (found["soft labels down"].status, found["soft labels down"].detail) == ("warn", "does not apply here")
    assert found["personal models"].status == "warn" and found[UP].status == "not_failed"
    content["channels"][1]["covered"] = True
    assert of(apply(content, ONE_SEED), "attacked")["soft labels down"].status == "not_run"


def test_a_channel_without_any_attack_is_listed_with_the_line_that_says_why() -> None:
    content = passing()
    content["channels"].append({**content["channels"][0], "channel": "ids up", "attacks": []})
    assert of(apply(content, ONE_SEED), "attacked")["ids up"].status == "warn"
    line = {"threat_model": "who reads the wire (ids up)", "target_group": "all", "text": "not tested: ids say nothing"}
    content["verdicts"].append(line)
    check = of(apply(content, ONE_SEED), "attacked")["ids up"]
    assert (check.status, check.detail) == ("not_run", "ids say nothing")


def test_mandatory_attacks_warn_where_they_did_not_run_and_unknown_ones_are_refused() -> None:
    content = passing()
    content["not_run"] = [{"attack": "inversion", "reason": "no features travel"}]
    config = Config(minimum_seeds=1, mandatory="tpr_at_fpr_0.001, loss, inversion")
    outcome = apply(content, config)
    assert outcome.exit_code == 3
    assert of(outcome, "attack loss")["run"].status == "not_failed"
    assert of(outcome, "attack inversion")["run"] == Check("attack inversion", "run", "warn", "no features travel")
    with pytest.raises(ConfigError, match="unknown mandatory rule 'lira'"):
        apply(content, Config(mandatory="lira"))


def test_any_target_group_fails_a_rule_and_at_selects_one() -> None:
    """SSIM of the example: cut 1 0.75, cut 2 0.6, cut 3 0.4, each +- 0.04."""
    rule = "ssim.low > 0.5"
    found = of(apply(example(), Config(), [rule]), rule)
    assert {group.rpartition(" | ")[2]: check.status for group, check in found.items()} == {
        "cut 1": "fail", "cut 2": "fail", "cut 3": "not_failed",
    }  # fmt: skip
    for group, status in (("cut 1", "fail"), ("cut 3", "not_failed"), (UP, "fail"), ("cut 9", "warn")):
        outcome = apply(example(), Config(), [f"{rule} @ {group}"])
        statuses = {check.status for check in outcome.checks if check.rule == f"{rule} @ {group}"}
        assert status in statuses and ("fail" in statuses) is (status == "fail")
    with pytest.raises(ConfigError, match="expected a target group"):
        apply(example(), Config(), [f"{rule} @ "])


def test_linkage_exposure_and_labels_are_named_in_rules() -> None:
    rules = ["top1_accuracy.low > 0.3", "label_accuracy.value >= 1", "flip_rate.high > 0.1"]
    outcome = apply(example(), Config(), rules)
    assert all({check.status for check in outcome.checks if check.rule == rule} == {"fail"} for rule in rules)


def test_a_rule_on_what_was_not_tested_warns_with_the_reason() -> None:
    found = of(apply(example(), Config(), ["auc.low > 0.9"]), "auc.low > 0.9")
    untested = found["soft labels down | logits_membership | all"]
    assert untested.status == "warn" and untested.detail.startswith("does not apply")


def test_the_command_takes_folder_or_file_and_writes_junit(tmp_path: Path) -> None:
    run = write_audit(write(tmp_path, rounds=2))
    for path in (run, run / "audit" / "audit.json"):
        words = ["gate", str(path), "--fail-if", "ssim.low > 0.5 @ cut 1", "--junit", str(tmp_path / "j.xml")]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1, result.output
        assert "fail         ssim.low > 0.5 @ cut 1 [features up | inversion | cut 1]: true" in result.output
        assert "ssim.low &gt; 0.5 @ cut 1" in (tmp_path / "j.xml").read_text()


def test_the_command_refuses_what_is_no_sound_audit(tmp_path: Path) -> None:
    run = write(tmp_path, rounds=2)
    bare = CliRunner().invoke(app, ["gate", str(run)])
    assert bare.exit_code == 2 and "not audited: run python -m simulations audit CONFIG" in bare.output
    content = example()
    content["verdicts"][0]["text"] = "leak shown: auc 0.99 [0.98, 1]"
    wrong = CliRunner().invoke(app, ["gate", str(write_audit(run, content))])
    assert wrong.exit_code == 2 and "does not follow from the rows" in wrong.output
    (run / "audit" / "audit.json").write_text(json.dumps({**example(), "kind": "audit"}))
    assert CliRunner().invoke(app, ["gate", str(run)]).exit_code == 2
