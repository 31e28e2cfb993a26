"""Laws of every file in ``fedkd/executors``: one round from equal state is that of ``loop``, for every method and loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd import plugins
from fedkd.jobs import batch_order
from fedkd.setting import Setting
from fedkd.train import ROWS, Job
from fedkd.types import Broadcast
from tests.toy import federate, has_compiler, refusal, toy_clients, toy_setting

EXECUTORS = [
    pytest.param(n, marks=pytest.mark.skipif(n == "native" and not has_compiler(), reason="no C compiler on this machine"))
    for n in plugins.available("executors")
]
TOLERANCE = 1e-5
RAGGED = (1, 7, 32, 19, 17)
"""Training samples of the clients: one row, less than a batch, whole batches, and batches with a rest of 3 and of 1."""
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fedavg": ("fedavg", "", {}),
    "local": ("local", "", {"momentum": 0.0, "weight_decay": 0.0}),
    "fedmd": ("fedmd", "pretrain_epochs = 1", {}),
    "features": ("fedd2s", "", {}),
    "heads": ("fedd2s", 'knowledge = "heads", kd_target = "both"', {}),
    "class_means": ("fedd2s", 'knowledge = "class_means", head_ce_weight = 0.3, min_class_count = 0', {}),
    "sampled": ("fedd2s", "upload_fraction = 0.5", {}),
}
"""Every method and kind of knowledge, and losses in which some samples of a batch have no teacher."""
LOSSES = {"alpha": "", "jsd": "", "kl": 'direction = "reverse"', "mse": "", "pld": "", "swing": "kd_weight = 1.0", "tv": ""}


def jobs_of(setting: Setting, round: int = 2) -> list[Job]:
    """The jobs of all clients in a round that has teachers, at most 10 steps each."""
    clients = toy_clients(RAGGED)
    whole = replace(setting, experiment=replace(setting.experiment, num_clients=len(RAGGED), fraction_train=1.0))
    before = federate(whole, clients, rounds=round)
    state = before.server[-1]
    jobs = []
    for n, data in enumerate(clients):
        shared, own = whole.module.broadcast(whole, state, round, n, round - 1)
        jobs.append(whole.module.prepare(whole, before.states[-1][n], Broadcast(round, n, shared, own), data))
    return jobs


def trained(executor: str, jobs: list[Job]) -> list[dict[str, Tensor]]:
    outcomes = list(plugins.find("executors", executor).run(iter(jobs)))
    assert [job.client for job, _ in outcomes] == [job.client for job in jobs], "the order given"
    for _, outcome in outcomes:
        assert not isinstance(outcome, Exception), outcome
    return [outcome for _, outcome in outcomes if not isinstance(outcome, Exception)]


def assert_agree(executor: str, jobs: list[Job]) -> None:
    """Within the tolerance of ``loop``, which moved every trained tensor much further than that."""
    for job, one, other in zip(jobs, trained("loop", jobs), trained(executor, jobs), strict=True):
        assert one.keys() == other.keys() == job.params.keys()
        moved = max(float((one[n] - job.params[n]).abs().max()) for n in job.trainable)
        assert moved > 100 * TOLERANCE
        for name in one:
            assert not other[name].requires_grad
            assert float((one[name] - other[name]).abs().max()) <= TOLERANCE, (job.client, name)


def test_every_method_is_here() -> None:
    assert {method for method, _, _ in CASES.values()} == set(plugins.available("methods"))
    assert {"loop", "native", "stacked"} <= set(plugins.available("executors"))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("case", CASES)
def test_a_round_is_that_of_loop(executor: str, case: str) -> None:
    method, args, keys = CASES[case]
    jobs = jobs_of(toy_setting(method, args, **keys))
    if case in ("heads", "sampled", "fedmd"):
        assert any(j.targets for j in jobs)
    assert_agree(executor, jobs)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("loss", sorted(set(plugins.available("losses")) - {"ce"}))
def test_every_distillation_loss_is_that_of_loop(executor: str, loss: str) -> None:
    assert loss in LOSSES, "name its arguments here"
    jobs = jobs_of(toy_setting("fedd2s", loss_name=loss, loss_args=LOSSES[loss]))
    assert sum(bool(j.targets) for j in jobs) == len(jobs)
    assert_agree(executor, jobs)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("model", sorted(set(plugins.available("models")) - {"fedavg_cnn", "lenet"}))
def test_every_model_is_that_of_loop(executor: str, model: str) -> None:
    assert_agree(executor, jobs_of(toy_setting("fedavg", model_name=model, learning_rate=0.01), round=1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ten_steps_of_several_epochs_are_those_of_loop(executor: str) -> None:
    """19 samples in batches of 5 for 2 epochs: 8 steps, rests of 4; targets of which every third is missing."""
    setting = toy_setting("fedd2s", batch_size=5)
    jobs = jobs_of(setting)
    for job in jobs:
        epochs = max(1, min(3, 10 * 5 // (len(job.y) + 4)))
        job.order = batch_order(setting, 0, job.client, len(job.y), epochs)
        job.targets["has"] = (torch.arange(len(job.y)) % 3 > 0).float()
    assert_agree(executor, jobs)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_one_clients_failure_is_its_own(executor: str) -> None:
    jobs = jobs_of(toy_setting("fedavg"), round=1)

    def broken(*_: object) -> Tensor:
        raise ValueError("broken")

    whole = trained("loop", jobs)
    jobs[2] = replace(jobs[2], loss=broken)
    outcomes = [outcome for _, outcome in plugins.find("executors", executor).run(iter(jobs))]
    assert isinstance(outcomes[2], ValueError)
    for position in (0, 1, 3, 4):
        outcome = outcomes[position]
        assert not isinstance(outcome, Exception)
        assert all(float((outcome[n] - whole[position][n]).abs().max()) <= TOLERANCE for n in outcome)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_rows_and_no_epochs_give_a_copy(executor: str) -> None:
    jobs = jobs_of(toy_setting("fedavg"), round=1)[:3]
    jobs[1].order = jobs[1].order[:0]
    empty = {"x": jobs[2].x[:0], "y": jobs[2].y[:0], "order": jobs[2].order[:, :0]}
    jobs[2] = replace(jobs[2], **empty)
    for job, params in list(zip(jobs, trained(executor, jobs), strict=True))[1:]:
        for name, value in params.items():
            assert torch.equal(value, job.params[name])
            assert value.data_ptr() != job.params[name].data_ptr()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_jobs_are_left_alone(executor: str) -> None:
    jobs = jobs_of(toy_setting("fedd2s"))
    before = [{n: v.clone() for n, v in {**j.params, **j.targets, "x": j.x}.items()} for j in jobs]
    trained(executor, jobs)
    for job, kept in zip(jobs, before, strict=True):
        now = {**job.params, **job.targets, "x": job.x}
        assert all(torch.equal(now[n], v) for n, v in kept.items())


@pytest.mark.parametrize("case", CASES)
def test_a_row_that_fills_a_batch_up_changes_no_term(case: str) -> None:
    """The law that masks rest on, for each method: with ``ROWS`` the terms of the true rows are those of the batch without
    the others, whatever these hold."""
    method, args, keys = CASES[case]
    jobs = jobs_of(toy_setting(method, args, **keys))
    for job in jobs:
        n = min(6, len(job.y))
        x, y, targets = job.x[:n], job.y[:n], {k: t[:n] for k, t in job.targets.items()}
        if "has" in targets:
            targets["has"] = torch.arange(n).remainder(2).float()
        fill: Callable[[Tensor], Tensor] = lambda t: torch.cat([t, torch.ones_like(t[:1]).expand(3, *t.shape[1:])])  # noqa: E731
        rows = torch.cat([torch.ones(n), torch.zeros(3)])
        padded = job.loss(job.params, fill(x), fill(y), {**{k: fill(t) for k, t in targets.items()}, ROWS: rows})
        assert torch.allclose(padded[:n], job.loss(job.params, x, y, targets), atol=1e-5)


def test_what_stacked_cannot_run_is_refused_by_name() -> None:
    stacked = {"executor_name": "stacked"}
    assert "BatchNorm" in refusal(lambda: toy_setting("local", model_args='norm = "batch"', **stacked))
    assert "dpsgd" in refusal(lambda: toy_setting("fedavg", mechanism_name="dpsgd", **stacked))
    neutral = {"mechanism_name": "dpsgd", "mechanism_args": "clip = inf, noise_multiplier = 0.0"}
    assert toy_setting("fedavg", **neutral, **stacked).executor.__name__.endswith("stacked")
