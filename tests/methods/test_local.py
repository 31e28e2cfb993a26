"""Local training alone equals plain PyTorch, and nothing travels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests import plain
from tests.toy import federate, largest_difference, same, toy_setting


def test_local_is_plain_sgd_on_each_clients_own_data() -> None:
    """Six rounds with partial participation: each client's module, torch.optim.SGD with a fresh momentum buffer a round."""
    setting = toy_setting("local")
    history = federate(setting)
    nets = {n: plain.network(setting) for n in range(4)}
    for t in range(setting.rounds):
        for n in setting.sample(t):
            x, y = plain.rows_of(history.clients[n])
            optimizer = plain.sgd(setting, nets[n].parameters(), t)
            for rows in plain.batches(setting, t, n, len(y)):
                optimizer.zero_grad()
                F.cross_entropy(nets[n](x[rows]), y[rows]).backward()
                optimizer.step()
            assert largest_difference(plain.arrays(plain.copy_of(nets[n])), history.models[t][n]) < 1e-6
    assert largest_difference(history.final[0], setting.initial()) > 1e-2


def test_nothing_goes_up_or_down_and_the_server_holds_nothing() -> None:
    history = federate(toy_setting("local"), rounds=3)
    assert all(state == {} for state in history.server)
    assert all(u.kinds == {} for uploads in history.uploads for u in uploads.values())
    assert all(b.shared == b.own == {} for broadcasts in history.broadcasts for b in broadcasts.values())


def test_a_client_goes_on_from_its_own_model_and_absence_changes_nothing() -> None:
    setting = toy_setting("local", lr_schedule="constant")
    history = federate(setting, sample=lambda t: [0] if t in (0, 3) else [1])
    assert same(history.states[0][0], history.states[2][0])
    job = setting.module.prepare(setting, history.states[2][0], history.broadcasts[3][0], history.clients[0])
    assert all(torch.equal(job.params[n], torch.tensor(v)) for n, v in history.models[0][0].items())
