"""Heads: what they compute, how the server trains its own, and that a row's teacher depends on its client alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedkd import heads, rng
from fedkd.knowledge import feature_kinds
from fedkd.layers import pool
from fedkd.train import to_tensors
from fedkd.types import Upload
from tests.toy import CLASSES, toy_clients, toy_setting

CPU = torch.device("cpu")


def rows(count: int = 30, width: int = 64, labels: bool = True) -> heads.Pooled:
    generator = torch.Generator().manual_seed(2)
    z, p = torch.randn(count, width, generator=generator), 3 * torch.randn(count, CLASSES, generator=generator)
    y = torch.randint(CLASSES, (count,), generator=generator) if labels else None
    return heads.Pooled(z, p, y, torch.ones(count))


def test_initial_heads_are_shared_or_the_owners_and_differ_by_cut_and_seed() -> None:
    setting = toy_setting(args="head_pool = 1")
    first = heads.initial(setting, 2)
    assert first[heads.names(2)[0]].shape == (CLASSES, heads.width(setting, 2)) == (CLASSES, 32)
    assert np.array_equal(first["head2.weight"], heads.initial(setting, 2)["head2.weight"])
    others = [heads.initial(setting, 2, owner=1), heads.initial(toy_setting(args="head_pool = 1", seed=1), 2)]
    assert not any(np.array_equal(first["head2.weight"], o["head2.weight"]) for o in others)


def test_initial_heads_are_drawn_once_and_cannot_be_changed() -> None:
    setting = toy_setting("fedd2s")
    one, two = heads.initial(setting, 2), heads.initial(setting, 2)
    assert one is not two and all(one[n] is two[n] for n in one)
    with pytest.raises(ValueError, match="read-only"):
        one["head2.bias"][0] = 1.0


def test_equal_settings_have_equal_hashes_and_changed_ones_their_own() -> None:
    setting = toy_setting("fedd2s")
    assert hash(setting) == hash(dataclasses.replace(setting))
    assert hash(setting) != hash(dataclasses.replace(setting, method=dataclasses.replace(setting.method, temperature=2.0)))


def test_features_are_pooled_outputs_of_the_cut_and_their_head_logits() -> None:
    """z = pool(z^l(x)) and p = W z + b, in eval mode, for the client's own rows."""
    setting = toy_setting(args="head_pool = 2")
    arrays = {**setting.initial(), **heads.initial(setting, 1)}
    params, x = to_tensors(arrays, CPU), torch.tensor(toy_clients()[0].train.x)
    z, p = heads.features(setting, params, 1, x)
    expected = pool(setting.model.forward(params, x, (1,))[0][1], 2)
    assert torch.equal(z, expected)
    assert z.shape == (19, 16 * 2 * 2)
    assert np.allclose(p, z.numpy() @ arrays["head1.weight"].T + arrays["head1.bias"], atol=1e-5)
    assert not p.requires_grad


@pytest.mark.parametrize(
    ("args", "labels"),
    [
        ("", True),
        ("temperature_squared = false, temperature = 2.0, kd_weight_server = 0.3", True),
        ("kd_weight_server = 0", True),
        ('server_ce = false, upload_labels = "none"', False),
        ("server_ce = false", True),
    ],
)
def test_server_head_is_adam_on_ce_plus_kl(args: str, labels: bool) -> None:
    """Reference: nn.Linear, torch.optim.Adam and F.kl_div, batches of 8 from the server's shuffle, 3 epochs."""
    setting = toy_setting(args=", ".join(a for a in (args, "server_batch = 8") if a))
    c, data = setting.method, rows(labels=labels)
    with rng.torch_scope(0):
        linear = nn.Linear(64, CLASSES)
    first = heads.initial(setting, 3)
    linear.load_state_dict({n.removeprefix("head3."): torch.tensor(v) for n, v in first.items()})
    optimizer = torch.optim.Adam(linear.parameters(), lr=c.server_lr)
    stream = rng.experiment(setting.seed, "server shuffle", 4)
    for _ in range(3):
        order = torch.tensor(stream.permutation(30))
        for part in order.split(8):
            out, t = linear(data.z[part]), c.temperature
            loss = torch.zeros(())
            if c.server_ce and data.y is not None:
                loss = loss + F.cross_entropy(out, data.y[part])
            if c.kd_weight_server:
                kl = F.kl_div(F.log_softmax(out / t, 1), F.softmax(data.p[part] / t, 1), reduction="batchmean")
                loss = loss + c.kd_weight_server * kl * (t * t if c.temperature_squared else 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    head, state = heads.train_server_head(setting, 4, 3, {}, data, epochs=3)
    assert np.abs(state["head3.weight"] - first["head3.weight"]).max() > 5e-3, "it really learned"
    assert torch.allclose(head["head3.weight"], linear.weight, rtol=0, atol=2e-6)
    assert torch.allclose(head["head3.bias"], linear.bias, rtol=0, atol=2e-6)
    assert int(state["adam3.step"]) == 12


def test_server_head_goes_on_from_its_committed_state() -> None:
    """Two rounds with the state in between as arrays differ from starting afresh: head and Adam's moments are kept."""
    setting, data = toy_setting(), rows()
    _, first = heads.train_server_head(setting, 0, 3, {}, data, epochs=2)
    kept = {n: v.copy() for n, v in first.items()}
    _, second = heads.train_server_head(setting, 1, 3, first, data, epochs=1)
    assert int(second["adam3.step"]) == 3
    assert all(np.array_equal(first[n], kept[n]) for n in kept), "the given state is not written to"
    _, without = heads.train_server_head(setting, 1, 3, {n: first[n] for n in heads.names(3)}, data, epochs=1)
    assert not np.array_equal(second["head3.weight"], without["head3.weight"])


def test_row_weights_scale_their_rows() -> None:
    """Weight 2 on half of the rows and 0 on the rest is training on that half: same gradients, batch by batch."""
    setting = toy_setting(args="server_batch = 1000")
    data = rows(20)
    weight = torch.cat([torch.full((10,), 2.0), torch.zeros(10)])
    half = heads.Pooled(data.z[:10], data.p[:10], data.y[:10] if data.y is not None else None, torch.ones(10))
    _, left = heads.train_server_head(setting, 0, 3, {}, dataclasses.replace(data, weight=weight), epochs=1)
    _, right = heads.train_server_head(setting, 0, 3, {}, half, epochs=1)
    assert np.allclose(left["head3.weight"], right["head3.weight"], atol=1e-6)


def test_teachers_are_the_heads_logits_by_ascending_id() -> None:
    """I8, I4: q_i = G(z_i), whatever the order of the rows on the wire, bit for bit."""
    setting, data = toy_setting(), rows(7)
    ids = np.array([5, 2, 90, 11, 3, 8, 40], np.int32)
    head = to_tensors(heads.initial(setting, 3), CPU)
    assert data.y is not None
    z, p, y = data.z.numpy(), data.p.numpy(), data.y.numpy().astype(np.int32)
    q, sorted_ids, loss = heads.teach(setting, head, 3, Upload(0, 7, feature_kinds(z, p, ids, y)))
    order = np.argsort(ids)
    assert sorted_ids.tolist() == sorted(ids.tolist())
    expected = z[order] @ head["head3.weight"].numpy().T + head["head3.bias"].numpy()
    assert np.allclose(q, expected, atol=1e-5)
    nll = np.log(np.exp(expected.astype(np.float64)).sum(1)) - expected[np.arange(7), y[order]]
    assert loss == pytest.approx(nll.mean(), abs=1e-5)
    mixed = np.array([3, 6, 0, 5, 1, 4, 2])
    again = heads.teach(setting, head, 3, Upload(0, 7, feature_kinds(z[mixed], p[mixed], ids[mixed], y[mixed])))
    assert q.tobytes() == again[0].tobytes()
    assert loss == again[2]
    assert heads.teach(setting, head, 3, Upload(0, 7, feature_kinds(z, p, ids, None)))[2] is None
