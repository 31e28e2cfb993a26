"""Per-sample gradients, clipping, noise and batches of noisy steps, each against a slow oracle and against Opacus."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedkd import conformance, noisy_sgd, rng
from fedkd.jobs import local_job
from fedkd.train import Job, NoisySteps
from tests.toy import federate, toy_clients, toy_setting

STEPS = NoisySteps(steps=3, rate=0.4, clip=0.7, noise_multiplier=1.1, divisor=8.0, key=5)


def job_of(method: str = "fedavg", args: str = "") -> Job:
    """A round-1 job of the toy federation; with heads it has per-sample targets."""
    setting = toy_setting(method, args, model_name="mlp", model_args="hidden = [8, 6]", fraction_train=1.0)
    if method == "fedavg":
        return local_job(setting, 0, toy_clients()[0], setting.initial())
    past = federate(setting, rounds=2)
    return setting.module.prepare(setting, past.states[0][0], past.broadcasts[1][0], toy_clients()[0])


@pytest.fixture(scope="module")
def job() -> Job:
    return job_of("fedd2s", 'knowledge = "heads"')


def gradients(job: Job, rows: list[int]) -> Tensor:  # [b, P]
    found = noisy_sgd.per_sample(job)({n: job.params[n] for n in job.trainable}, torch.tensor(rows))
    return torch.cat([found[n].flatten(1) for n in job.trainable], 1)


def test_gradients_equal_a_loop_of_batch_1_with_heads_and_targets(job: Job) -> None:
    assert job.targets
    got = gradients(job, list(range(len(job.y))))
    for i in range(len(job.y)):
        one = conformance.one_gradient(job, job.params, i)
        expected = torch.cat([one[n].flatten() for n in job.trainable])
        torch.testing.assert_close(got[i], expected, rtol=1e-4, atol=1e-6)


def test_one_example_more_or_less_leaves_all_other_gradients_bit_identical(job: Job) -> None:
    rows = list(range(len(job.y)))
    whole = gradients(job, rows)
    for gone in (0, 7, 15, 18):
        kept = [r for r in rows if r != gone]
        assert torch.equal(gradients(job, kept), whole[kept]), gone
    assert torch.equal(gradients(job, [3]), whole[[3]])


def test_a_sample_without_a_teacher_changes_no_other_gradient(job: Job) -> None:
    has = job.targets["has"].clone()
    whole = gradients(job, [0, 1, 2])
    has[1] = 0
    changed = gradients(replace(job, targets={**job.targets, "has": has}), [0, 1, 2])
    assert torch.equal(changed[[0, 2]], whole[[0, 2]])
    assert not torch.equal(changed[1], whole[1])


def test_gradients_equal_opacus_grad_sample() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule
    job = job_of()
    with rng.torch_scope(0):  # layers draw as they are built
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
    with torch.no_grad():
        for p, name in zip(net.parameters(), job.trainable, strict=True):
            p.copy_(job.params[name])
    wrapped = GradSampleModule(net, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hooks on an input without a gradient
        F.cross_entropy(wrapped(job.x), job.y, reduction="sum").backward()
    theirs = torch.cat([p.grad_sample.flatten(1) for p in wrapped.parameters()], 1)
    torch.testing.assert_close(gradients(job, list(range(len(job.y)))), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["fedavg", "fedd2s"])
def test_training_equals_the_slow_loop(method: str, job: Job) -> None:
    one = replace(job if method == "fedd2s" else job_of(), trace=[])
    got, expected = noisy_sgd.train(one, STEPS), conformance.replay(one, STEPS)
    for name in one.params:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6)
    assert len(one.trace) == STEPS.steps


def test_an_empty_batch_steps_with_noise_alone(job: Job) -> None:
    """w - lr * (noise / divisor + wd * w), exactly one step from rest."""
    one, steps = replace(job, trace=[]), replace(STEPS, steps=1, rate=1e-12)
    got, start = noisy_sgd.train(one, steps), 0
    drawn = noisy_sgd.noise(steps, 0, sum(job.params[n].numel() for n in job.trainable))
    assert one.trace[0]["rows"] == [] and one.trace[0]["clipped"] == 0
    for name in job.trainable:
        w = job.params[name]
        noise = torch.from_numpy(drawn[start : start + w.numel()] / steps.divisor).float().view(w.shape)
        start += w.numel()
        torch.testing.assert_close(got[name], w - job.learning_rate * (noise + job.weight_decay * w))
        assert not torch.equal(got[name], w)


def test_the_divisor_is_a_constant() -> None:
    """Twice the divisor is half the step, whatever was drawn: the sum is not divided by the batch."""
    one = replace(job_of(), momentum=0.0, weight_decay=0.0)
    a = noisy_sgd.train(replace(one, trace=[]), replace(STEPS, steps=1))
    b = noisy_sgd.train(replace(one, trace=[]), replace(STEPS, steps=1, divisor=16.0))
    for n in one.trainable:
        torch.testing.assert_close(a[n] - one.params[n], 2 * (b[n] - one.params[n]), rtol=1e-3, atol=1e-6)


def test_sensitivity_is_never_exceeded_over_ten_thousand_cases_and_reached() -> None:
    """|sum(D) - sum(D without one)| <= C over random gradients of all sizes; a gradient above C reaches the bound."""
    stream = np.random.default_rng(0)
    g = torch.from_numpy((stream.normal(size=(10_000, 7)) * 10 ** stream.uniform(-8, 8, (10_000, 1))).astype(np.float32))
    for clip in (0.1, 1.0):
        norms = noisy_sgd.clipped_sum({"w": g[:, :4], "b": g[:, 4:]}, clip)[1]
        assert float(norms.max()) <= clip
        assert float(norms.max()) == pytest.approx(clip, rel=1e-9)
        for i in range(0, 600, 3):
            parts = (g[i : i + 3], g[i : i + 2], g[i + 2 : i + 3])
            whole, without, moved = (noisy_sgd.clipped_sum({"w": part}, clip)[0]["w"] for part in parts)
            assert float(moved.norm()) <= clip
            torch.testing.assert_close(whole - without, moved, rtol=1e-9, atol=1e-12)


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    g = {"w": torch.tensor([[float("nan"), 1.0], [float("inf"), 0.0], [0.3, 0.4]])}
    total, norms = noisy_sgd.clipped_sum(g, 1.0)
    torch.testing.assert_close(total["w"], torch.tensor([0.3, 0.4], dtype=torch.float64), rtol=1e-6, atol=0)
    assert norms[:2].tolist() == [0, 0]


def test_batches_are_coins_at_the_rate_and_noise_has_its_scale() -> None:
    sizes = np.array([len(noisy_sgd.batch(STEPS, s, 100)) for s in range(2000)])
    assert sizes.mean() == pytest.approx(40, abs=4 * np.sqrt(100 * 0.4 * 0.6 / 2000))
    assert sizes.var() == pytest.approx(24, rel=0.2)
    assert noisy_sgd.noise(STEPS, 0, 200_000).std() == pytest.approx(1.1 * 0.7, rel=0.01)
    assert not np.array_equal(noisy_sgd.noise(STEPS, 0, 5), noisy_sgd.noise(STEPS, 1, 5))
