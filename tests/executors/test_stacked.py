"""Buckets of equal steps, keys of losses, refusals, and the whole federation on the stacked executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.executors import loop, stacked
from fedkd.jobs import cross_entropy, local_job
from fedkd.setting import Setting
from fedkd.train import Job, NoisySteps
from tests.small_runs import final_hash, lines, run, small
from tests.toy import federate, largest_difference, refusal, toy_clients, toy_setting


def job(client: int = 0, rows: int = 19, **changes: Any) -> Job:
    setting = toy_setting("local")
    data = toy_clients((rows,))[0]
    return replace(local_job(setting, 0, data, setting.initial()), client=client, **changes)


def test_batches_are_those_of_loop() -> None:
    """The order's rows in pieces of batch_size; -1 fills a shorter pass up and is no row."""
    order = np.array([[3, 0, 2, 1, 4], [1, 0, -1, -1, -1]])
    cut = stacked.batches(job(rows=5, order=order, batch_size=2))
    assert [b.tolist() for b in cut] == [[3, 0], [2, 1], [4], [1, 0]]
    assert stacked.batches(job(rows=5, order=order[:0])) == []


def test_jobs_share_a_bucket_where_only_values_differ() -> None:
    """A hand-made cohort: equal steps, another number of steps, another rate, another batch size, targets, a noisy job."""
    setting = toy_setting("local")
    jobs = [
        job(0, 19, loss=cross_entropy(setting)), job(1, 30, loss=cross_entropy(setting)), job(2, 33),
        job(3, 19, learning_rate=0.1),
        job(4, 19, batch_size=10), job(5, 19, targets={"q": torch.zeros(19, 5)}), job(6, 19, loss=cross_entropy(setting)),
    ]  # fmt: skip
    assert stacked.buckets(jobs) == [[0, 1, 6], [2], [3], [4], [5]]


def test_losses_are_equal_by_code_and_what_they_close_over() -> None:
    def make(weight: float, held: object, pair: tuple[int, ...] = ()) -> Callable[..., Tensor]:
        return lambda p, x, y, t: weight * x.sum(1) + len(pair) + (held is None)

    shared, other = object(), object()
    made = ((1.0, shared), (1.0, shared), (2.0, shared), (1.0, other), (1, shared))
    keys = [stacked.form(job(loss=make(*of))) for of in made]
    assert keys[0] == keys[1]
    assert len({keys[0], *keys[2:]}) == 4
    assert stacked.form(job(loss=make(1.0, shared, (1, 2)))) == stacked.form(job(loss=make(1.0, shared, (1, 2))))
    plain = SimpleNamespace(__call__=lambda *_: None)
    assert stacked.form(job(loss=plain)) != stacked.form(job(loss=SimpleNamespace(__call__=lambda *_: None)))  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["cnn_small", "mlp", "resnet8"])
def test_bits_do_not_depend_on_who_shares_a_step(model: str) -> None:
    """Law 1: a client alone, in a cohort, in the reverse cohort and in the cohort of another worker has the same bits; and
    the values are those of ``loop``."""
    setting = toy_setting("local", model_name=model)
    cohort = [
        local_job(setting, 0, replace(data, client=n), setting.initial())
        for n, data in enumerate(toy_clients((19, 33, 20, 5, 18, 40, 33, 17, 31)))
    ]

    def bits(jobs: list[Job]) -> dict[int, list[bytes]]:
        got = list(stacked.run(iter(jobs)))
        assert [j.client for j, _ in got] == [j.client for j in jobs]
        return {j.client: [t.numpy().tobytes() for t in out.values()] for j, out in got if isinstance(out, dict)}

    together = bits(cohort)
    for part in (cohort[::-1], cohort[::2], cohort[4:], *([j] for j in cohort[:3])):
        assert bits(part).items() <= together.items()
    for (_, one), (_, other) in zip(stacked.run(cohort), loop.run(cohort), strict=True):
        assert isinstance(one, dict) and isinstance(other, dict)
        assert all(torch.allclose(one[n], other[n], rtol=0, atol=1e-5) for n in other)


def test_a_client_whose_values_are_no_numbers_spoils_no_other() -> None:
    jobs = [job(0, 19), job(1, 20), job(2, 21)]
    jobs[1].x[3] = float("nan")
    good = [out for _, out in loop.run([jobs[0], jobs[2]])]
    outcomes = [out for _, out in stacked.run(jobs)]
    assert isinstance(outcomes[1], dict) and torch.isnan(outcomes[1]["classifier.weight"]).any()
    for got, expected in zip((outcomes[0], outcomes[2]), good, strict=True):
        assert isinstance(got, dict) and isinstance(expected, dict)
        assert all(torch.allclose(got[n], expected[n], rtol=0, atol=1e-5) for n in expected)


@pytest.mark.parametrize("mu", [0.1, 2.0])
def test_a_proximal_term_over_the_parameters_is_that_of_loop(mu: float) -> None:
    """FedProx's loss as docs/how-to/add-a-method.md has it: it reads the parameters themselves, and what they began from."""

    def prox(rows: int) -> Job:
        plain = job(rows=rows)
        anchor = {n: plain.params[n].clone() + 0.1 for n in plain.trainable}

        def loss(params: Any, x: Tensor, y: Tensor, targets: Any) -> Tensor:
            distance = sum(((params[n] - w).square().sum() for n, w in anchor.items()), start=x.new_zeros(()))
            return plain.loss(params, x, y, targets) + 0.5 * mu * distance

        return replace(plain, loss=loss)

    def trained(executor: Any, jobs: list[Job]) -> list[dict[str, Any]]:
        return [{n: v.numpy() for n, v in outcome.items()} for _, outcome in executor.run(jobs)]

    jobs = [prox(rows) for rows in (1, 7, 32)]
    plain = [replace(j, loss=job(rows=len(j.y)).loss) for j in jobs]
    for one, other, without in zip(trained(stacked, jobs), trained(loop, jobs), trained(loop, plain), strict=True):
        assert largest_difference(one, other) < 1e-5
        assert largest_difference(other, without) > 1e-4, "the term has moved them"


def test_a_noisy_job_is_refused_alone() -> None:
    noisy = NoisySteps(1, 0.5, 1.0, 0.0, 8.0, key=1)
    outcomes = [out for _, out in stacked.run([job(0), job(1, noisy=noisy), job(2)])]
    assert isinstance(outcomes[1], ConfigError) and "noisy steps" in str(outcomes[1])
    assert isinstance(outcomes[0], dict) and isinstance(outcomes[2], dict)


def test_a_method_without_a_pure_loss_and_a_model_that_cannot_be_mapped_are_refused() -> None:
    setting = toy_setting("local")
    impure = replace(setting, module=SimpleNamespace(PURE_LOSS=False))
    assert "no pure loss" in refusal(lambda: stacked.check(impure))

    class Decides:
        """A network whose path depends on a value."""

        def __getattr__(self, name: str) -> Any:
            return getattr(setting.model, name)

        def forward(self, params: Any, x: Tensor, *rest: Any, **more: Any) -> Any:
            return setting.model.forward(params, x if float(x.sum()) > 0 else -x, *rest, **more)

    said = refusal(lambda: stacked.check(replace(setting, model=Decides())))  # type: ignore[arg-type]
    assert "cnn_small" in said and "kl" in said and 'executor.name = "loop"' in said


@pytest.mark.parametrize(("device", "expected"), [("cpu", "loop"), ("cuda", "stacked")])
def test_auto_is_loop_on_cpu_and_stacked_on_a_gpu_where_it_can(device: str, expected: str) -> None:
    def name(setting: Setting) -> str:
        return replace(setting, device=torch.device(device)).executor.__name__.rpartition(".")[2]

    assert name(toy_setting("fedavg")) == expected
    assert name(toy_setting("fedavg", model_args='norm = "batch"')) == "loop"


def test_a_federation_is_that_of_loop_within_rounding() -> None:
    one, other = (federate(toy_setting("fedd2s", executor_name=name), rounds=3) for name in ("loop", "stacked"))
    for client, model in one.final.items():
        assert 0 < largest_difference(model, other.final[client]) < 1e-4


def test_a_run_repeats_for_any_number_of_nodes_and_has_a_hash_of_its_own(tmp_path: Path) -> None:
    experiments = {n: small(tmp_path / n, executor_name="stacked", num_nodes=k) for n, k in (("a", 1), ("b", 3))}
    folders = {n: run(e) for n, e in experiments.items()}
    assert final_hash(folders["a"]) == final_hash(folders["b"])
    assert len(lines(folders["a"], "clients")) == 9
    plain = small(tmp_path)
    assert experiments["a"].hash8() != plain.hash8() == replace(plain, executor_name="loop").hash8()
    assert replace(plain, device="cuda").hash8() != replace(plain, device="cuda", executor_name="loop").hash8()
