"""Audits of mechanisms with an accountant: honest ones stay below their claim, planted bugs are caught with stated power."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fedkd import clipping, conformance, dp_audit, epsilon, noisy_sgd
from fedkd.dp_audit import Bracket, Config
from fedkd.epsilon import Event
from fedkd.jobs import local_job
from fedkd.train import Job, NoisySteps
from tests.toy import refusal, toy_clients, toy_setting

pytestmark = pytest.mark.timeout(900)
DELTA = 1e-5
CLIP = 0.5
RUNS = 40
CAUGHT = 36
"""of 40: power of at least 90 %"""
TOLERATED = 5
"""of 40 honest runs: P[Binomial(40, 0.05) > 5] = 1.4 %"""
SIZE = Config(canaries=1000, guesses=200)
ROUNDS = 4
"""noisy steps, or rounds, of a run"""
LONG, FEWER = 16, Config(canaries=600, guesses=150)
"""steps where the accountant forgets all but the last, and the size of those audits"""


def job() -> Job:
    setting = toy_setting("fedavg", "", model_name="mlp", model_args="hidden = [16, 8]", momentum=0.0, weight_decay=0.0)
    return local_job(setting, 0, toy_clients()[0], setting.initial())


def multiplier(wanted: float, times: int = ROUNDS) -> float:
    return epsilon.noise_for(wanted, DELTA, 1.0, times)


def examples(seed: int, noise: float, claimed: float, steps: int = ROUNDS, size: Config = SIZE) -> Bracket:
    """All samples in every step: the strongest case for the adversary at a given epsilon."""
    own = NoisySteps(steps, 1.0, CLIP, noise, 8.0, 1000 + seed)
    return dp_audit.noisy_steps(replace(size, seed=seed), job(), own, claimed, DELTA)


def users(seed: int, noise: float, claimed: float, rounds: int = ROUNDS, size: Config = SIZE) -> Bracket:
    args = f"clip = {CLIP}, noise_multiplier = {noise}"
    keys: dict[str, Any] = {"model_name": "mlp", "model_args": "hidden = [16, 8]"}
    setting = toy_setting("fedavg", "", mechanism_name="user_clip_noise", mechanism_args=args, **keys)
    return dp_audit.noisy_means(replace(size, seed=seed), setting, toy_clients()[0], rounds, claimed, DELTA)


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
    found = examples(0, multiplier(4.0), 4.0)
    line = found.line
    assert "at least" in line and "at most 4 by the accountant" in line
    assert "who sees the model before and after" in line and "against everyone, the server included" in line
    assert "Unit: example, add/remove; delta = 1e-05" in line
    assert "does not do what is claimed" not in line
    assert "does not do what is claimed" in replace(found, claimed=0.0).line
    assert 0 < found.lower.epsilon < 4 < found.lower.ceiling


# ----- planted bugs: size and power over 40 runs ----------------------------------------------------------------------------
def caught(runs: list[Bracket]) -> int:
    return sum(r.violated for r in runs)


@pytest.mark.slow
def test_dpsgd_as_claimed_is_not_accused() -> None:
    """The bound has confidence 95 %, and the attack is weaker than the worst case: at most the tolerated number of 40."""
    assert float(stats.binom.sf(TOLERATED, RUNS, 0.05)) < 0.02
    assert caught([examples(s, multiplier(4.0), 4.0) for s in range(RUNS)]) <= TOLERATED


@pytest.mark.slow
def test_dpsgd_without_noise_is_caught() -> None:
    assert caught([examples(s, 1e-9, 4.0) for s in range(RUNS)]) >= CAUGHT


@pytest.mark.slow
def test_dpsgd_without_clipping_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(gradients: Mapping[str, Tensor], clip: float) -> tuple[dict[str, Tensor], Tensor]:
        return {n: g.double().sum(0) for n, g in gradients.items()}, torch.zeros(0)

    noise = multiplier(4.0)
    monkeypatch.setattr(noisy_sgd, "clipped_sum", unclipped)
    assert caught([examples(s, noise, 4.0) for s in range(RUNS)]) >= CAUGHT


@pytest.mark.slow
def test_an_accountant_that_starts_anew_each_step_is_caught() -> None:
    """Sixteen steps spend epsilon 8; the last alone claims a fifth of it."""
    noise = multiplier(8.0, LONG)
    claimed = epsilon.pld([Event(noise)], DELTA)
    assert claimed < 8.0 / 4
    assert caught([examples(s, noise, claimed, LONG, FEWER) for s in range(RUNS)]) >= CAUGHT


@pytest.mark.slow
def test_user_noise_as_claimed_is_not_accused() -> None:
    assert caught([users(s, multiplier(4.0), 4.0) for s in range(RUNS)]) <= TOLERATED


@pytest.mark.slow
def test_user_noise_that_is_off_is_caught() -> None:
    assert caught([users(s, 1e-6, 4.0) for s in range(RUNS)]) >= CAUGHT


@pytest.mark.slow
def test_user_noise_without_clipping_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = multiplier(4.0)
    monkeypatch.setattr(clipping, "clipped", lambda kinds, bound: kinds)
    assert caught([users(s, noise, 4.0) for s in range(RUNS)]) >= CAUGHT


@pytest.mark.slow
def test_user_noise_with_an_accountant_that_starts_anew_each_round_is_caught() -> None:
    noise = multiplier(8.0, LONG)
    claimed = epsilon.pld([Event(noise)], DELTA)
    assert caught([users(s, noise, claimed, LONG, FEWER) for s in range(RUNS)]) >= CAUGHT
