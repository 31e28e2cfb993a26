"""FedMD against its definition: local training plus a mean of soft labels on public rows (arXiv 1910.03581, algorithm 1)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedkd import rng
from fedkd.errors import UploadError
from fedkd.mechanisms import swing
from fedkd.setting import Setting
from fedkd.train import to_tensors
from fedkd.types import Array, Arrays, Broadcast, Upload
from fedkd.uploads import check
from tests.toy import CLASSES, PUBLIC, collect, federate, refusal, same, toy_clients, toy_setting


def softmax(z: Array) -> Array:
    out: Array = np.exp(z) / np.exp(z).sum()
    return out


def fedmd(args: str = "", **keys: Any) -> Setting:
    return toy_setting("fedmd", args, **keys)


def upload(client: int, ids: Array, p: Array, weight: int = 40) -> Upload:
    return Upload(client, weight, {"soft_labels": {"p": p.astype(np.float32)}, "ids": {"i": ids.astype(np.int32)}})


def aggregated(setting: Setting, *uploads: Upload) -> Arrays:
    state, extra = setting.module.aggregate(setting, {}, 0, collect(setting, 0, list(uploads)))
    assert extra == {}
    return dict(state)


def test_neutral_is_local_training_bit_for_bit() -> None:
    ours, local = federate(fedmd("digest_epochs = 0")), federate(toy_setting("local"))
    assert all(same(ours.final[c], local.final[c]) for c in local.final)
    assert not same(federate(fedmd()).final[0], local.final[0])


def test_the_consensus_is_the_unweighted_mean_row_by_row() -> None:
    """By hand: row 3 has two senders, row 5 one; K_n does not count; the order of rows does not either."""
    stream = np.random.default_rng(0)
    a, b = stream.normal(size=(2, CLASSES)), stream.normal(size=(1, CLASSES))
    first, second = upload(0, np.array([5, 3]), a), upload(1, np.array([3]), b, weight=7)
    means = aggregated(fedmd(), first, second)
    np.testing.assert_array_equal(means["i"], [3, 5])
    np.testing.assert_allclose(means["q"], [(a[1] + b[0]) / 2, a[0]], rtol=1e-6)
    mixed = aggregated(fedmd('consensus = "probabilities"'), first, second)
    np.testing.assert_allclose(np.exp(mixed["q"]), [(softmax(a[1]) + softmax(b[0])) / 2, softmax(a[0])], rtol=1e-5)


def test_a_row_named_twice_counts_once_and_empty_uploads_change_nothing() -> None:
    p = np.random.default_rng(1).normal(size=(2, CLASSES))
    twice = aggregated(fedmd(), upload(0, np.array([4, 4]), p))
    np.testing.assert_allclose(twice["q"], p[:1], rtol=1e-6)
    none = upload(0, np.zeros(0), np.zeros((0, CLASSES)))
    assert aggregated(fedmd(), none) == {}


def test_digest_then_revisit_is_a_loop_in_plain_torch() -> None:
    """One pass of KL to the consensus over public rows, then one of CE over own rows, SGD with one momentum buffer."""
    setting, data = fedmd("temperature = 2.0", weight_decay=0.0), toy_clients()[0]
    public = data.public
    assert public is not None
    q = np.random.default_rng(2).normal(size=(PUBLIC, CLASSES)).astype(np.float32)
    down = Broadcast(1, 0, {"soft_labels": {"q": q, "i": public.ids}}, {})
    job = setting.module.prepare(setting, setting.initial(), down, data)
    params = {n: t.requires_grad_(True) for n, t in to_tensors(setting.initial(), setting.device).items()}
    optimizer = torch.optim.SGD(list(params.values()), setting.learning_rate(1), momentum=setting.experiment.momentum)
    order = rng.experiment(setting.seed, "public order", 1, 0).permutation(PUBLIC)
    x, target = torch.tensor(public.x), torch.tensor(q)
    for rows in torch.from_numpy(order).split(16):
        optimizer.zero_grad()
        out = setting.model.forward(params, x[rows], train=True)[1]
        terms = F.kl_div(F.log_softmax(out / 2, 1), F.log_softmax(target[rows] / 2, 1), reduction="none", log_target=True)
        (4 * terms.sum(1)).mean().backward()
        optimizer.step()
    x, y = torch.tensor(np.asarray(data.train.x)), torch.tensor(np.asarray(data.train.y, np.int64))
    for rows in torch.from_numpy(job.order[1][job.order[1] >= 0]).split(16):
        optimizer.zero_grad()
        F.cross_entropy(setting.model.forward(params, x[rows], train=True)[1], y[rows]).backward()
        optimizer.step()
    from fedkd.train import sgd

    for name, value in sgd(job).items():
        torch.testing.assert_close(value, params[name].detach(), atol=2e-5, rtol=1e-4)


def test_pretraining_reads_public_labels_in_the_first_round_only() -> None:
    setting, data = fedmd("pretrain_epochs = 2"), toy_clients()[0]
    job = setting.module.prepare(setting, {}, Broadcast(0, 0, {}, {}), data)
    assert job.order.shape == (3, PUBLIC) and job.targets == {}
    later = setting.module.prepare(setting, setting.initial(), Broadcast(1, 0, {}, {}), data)
    assert later.order.shape == (1, len(data.train)) and len(later.x) == len(data.train)


def test_only_soft_labels_of_public_rows_travel() -> None:
    setting = fedmd()
    history = federate(setting, rounds=2)
    assert setting.module.schema(setting, 0).keys() == {"soft_labels", "ids"}
    public = history.clients[0].public
    assert public is not None
    for u in history.uploads[1].values():
        np.testing.assert_array_equal(u.kinds["ids"]["i"], public.ids)
    down = next(iter(history.broadcasts[1].values()))
    assert down.own == {} and down.shared.keys() == {"soft_labels"}
    too_many = upload(0, np.arange(PUBLIC + 1), np.zeros((PUBLIC + 1, CLASSES)))
    with pytest.raises(UploadError, match=f"{PUBLIC + 1} rows instead of {PUBLIC}"):
        check(setting.module.schema(setting, 0), too_many, 2.0**20)


def test_rows_outside_the_public_set_are_left_out_and_wrong_shapes_refused() -> None:
    setting, data = fedmd(), toy_clients()[0]
    public = data.public
    assert public is not None
    ids = np.array([public.ids[0], 999_999], np.int32)
    down = Broadcast(1, 0, {"soft_labels": {"q": np.zeros((2, CLASSES), np.float32), "i": ids}}, {})
    job = setting.module.prepare(setting, setting.initial(), down, data)
    assert (job.order[0] >= 0).sum() == 1
    bad = Broadcast(1, 0, {"soft_labels": {"q": np.zeros((3, CLASSES), np.float32), "i": ids}}, {})
    with pytest.raises(UploadError, match="does not fit"):
        setting.module.prepare(setting, setting.initial(), bad, data)


def test_refusals_name_the_field() -> None:
    assert "public-samples = 0" in refusal(lambda: fedmd(public_samples=0))
    assert "temperature = 0.0" in refusal(lambda: fedmd("temperature = 0.0"))
    assert "digest_epochs = -1" in refusal(lambda: fedmd("digest_epochs = -1"))


def test_swing_protects_public_rows_and_the_consensus() -> None:
    """Rows leave flat and noised under "gap" too, whose reference is the consensus that the client keeps."""
    base = fedmd(mechanism_name="swing", mechanism_args='pass_through = ["ids"], insecure_seeded_noise = true')
    gap = dataclasses.replace(base.experiment, sensitivity_name="gap")
    from fedkd import setting as settings

    setting = settings.build(gap, base.model.shape, base.classes)
    history = federate(setting, rounds=3)
    client = max(history.uploads[2])
    kinds, state, data = history.uploads[2][client].kinds, history.states[2][client], history.clients[client]
    assert {"q", "q_round"} <= set(state)
    out = swing.upload(setting, 2, data, state, {}, kinds, lambda: 1)
    sent = out.kinds["soft_labels"]["p"]
    assert sent.shape == (PUBLIC, CLASSES) and out.charges == PUBLIC
    assert np.abs(sent - kinds["soft_labels"]["p"]).max() > 0.1
    np.testing.assert_array_equal(out.kinds["ids"]["i"], kinds["ids"]["i"])
