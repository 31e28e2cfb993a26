"""Laws of every file in ``fedkd/methods``, at its default Config: a new method is tested before its author writes a test."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from fedkd import plugins
from fedkd.config import Experiment
from fedkd.methods import local
from fedkd.plugins import field_docs
from fedkd.prepare import open_data, prepare
from fedkd.setting import Setting
from fedkd.store import Commit, digest
from fedkd.train import to_tensors
from fedkd.types import ROW_KINDS, Array, Arrays, Broadcast, Upload
from fedkd.uploads import check
from tests.toy import PUBLIC, History, collect, federate, largest_difference, same, toy_clients, toy_setting, train_one

NAMES = plugins.available("methods")
FUNCTIONS = ("check", "init", "broadcast", "prepare", "finish", "reduction", "schema", "aggregate", "evaluate_with", "trace")
MB = 2.0**20


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def history(name: str) -> History:
    """Six rounds of the toy federation, three of four clients a round."""
    return federate(toy_setting(name))


def same_histories(left: History, right: History) -> bool:
    return (
        left.extra == right.extra
        and all(same(a, b) for a, b in zip(left.server, right.server, strict=True))
        and all(same(a[c], b[c]) for a, b in zip(left.states, right.states, strict=True) for c in a)
        and all(same(a[c], b[c]) for a, b in zip(left.models, right.models, strict=True) for c in a)
    )


def snapshot(arrays: Arrays) -> Arrays:
    return {n: v.copy() for n, v in arrays.items()}


def last_uploads(history: History) -> tuple[int, Arrays, list[Upload]]:
    """A round in the middle: its number, the server state before it, its uploads."""
    return 2, history.server[1], list(history.uploads[2].values())


def test_the_folder_has_methods() -> None:
    assert {"local", "fedavg", "fedd2s"} <= set(NAMES)


def test_a_method_has_the_functions_of_the_seam(name: str) -> None:
    module = plugins.find("methods", name)
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert set(field_docs(module.Config)) == {f.name for f in dataclasses.fields(module.Config)}, "each field is explained"
    for function in FUNCTIONS:
        ours, reference = getattr(module, function), getattr(local, function)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(reference).parameters), function
        assert inspect.getdoc(ours), function


def test_training_lowers_every_clients_loss(name: str) -> None:
    """A round trip through prepare, executor, finish and aggregate learns: the loss on own data falls by a fifth."""
    setting = toy_setting(name, local_epochs=2, batch_size=8)
    history = federate(setting)
    for data in history.clients:
        x, y = np.asarray(data.train.x), np.asarray(data.train.y)

        def loss(params: Arrays, x: Array = x, y: Array = y) -> float:
            tensors = to_tensors({"x": x, **params}, setting.device)
            out = setting.model.forward(tensors, tensors["x"])[1]
            return float(setting.supervised(out, None, to_tensors({"y": y}, setting.device)["y"]).mean())

        assert loss(history.final[data.client]) < 0.8 * loss(setting.initial())


def test_same_seed_same_bits_another_seed_other_bits(name: str, history: History) -> None:
    assert same_histories(history, federate(toy_setting(name)))
    other = federate(toy_setting(name, seed=1), rounds=2)
    assert not any(same(other.final[c], history.models[t][c]) for t in range(2) for c in history.models[t] if c in other.final)


def test_i4_the_order_of_arrival_does_not_matter(name: str, history: History) -> None:
    """Uploads reversed and, within each kind with one row per example, the rows permuted alike: the same bits."""

    def arrange(uploads: list[Upload]) -> list[Upload]:
        out = []
        for u in reversed(uploads):
            order = np.random.Generator(np.random.PCG64(u.client)).permutation(max(u.weight, PUBLIC))
            kinds = {
                kind: {n: v[order[order < len(v)]] for n, v in arrays.items()} if kind in ROW_KINDS else arrays
                for kind, arrays in u.kinds.items()
            }
            out.append(dataclasses.replace(u, kinds=kinds))
        return out

    assert same_histories(history, federate(toy_setting(name), arrange=arrange))


def test_i4_pre_aggregation_by_workers_does_not_matter(name: str, history: History) -> None:
    assert same_histories(history, federate(toy_setting(name), reduce=True))


def test_uploads_are_what_the_schema_declares(history: History) -> None:
    """I7: in every round and for every client; kinds with one row per example are named as such, for mechanisms."""
    setting = history.setting
    for t, uploads in enumerate(history.uploads):
        schema = setting.module.schema(setting, t)
        for u in uploads.values():
            check(schema, u, MB)
        for kind, fields in schema.items():
            per_row = any(f.shape[:1] == (None,) for f in fields.values())
            assert per_row == (kind in ROW_KINDS), kind


def test_reduction_says_whether_workers_may_sum(history: History) -> None:
    setting = history.setting
    for t in range(setting.rounds):
        reduction = setting.module.reduction(setting, t)
        assert reduction in ("mean", "rows")
        if reduction == "mean":
            fields = [f for kind in setting.module.schema(setting, t).values() for f in kind.values()]
            assert all(None not in f.shape for f in fields), "rows of different clients cannot be summed"


def test_i13_a_client_with_no_data_changes_nothing(history: History) -> None:
    """Its upload has weight 0 and is empty; with and without it the server's state has the same bits."""
    setting = history.setting
    t, before, uploads = last_uploads(history)
    for empty in (Upload(9, 0, {}), Upload(-1, 0, {})):
        left, right = (
            setting.module.aggregate(setting, before, t, collect(setting, t, rows, cohort=len(uploads) + 1))
            for rows in ([*uploads, empty], uploads)
        )
        assert same(left[0], right[0])
        assert left[1] == right[1]
    alone = setting.module.aggregate(setting, before, t, collect(setting, t, [Upload(9, 0, {})]))[0]
    averages = {n for n in before if n.startswith("avg/")}
    assert all(np.array_equal(alone[n], before[n]) for n in averages)


def test_i13_a_round_with_one_participant_and_a_population_of_one(name: str) -> None:
    history = federate(toy_setting(name), sample=lambda t: [t % 2])
    assert set(history.final) == {0, 1}
    lone = federate(toy_setting(name, num_clients=1), toy_clients()[:1])
    assert set(lone.final) == {0}
    for arrays in (*history.final.values(), *lone.final.values()):
        assert all(np.isfinite(v).all() for v in arrays.values())


def test_aggregate_and_the_clients_functions_are_pure(name: str, history: History) -> None:
    """No argument is written to: a failed round is repeated from the same state."""
    setting, t = history.setting, 2
    before, uploads = federate(toy_setting(name), rounds=t).server[-1], list(history.uploads[t].values())
    copy, sent = snapshot(before), [{k: snapshot(a) for k, a in u.kinds.items()} for u in uploads]
    setting.module.aggregate(setting, before, t, collect(setting, t, uploads))
    assert same(before, copy)
    assert all(same(u.kinds[k], a) for u, kinds in zip(uploads, sent, strict=True) for k, a in kinds.items())
    client = next(iter(history.uploads[3]))
    state, broadcast = history.states[2][client], history.broadcasts[3][client]
    held = snapshot(state)
    received = [{k: snapshot(a) for k, a in part.items()} for part in (broadcast.shared, broadcast.own)]
    initial = snapshot(setting.initial())
    first = train_one(setting, state, broadcast, history.clients[client])
    second = train_one(setting, state, broadcast, history.clients[client])
    assert same(state, held)
    assert same(setting.initial(), initial)
    for part, was in zip((broadcast.shared, broadcast.own), received, strict=True):
        assert all(same(part[k], was[k]) for k in was)
    assert same(first[0], second[0])
    assert same(first[0], history.states[3][client])


def test_states_survive_the_store_and_the_wire(history: History) -> None:
    allowed = {"float32", "int32", "int64", "uint8"}
    for state in (*history.server, *(s for states in history.states for s in states.values())):
        assert {str(v.dtype) for v in state.values()} <= allowed


def test_evaluation_gives_a_whole_model_and_trains_nothing_by_default(history: History) -> None:
    setting, client = history.setting, history.clients[0]
    shared, own = setting.module.broadcast(setting, history.server[-1], setting.rounds, 0, 5)
    job = setting.module.evaluate_with(setting, history.states[-1][0], Broadcast(setting.rounds, 0, shared, own), client)
    assert set(setting.model.names) <= set(job.params)
    assert job.epochs == 0


def test_trace_is_whole_numbers(history: History) -> None:
    setting = history.setting
    for t in range(setting.rounds):
        assert all(type(v) is int for v in setting.module.trace(setting, t).values())


def run_experiment(name: str, output: Path, **keys: object) -> Experiment:
    values: dict[str, object] = {
        "num_clients": 5, "fraction_train": 0.6, "num_server_rounds": 5, "batch_size": 8, "method_name": name,
        "data_name": "synthetic", "data_args": "samples_per_client = 30, size_skew = 0.6, classes = 5", "output": str(output),
        "public_samples": 25,
        "state_root": str(output / "state"), "num_nodes": 2, "workers": 1, "report": False, "trusted": True,
    }  # fmt: skip
    return Experiment(**{**values, **keys})  # type: ignore[arg-type]


def commit_of(setting: Setting, history: History) -> Commit:
    commit = Commit.empty(len(history.clients), history.server[-1])
    for client, state in history.states[-1].items():
        commit.digests[client] = np.frombuffer(bytes.fromhex(digest(state) or "00" * 32), np.uint8)
    return commit


def test_i15_flowers_message_path_is_this_federation_bit_for_bit(name: str, tmp_path: Path) -> None:
    """ServerApp, strategy, codec, ClientApp, store and pre-aggregation change no bit of the server's or any client's state."""
    from server.server_app import run_all
    from simulations.grids.inprocess import InProcessGrid

    experiment = run_experiment(name, tmp_path)
    data = open_data(prepare(experiment, tmp_path / "state"))
    (folder,) = run_all(InProcessGrid(experiment.to_run_config(), nodes=2), experiment)
    summary = json.loads((folder / "summary.json").read_text())
    setting = dataclasses.replace(toy_setting(name), experiment=experiment)
    history = federate(setting, [data.client(n) for n in range(5)])
    assert summary["final_state_sha256"] == commit_of(setting, history).final_sha256()
    assert largest_difference(history.final[0], setting.initial()) > 1e-2
