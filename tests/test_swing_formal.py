"""Totals of formal swing by hand, what the arm refuses, and what a study prints; (l) of specs: swing, section 12."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fedkd import canary
from fedkd.errors import ConfigError
from fedkd.losses import swing as swing_loss
from fedkd.report.swing import page
from fedkd.soft_targets import delta_2, formal_gaps
from fedkd.swing import Bench
from fedkd.swing_formal import sentence, statement
from fedkd.swing_plan import Net, Plan, Task, Text, read_plan
from fedkd.swing_results import summarise, table

GAUSSIAN = swing_loss.Config(logit_range=10.0, noise="gaussian", noise_scale=2.0)
FORMAL: dict[str, Any] = {"noise_scope": "all", "kd_weight": 1.0, "formal": True}


def test_a_gaussian_total_by_hand() -> None:
    """nu = sigma / Delta_2 at T_lo; rho = N / (2 nu^2); epsilon = rho + 2 sqrt(rho ln(1 / delta))."""
    found = statement(replace(GAUSSIAN, **FORMAL), 1000, 83)
    rho = 1000 / (2 * (2.0 / delta_2(10.0, 1.0, 83)) ** 2)
    assert found.epsilon == pytest.approx(rho + 2 * math.sqrt(rho * math.log(1e6)))
    assert (found.delta, found.charges) == (1e-6, 1000)
    hotter = replace(GAUSSIAN, **FORMAL, temperature_low=10.0)
    assert statement(hotter, 1000, 83).epsilon < found.epsilon, "a softer target moves less"


def test_a_laplace_total_by_hand() -> None:
    """Few releases add up plainly, many by zCDP; b = 0.5 at R = 10, T = 1 is Delta_1 / b = 2 tanh(5) / 0.5 each."""
    budget = swing_loss.Config(logit_range=10.0, epsilon_per_position=0.1, sensitivity_bound="clipped", **FORMAL)
    assert statement(budget, 3, 83).epsilon == pytest.approx(0.3)
    assert statement(budget, 10**4, 83).epsilon == pytest.approx(50 + 2 * math.sqrt(50 * math.log(1e6)))
    scale = swing_loss.Config(logit_range=10.0, noise_scale=0.5, **FORMAL)
    assert statement(scale, 1, 83).epsilon == pytest.approx(2 * math.tanh(5.0) / 0.5)


def test_l_noise_on_logits_has_no_total() -> None:
    loud = replace(GAUSSIAN, noise_on="logits")
    assert 'noise_on = "probabilities"' in formal_gaps(loud)
    with pytest.raises(ConfigError, match=r"formal = true needs .*noise_on"):
        replace(loud, **FORMAL)
    with pytest.raises(ConfigError, match="a formal total needs"):
        statement(loud, 1, 83)


PLAN = """
kind = "swing"
regimes = ["R4"]
arms = ["kd", "control", "swing_formal"]
[protection]
logit_range = 10.0
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAN.replace("logit_range = 10.0", ""), "arm swing_formal does not fit the protection: .*logit_range"),
        (PLAN + 'noise = "none"', "formal = true needs noise"),
        (PLAN + 'noise_on = "logits"\nnoise_scale = 1.0', "formal = true needs noise_on"),
        (PLAN + "formal = true", "formal = true needs noise_scope"),
    ],
)
def test_l_a_plan_of_the_formal_arm_is_refused_requirement_by_requirement(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_plan(path)
    path.write_text(PLAN)
    assert [t.arm for t in read_plan(path).tasks()] == ["kd", "control", "swing_formal"]


def test_the_formal_arm_has_no_student_outside_public_text() -> None:
    plan = Plan("x", regimes=("R1", "R2", "R3"), arms=("kd", "swing_formal"))
    assert {t.arm for t in plan.tasks()} == {"kd"}


def test_a_study_prints_the_total_and_never_one_position() -> None:
    plan = Plan(
        "small",
        regimes=("R4",),
        arms=("kd", "swing_formal"),
        text=Text("template", rows=20, validation=5),
        canaries=canary.Config(repetitions=(0, 2), per_count=2, decoys=2, references=0),
        teacher=Net(width=16, layers=1, heads=2, epochs=1),
        student=Net(width=16, layers=1, heads=2, epochs=1),
        protection=GAUSSIAN,
    )
    bench = Bench(plan, 0)
    private = {r.text for r in bench.records("private")}
    assert not {r.text for r in bench.transfer("R4", "teacher")} & private
    model = bench.train_teacher("private")
    found = [bench.student(Task(0, "R4", arm, 1), lambda kind: model) for arm in ("kd", "swing_formal")]
    assert "formal" not in found[0]
    formal = found[1]["formal"]
    prefixes = {tuple(row[: i + 1]) for row in bench.rows(bench.public_text).tokens.tolist() for i in range(len(row) - 1)}
    assert formal["charges"] == len(prefixes), "each distinct prefix is one release"
    vocabulary = bench.tokens.vocabulary
    changed = replace(GAUSSIAN, **FORMAL)
    assert formal == asdict(statement(changed, len(prefixes), vocabulary))
    summary = {**summarise(found), "command": "x", "token_map": []}
    line = sentence(**formal)
    for part in ("Total: epsilon", "at delta = 1e-06", "Unit:", "Adjacency: replace", "Adversary:", "noise seed is known"):
        assert part in line
    assert line in table(summary)
    assert "Total: epsilon" in page(plan, summary)
    assert "per position" not in line
