"""The in-process grid: any number of workers gives the same bits; deaths, silence and errors end as failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from clients import codec
from server.server_app import run_all
from simulations.grids import inprocess
from simulations.grids.dispatch import CODE_GONE, CODE_RAISED, call, identify, stamp
from simulations.grids.inprocess import InProcessGrid
from tests.small_runs import final_hash, lines, run, small, status

FLOWER = "Flower changed a part that is not public: see simulations/grids/dispatch.py"


# ----- what is not Flower's public interface ---------------------------------------------------------------------------
def test_identify_stamps_messages_with_run_and_node() -> None:
    identify(run_id=7, node_id=3)
    try:
        message = Message(RecordDict(), dst_node_id=4, message_type="train", group_id="g")
        assert message.metadata.run_id == 7, FLOWER
        assert message.metadata.src_node_id == 3, FLOWER
    finally:
        identify(run_id=1)


def test_stamp_gives_each_message_its_own_id_that_replies_carry() -> None:
    identify(run_id=1)
    first, second = (stamp(Message(RecordDict(), dst_node_id=4, message_type="train", group_id="g")) for _ in range(2))
    assert first.metadata.message_id.startswith("local-"), FLOWER
    assert first.metadata.message_id != second.metadata.message_id
    reply = Message(RecordDict(), reply_to=second)
    assert reply.metadata.reply_to_message_id == second.metadata.message_id, FLOWER
    assert reply.metadata.group_id == "g", FLOWER
    assert reply.metadata.src_node_id == 4, FLOWER


# ----- one worker ------------------------------------------------------------------------------------------------------
def message(node: int = 1, kind: str = "train", content: dict[str, Any] | None = None) -> Message:
    return Message(RecordDict(content or {}), dst_node_id=node, message_type=kind, group_id="0.0.0")


def test_an_app_that_raises_becomes_an_error_reply(tmp_path: Path) -> None:
    grid = InProcessGrid(small(tmp_path).to_run_config(), nodes=2)
    head = {
        "config": codec.config_record({"protocol": 99, "run": "r", "index": 0, "round": 0, "clients": [0], "versions": [-1]})
    }
    (reply,) = grid.send_and_receive([message(content=head)])
    assert reply.has_error()
    assert reply.error.code == CODE_RAISED
    assert "ConfigError: protocol 99 instead of 2" in str(reply.error.reason)


def test_push_and_pull_return_each_reply_once(tmp_path: Path) -> None:
    grid = InProcessGrid(small(tmp_path).to_run_config(), nodes=2)
    head = {"config": codec.config_record({"protocol": codec.PROTOCOL, "index": 0})}
    ids = list(grid.push_messages([message(n, "query.hello", head) for n in (1, 2)]))
    replies = list(grid.pull_messages(ids))
    assert [r.metadata.src_node_id for r in replies] == [1, 2]
    assert list(grid.pull_messages(ids)) == []
    assert grid.get_node_ids() == [1, 2]


def test_nothing_is_kept_in_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Context] = []
    real = inprocess.call

    def spy(message: Message, context: Context) -> Message:
        seen.append(context)
        return real(message, context)

    monkeypatch.setattr(inprocess, "call", spy)
    run(small(tmp_path))
    assert seen
    assert all(len(c.state) == 0 for c in seen)


# ----- several workers ---------------------------------------------------------------------------------------------------
def test_two_workers_one_of_them_killed_give_the_bits_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = {"method_name": "fedd2s", "num_server_rounds": 2}
    alone = run(small(tmp_path / "one", **method))
    monkeypatch.setenv("FEDKD_FAULT", "client-written:1:1")
    monkeypatch.setenv("FEDKD_FAULT_ONCE", str(tmp_path / "fired"))
    both = run(small(tmp_path / "two", workers=2, **method))
    assert (tmp_path / "fired").exists(), "no worker was killed"
    assert status(both) == (0, "")
    assert final_hash(both) == final_hash(alone)
    for name in ("rounds", "clients", "failures"):
        assert lines(both, name) == lines(alone, name)


class Thread:
    """A worker on a thread, in place of a process: it answers, hangs or dies as ``work`` says."""

    def __init__(self, work: Callable[[Message], Message | None], pipe: Connection) -> None:
        self.work, self.pipe, self.killed, self.dies_idle = work, pipe, threading.Event(), False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.pipe.recv()
            while (message := self.pipe.recv()) is not None:
                reply = self.work(message)
                if reply is None:
                    break
                self.pipe.send(reply)
                if self.dies_idle:
                    break
        except (EOFError, OSError):
            pass
        self.pipe.close()

    def kill(self) -> None:
        self.killed.set()

    def wait(self, timeout: float | None = None) -> int:
        return -9


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A pool of two thread workers for four nodes."""
    made: list[Any] = []

    def make(work: Callable[[Message], Message | None]) -> Any:
        identify(run_id=1)
        workers: list[Thread] = []

        def start(self: Any, position: int) -> tuple[Connection, Thread]:
            ours, theirs = Pipe()
            workers.append(Thread(work, theirs))
            ours.send(dict.fromkeys(self.contexts))
            return ours, workers[-1]

        monkeypatch.setattr(inprocess._Processes, "_start", start)
        pool = inprocess._Processes(dict.fromkeys(range(1, 5)), 2)  # type: ignore[arg-type]
        pool.started = workers  # type: ignore[attr-defined]
        made.append(pool)
        return pool

    yield make
    for one in made:
        one.close()


def answer(message: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def batch(*nodes: int) -> list[Message]:
    return [stamp(message(n)) for n in nodes]


def nodes_of(replies: list[Message]) -> list[int]:
    return sorted(r.metadata.src_node_id for r in replies)


def test_every_message_is_answered_by_the_worker_of_its_node(pool: Callable[..., Any]) -> None:
    who: dict[int, set[int]] = {}

    def work(message: Message) -> Message:
        who.setdefault(threading.get_ident(), set()).add(message.metadata.dst_node_id)
        return answer(message)

    replies = pool(work).run(batch(1, 2, 3, 4, 1), None)
    assert nodes_of(replies) == [1, 1, 2, 3, 4]
    assert sorted(map(sorted, who.values())) == [[1, 3], [2, 4]]


def test_a_worker_that_dies_is_replaced_and_its_message_runs_again(pool: Callable[..., Any]) -> None:
    deaths: list[int] = []

    def work(message: Message) -> Message | None:
        if message.metadata.dst_node_id == 3 and len(deaths) < 2:
            deaths.append(3)
            return None
        return answer(message)

    p = pool(work)
    replies = p.run(batch(1, 2, 3, 4), None)
    assert nodes_of(replies) == [1, 2, 3, 4]
    assert not any(r.has_error() for r in replies)
    assert len(p.started) == 2 + 2


def test_three_deaths_on_one_message_are_a_failure_of_its_clients_alone(pool: Callable[..., Any]) -> None:
    def work(message: Message) -> Message | None:
        return None if message.metadata.dst_node_id == 3 else answer(message)

    p = pool(work)
    replies = p.run(batch(3, 1, 2, 4), None)
    (error,) = [r for r in replies if r.has_error()]
    assert error.metadata.src_node_id == 3
    assert error.error.code == CODE_GONE
    assert error.error.reason == "worker process ended 3 times (exit code -9)"
    assert nodes_of([r for r in replies if not r.has_error()]) == [1, 2, 4]
    assert nodes_of(p.run(batch(1, 2), None)) == [1, 2], "the pool is usable afterwards"


def test_a_worker_that_died_while_it_was_idle_costs_nothing(pool: Callable[..., Any]) -> None:
    p = pool(answer)
    victim = p.started[0]
    victim.dies_idle = True
    p.run(batch(1, 2), None)
    victim.thread.join(10)
    replies = p.run(batch(1, 2, 3), None)
    assert nodes_of(replies) == [1, 2, 3]
    assert not any(r.has_error() for r in replies)
    assert victim.killed.is_set()


def test_replies_that_are_late_are_missing_and_the_worker_is_replaced(pool: Callable[..., Any]) -> None:
    release = threading.Event()

    def work(message: Message) -> Message:
        if message.metadata.dst_node_id == 3:
            release.wait(20)
        return answer(message)

    p = pool(work)
    started = time.monotonic()
    replies = p.run(batch(2, 3, 1), 0.3)
    assert 0.25 < time.monotonic() - started < 10
    assert nodes_of(replies) == [2], "node 1 waited behind the one that hangs"
    assert p.started[0].killed.is_set()
    release.set()
    again = p.run(batch(1, 3), 20)
    assert nodes_of(again) == [1, 3], "a late reply must not turn up in the next round"


def test_an_error_in_a_worker_that_cannot_start_is_bounded(pool: Callable[..., Any]) -> None:
    p = pool(lambda message: None)
    replies = p.run(batch(1, 2), 30)
    assert all(r.has_error() for r in replies)
    assert len(replies) == 2


def test_call_needs_no_pool(tmp_path: Path) -> None:
    identify(run_id=1)
    config = small(tmp_path).to_run_config()
    context = Context(run_id=1, node_id=1, node_config={"clients": "0"}, state=RecordDict(), run_config=config)  # type: ignore[arg-type]
    reply = call(
        stamp(message(1, "query.hello", {"config": codec.config_record({"protocol": codec.PROTOCOL, "index": 0})})), context
    )
    assert reply.has_error(), "a node that holds clients needs their data"
    assert "DataError" in str(reply.error.reason)


def test_a_node_names_its_own_clients_and_their_sizes(tmp_path: Path) -> None:
    from fedkd.prepare import prepare

    experiment = small(tmp_path, num_nodes=3)
    folder = prepare(experiment, tmp_path / "elsewhere")
    grid = InProcessGrid(experiment.to_run_config(), nodes=3)
    for node, context in grid.contexts.items():
        context.node_config.update({"clients": str(node - 1), "data": str(folder), "state-root": str(tmp_path / f"node{node}")})
    run_folder = run_all(grid, experiment)[0]
    assert final_hash(run_folder) == final_hash(run(small(tmp_path / "plain")))
    local = small(tmp_path, method_name="local", num_nodes=3)
    grid.contexts = {n: Context(1, n, c.node_config, RecordDict(), local.to_run_config()) for n, c in grid.contexts.items()}  # type: ignore[arg-type]
    run_all(grid, local)
    for node in (1, 2, 3):  # each device keeps the state of its own client, and of nobody else
        assert [p.name for p in (tmp_path / f"node{node}").glob("local-*/*")] == [str(node - 1)]
