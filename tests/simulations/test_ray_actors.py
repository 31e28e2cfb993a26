"""What the grid on Ray decides, with Ray's few functions replaced: room, refusals, deaths, sharing an actor."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients import codec
from fedkd.errors import ConfigError, RunError, WaitExpired
from fedkd.prepare import prepare
from simulations.doctor import examine
from simulations.grids import ray as grid
from simulations.grids import ray_nodes, ray_runtime
from simulations.grids.dispatch import CODE_GONE, identify, stamp
from simulations.grids.ray_nodes import differences, look
from simulations.grids.ray_runtime import Need
from simulations.run import USAGE, execute
from tests.small_runs import small


class RayError(Exception):
    pass


class FakeRay:
    """Actors that answer as ``answers`` says, ``rooms`` nodes with one CPU each; a future is (actor, outcome)."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.answers: Callable[[int, Any], Any] = lambda actor, message: Message(RecordDict(), reply_to=message)
        self.starts: Callable[[int], Any] = lambda actor: None
        self.made, self.killed, self.puts, self.rooms = 0, list[Any](), list[Any](), 2
        self.options: dict[str, Any] = {}

    def remote(self, cls: type) -> Any:
        def make(*_: Any) -> Any:
            self.made += 1
            me = self.made
            return SimpleNamespace(
                number=me,
                ready=SimpleNamespace(remote=lambda: (me, object(), self.starts(me))),
                answer=SimpleNamespace(remote=lambda m, s: (me, object(), self.answers(me, m))),
            )

        return SimpleNamespace(options=lambda **o: self.options.update(o) or SimpleNamespace(remote=make))

    def wait(self, calls: list[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
        ready = [c for c in calls if c[2] != "late"]
        return ready, [c for c in calls if c not in ready]

    def get(self, call: Any) -> Any:
        if isinstance(call[2], Exception):
            raise call[2]
        return call[2]

    def kill(self, actor: Any, no_restart: bool) -> None:
        self.killed.append(actor.number)

    def put(self, record: Any) -> Any:
        self.puts.append(record)
        return "stored", len(self.puts)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1.0}} for _ in range(self.rooms)]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(grid, "POLL", 0.0)
    return fake


def pool(workers: int = 2, wait: float = 5.0) -> Any:
    identify(run_id=1)
    contexts = {n: Context(1, n, {}, RecordDict(), {}) for n in range(1, 5)}
    return grid._Actors(contexts, workers, Need(), wait)


def message(node: int, content: dict[str, Any] | None = None) -> Message:
    return stamp(Message(RecordDict(content or {}), dst_node_id=node, message_type="train", group_id="g"))


# ----- actors -----------------------------------------------------------------------------------------------------------
def test_node_i_belongs_to_actor_i_mod_workers(ray: FakeRay) -> None:
    ran: list[tuple[int, int]] = []

    def answers(actor: int, message: Message) -> Message:
        ran.append((actor, message.metadata.dst_node_id))
        return Message(RecordDict(), reply_to=message)

    ray.answers = answers
    assert len(pool().run([message(n) for n in (1, 2, 3, 4)], 5.0)) == 4
    assert sorted(ran) == [(1, 1), (1, 3), (2, 2), (2, 4)]
    assert ray.options == {"num_cpus": 1.0, "num_gpus": 0.0, "max_restarts": 0, "max_task_retries": 0}


def test_what_all_nodes_get_is_stored_once_a_round(ray: FakeRay) -> None:
    """The message of a node travels without it, and is whole again for a second attempt."""
    shared = codec.to_record({})
    seen: list[Message] = []

    def answers(actor: int, message: Message) -> Message:
        seen.append(message)
        return Message(RecordDict(), reply_to=message)

    ray.answers = answers
    batch = [message(n, {"shared": shared, "config": ConfigRecord()}) for n in (1, 2, 3)]
    p = pool()
    p.run(batch, None)
    assert ray.puts == [shared]
    assert [set(m.content) for m in seen] == [{"config"}] * 3
    assert all(m.content["shared"] is shared for m in batch)
    assert {m.metadata.message_id for m in seen} == {m.metadata.message_id for m in batch}
    assert p.stored == {}, "the store keeps nothing after the round"


def test_the_actor_gives_the_shared_record_back_to_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "call", lambda message, context: (message, context))
    shared = codec.to_record({})
    bare, apart = grid.split(message(2, {"shared": shared, "config": ConfigRecord()}))
    context: Any = object()
    whole, where = grid.ClientActor({2: context}, {}).answer(bare, apart)  # type: ignore[misc]
    assert (whole.content["shared"], where) == (shared, context)
    plain = message(2)
    assert grid.split(plain) == (plain, None)


@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_a_cohort_fails_at_the_third_death_of_its_actor(ray: FakeRay, deaths: int, capsys: Any) -> None:
    died: list[int] = []

    def answers(actor: int, message: Message) -> Any:
        if message.metadata.dst_node_id == 3 and len(died) < deaths:
            died.append(actor)
            return RayError("The actor died.\nmore")
        return Message(RecordDict(), reply_to=message)

    ray.answers = answers
    replies = {r.metadata.src_node_id: r for r in pool().run([message(n) for n in (1, 2, 3, 4)], None)}
    assert sorted(replies) == [1, 2, 3, 4]
    assert [n for n, r in replies.items() if r.has_error()] == ([3] if deaths == 3 else [])
    if deaths == 3:
        assert replies[3].error.code == CODE_GONE
        assert replies[3].error.reason == "Ray actor ended 3 times (RayError: The actor died.)"
    assert len(set(died)) == deaths, "each time it was another actor"
    assert ray.made == 2 + deaths
    assert capsys.readouterr().err.count("a Ray actor died while it ran its clients (RayError: The actor died.)") == deaths


def test_replies_that_are_late_are_left_out_and_their_actor_is_replaced(ray: FakeRay) -> None:
    ray.answers = lambda actor, m: "late" if m.metadata.dst_node_id == 1 else Message(RecordDict(), reply_to=m)
    p = pool()
    assert [r.metadata.src_node_id for r in p.run([message(1), message(2)], 0.1)] == [2]
    assert ray.killed == [1]
    assert [a.number for a in p.actors] == [3, 2]


def test_where_the_cluster_shrinks_an_actor_does_the_work_of_two(ray: FakeRay) -> None:
    """One of two nodes is gone: the third actor never starts, and the room is that of the one that lives."""
    ray.starts = lambda actor: "late" if actor == 3 else None
    dead = RayError("node gone")
    ray.answers = lambda actor, m: dead if actor == 2 else Message(RecordDict(), reply_to=m)
    p = pool(wait=60.0)
    ray.rooms = 1
    replies = p.run([message(n) for n in (1, 2, 3, 4)], None)
    assert not any(r.has_error() for r in replies)
    assert len(replies) == 4
    assert [a.number for a in p.actors] == [1, 1]


def test_actors_that_do_not_start_end_the_run(ray: FakeRay) -> None:
    ray.starts = lambda actor: "late" if actor == 2 else None
    with pytest.raises(WaitExpired, match=r"1 of 2 Ray actors started within node-wait-s = 5"):
        pool()
    assert ray.killed == [1, 2]
    ray.starts = lambda actor: RayError("no such module")
    with pytest.raises(RunError, match="a Ray actor cannot start: no such module"):
        pool()


def test_without_a_living_actor_a_death_ends_the_run(ray: FakeRay) -> None:
    p = pool(workers=1, wait=0.05)
    ray.answers = lambda actor, m: RayError("")
    ray.starts = lambda actor: "late"
    with pytest.raises(WaitExpired, match=r"no Ray actor started within node-wait-s = 0\.05"):
        p.run([message(1)], None)
    ray.starts = lambda actor: RayError("")
    with pytest.raises(RunError, match="ended 3 times before it took a message"):
        p.run([message(1)], None)


# ----- room and refusals ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("resources", "need", "room"),
    [
        ({"CPU": 4.0}, Need(), 4),
        ({"CPU": 4.0}, Need(cpus=3.0), 1),
        ({"CPU": 8.0, "GPU": 1.0}, Need(gpus=0.5), 2),
        ({"CPU": 8.0, "GPU": 1.0}, Need(gpus=0.1), 8),
        ({"CPU": 8.0}, Need(gpus=0.5), 0),
        ({}, Need(), 0),
        ({"CPU": 0.3 * 3}, Need(cpus=0.3), 3),
    ],
)
def test_room_is_the_scarcer_of_cpus_and_gpus(resources: dict[str, float], need: Need, room: int) -> None:
    assert ray_nodes._room(resources, need) == room


def test_too_little_room_names_what_fits(tmp_path: Path) -> None:
    experiment = small(tmp_path, workers=4, num_nodes=4, gpus_per_worker=0.5)
    grid.check_room(experiment, 4, "")
    with pytest.raises(ConfigError, match=r"4 workers of 1 CPUs and 0\.5 GPUs: this machine has room for 2; use workers = 2"):
        grid.check_room(experiment, 2, "")
    with pytest.raises(
        ConfigError, match=r"the Ray cluster at h:1 has room for 0; use lower cpus-per-worker or gpus-per-worker"
    ):
        grid.check_room(experiment, 0, "h:1")


def test_a_gpu_that_no_worker_asks_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedkd import setting

    monkeypatch.setattr(setting.torch.cuda, "is_available", lambda: True)
    outcome = execute(small(tmp_path, device="auto"), "ray")
    assert outcome.code == USAGE
    assert "set gpus-per-worker (0.5 = two share one), or device = cpu" in outcome.reason
    assert list(tmp_path.iterdir()) == []


# ----- what a cluster's nodes must share ----------------------------------------------------------------------------------
def test_a_node_like_this_one_differs_in_nothing(tmp_path: Path) -> None:
    experiment, root = small(tmp_path), tmp_path / "state"
    prepare(experiment, root)
    (root / "left").write_text("left")
    here, there = look(experiment, root, ""), look(experiment, root, "left", "mark")
    assert here["data"] and there["sees"]
    assert (root / "mark").exists()
    assert differences(here, there, root, seen=True) == []
    assert differences(look(None, None, ""), look(None, None, ""), None, seen=True) == []


def test_each_difference_has_a_mend(tmp_path: Path) -> None:
    experiment, root = small(tmp_path), tmp_path / "state"
    prepare(experiment, root)
    here = look(experiment, root, "")
    elsewhere = look(experiment, tmp_path / "elsewhere", "left", "mark")
    assert (elsewhere["sees"], elsewhere["error"]) == (False, "")
    ((what, mend),) = differences(here, elsewhere, root, seen=False)
    assert what == f"state-root {root} is another folder there"
    assert "a file system that every node mounts at the same path" in mend
    ((what, _),) = differences(here, {**here, "sees": True}, root, seen=False)
    assert what.startswith("state-root"), "what the node wrote must be seen here too"
    same = {**here, "sees": True}
    ((what, mend),) = differences(here, {**same, "torch": "2.6.0"}, root, seen=True)
    assert (what, mend) == (f"torch 2.6.0 instead of {here['torch']}", f"pip install 'torch=={here['torch']}' there")
    ((what, _),) = differences(here, {**same, "code": "0"}, root, seen=True)
    assert what == "runs other sources than this checkout"
    ((what, mend),) = differences(here, {**same, "data": "0"}, root, seen=True)
    assert (what, mend) == (f"prepared data 0 instead of {here['data']}", f"remove {root / 'data'} and start again")


def test_a_node_that_cannot_write_says_so(tmp_path: Path) -> None:
    (tmp_path / "left").write_text("left")
    seen = look(small(tmp_path), tmp_path, "left", "no-such-folder/mark")
    ((what, mend),) = differences(seen, seen, tmp_path, seen=True)
    assert "No such file or directory" in what
    assert mend == f"mount {tmp_path} there, writable for the user that runs Ray"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("6379", "valid: host:port of the cluster's head"),
        ("ray://head:10001", "valid: host:port of the cluster's head"),
        ("head:port", "valid: host:port of the cluster's head"),
        (
            "127.0.0.1:1",
            r"no head of a Ray cluster answers at 127\.0\.0\.1:1 \(UNAVAILABLE\); start one: ray start --head --port 1",
        ),
    ],
)
def test_a_wrong_address_is_refused_within_seconds(tmp_path: Path, address: str, said: str) -> None:
    drawn = random.getstate()
    with pytest.raises(ConfigError, match=said):
        ray_runtime._join(address, tmp_path)
    assert random.getstate() == drawn
    assert list(tmp_path.iterdir()) == []


def test_something_else_that_listens_at_the_address_is_no_ray() -> None:
    """A port that accepts and says nothing: Ray would wait for it without end."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        said = ray_runtime.heard(f"127.0.0.1:{silent.getsockname()[1]}", 0.5)
    assert said in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    assert time.monotonic() - started < 20


def test_doctor_lists_what_differs_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(ray_runtime, "connected", lambda address, need, workers: nullcontext())
    monkeypatch.setattr(ray_nodes, "capacity", lambda need: 3)
    monkeypatch.setattr(ray_nodes, "problems", lambda e, address: [("10.0.0.2 (ab)", "state-root is another", "mount it")])
    found = {f["check"]: f for f in examine(small(tmp_path), ray_address="h:1")}
    assert found["ray cluster"]["detail"] == "h:1 has room for 3 workers"
    node = found["ray node 1"]
    assert (node["ok"], node["detail"], node["fix"]) == (False, "10.0.0.2 (ab): state-root is another", "mount it")
