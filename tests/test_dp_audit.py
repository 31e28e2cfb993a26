"""Audits of mechanisms with an accountant: honest ones stay below their claim, planted bugs are caught with stated power."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import dp_power
from benchmarks.dp_power import CAUGHT, CLIP, DELTA, RUNS, SIZE, TOLERATED, examples, job, multiplier
from fedkd import conformance, dp_audit, noisy_sgd
from fedkd.dp_audit import Config
from fedkd.train import NoisySteps
from tests.toy import refusal, toy_clients, toy_setting

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).resolve().parents[1]


# ----- canaries ----------------------------------------------------------------------------------------------------------
def test_a_canarys_gradient_is_a_dirac_through_the_real_path_and_samples_keep_theirs() -> None:
    plain = job()
    planted = dp_audit.with_canaries(plain, np.array([3, 40]), 50.0)
    params = {n: planted.params[n] for n in planted.trainable}
    rows = torch.arange(len(planted.y))
    found = noisy_sgd.per_sample(planted)(params, rows)
    flat = torch.cat([found[n].flatten(1) for n in planted.trainable], 1)
    for row, place in ((-2, 3), (-1, 40)):
        expected = torch.zeros(flat.shape[1])
        expected[place] = 50.0
        assert torch.equal(flat[row], expected)
    own = noisy_sgd.per_sample(plain)(params, rows[: len(plain.y)])
    torch.testing.assert_close(flat[:-2], torch.cat([own[n].flatten(1) for n in plain.trainable], 1))
    one = conformance.one_gradient(planted, planted.params, len(planted.y) - 1)
    assert float(torch.cat([g.flatten() for g in one.values()]).norm()) == pytest.approx(50.0)


def test_an_audit_reads_clip_times_steps_at_the_canaries_that_are_in() -> None:
    """Without noise: each canary that is in moves its coordinate by lr * steps * C / divisor more than one that is out."""
    quiet = replace(job(), x=job().x[:1], y=job().y[:1])
    inside, places = dp_audit.coins(SIZE, sum(quiet.params[n].numel() for n in quiet.trainable))
    steps = NoisySteps(3, 1.0, CLIP, 1e-12, 8.0, 1)
    planted = dp_audit.with_canaries(quiet, places[inside], 100 * CLIP)
    trained = noisy_sgd.train(planted, steps)
    alone = noisy_sgd.train(quiet, steps)
    moved = torch.cat([(alone[n] - trained[n]).flatten() for n in quiet.trainable]).numpy()[places]
    lr = quiet.learning_rate
    assert np.median(moved[inside]) == pytest.approx(lr * 3 * CLIP / 8.0, rel=0.02)
    assert abs(np.median(moved[~inside])) < lr * CLIP / 8.0 / 50


def test_sizes_that_cannot_be_are_refused() -> None:
    assert "need as many trained values" in refusal(lambda: dp_audit.coins(Config(canaries=100), 99))
    assert "guesses = 200" in refusal(lambda: dp_audit.coins(Config(canaries=100), 1000))
    empty = replace(job(), y=job().y[:0])
    steps = NoisySteps(1, 1.0, 1.0, 1.0, 8.0, 1)
    assert "with samples" in refusal(lambda: dp_audit.noisy_steps(SIZE, empty, steps, 1.0, DELTA))
    seeded = toy_setting("fedavg", "", mechanism_name="user_clip_noise", mechanism_args="insecure_seeded_noise = true")
    assert "insecure_seeded_noise" in refusal(lambda: dp_audit.noisy_means(SIZE, seeded, toy_clients()[0], 1, 1.0, DELTA))
    replaced = toy_setting("fedavg", "", mechanism_name="user_clip_noise", mechanism_args='adjacency = "replace"')
    assert "valid: add/remove" in refusal(lambda: dp_audit.noisy_means(SIZE, replaced, toy_clients()[0], 1, 1.0, DELTA))


def test_the_bracket_names_adversary_and_unit_on_both_ends() -> None:
    found = examples(0, multiplier(4.0, 4), 4.0)
    line = found.line
    assert "at least" in line and "at most 4 by the accountant" in line
    assert "who sees the model before and after" in line and "against everyone, the server included" in line
    assert "Unit: example, add/remove; delta = 1e-05" in line
    assert "does not do what is claimed" not in line
    assert "does not do what is claimed" in replace(found, claimed=0.0).line
    assert 0 < found.lower.epsilon < 4 < found.lower.ceiling


# ----- planted bugs: size and power over 40 runs ----------------------------------------------------------------------------
MECHANISMS = tuple(dp_power.AUDITS)


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_mechanism_as_claimed_is_not_accused(mechanism: str) -> None:
    """The bound has confidence 95 %, and the attack is weaker than the worst case: at most the tolerated number of 40."""
    assert float(stats.binom.sf(TOLERATED, RUNS, 0.05)) < 0.02
    assert len(dp_power.accused("as claimed", mechanism)) <= TOLERATED


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("case", [c for c in dp_power.CASES if c != "as claimed"])
def test_a_planted_bug_is_caught(case: str, mechanism: str) -> None:
    assert len(dp_power.accused(case, mechanism)) >= CAUGHT


def test_a_forgotten_accountant_claims_less_than_a_quarter_of_what_is_spent() -> None:
    """Sixteen steps spend epsilon 8; the last alone claims a fifth of it: the effect size of that bug."""
    assert dp_power.accountant_reset("dpsgd", 0).claimed < dp_power.SPENT / 4


def test_planted_clipping_is_taken_back() -> None:
    before = noisy_sgd.clipped_sum
    with dp_power.unclipped():
        assert noisy_sgd.clipped_sum is not before
    assert noisy_sgd.clipped_sum is before


def test_the_page_holds_the_counts_of_the_committed_result() -> None:
    found = json.loads((ROOT / "docs" / "results" / "dp_power.json").read_text())
    assert dp_power.table(found["rows"]) in (ROOT / "docs" / "guarantees.md").read_text()
    for row in found["rows"]:
        assert row["runs"] == RUNS
        assert row["accused"] <= TOLERATED if row["case"] == "as claimed" else row["accused"] >= CAUGHT
