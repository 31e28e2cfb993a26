"""What of FedD2S travels, in kinds, names and bytes: invariants I3 and I7 (specification 2 and 9.4)."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from flwr.common.serde import recorddict_to_proto

from clients import codec
from fedkd.config import Experiment
from fedkd.errors import UploadError
from fedkd.prepare import open_data, prepare
from fedkd.types import Upload
from fedkd.uploads import check, nbytes
from server.server_app import run_all
from simulations.grids.inprocess import InProcessGrid
from tests.toy import CLASSES, FOLLOW, LEVELS, PARAMETERS, SIZES, STOP, WIDTH, History, block_of, federate, toy_setting


@functools.cache
def run(args: str = "", **keys: Any) -> History:
    return federate(toy_setting(args=args, **{"num_server_rounds": 10, **keys}))


def serialized(records: dict[str, Any]) -> int:
    return len(recorddict_to_proto(RecordDict(records)).SerializeToString())


def weights_bytes(level: int) -> int:
    return 4 * sum(PARAMETERS[b] for b in range(1, level + 1))


@pytest.mark.parametrize(
    ("args", "up", "down"),
    [
        ("", lambda k, d: k * (d + CLASSES) + 2 * k, lambda k, d: k * CLASSES + k),
        ('upload_labels = "none", server_ce = false', lambda k, d: k * (d + CLASSES) + k, lambda k, d: k * CLASSES + k),
        ('knowledge = "heads"', lambda k, d: (d + 1) * CLASSES, lambda k, d: (d + 1) * CLASSES),
        ('knowledge = "class_means"', lambda k, d: CLASSES * (CLASSES + 1), lambda k, d: CLASSES * (CLASSES + 1)),
        ('knowledge = "none"', lambda k, d: 0, lambda k, d: 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("after", ["stop", "follow"])
def test_i3_bytes_are_the_serialized_size_and_the_payload_is_the_formula(args: str, up: Any, down: Any, after: str) -> None:
    """Section 2, Traffic: weights 4 P(s) each way; knowledge 4 bytes times ``up`` and ``down`` of (K_n, d_l). The counter
    is the length of the message that the codec serializes. Nobody has to train for that."""
    history = run(", ".join(a for a in (args, f'kd_after_drop = "{after}"') if a), fraction_train=1.0, local_epochs=0)
    cuts = FOLLOW if after == "follow" else STOP
    for t in range(10):
        for n, upload in history.uploads[t].items():
            knowledge = 4 * up(SIZES[n], WIDTH[cuts[t]]) if cuts[t] else 0
            assert nbytes(upload.kinds) == weights_bytes(LEVELS[t]) + knowledge
            assert codec.upload_bytes(n, upload.kinds) == serialized(codec.client_records(n, upload.kinds))
            sent = history.broadcasts[t][n]
            pauses = "heads" in args and (t == 0 or cuts[t] != cuts[t - 1])
            knowledge = 4 * down(SIZES[n], WIDTH[cuts[t]]) if cuts[t] and t and not pauses else 0
            assert nbytes({**sent.shared}) + nbytes({**sent.own}) == (weights_bytes(LEVELS[t - 1]) if t else 0) + knowledge
            parts = {"shared": sent.shared, f"own.{n}": sent.own}
            records = {k: codec.to_record(codec.flatten(v)) for k, v in parts.items() if v}
            assert codec.broadcast_bytes(n, sent.shared, sent.own) == serialized(records)


def test_i3_a_run_writes_these_bytes_into_its_rows(tmp_path: Path) -> None:
    """clients.jsonl over Flower's messages has the serialized sizes of the same federation's records, by client and round."""
    experiment = Experiment(
        num_clients=4, num_server_rounds=4, local_epochs=0, fraction_train=0.75, data_name="synthetic",
        data_args="samples_per_client = 30, classes = 5", num_nodes=2, workers=1, output=str(tmp_path),
        state_root=str(tmp_path / "state"), report=False,
    )  # fmt: skip
    data = open_data(prepare(experiment, tmp_path / "state"))
    (folder,) = run_all(InProcessGrid(experiment.to_run_config(), nodes=2), experiment)
    history = federate(dataclasses.replace(toy_setting(), experiment=experiment), [data.client(n) for n in range(4)])
    rows = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 3
    for row in rows:
        sent, upload = history.broadcasts[row["round"]][row["client"]], history.uploads[row["round"]][row["client"]]
        records = {"shared": sent.shared, f"own.{row['client']}": sent.own}
        down = serialized({k: codec.to_record(codec.flatten(v)) for k, v in records.items() if v})
        assert row["bytes_up"] == serialized(codec.client_records(row["client"], upload.kinds))
        assert row["bytes_down"] == (down if row["round"] else 0)


CONFIGS = [
    ("", {"features", "soft_labels", "ids", "labels"}),
    ("upload_fraction = 0.5", {"features", "soft_labels", "ids", "labels"}),
    ('upload_labels = "none", server_ce = false', {"features", "soft_labels", "ids"}),
    ('knowledge = "heads"', {"heads"}),
    ('knowledge = "class_means"', {"class_means"}),
    ('knowledge = "none"', set()),
    ("kd_weight_client = 0", set()),
]


@pytest.mark.parametrize(("args", "kinds"), CONFIGS)
@pytest.mark.parametrize("after", ["stop", "follow"])
def test_i7_nothing_else_leaves_a_client(args: str, kinds: set[str], after: str) -> None:
    """No block > s(t); no feature or head of another cut; nothing with one row per example but features; no input."""
    history = run(", ".join(a for a in (args, f'kd_after_drop = "{after}"') if a), fraction_train=1.0, local_epochs=0)
    cuts = FOLLOW if after == "follow" else STOP
    for t, uploads in enumerate(history.uploads):
        for n, upload in uploads.items():
            assert set(upload.kinds) == {"weights"} | (kinds if cuts[t] else set())
            assert {block_of(name) for name in upload.kinds["weights"]} == set(range(1, LEVELS[t] + 1))
            if "heads" in upload.kinds:
                assert set(upload.kinds["heads"]) == {f"head{cuts[t]}.weight", f"head{cuts[t]}.bias"}
            if "features" in upload.kinds:
                rows = -(-SIZES[n] // 2) if "fraction" in args else SIZES[n]
                assert upload.kinds["features"]["z"].shape == (rows, WIDTH[cuts[t]])
                assert {k: set(v) for k, v in upload.kinds.items() if k in kinds} == {
                    k: {"features": {"z"}, "soft_labels": {"p"}, "ids": {"i"}, "labels": {"y"}}[k] for k in kinds
                }
            else:
                assert all(v.shape[:1] != (SIZES[n],) for arrays in upload.kinds.values() for v in arrays.values())


@pytest.mark.parametrize("knowledge", ["features", "class_means", "none"])
def test_i7_without_averaging_no_weight_of_the_model_leaves(knowledge: str) -> None:
    history = run(f'average = false, knowledge = "{knowledge}", schedule = "equal", kd_after_drop = "follow"')
    for uploads in history.uploads:
        assert all("weights" not in u.kinds and "heads" not in u.kinds for u in uploads.values())
    assert not any(name.startswith("avg/") or name == "last" for state in history.server for name in state)


def test_i7_i9_the_schema_refuses_what_was_not_declared() -> None:
    """A block beyond s(t), a head, an input, or blocks of another shape (I9: architectures that differ) are refused."""
    history = run()
    schema = history.setting.module.schema(history.setting, 6)
    n, upload = next(iter(history.uploads[6].items()))
    check(schema, upload, 2**20)
    weights = upload.kinds["weights"]
    for kinds in (
        {**upload.kinds, "weights": {**weights, "classifier.bias": np.zeros(CLASSES, np.float32)}},
        {**upload.kinds, "heads": {"head3.bias": np.zeros(CLASSES, np.float32)}},
        {**upload.kinds, "features": {"z": upload.kinds["features"]["z"], "x": history.clients[n].train.x}},
        {**upload.kinds, "weights": {**weights, "block1.0.bias": np.zeros(17, np.float32)}},
    ):
        with pytest.raises(UploadError):
            check(schema, Upload(n, upload.weight, kinds), 2**20)
