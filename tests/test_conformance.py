"""Wrong rate, wrong step count and per-batch clipping are caught exactly, and an honest round is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedkd import conformance, noisy_sgd
from fedkd.epsilon import Event, from_json
from fedkd.mechanisms import dpsgd
from fedkd.train import Job, NoisySteps
from fedkd.vault import Vault
from tests.small_runs import run, small
from tests.test_noisy_sgd import STEPS, job_of

CHARGED = Event(STEPS.noise_multiplier, STEPS.rate, STEPS.steps)


def taken(steps: NoisySteps) -> Job:
    """A job trained with ``steps``, whatever is charged."""
    job = replace(job_of(), trace=[])
    noisy_sgd.train(job, steps)
    return job


def found(steps: NoisySteps) -> list[str]:
    job = taken(steps)
    return conformance.violations(CHARGED, STEPS, len(job.y), job.trace)


def test_an_honest_round_conforms() -> None:
    assert found(STEPS) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rate": 0.55}, "that rate 0.4 draws"),
        ({"rate": 0.3}, "that rate 0.4 draws"),
        ({"steps": 4}, "4 steps were taken, 3 are charged"),
        ({"steps": 2}, "2 steps were taken, 3 are charged"),
        ({"noise_multiplier": 1.0}, "not that of multiplier 1.1"),
        ({"noise_multiplier": 0.0}, "not that of multiplier 1.1"),
        ({"divisor": 7.0}, "divided by 7 instead of the constant 8"),
    ],
)
def test_what_was_not_charged_is_caught(changed: dict[str, float], said: str) -> None:
    assert any(said in v for v in found(replace(STEPS, **changed)))


def per_batch(gradients: Mapping[str, Tensor], clip: float) -> tuple[dict[str, Tensor], Tensor]:
    """The classic mistake: the batch's sum is clipped once."""
    total = {n: g.double().sum(0) for n, g in gradients.items()}
    norm = torch.cat([t.flatten() for t in total.values()]).norm()
    factor = min(1.0, clip / float(norm))
    return {n: factor * t for n, t in total.items()}, (factor * norm)[None]


def test_clipping_the_batch_instead_of_each_example_is_caught_by_trace_and_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisy_sgd, "clipped_sum", per_batch)
    job = taken(STEPS)
    assert any("1 norms were bounded in a batch of" in v for v in conformance.violations(CHARGED, STEPS, len(job.y), job.trace))
    got, expected = noisy_sgd.train(job, STEPS), conformance.replay(job, STEPS)
    assert max(float((got[n] - expected[n]).abs().max()) for n in job.trainable) > 1e-3


def test_no_clipping_at_all_is_caught() -> None:
    job = replace(job_of(), trace=[])
    noisy_sgd.train(job, replace(STEPS, clip=1e9, noise_multiplier=STEPS.noise_multiplier * STEPS.clip / 1e9))
    assert any("is above clip" in v for v in conformance.violations(CHARGED, STEPS, len(job.y), job.trace))


def test_a_runs_own_ledgers_and_traces_conform(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every participation of a run with secret noise: the steps are those that its mechanism planned."""
    seen: dict[tuple[int, int], tuple[NoisySteps, int]] = {}
    real = dpsgd.local

    def spy(setting, round, data, job, secret):
        changed = real(setting, round, data, job, secret)
        seen[data.client, round] = (changed.noisy, len(job.y))
        return changed

    monkeypatch.setattr(dpsgd, "local", spy)
    run(small(tmp_path, mechanism_name="dpsgd", metrics="home"))
    checked = 0
    for client in range(3):
        vault = Vault(next((tmp_path / "state").glob(f"*/{client}")))
        for entry, kept in zip(vault.entries(), vault.traces(), strict=True):
            steps, rows = seen[client, entry["round"]]
            assert kept["round"] == entry["round"]
            assert conformance.violations(from_json(entry["events"][0]), steps, rows, kept["steps"]) == []
            checked += 1
    assert checked == 9
