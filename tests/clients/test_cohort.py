"""One worker and its cohort: sums equal means, one client's failure is its own, and no client starts from zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from clients import codec
from clients.cohort import Order, Worker
from fedkd import fixed_point
from fedkd import setting as settings
from fedkd.config import Experiment
from fedkd.prepare import Prepared, open_data, prepare
from fedkd.store import NEVER, ClientStore
from fedkd.types import ClientData, Kinds, Split
from tests.small_runs import small

HEADS = 'knowledge = "heads"'


class Data:
    """Prepared data in which single clients can be replaced."""

    def __init__(self, real: Prepared, special: dict[int, Callable[[], ClientData]] | None = None) -> None:
        self.real, self.special = real, special or {}

    def client(self, n: int) -> ClientData:
        return self.special[n]() if n in self.special else self.real.client(n)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return open_data(prepare(small(Path("/")), tmp_path_factory.mktemp("data")))


def worker(prepared: Prepared, store: Path, special: Any = None, **changes: Any) -> Worker:
    experiment: Experiment = small(Path("/"), **changes)
    setting = settings.build(experiment, prepared.shape, prepared.classes)
    return Worker(setting, Data(prepared, special), ClientStore(store, "run"))  # type: ignore[arg-type]


def order(clients: tuple[int, ...] = (0, 1, 2), *, round: int = 0, reduce: bool = False, **changes: Any) -> Order:
    return replace(Order(round, clients, (NEVER,) * len(clients), reduce, {}, {}), **changes)


def failure(content: RecordDict, client: int) -> dict[str, Any]:
    record = content[f"failure.{client}"]
    assert isinstance(record, ConfigRecord)
    return dict(record)


def bits(content: RecordDict, client: int) -> dict[str, Any]:
    """Everything about one client that must repeat."""
    kinds = {k: {n: v.tobytes() for n, v in a.items()} for k, a in codec.read_client(content, client).items()}
    metrics = {k: v for k, v in dict(content[f"metrics.{client}"]).items() if k != "seconds"}
    return {"kinds": kinds, "metrics": metrics, "state": dict(content[f"state.{client}"])}


def record_arrays(content: RecordDict, name: str) -> dict[str, np.ndarray[Any, Any]]:
    record = content[name]
    assert isinstance(record, ArrayRecord)
    return codec.from_record(record)


# ----- sums ---------------------------------------------------------------
@pytest.mark.parametrize("method", [{"method_name": "fedavg"}, {"method_name": "fedd2s", "method_args": HEADS}])
def test_sums_equal_the_means_of_the_clients_bit_for_bit(prepared: Prepared, tmp_path: Path, method: dict[str, Any]) -> None:
    rows = worker(prepared, tmp_path / "a", **method).train(order())
    sums = worker(prepared, tmp_path / "b", **method).train(order(reduce=True))
    sizes = {c: len(prepared.client(c).train) for c in range(3)}
    assert dict(sums["sum-meta"]) == {"clients": [0, 1, 2], "weight": sum(sizes.values())}
    for kind in {name.split(".")[1] for name in sums if name.startswith("sum.")}:
        decoded = fixed_point.decode(record_arrays(sums, f"sum.{kind}"), sum(sizes.values()))
        parts = [(codec.read_client(rows, c)[kind], sizes[c]) for c in range(3)]
        expected = fixed_point.mean(parts, cohort=3)
        assert {n: v.tobytes() for n, v in decoded.items()} == {n: v.tobytes() for n, v in expected.items()}
        for name, value in decoded.items():  # and the definition, in float64
            plain = sum(p[name].astype(np.float64) * w for p, w in parts) / sum(sizes.values())
            np.testing.assert_allclose(value, plain, atol=1e-6)
    assert all(f"weights.{c}" not in sums for c in range(3)), "an upload that was summed must not travel beside its sum"
    assert [dict(sums[f"state.{c}"]) for c in range(3)] == [dict(rows[f"state.{c}"]) for c in range(3)]


def test_a_client_whose_second_kind_does_not_fit_is_in_no_sum(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"method_name": "fedd2s", "method_args": HEADS}
    honest = worker(prepared, tmp_path / "a", **method).train(order((0,), reduce=True))
    w = worker(prepared, tmp_path / "b", **method)
    finish = w.setting.module.finish

    def huge(*arguments: Any) -> tuple[Any, Kinds]:  # two of these are in range together, three are not
        state, kinds = finish(*arguments)
        value = 0.9 * 2**30 / arguments[3].num_examples
        return state, {**kinds, "heads": {n: np.full_like(v, value) for n, v in kinds["heads"].items()}}

    monkeypatch.setattr(w.setting.module, "finish", huge)
    content = w.train(order(reduce=True))
    assert failure(content, 2)["error"] == "UploadError"
    assert dict(content["sum-meta"])["clients"] == [0, 1]
    alone = worker(prepared, tmp_path / "c", **method).train(order((1,), reduce=True))
    for name, total in record_arrays(content, "sum.weights").items():
        parts = [record_arrays(c, "sum.weights")[name] for c in (honest, alone)]
        np.testing.assert_array_equal(total, parts[0] + parts[1])


# ----- failures ---------------------------------------------------------------
def boom(*_: Any, **__: Any) -> Any:
    raise ValueError("a secret of this client")


def _data(w: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    w.data.special[1] = boom  # type: ignore[attr-defined]


def _prepare(w: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    real = w.setting.module.prepare
    monkeypatch.setattr(w.setting.module, "prepare", lambda s, st, b, d: boom() if d.client == 1 else real(s, st, b, d))


def _training(w: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    real = w.setting.module.prepare

    def changed(setting: Any, state: Any, broadcast: Any, data: ClientData) -> Any:
        job = real(setting, state, broadcast, data)
        return replace(job, loss=boom) if data.client == 1 else job

    monkeypatch.setattr(w.setting.module, "prepare", changed)


def _finish(w: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:0:1")


def _store(w: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    real = w.store.write
    monkeypatch.setattr(w.store, "write", lambda c, v, s: boom() if c == 1 else real(c, v, s))


@pytest.mark.parametrize("plant", [_data, _prepare, _training, _finish, _store])
@pytest.mark.parametrize("reduce", [False, True])
def test_one_clients_failure_changes_nothing_for_the_others(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None], reduce: bool
) -> None:
    clean = worker(prepared, tmp_path / "a").train(order((0, 2), reduce=reduce))
    w = worker(prepared, tmp_path / "b")
    plant(w, monkeypatch)
    content = w.train(order(reduce=reduce))
    assert failure(content, 1)["error"] in ("ValueError", "RuntimeError")
    assert not [n for n in content if n.endswith(".1") and not n.startswith("failure")], "a failed client sent something"
    assert not list((tmp_path / "b").rglob("1/*.safetensors"))
    for client in (0, 2):
        assert bits(content, client) == bits(clean, client)
    if reduce:
        assert dict(content["sum-meta"]) == dict(clean["sum-meta"])
        for name, value in record_arrays(clean, "sum.weights").items():
            np.testing.assert_array_equal(record_arrays(content, "sum.weights")[name], value)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_failure_record_tells_an_untrusted_server_where_but_not_what(
    prepared: Prepared, tmp_path: Path, trusted: bool
) -> None:
    record = failure(worker(prepared, tmp_path, {1: boom}, trusted=trusted).train(order((1,))), 1)
    assert record["error"] == "ValueError"
    assert record["where"].startswith("test_cohort.py:")
    assert len(record["hash"]) == 16
    assert ("a secret of this client" in record["message"]) == trusted
    assert trusted or "secret" not in str(record)


@pytest.mark.parametrize("point", ["nan", "shape", "dtype", "size"])
def test_a_client_checks_its_own_upload_before_it_keeps_or_sends_anything(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv("FEDKD_FAULT", f"{point}:0:1")
    content = worker(prepared, tmp_path).train(order())
    said = {"nan": "not finite", "shape": "shape", "dtype": "dtype float64 instead of float32", "size": "max-upload-mb = 64"}
    assert failure(content, 1)["error"] == "UploadError"
    assert said[point] in failure(content, 1)["message"]
    assert "weights.1" not in content


def test_a_client_without_its_version_says_so_and_never_starts_from_zero(prepared: Prepared, tmp_path: Path) -> None:
    w = worker(prepared, tmp_path, method_name="local")
    first = w.train(order())
    assert dict(first["state.0"])["version"] == 0
    (tmp_path / "run" / "1" / "0.safetensors").unlink()
    for call in (w.train, w.evaluate):
        content = call(order(round=1, versions=(0, 0, 0)))
        assert failure(content, 1)["error"] == "StateMissing"
        assert "client 1 holds no version 0" in failure(content, 1)["message"]
        assert "metrics.0" in content
        assert "metrics.2" in content
    assert not (tmp_path / "run" / "1" / "1.safetensors").exists()


# ----- no data, scores, versions ---------------------------------------------------------------
def empty(client: int, real: Prepared) -> ClientData:
    def rows(split: Split) -> Split:
        return Split(np.asarray(split.x[:0]), np.asarray(split.y[:0]), np.asarray(split.ids[:0]))

    data = real.client(client)
    return ClientData(client, rows(data.train), rows(data.val), rows(data.test))


@pytest.mark.parametrize("reduce", [False, True])
def test_a_client_without_data_replies_weight_zero_and_changes_nothing(
    prepared: Prepared, tmp_path: Path, reduce: bool
) -> None:
    w = worker(prepared, tmp_path, {1: lambda: empty(1, prepared)}, method_name="fedd2s", method_args=HEADS)
    content = w.train(order(reduce=reduce))
    assert dict(content["metrics.1"]) == {"num-examples": 0}
    assert [n for n in content if n.endswith(".1")] == ["metrics.1"]
    if reduce:
        assert dict(content["sum-meta"])["clients"] == [0, 2]
    assert not (tmp_path / "run" / "1").exists()


def test_a_client_without_test_rows_has_no_score(prepared: Prepared, tmp_path: Path) -> None:
    data = prepared.client(1)
    none = replace(data, test=empty(1, prepared).test)
    metrics = worker(prepared, tmp_path, {1: lambda: none}).train(order())["metrics.1"]
    assert isinstance(metrics, MetricRecord)
    assert "local-test-accuracy" not in metrics
    assert "local-val-accuracy" in metrics
    assert metrics["num-test"] == 0


def test_scores_are_those_of_the_trained_parameters(prepared: Prepared, tmp_path: Path) -> None:
    w = worker(prepared, tmp_path, method_name="local")
    metrics = dict(w.train(order((0,)))["metrics.0"])
    params = {n: torch.tensor(v) for n, v in w.store.read(0, 0).items()}
    x, y = torch.tensor(np.asarray(prepared.client(0).test.x)), np.asarray(prepared.client(0).test.y)
    logits = w.setting.model.forward(params, x)[1].detach().double().numpy()
    assert metrics["local-test-accuracy"] == np.mean(logits.argmax(1) == y)
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y])
    assert math.isclose(metrics["local-test-loss"], loss, rel_tol=1e-6)


def test_evaluate_trains_nothing_and_writes_nothing(prepared: Prepared, tmp_path: Path) -> None:
    w = worker(prepared, tmp_path, method_name="local", score="after_average")
    w.train(order())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    content = w.evaluate(order(round=1, versions=(0, 0, 0)))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")} == before
    assert all("average-test-accuracy" in dict(content[f"metrics.{c}"]) for c in range(3))
    assert not [n for n in content if n.startswith(("state", "weights", "sum"))]


def test_a_cohort_does_not_depend_on_its_order_or_its_company(prepared: Prepared, tmp_path: Path) -> None:
    together = worker(prepared, tmp_path / "a").train(order((0, 1, 2)))
    reverse = worker(prepared, tmp_path / "b").train(order((2, 1, 0)))
    for client in range(3):
        alone = worker(prepared, tmp_path / f"c{client}").train(order((client,)))
        assert bits(together, client) == bits(reverse, client) == bits(alone, client)


def test_jobs_are_made_one_at_a_time(prepared: Prepared, tmp_path: Path) -> None:
    w = worker(prepared, tmp_path)
    alive: list[int] = []

    class Executor:
        @staticmethod
        def run(jobs: Iterator[Any]) -> Iterator[Any]:
            for job in jobs:
                alive.append(job.client)
                yield job, RuntimeError("not trained")
                assert alive[-1] == job.client, "the next client was staged before this one had ended"

    w.executor = Executor  # type: ignore[assignment]
    content = w.train(order())
    assert alive == [0, 1, 2]
    assert all(failure(content, c)["error"] == "RuntimeError" for c in range(3))
