"""What the server accepts: every malformed or lying reply costs its sender the round, and nobody else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, Error, Message, RecordDict

from clients import codec
from fedkd import fixed_point
from fedkd.types import Field, Kinds, Schema
from fedkd.uploads import Uploads
from server.round import Round, fill_round, number, spread
from simulations.grids.dispatch import identify, stamp

SIZES = np.array([4, 6, 5])
ROWS: Schema = {
    "weights": {"w": Field("float32", (2,))},
    "features": {"z": Field("float32", (None, 3))},
    "labels": {"y": Field("int32", (None,), low=0, high=10)},
}
MEAN: Schema = {"weights": {"w": Field("float32", (2,))}, "heads": {"h": Field("float32", (1,))}}
DIGEST = "ab" * 32


def round_of(schema: Schema, sizes: Any = SIZES, max_bytes: float = 1000.0) -> Round:
    r = Round(3, [0, 1, 2], Uploads(3, 3, schema), sizes, max_bytes)
    r.asked = {"3.0.0": (11, [0, 1]), "3.0.1": (12, [2])}
    return r


def reply(content: dict[str, Any] | Error, group: str = "3.0.0") -> Message:
    identify(run_id=1)
    asked = stamp(Message(RecordDict(), dst_node_id=11, message_type="train", group_id=group))
    return Message(content if isinstance(content, Error) else RecordDict(content), reply_to=asked)


def kinds_of(client: int, value: float | None = None) -> Kinds:
    n = int(SIZES[client])
    return {
        "weights": {"w": np.full(2, client if value is None else value, np.float32)},
        "features": {"z": np.ones((n, 3), np.float32)},
        "labels": {"y": np.arange(n, dtype=np.int32)},
    }


def answer(client: int, kinds: Kinds | None = None, **metrics: Any) -> dict[str, Any]:
    said = {"num-examples": int(SIZES[client]), "num-test": 2, "seconds": 0.5, "taught": 1, "local-test-accuracy": 0.5}
    said.update(metrics)
    return {
        **codec.client_records(client, kinds_of(client) if kinds is None else kinds),
        f"metrics.{client}": codec.metric_record(said),
        f"state.{client}": codec.config_record({"version": 3, "digest": DIGEST}),
    }


def why(r: Round, client: int) -> str:
    f = r.failures[client]
    return f"{f.error}: {f.message}"


# ----- answers -------------------------------------------------------------------------------------------------------
def test_good_answers_are_taken_with_their_bytes() -> None:
    r = round_of(ROWS)
    first, second = {**answer(0), **answer(1)}, answer(2)
    r.receive([reply(first), reply(second, "3.0.1")])
    assert sorted(r.answers) == [0, 1, 2]
    assert not r.failures
    assert r.answers[1].version == 3
    assert r.answers[1].digest == DIGEST
    assert r.answers[1].bytes_up == codec.message_bytes(RecordDict(codec.client_records(1, kinds_of(1))))
    assert r.wire_up == codec.message_bytes(RecordDict(first)) + codec.message_bytes(RecordDict(second))
    assert r.uploads.sorted().clients == [0, 1, 2]


def _set(kind: str, name: str, value: Any) -> Callable[[Kinds], Kinds]:
    return lambda kinds: {**kinds, kind: {**kinds[kind], name: value}}


BAD_UPLOADS: list[tuple[Callable[[Kinds], Kinds], str]] = [
    (_set("weights", "w", np.array([np.nan, 0], np.float32)), "weights/w: not finite"),
    (_set("weights", "w", np.array([np.inf, 0], np.float32)), "weights/w: not finite"),
    (_set("weights", "w", np.zeros(3, np.float32)), "shape (3,) instead of (2,)"),
    (_set("weights", "w", np.zeros((2, 1), np.float32)), "shape (2, 1) instead of (2,)"),
    (_set("weights", "w", np.zeros(2)), "dtype float64 is not allowed"),
    (_set("weights", "w", np.zeros(2, np.int32)), "dtype int32 instead of float32"),
    (_set("labels", "y", np.full(6, 10, np.int32)), "values 10..10 outside [0, 10)"),
    (_set("labels", "y", np.full(6, -1, np.int32)), "values -1..-1 outside [0, 10)"),
    (_set("labels", "y", np.zeros(5, np.int32)), "rows"),
    (_set("features", "z", np.ones((7, 3), np.float32)), "rows"),
    (_set("weights", "v", np.zeros(2, np.float32)), "names ['v', 'w'] instead of ['w']"),
    (_set("weights", "w", np.zeros(2**10, np.float32)), "are above max-upload-mb"),
    (lambda kinds: {k: v for k, v in kinds.items() if k != "labels"}, "kinds ['features', 'weights'] instead of"),
    (lambda kinds: {**kinds, "ids": {"i": np.zeros(6, np.int32)}}, "kinds ['features', 'ids', 'labels', 'weights'] instead"),
]


@pytest.mark.parametrize(("change", "said"), BAD_UPLOADS)
def test_a_bad_upload_costs_its_sender_the_round_and_nobody_else(change: Callable[[Kinds], Kinds], said: str) -> None:
    r = round_of(ROWS)
    r.receive([reply({**answer(0), **answer(1, change(kinds_of(1)))}), reply(answer(2), "3.0.1")])
    assert said in why(r, 1)
    assert why(r, 1).startswith("UploadError")
    assert sorted(r.answers) == r.uploads.clients == [0, 2]
    assert [row["client"] for row in r.failure_rows()] == [1]
    assert r.failures[1].replied


def test_an_object_array_is_refused_unread() -> None:
    r = round_of(ROWS)
    content = answer(0)
    pickled = FlowerArray(dtype="object", shape=(1,), stype="numpy.ndarray", data=b"\x80\x04N.")
    content["weights.0"] = ArrayRecord({"w": pickled})
    r.receive([reply({**content, **answer(1)}), reply(answer(2), "3.0.1")])
    assert "not a plain array" in why(r, 0)
    assert sorted(r.answers) == [1, 2]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"num-examples": 5}, "num-examples = 5 is not this client's number"),
        ({"num-examples": math.nan}, "num-examples = nan is not a count"),
        ({"num-examples": math.inf}, "num-examples = inf is not a count"),
        ({"num-examples": -6}, "num-examples = -6.0 is not a count"),
        ({"num-examples": 0}, "num-examples = 0 is not this client's number"),
        ({"num-test": math.nan}, "num-test = nan is not a count"),
        ({"seconds": math.inf}, "seconds = inf is not a count"),
        ({"taught": math.nan}, "taught = nan is not a count"),
    ],
)
def test_metrics_that_lie_are_refused(metrics: dict[str, float], said: str) -> None:
    r = round_of(ROWS)
    r.receive([reply({**answer(0), **answer(1, **metrics)}), reply(answer(2), "3.0.1")])
    assert said in why(r, 1)
    assert r.uploads.clients == [0, 2]
    r.client_rows("after_local")
    r.row({})


def test_a_weight_is_believed_only_where_the_server_does_not_know_it() -> None:
    r = round_of(ROWS, sizes=None)
    r.receive([reply({**answer(0), **answer(1)}), reply(answer(2, **{"num-examples": 9}), "3.0.1")])
    assert [u.weight for u in r.uploads.sorted().rows] == [4, 6, 9]


@pytest.mark.parametrize(
    "record",
    [
        {"version": 2, "digest": DIGEST},
        {"version": "3", "digest": DIGEST},
        {"version": 3.0, "digest": DIGEST},
        {"version": 3, "digest": "ab"},
        {"version": 3, "digest": "zz" * 32},
        {"version": 3, "digest": "ab " * 21 + "c"},
        {"version": 3, "digest": 7},
        {"version": 3},
        {},
    ],
)
def test_a_state_record_that_lies_keeps_the_upload_out_too(record: dict[str, Any]) -> None:
    r = round_of(ROWS)
    content = {**answer(0), **answer(1)}
    content["state.1"] = codec.config_record(record)
    r.receive([reply(content), reply(answer(2), "3.0.1")])
    assert "the state" in why(r, 1)
    assert r.uploads.clients == [0, 2]


def test_a_reply_of_another_form_is_a_failure_of_its_clients() -> None:
    r = round_of(ROWS)
    r.receive([reply({"metrics.0": codec.config_record({"num-examples": 4})}), reply(answer(2), "3.0.1")])
    assert why(r, 0) == why(r, 1) == "UploadError: neither metrics nor a failure record came"


def test_a_client_without_data_is_an_answer_of_weight_zero() -> None:
    r = round_of(ROWS, sizes=np.array([4, 0, 5]))
    content = {**answer(0), "metrics.1": codec.metric_record({"num-examples": 0})}
    r.receive([reply(content), reply(answer(2), "3.0.1")])
    assert not r.failures
    assert r.uploads.clients == [0, 2]
    assert r.row({})["clients_trained"] == 2
    assert r.answers[1].version == -1


# ----- failures and silence -------------------------------------------------------------------------------------------
def test_failure_records_errors_and_silence_are_told_apart() -> None:
    r = round_of(ROWS)
    r.asked["3.0.2"] = (13, [7])
    record = codec.config_record({"error": "ValueError", "where": "a.py:3", "hash": "", "message": "m"})
    r.receive([reply({**answer(0), "failure.1": record}), reply(Error(5, "gone\nfor good"), "3.0.1")])
    rows = {f["client"]: (f["error"], f["where"], f["message"], f["node"]) for f in r.failure_rows()}
    assert rows == {
        1: ("ValueError", "a.py:3", "m", "11"),
        2: ("FlowerError5", "", "gone", "12"),
        7: ("NoReply", "", "no reply within round-timeout-s", "13"),
    }
    assert [r.failures[c].replied for c in (1, 2, 7)] == [True, False, False]
    assert all(row["round"] == 3 for row in r.failure_rows())


def test_a_late_or_repeated_reply_changes_nothing() -> None:
    r = round_of(ROWS)
    r.receive([reply(answer(2), "3.0.1"), reply(answer(2, kinds_of(2, 9.0)), "3.0.1"), reply(answer(0), "2.0.0")])
    assert r.uploads.clients == [2]
    assert float(r.uploads.rows[0].kinds["weights"]["w"][0]) == 2.0
    assert sorted(r.failures) == [0, 1]


def test_an_answer_at_the_second_attempt_clears_the_failure() -> None:
    r = round_of(ROWS)
    r.receive([reply(answer(0)), reply(answer(2), "3.0.1")])
    assert sorted(r.failures) == [1]
    r.asked = {"3.1.0": (11, [1])}
    r.receive([reply(answer(1), "3.1.0")])
    assert not r.failures
    assert r.uploads.sorted().clients == [0, 1, 2]


# ----- sums ----------------------------------------------------------------------------------------------------------
def sums(clients: list[int], value: float = 1.0, **changes: Any) -> dict[str, Any]:
    """What a worker that pre-aggregates sends for these clients; ``None`` takes a record away."""
    weight = int(SIZES[clients].sum())
    content: dict[str, Any] = {}
    for kind, name, size in (("weights", "w", 2), ("heads", "h", 1)):
        content[f"sum.{kind}"] = codec.to_record(fixed_point.encode({name: np.full(size, value, np.float32)}, weight))
    content["sum-meta"] = codec.config_record({"clients": clients, "weight": weight})
    for c in clients:
        content.update({n: v for n, v in answer(c).items() if n.startswith(("metrics", "state"))})
    content.update({n.replace("_", "."): v for n, v in changes.items()})
    return {n: v for n, v in content.items() if v is not None}


def test_sums_of_two_workers_give_the_weighted_mean() -> None:
    r = round_of(MEAN)
    r.receive([reply(sums([0, 1], 1.0)), reply(sums([2], 4.0), "3.0.1")])
    mean = r.uploads.mean("weights")
    assert mean is not None
    np.testing.assert_allclose(mean["w"], (10 * 1.0 + 5 * 4.0) / 15)
    assert r.uploads.clients == [0, 1, 2]
    alone = codec.client_records(0, {"weights": {"w": np.zeros(2, np.float32)}, "heads": {"h": np.zeros(1, np.float32)}})
    assert r.answers[0].bytes_up == codec.message_bytes(RecordDict(alone))


def meta(**values: Any) -> Any:
    return codec.config_record(values)


WRAP = np.array([2**63 - 1, 0], np.int64)
BAD_SUMS: list[tuple[dict[str, Any], str]] = [
    ({"sum-meta": meta(clients=[0, 2], weight=9)}, "clients that were not asked"),
    ({"sum-meta": meta(clients=[0, 0, 1], weight=14)}, "clients that were not asked"),
    ({"sum-meta": meta(clients=[0, 1], weight=11)}, "the weight of the sums"),
    ({"sum-meta": meta(clients=[0, 1], weight=0)}, "clients that were not asked"),
    ({"sum-meta": meta(clients=[], weight=10)}, "the weight of the sums"),
    ({"sum-meta": meta(clients=[0, 1], weight=math.inf)}, "infinity"),
    ({"sum-meta": meta(clients=["a", "b"], weight=10)}, "invalid literal"),
    ({"sum-meta": meta(clients=3, weight=10)}, "not iterable"),
    ({"sum-meta": meta(weight=10)}, "clients"),
    ({"sum_heads": None}, "sum.heads"),
    ({"sum_heads": meta(h=1)}, "not a plain array"),
    ({"sum_heads": codec.to_record({"h": np.zeros(2, np.int64)})}, "names or shapes are not as declared"),
    ({"sum_heads": codec.to_record({"g": np.zeros(1, np.int64)})}, "names or shapes are not as declared"),
    ({"sum_heads": codec.to_record({"h": np.zeros(1, np.float32)})}, "not int64 fixed point"),
    ({"metrics_1": None}, "neither metrics nor a failure record"),
    ({"metrics_1": codec.metric_record({"num-examples": 5})}, "not this client's number"),
    ({"failure_1": meta(error="E", where="", message="")}, "neither metrics nor a failure record"),
    ({"state_1": meta(version=1, digest="")}, "the state record"),
]


@pytest.mark.parametrize(("change", "said"), BAD_SUMS)
def test_sums_that_lie_are_refused_whole_and_say_why(change: dict[str, Any], said: str) -> None:
    r = round_of(MEAN)
    r.receive([reply(sums([2], 4.0), "3.0.1"), reply(sums([0, 1], 1.0, **change))])
    assert said in why(r, 0)
    assert said in why(r, 1)
    assert r.uploads.clients == [2]
    assert sorted(r.answers) == [2]
    mean = r.uploads.mean("weights")
    assert mean is not None
    np.testing.assert_array_equal(mean["w"], np.full(2, 4.0, np.float32))


def test_sums_that_overflow_leave_the_others_as_they_were() -> None:
    r = round_of(MEAN)
    hostile = sums([0, 1], 1.0, sum_heads=codec.to_record({"h": WRAP[:1]}))
    r.receive([reply(sums([2], 4.0), "3.0.1"), reply(hostile)])
    assert "leaves the range" in why(r, 0)
    for kind, name in (("weights", "w"), ("heads", "h")):
        mean = r.uploads.mean(kind)
        assert mean is not None
        np.testing.assert_array_equal(mean[name], np.full(len(mean[name]), 4.0, np.float32))
    assert (r.uploads.sum_weight, r.uploads.sum_clients) == (5, [2])


# ----- rows ----------------------------------------------------------------------------------------------------------
def test_spread_by_hand() -> None:
    # ten clients: the worst decile is the worst one; sd with n, not n - 1
    got = spread([0.1, *([0.5] * 8), 0.9])
    assert got["accuracy_mean"] == pytest.approx(0.5)
    assert got["accuracy_std"] == pytest.approx(math.sqrt(2 * 0.4**2 / 10))
    assert got["accuracy_worst_decile"] == pytest.approx(0.1)


def test_a_client_without_a_score_counts_in_nothing() -> None:
    row: dict[str, Any] = {"accuracy_mean": None, "loss_mean": None}
    clients = [{"accuracy": 0.5, "loss": 1.0}, {"accuracy": None, "loss": None}, {"accuracy": 0.7, "loss": None}]
    fill_round(row, clients)
    assert (row["clients_scored"], row["accuracy_mean"], row["loss_mean"]) == (2, pytest.approx(0.6), 1.0)
    empty: dict[str, Any] = {"accuracy_mean": None}
    fill_round(empty, [])
    assert empty == {"accuracy_mean": None, "clients_scored": 0}


def test_what_json_cannot_hold_becomes_none() -> None:
    assert [number(v) for v in (None, math.nan, math.inf, 0.5)] == [None, None, None, 0.5]
