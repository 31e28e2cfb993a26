"""FedAvg over Flower's messages equals a plain-PyTorch FedAvg; fine-tuning, the local tail, and averaged buffers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedkd.config import Experiment
from fedkd.prepare import open_data, prepare
from fedkd.setting import Setting, build
from fedkd.store import read_commit
from fedkd.train import sgd
from fedkd.types import Arrays, Broadcast, ClientData
from fedkd.uploads import Uploads
from server.server_app import run_all
from simulations.grids.inprocess import InProcessGrid
from tests import plain
from tests.toy import CLASSES, SHAPE, federate, largest_difference, refusal, same, toy_clients, toy_setting


def plain_fedavg(
    setting: Setting, clients: Sequence[ClientData], federated: int
) -> tuple[plain.Weights, dict[int, plain.Weights]]:
    """(global model after round ``federated`` - 1, each client's last trained model). From round ``federated`` on, clients
    train alone: from the last average the first time, from their own model afterwards."""
    net = plain.network(setting)
    world, trained, own = plain.copy_of(net), {}, {}
    for t in range(setting.rounds):
        parts = []
        for n in setting.sample(t):
            net.load_state_dict(own.get(n, world))
            x, y = plain.rows_of(clients[n])
            optimizer = plain.sgd(setting, net.parameters(), t)
            for rows in plain.batches(setting, t, n, len(y)):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            trained[n] = plain.copy_of(net)
            parts.append((trained[n], len(y)))
            if t >= federated:
                own[n] = trained[n]
        if t < federated:
            world = plain.mean(parts)
    return world, trained


def averaged(state: Arrays) -> Arrays:
    return {n.removeprefix("avg/"): v for n, v in state.items() if n.startswith("avg/")}


def over_flower(folder: Path, **keys: object) -> tuple[Experiment, list[ClientData], Path]:
    """Run through ServerApp, strategy, codec and ClientApp; (experiment, its clients, its run folder)."""
    values: dict[str, object] = {
        "num_clients": 6, "fraction_train": 0.5, "num_server_rounds": 5, "local_epochs": 2, "batch_size": 8,
        "weight_decay": 1e-3, "method_name": "fedavg", "data_name": "synthetic", "score": "after_average",
        "data_args": f"samples_per_client = 30, size_skew = 0.8, classes = {CLASSES}", "output": str(folder),
        "state_root": str(folder / "state"), "num_nodes": 2, "workers": 1, "report": False, "trusted": True,
    }  # fmt: skip
    experiment = Experiment(**{**values, **keys})  # type: ignore[arg-type]
    data = open_data(prepare(experiment, folder / "state"))
    (run,) = run_all(InProcessGrid(experiment.to_run_config(), nodes=2), experiment)
    return experiment, [data.client(n) for n in range(6)], run


def test_fedavg_over_flower_equals_plain_pytorch(tmp_path: Path) -> None:
    """Acceptance 5: 3 of 6 unequal clients a round, momentum 0.9, weight decay; the weights move by more than 1e-2."""
    experiment, clients, folder = over_flower(tmp_path)
    setting = build(experiment, SHAPE, CLASSES)
    sizes = [c.num_examples for c in clients]
    assert max(sizes) > 2 * min(sizes)
    assert experiment.momentum == 0.9
    commit = read_commit(folder / "checkpoints")
    assert commit is not None
    world, _ = plain_fedavg(setting, clients, setting.rounds)
    assert largest_difference(averaged(commit.state), plain.arrays(world)) < 1e-6
    assert largest_difference(averaged(commit.state), setting.initial()) > 1e-2
    net = plain.network(setting)
    net.load_state_dict(world)
    net.eval()
    rows = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
    scored = [row for row in rows if row["round"] == setting.rounds - 1 and row["accuracy"] is not None]
    assert scored, "the averaged model is scored on the clients' own test rows"
    for row in scored:
        test = clients[row["client"]].test
        out = net(torch.tensor(np.asarray(test.x))).detach()
        assert row["loss"] == pytest.approx(float(F.cross_entropy(out, torch.tensor(test.y).long())), abs=1e-5)
        assert row["accuracy"] == float((out.argmax(1).numpy() == test.y).mean())


def test_batch_norm_buffers_are_averaged_too() -> None:
    """Running means and variances are K_n-weighted means like weights, the step counter a rounded one."""
    setting = toy_setting("fedavg", model_args='norm = "batch"')
    history = federate(setting)
    world, _ = plain_fedavg(setting, history.clients, setting.rounds)
    got = averaged(history.server[-1])
    assert largest_difference(got, plain.arrays(world)) < 2e-6
    assert got["block1.1.num_batches_tracked"].dtype == np.int64
    assert got["block1.1.num_batches_tracked"] > 0
    assert np.abs(got["block2.1.running_mean"]).max() > 1e-3


def test_one_client_is_local_training() -> None:
    """N = 1: averaging is the identity, bit for bit."""
    one = toy_clients()[:1]
    left = federate(toy_setting("fedavg", num_clients=1), one)
    right = federate(toy_setting("local", num_clients=1), one)
    assert same(left.final[0], right.final[0])
    assert same(averaged(left.server[-1]), right.final[0])


def test_local_share_is_fedavg_and_then_local() -> None:
    """A quarter of 8 rounds: averages in rounds 0..5, nothing sent in 6 and 7; absentees start from the last average."""
    setting = toy_setting("fedavg", "local_share = 0.25", num_server_rounds=8, fraction_train=0.5)
    history = federate(setting)
    world, trained = plain_fedavg(setting, history.clients, 6)
    assert [len(u[min(u)].kinds) for u in history.uploads] == [1] * 6 + [0] * 2
    assert int(history.server[-1]["last"]) == 5
    assert largest_difference(averaged(history.server[-1]), plain.arrays(world)) < 2e-6
    for n in history.final:
        assert largest_difference(history.final[n], plain.arrays(trained[n])) < 2e-6
    assert [setting.module.trace(setting, t)["level"] for t in (0, 5, 6, 7)] == [4, 4, 0, 0]
    shared, own = setting.module.broadcast(setting, history.server[-1], 7, client=0, previous=6)
    assert shared == own == {}, "who has trained alone keeps its model"
    assert setting.module.broadcast(setting, history.server[-1], 7, client=0, previous=5)[1]


@pytest.mark.parametrize(("rounds", "share", "expected"), [(40, 0.25, 30), (3, 0.25, 3), (10, 0.0, 10), (10, 0.33, 7)])
def test_the_boundary_of_the_local_tail(rounds: int, share: float, expected: int) -> None:
    """ceil((1 - share) R)."""
    setting = toy_setting("fedavg", f"local_share = {share}", num_server_rounds=rounds)
    assert setting.module.federated_until(setting) == expected


def test_fine_tuning_scores_a_copy_and_changes_nothing_else() -> None:
    """n epochs of SGD from the average at the fine-tuning rate; server and client states keep the bits of plain FedAvg."""
    setting = toy_setting("fedavg", "fine_tune_epochs = 3, fine_tune_lr = 0.02", score="after_average")
    history = federate(setting)
    assert same(history.server[-1], federate(toy_setting("fedavg")).server[-1])
    data = history.clients[2]
    shared, own = setting.module.broadcast(setting, history.server[-1], setting.rounds, 2, 3)
    job = setting.module.evaluate_with(setting, {}, Broadcast(setting.rounds, 2, shared, own), data)
    net = plain.network(setting)
    net.load_state_dict({n: torch.tensor(v) for n, v in averaged(history.server[-1]).items()})
    x, y = plain.rows_of(data)
    optimizer = plain.sgd(setting, net.parameters(), setting.rounds, lr=0.02)
    for rows in plain.batches(setting, setting.rounds, 2, len(y), epochs=3):
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    tuned = {n: t.numpy() for n, t in sgd(job).items()}
    assert largest_difference(tuned, plain.arrays(plain.copy_of(net))) < 1e-6
    assert largest_difference(tuned, averaged(history.server[-1])) > 1e-3


def test_fine_tuning_over_flower_changes_scores_but_no_state(tmp_path: Path) -> None:
    found = []
    for args in ("", "fine_tune_epochs = 4, fine_tune_lr = 0.05"):
        _, _, folder = over_flower(tmp_path / f"run{len(found)}", num_server_rounds=2, method_args=args)
        found.append(json.loads((folder / "summary.json").read_text()))
        found[-1]["loss"] = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])["loss_mean"]
    assert found[0]["final_state_sha256"] == found[1]["final_state_sha256"]
    assert found[1]["loss"] < found[0]["loss"] - 0.05, "a few epochs on the client's own data help its own test rows"


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        ("fine_tune_epochs = -1", {}),
        ("fine_tune_lr = 0.0", {}),
        ("fine_tune_lr = nan", {}),
        ("fine_tune_lr = inf", {}),
        ("local_share = 1.0", {}),
        ("local_share = -0.1", {}),
        ("local_share = nan", {}),
        ("fine_tune_epochs = 1", {"score": "after_local"}),
    ],
)
def test_values_out_of_range_are_refused(args: str, keys: dict[str, str]) -> None:
    message = refusal(lambda: toy_setting("fedavg", args, **keys))
    assert "fine_tune_epochs" in message or "local_share" in message


def test_nobody_heard_leaves_the_average_as_it_is() -> None:
    setting = toy_setting("fedavg")
    history = federate(setting, rounds=2)
    state, extra = setting.module.aggregate(setting, history.server[-1], 2, Uploads(2, 3))
    assert same(state, history.server[-1])
    assert extra == {}
    shared, own = setting.module.broadcast(setting, state, 3, client=0, previous=0)
    assert shared == {}
    assert set(own) == {"weights"}, "an older average is not the shared record of this round"


def test_bytes_are_the_model_both_ways_and_nothing_goes_down_first() -> None:
    """4 P bytes; initial weights come from the seed, not from the wire."""
    history = federate(toy_setting("fedavg"), rounds=2)
    size = sum(v.nbytes for v in history.setting.initial().values())
    assert size == 4 * (16 * 9 + 16 + 32 * 16 * 9 + 32 + 128 * 64 + 64 + 64 * 5 + 5)
    for upload in history.uploads[0].values():
        assert sum(v.nbytes for v in upload.kinds["weights"].values()) == size
    assert all(not b.shared and not b.own for b in history.broadcasts[0].values())
    assert all(sum(v.nbytes for v in b.shared["weights"].values()) == size for b in history.broadcasts[1].values())


def test_config_defaults_are_plain_fedavg() -> None:
    setting = toy_setting("fedavg")
    assert dataclasses.asdict(setting.method) == {"fine_tune_epochs": 0, "fine_tune_lr": 0.01, "local_share": 0.0}
