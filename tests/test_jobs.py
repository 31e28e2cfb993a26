"""What methods share: the batch order, local training on labels, copies of results."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedkd.jobs import as_arrays, batch_order, local_job
from fedkd.train import sgd
from tests.toy import toy_clients, toy_setting


def test_batch_order_is_one_permutation_an_epoch_and_no_method_changes_it() -> None:
    """Paired comparisons need the same order for all methods of a seed; each round, client and epoch has its own."""
    order = batch_order(toy_setting(), 3, 1, 30, 4)
    assert order.shape == (4, 30)
    assert all(sorted(epoch) == list(range(30)) for epoch in order)
    assert len({tuple(epoch) for epoch in order}) == 4
    assert np.array_equal(order, batch_order(toy_setting("local", batch_size=3), 3, 1, 30, 4))
    assert np.array_equal(order[:1], batch_order(toy_setting(), 3, 1, 30, 1)), "more epochs only add"
    for other in ((2, 1), (3, 2)):
        assert not np.array_equal(order, batch_order(toy_setting(), *other, 30, 4))
    assert not np.array_equal(order, batch_order(toy_setting(seed=1), 3, 1, 30, 4))
    assert batch_order(toy_setting(), 0, 0, 5, 0).shape == (0, 5)


def test_learning_rate_is_cosine_to_five_percent_or_constant() -> None:
    """lr (.05 + .95 (1 + cos(pi t / R)) / 2): lr at t = 0, .525 lr half-way, nearly .05 lr in the last round."""
    setting = toy_setting(num_server_rounds=40, learning_rate=0.2)
    assert setting.learning_rate(0) == 0.2
    assert setting.learning_rate(20) == pytest.approx(0.105)
    assert setting.learning_rate(39) == pytest.approx(0.2 * (0.05 + 0.475 * (1 + math.cos(math.pi * 39 / 40))))
    constant = toy_setting(num_server_rounds=40, learning_rate=0.2, lr_schedule="constant")
    assert {constant.learning_rate(t) for t in range(40)} == {0.2}


def test_local_job_carries_the_experiment_and_copies_the_parameters() -> None:
    setting, data = toy_setting("local", local_epochs=2, momentum=0.5), toy_clients()[1]
    params = setting.initial()
    job = local_job(setting, 2, data, params)
    assert (job.client, job.epochs, job.batch_size) == (1, 2, 16)
    assert (job.momentum, job.weight_decay, job.learning_rate) == (0.5, 1e-3, setting.learning_rate(2))
    assert job.trainable == setting.model.parameter_names
    job.params["classifier.bias"].add_(1)
    assert np.array_equal(params["classifier.bias"], toy_setting("local").initial()["classifier.bias"])
    tuned = local_job(setting, 2, data, params, epochs=5, learning_rate=0.01)
    assert (tuned.epochs, tuned.learning_rate) == (5, 0.01)


def test_cross_entropy_per_sample_is_the_nll() -> None:
    setting, data = toy_setting("local"), toy_clients()[0]
    job = local_job(setting, 0, data, setting.initial())
    terms = job.loss(job.params, job.x, job.y, {}).detach().numpy()
    out = setting.model.forward(job.params, job.x)[1].detach().numpy().astype(np.float64)
    expected = np.log(np.exp(out).sum(1)) - out[np.arange(len(out)), data.train.y]
    assert terms.shape == (len(data.train),)
    assert np.allclose(terms, expected, atol=1e-6)


def test_as_arrays_names_what_was_trained_and_is_never_the_jobs_own() -> None:
    """An outcome belongs to whoever asked for it: its arrays may share its memory, but not that of the job's parameters."""
    setting, data = toy_setting("local"), toy_clients()[0]
    job = local_job(setting, 0, data, setting.initial())
    before = {n: t.clone() for n, t in job.params.items()}
    out = as_arrays(sgd(job), ["classifier.bias"])
    assert list(out) == ["classifier.bias"]
    out["classifier.bias"][:] = 0
    assert all(torch.equal(job.params[n], before[n]) for n in before)
    assert as_arrays(sgd(job), ["classifier.bias"])["classifier.bias"].any()
