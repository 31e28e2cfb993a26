"""Whole small runs: bad uploads and policies, retries, silence, splitting, scoring, transcripts, resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from safetensors.numpy import load_file

from clients import codec
from fedkd.errors import RunError, WorkerLost
from fedkd.store import read_commit
from tests.small_runs import Grid, final_hash, lines, resume, run, small, status, summary

FEDD2S = {"method_name": "fedd2s", "method_args": 'schedule = "equal"'}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavg-after_average": {"score": "after_average", "method_args": "fine_tune_epochs = 1"},
    "local": {"method_name": "local"},
    "fedd2s-features": FEDD2S,
    "fedd2s-heads": {"method_name": "fedd2s", "method_args": 'knowledge = "heads"'},
    "fedd2s-kd_only": {"method_name": "fedd2s", "method_args": 'average = false, schedule = "equal", kd_after_drop = "follow"'},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The undisturbed run of a method, made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = run(small(tmp_path_factory.mktemp("plain"), **METHODS[name]))
        return made[name]

    return folder


# ----- bad uploads and policies --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def skipped(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Final hash of the run in which client 1 simply does not answer in round 1."""

    def silent(_: Message, reply: Message) -> Message:
        content = reply.content
        config = content.get("metrics.1")
        if config is not None and dict(content.get("state.1", {})).get("version") == 1:
            for name in [n for n in content if n.endswith(".1")]:
                del content[name]
        return reply

    return final_hash(run(small(tmp_path_factory.mktemp("skip"), on_failure="skip", **FEDD2S), silent))


@pytest.mark.parametrize("point", ["raise", "nan", "shape", "dtype", "label", "size"])
def test_a_bad_client_is_skipped_and_the_run_ends_with_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: str, plain: Callable[[str], Path], point: str
) -> None:
    undisturbed = final_hash(plain("fedd2s-features"))
    monkeypatch.setenv("FEDKD_FAULT", f"{point}:1:1")
    folder = run(small(tmp_path, on_failure="skip", **FEDD2S))
    assert status(folder) == (3, "RunError: 1 client-rounds failed")
    (failure,) = lines(folder, "failures")
    assert (failure["round"], failure["client"]) == (1, 1)
    assert failure["error"] == ("RuntimeError" if point == "raise" else "UploadError")
    assert [r["clients_failed"] for r in lines(folder, "rounds")] == [0, 1, 0]
    assert [(r["round"], r["client"]) for r in lines(folder, "clients")] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip
    assert final_hash(folder) == skipped, "what a refused client sent has changed the others"
    assert final_hash(folder) != undisturbed
    assert summary(folder)["failures"] == 1


@pytest.mark.parametrize(("allowed", "code"), [(0, 3), (1, 3), (2, 0)])
def test_failures_up_to_max_failures_are_exit_code_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, code: int
) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1")  # every client of round 1
    folder = run(small(tmp_path, on_failure="skip", num_clients=2, max_failures=allowed))
    assert status(folder)[0] == code
    assert [f["client"] for f in lines(folder, "failures")] == [0, 1]
    assert lines(folder, "rounds")[1]["clients_trained"] == 0


def test_abort_ends_the_run_says_who_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Callable[[str], Path]
) -> None:
    undisturbed = plain("fedavg")
    monkeypatch.setenv("FEDKD_FAULT", "nan:1:2")
    experiment = small(tmp_path)
    with pytest.raises(RunError, match=r"1 of 3 clients failed \(on-failure = abort\). First: client 2, round 2: UploadError"):
        run(experiment)
    (folder,) = tmp_path.glob("fedavg/*")
    assert status(folder)[0] == 1
    assert [f["client"] for f in lines(folder, "failures")] == [2]
    assert not (folder / "summary.json").exists()
    monkeypatch.delenv("FEDKD_FAULT")
    resume(experiment)
    assert status(folder) == (0, "")
    assert lines(folder, "failures") == []
    assert final_hash(folder) == final_hash(undisturbed)
    assert lines(folder, "rounds") == lines(undisturbed, "rounds")


def test_retry_asks_the_failed_client_again_and_leaves_no_trace_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Callable[[str], Path]
) -> None:
    undisturbed = final_hash(plain("fedavg"))
    monkeypatch.setenv("FEDKD_FAULT", "raise:1:1")
    monkeypatch.setenv("FEDKD_FAULT_ONCE", str(tmp_path / "fired"))
    experiment = small(tmp_path, on_failure="retry", retries=2)
    grid = Grid(experiment)
    folder = _run_on(grid, experiment)
    assert status(folder) == (0, "")
    assert lines(folder, "failures") == []
    assert final_hash(folder) == undisturbed
    asked = [list(dict(m.content["config"])["clients"]) for m in grid.sent if m.metadata.message_type == "train"]
    assert asked.count([1]) == 1, "the second attempt asks the failed client alone"
    assert len(asked) == 3 * 2 + 1


def test_retries_are_bounded_and_a_client_that_stays_bad_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1:1")
    experiment = small(tmp_path, on_failure="retry", retries=2)
    grid = Grid(experiment)
    folder = _run_on(grid, experiment)
    assert status(folder)[0] == 3
    assert summary(folder)["failures"] == 1
    assert len([m for m in grid.sent if m.metadata.message_type == "train"]) == 3 * 2 + 2


def _run_on(grid: Grid, experiment: Any) -> Path:
    from server.server_app import run_all

    return run_all(grid, experiment)[0]


# ----- silence and errors --------------------------------------------------------------------------------------------
def _lost(round: int, node: int, error: Error | None) -> Callable[[Message, Message], Message | None]:
    def change(asked: Message, reply: Message) -> Message | None:
        if asked.metadata.message_type != "train" or asked.metadata.dst_node_id != node:
            return reply
        if dict(asked.content["config"])["round"] != round:
            return reply
        return None if error is None else Message(error, reply_to=asked)

    return change


@pytest.mark.parametrize(("error", "name"), [(None, "NoReply"), (Error(5, "gone"), "FlowerError5")])
def test_lost_replies_are_failures_that_min_replies_may_allow(tmp_path: Path, error: Error | None, name: str) -> None:
    change = _lost(1, 2, error)
    with pytest.raises(RunError, match=r"[12] of 3 replies came, min-replies = 1\.0"):
        run(small(tmp_path / "a", on_failure="skip"), change)
    folder = run(small(tmp_path / "b", on_failure="skip", min_replies=0.3), change)
    assert status(folder)[0] == 3
    assert {f["error"] for f in lines(folder, "failures")} == {name}
    assert {f["round"] for f in lines(folder, "failures")} == {1}


def test_a_failed_client_that_replies_counts_as_a_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1")
    assert status(run(small(tmp_path, on_failure="skip", min_replies=1.0)))[0] == 3


def test_a_dead_worker_ends_the_run_whatever_the_policy(tmp_path: Path) -> None:
    error = Error(0, "<class 'ray.exceptions.ActorDiedError'>: the actor died")
    with pytest.raises(WorkerLost, match="node 2, round 2"):
        run(small(tmp_path, on_failure="skip", min_replies=0.0), _lost(1, 2, error))
    assert status(next(tmp_path.glob("fedavg/*")))[0] == 1


def test_a_client_that_lost_its_state_stops_the_run(tmp_path: Path) -> None:
    experiment = small(tmp_path, **METHODS["local"])

    def lose(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            for path in (tmp_path / "state").glob("local-*/1/*.safetensors"):
                path.unlink()

    with pytest.raises(RunError, match=r"client 1, round 3: StateMissing"):
        run(experiment, on_round=lose)


def test_nodes_that_use_other_data_stop_the_run(tmp_path: Path) -> None:
    def other(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type == "query.hello" and asked.metadata.dst_node_id == 2:
            reply.content["hello"]["data-hash"] = "00000000"
        return reply

    with pytest.raises(RunError, match="00000000"):
        run(small(tmp_path), other)


# ----- how messages travel never changes a result ----------------------------------------------------------------------
@pytest.mark.parametrize("name", ["fedavg", "fedd2s-features"])
@pytest.mark.parametrize("change", [{"max_message_mb": 0.001}, {"num_nodes": 1}, {"num_nodes": 3}, {"record": "messages"}])
def test_splitting_nodes_and_recording_change_no_bit(
    tmp_path: Path, plain: Callable[[str], Path], name: str, change: dict[str, Any]
) -> None:
    experiment = small(tmp_path, **METHODS[name], **change)
    grid = Grid(experiment)
    folder = _run_on(grid, experiment)
    assert final_hash(folder) == final_hash(plain(name))
    assert folder.name == plain(name).name, "these keys are not in the hash of the configuration"
    wire = ("wire_bytes_up", "wire_bytes_down")
    for got, want in zip(lines(folder, "rounds"), lines(plain(name), "rounds"), strict=True):
        assert {k: v for k, v in got.items() if k not in wire} == {k: v for k, v in want.items() if k not in wire}
    trained = [dict(m.content["config"])["clients"] for m in grid.sent if m.metadata.message_type == "train"]
    if "max_message_mb" in change and name == "fedd2s-features":
        assert all(len(c) == 1 for c in trained)
        assert len(trained) == 3 * 3
    if "record" in change:
        _check_transcript(folder, grid)


def test_messages_split_where_clients_get_parts_of_their_own(tmp_path: Path) -> None:
    changes = {"num_clients": 6, "fraction_train": 0.5, "num_nodes": 1, "num_server_rounds": 4}
    sent: dict[float, list[list[int]]] = {}
    hashes: set[str] = set()
    for limit in (256.0, 0.001):
        experiment = small(tmp_path / str(limit), max_message_mb=limit, **changes)
        grid = Grid(experiment)
        hashes.add(final_hash(_run_on(grid, experiment)))
        sent[limit] = [list(dict(m.content["config"])["clients"]) for m in grid.sent if m.metadata.message_type == "train"]
    assert len(hashes) == 1
    assert len(sent[256.0]) == 4
    assert len(sent[0.001]) > 4
    assert [c for group in sent[0.001] for c in group] == [c for group in sent[256.0] for c in group]


def _check_transcript(folder: Path, grid: Grid) -> None:
    names = {str(p.relative_to(folder / "transcript")) for p in (folder / "transcript").rglob("*.safetensors")}
    assert names == {f"{t}/{way}-{c}.safetensors" for t in range(3) for way in ("up", "down") for c in range(3)}
    down = load_file(folder / "transcript" / "1" / "down-0.safetensors")
    sent = next(m for m in grid.sent if m.metadata.message_type == "train" and dict(m.content["config"])["round"] == 1)
    shared = codec.from_record(sent.content["shared"])  # type: ignore[arg-type]
    assert shared
    assert all(down[n].tobytes() == v.tobytes() for n, v in shared.items())


def test_wire_bytes_are_the_sizes_of_the_real_messages(tmp_path: Path) -> None:
    experiment = small(tmp_path, **FEDD2S)
    up: dict[int, int] = {}

    def note(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type == "train":
            t = int(dict(asked.content["config"])["round"])  # type: ignore[call-overload]
            up[t] = up.get(t, 0) + codec.message_bytes(reply.content)
        return reply

    grid = Grid(experiment, note)
    folder = _run_on(grid, experiment)
    for row in lines(folder, "rounds"):
        sent = [
            m for m in grid.sent if m.metadata.message_type == "train" and dict(m.content["config"])["round"] == row["round"]
        ]
        assert row["wire_bytes_down"] == sum(codec.message_bytes(m.content) for m in sent)
        assert row["wire_bytes_up"] == up[row["round"]]
        rows = [c for c in lines(folder, "clients") if c["round"] == row["round"]]
        assert row["bytes_up"] == sum(c["bytes_up"] for c in rows) > 0
        assert row["bytes_down"] == sum(c["bytes_down"] for c in rows)
        assert row["wire_bytes_up"] > row["bytes_up"], "a real message carries metrics and states too"


# ----- scores ----------------------------------------------------------------------------------------------------------
def test_after_average_scores_the_averaged_model_with_one_evaluate_only_round(tmp_path: Path) -> None:
    experiment = small(tmp_path, score="after_average")
    grid = Grid(experiment)
    folder = _run_on(grid, experiment)
    kinds = [m.metadata.message_type for m in grid.sent]
    assert kinds == ["query.hello"] * 2 + ["train"] * 6 + ["evaluate"] * 2
    rounds, clients = lines(folder, "rounds"), lines(folder, "clients")
    assert [r["round"] for r in rounds] == [0, 1, 2]
    assert [r["clients_scored"] for r in rounds] == [3, 3, 3]
    assert {c["when"] for c in clients} == {"after_average"}
    # the last score is that of the committed average on each client's own test rows
    commit = read_commit(folder / "checkpoints")
    assert commit is not None
    from fedkd.prepare import open_data

    (data_folder,) = (tmp_path / "state" / "data").iterdir()
    data = open_data(data_folder)
    weights = {n.removeprefix("avg/"): v.astype(np.float64) for n, v in commit.state.items() if n.startswith("avg/")}
    for client in range(3):
        x, y = np.asarray(data.client(client).test.x, np.float64), np.asarray(data.client(client).test.y)
        h = x.reshape(len(x), -1)
        layers = sorted({n.rpartition(".")[0] for n in weights}, key=lambda n: (n.startswith("classifier"), n))
        for i, layer in enumerate(layers):
            h = h @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
            h = np.maximum(h, 0) if i + 1 < len(layers) else h
        (row,) = [c for c in clients if c["round"] == 2 and c["client"] == client]
        assert row["accuracy"] == np.mean(h.argmax(1) == y)


def test_with_part_of_the_clients_every_round_has_its_own_scores(tmp_path: Path) -> None:
    changes = {"num_clients": 4, "fraction_train": 0.5, "num_server_rounds": 4}
    folder = run(small(tmp_path, score="after_average", **changes))
    rounds, clients = lines(folder, "rounds"), lines(folder, "clients")
    assert [r["clients_trained"] for r in rounds] == [2] * 4
    assert [r["clients_scored"] for r in rounds] == [2] * 4
    trained = [[c["client"] for c in clients if c["round"] == t and c["bytes_up"]] for t in range(4)]
    scored = [[c["client"] for c in clients if c["round"] == t and c["accuracy"] is not None] for t in range(4)]
    assert scored[:3] == trained[1:], "a round is scored by the clients of the next message"
    assert all(ids == sorted(ids) for ids in trained)


def test_failures_of_the_last_scoring_count(tmp_path: Path) -> None:
    def lose(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            for path in (tmp_path / "state").glob("local-*/1/*.safetensors"):
                path.unlink()

    folder = run(small(tmp_path, score="after_average", on_failure="skip", **METHODS["local"]), on_round=lose)
    assert status(folder) == (3, "RunError: 1 client-rounds failed")
    assert [(f["round"], f["client"], f["error"]) for f in lines(folder, "failures")] == [(3, 1, "StateMissing")]
    assert lines(folder, "rounds")[2]["clients_scored"] == 2


# ----- resume ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(METHODS))
def test_a_run_that_stopped_after_a_commit_ends_as_if_it_had_not(
    tmp_path: Path, plain: Callable[[str], Path], name: str
) -> None:
    experiment = small(tmp_path, **METHODS[name])

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            raise OSError("the power went")

    with pytest.raises(OSError, match="power"):
        run(experiment, on_round=stop)
    folder = resume(experiment)
    assert final_hash(folder) == final_hash(plain(name))
    for file in ("rounds", "clients", "failures"):
        assert lines(folder, file) == lines(plain(name), file)
    assert summary(folder)["resumed_at"] == 2
    assert status(folder) == (0, "")


def test_a_finished_run_may_be_resumed_and_stays_the_same(tmp_path: Path) -> None:
    experiment = small(tmp_path, **METHODS["fedavg-after_average"])
    before = run(experiment)
    rows, final = lines(before, "rounds"), final_hash(before)
    assert lines(resume(experiment), "rounds") == rows
    assert final_hash(before) == final


# ----- seeds ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["local", "fedavg"])
def test_seeds_and_rounds_differ_and_a_seed_repeats(tmp_path: Path, plain: Callable[[str], Path], name: str) -> None:
    run(small(tmp_path, seeds="0,1", **METHODS[name]))
    first, second = sorted(tmp_path.glob(f"{METHODS[name].get('method_name', 'fedavg')}/*"))
    assert first.name.endswith("-s0")
    assert final_hash(first) == final_hash(plain(name))
    assert final_hash(second) != final_hash(first)
    shorter = run(small(tmp_path / "one", num_server_rounds=1, lr_schedule="constant", **METHODS[name]))
    longer = run(small(tmp_path / "two", num_server_rounds=2, lr_schedule="constant", **METHODS[name]))
    assert final_hash(shorter) != final_hash(longer)
