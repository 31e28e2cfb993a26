"""The grid on Ray actors: one per core or GPU slice, on this machine or on the nodes of a Ray cluster.

For what Flower's own engine cannot do: a cluster by its address, several machines and GPUs, and an actor that dies is
restarted and its cohort runs again with the same bits. A round is one call per node's message, never one per client.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict

from fedkd.config import Experiment
from fedkd.errors import ConfigError, RunError, WaitExpired
from simulations.grids import ray_nodes
from simulations.grids.dispatch import DEATHS, Died, Pool, WorkerGrid, call, identify
from simulations.grids.ray_runtime import Need, connected

SHARED = "shared"
"""The record that every node gets alike: it goes into Ray's object store once a round, and to each Ray node once."""

PASSED_ON = "FEDKD_"
"""Variables with this prefix reach the actors as they are when an actor starts (fault points of tests)."""

POLL = 0.5
"""Seconds between two looks at whether the cluster still has room for an actor that has not started."""


ANSWER = 5.0
"""Seconds in which an idle actor must say that it lives."""


class ClientActor:
    """A worker on Ray: the ClientApp for the nodes of ``contexts``."""

    def __init__(self, contexts: dict[int, Context], variables: dict[str, str]) -> None:
        os.environ.update(variables)
        identify(run_id=1)
        self.contexts = contexts

    def ready(self) -> int:
        """Import the apps and name the process."""
        import clients.client_app  # noqa: F401

        return os.getpid()

    def answer(self, message: Message, shared: ArrayRecord | None) -> Message:
        """The reply to a message whose shared record came beside it."""
        if shared is not None:
            message.content[SHARED] = shared
        return call(message, self.contexts[message.metadata.dst_node_id])


@contextlib.contextmanager
def grid_of(experiment: Experiment, address: str = "") -> Iterator[RayGrid]:
    """The grid of an experiment on a private Ray, or on the cluster at ``address``, for the time of the block.

    Raises: ConfigError where Ray has no room for the workers, or a cluster's nodes do not share what they must.
    """
    need = Need(experiment.cpus_per_worker, experiment.gpus_per_worker)
    with connected(address, need, experiment.workers):
        if address:
            for run in experiment.runs():
                for node, what, mend in ray_nodes.problems(run, address):
                    raise ConfigError(f"Ray node {node}: {what}; {mend}")
        check_room(experiment, ray_nodes.capacity(need), address)
        grid = RayGrid(experiment, need)
        try:
            yield grid
        finally:
            grid.close()


def check_room(experiment: Experiment, room: int, address: str) -> None:
    """Raises: ConfigError where fewer workers fit than the experiment asks for."""
    if room >= experiment.workers:
        return
    where = f"the Ray cluster at {address}" if address else "this machine"
    asked = f"{experiment.workers} workers of {experiment.cpus_per_worker:g} CPUs and {experiment.gpus_per_worker:g} GPUs"
    fix = f"workers = {room}" if room else "lower cpus-per-worker or gpus-per-worker"
    raise ConfigError(f"{asked}: {where} has room for {room}; use {fix}")


class RayGrid(WorkerGrid):
    """``num-nodes`` nodes served by ``workers`` actors; node i belongs to actor i mod workers.

    Raises: WaitExpired where the actors do not start within node-wait-s; RunError where they cannot.
    """

    name = "ray"

    def __init__(self, experiment: Experiment, need: Need) -> None:
        super().__init__(experiment.to_run_config(), experiment.num_nodes)
        workers = min(experiment.workers, experiment.num_nodes)
        self.pool = _Actors(self.contexts, workers, need, experiment.node_wait_s)

    def answer(self, batch: list[Message], timeout: float | None) -> list[Message]:
        """The replies of the actors."""
        return self.pool.run(batch, timeout)

    def close(self) -> None:
        """End the actors."""
        self.pool.close()


class _Actors(Pool):
    """Ray actors with one call each at a time."""

    kind = "Ray actor"

    def __init__(self, contexts: dict[int, Context], workers: int, need: Need, wait: float) -> None:
        super().__init__(workers)
        self.contexts, self.need, self.wait = contexts, need, wait
        self.calls: dict[int, Any] = {}
        self.stored: dict[int, tuple[ArrayRecord, Any]] = {}
        self.actors: list[Any] = [self._start() for _ in range(workers)]
        try:
            self._meet()
        except BaseException:
            self.close()
            raise

    def run(self, batch: Sequence[Message], timeout: float | None) -> list[Message]:
        """The replies; the records that the messages share are in the object store for the time of the batch."""
        try:
            return super().run(batch, timeout)
        finally:
            self.stored.clear()

    def send(self, position: int, message: Message) -> None:
        """Start the call. A dead actor is only noticed when its answer is asked for."""
        bare, shared = split(message)
        self.calls[position] = self.actors[position].answer.remote(bare, None if shared is None else self._store(shared))

    def ready(self, positions: Sequence[int], seconds: float | None) -> list[int]:
        """Workers whose call has ended."""
        import ray

        done, _ = ray.wait([self.calls[p] for p in positions], timeout=seconds)
        return [p for p in positions if self.calls[p] in done]

    def receive(self, position: int) -> Message:
        """The reply of a call that has ended. Raises: Died."""
        import ray

        try:
            reply: Message = ray.get(self.calls.pop(position))
            return reply
        except ray.exceptions.RayError as error:  # the actor or its node is gone, or what it sent is
            death = f"{type(error).__name__}: {first_line(error)}"
            print(f"a Ray actor died while it ran its clients ({death})", file=sys.stderr, flush=True)
            raise Died(death) from None

    def replace(self, position: int) -> str:
        """Start another actor; where the cluster has room for fewer now, share one that lives.

        Raises: WaitExpired where none starts within node-wait-s; RunError where none can.
        """
        self._end(self.actors[position])
        for _ in range(DEATHS):
            actor = self.actors[position] = self._start()
            try:
                if self._came(actor, self._living(position)):
                    return ""
            except Died:
                continue
            self._end(actor)
            shared = self._living(position)
            if not shared:
                raise WaitExpired(f"no Ray actor started within node-wait-s = {self.wait:g}")
            self.actors[position] = shared[0]
            print("Ray has room for fewer actors now: one does the work of two", file=sys.stderr, flush=True)
            return ""
        raise RunError(f"a Ray actor ended {DEATHS} times before it took a message")

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            self._end(actor)

    def _start(self) -> Any:
        import ray

        variables = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        options = {"num_cpus": self.need.cpus, "num_gpus": self.need.gpus, "max_restarts": 0, "max_task_retries": 0}
        return ray.remote(ClientActor).options(**options).remote(self.contexts, variables)

    def _end(self, actor: Any) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(actor, no_restart=True)

    def _meet(self) -> None:
        """Wait for every actor. Raises: WaitExpired; RunError."""
        import ray

        calls = [a.ready.remote() for a in self.actors]
        done, late = ray.wait(calls, num_returns=len(calls), timeout=self.wait)
        if late:
            raise WaitExpired(f"{len(done)} of {len(calls)} Ray actors started within node-wait-s = {self.wait:g}")
        for one in done:
            try:
                ray.get(one)
            except ray.exceptions.RayError as error:
                raise RunError(f"a Ray actor cannot start: {first_line(error)}") from None

    def _came(self, actor: Any, others: list[Any]) -> bool:
        """Whether a new actor started; given up early where there are others and no room beside them.

        Raises: Died.
        """
        import ray

        asked, deadline = actor.ready.remote(), time.monotonic() + self.wait
        while time.monotonic() < deadline:
            done, _ = ray.wait([asked], timeout=POLL)
            if done:
                try:
                    ray.get(asked)
                    return True
                except ray.exceptions.RayError as error:
                    raise Died(first_line(error)) from None
            if others and ray_nodes.capacity(self.need) <= len(others):
                return False
        return False

    def _living(self, position: int) -> list[Any]:
        """The actors of the other workers that live, each once."""
        mine, found = self.actors[position], dict[int, Any]()
        for other, actor in enumerate(self.actors):
            if actor is not mine and id(actor) not in found and self._lives(other):
                found[id(actor)] = actor
        return list(found.values())

    def _lives(self, position: int) -> bool:
        """Whether a worker is busy, or answers."""
        import ray

        busy = self.calls.get(position)
        done, _ = ray.wait([busy or self.actors[position].ready.remote()], timeout=0 if busy else ANSWER)
        if not done:
            return busy is not None
        try:
            ray.get(done[0])
            return True
        except ray.exceptions.RayError:
            return False

    def _store(self, record: ArrayRecord) -> Any:
        """The record's place in the object store, the same for every message of the batch that holds it."""
        import ray

        if id(record) not in self.stored:
            self.stored[id(record)] = (record, ray.put(record))
        return self.stored[id(record)][1]


def split(message: Message) -> tuple[Message, ArrayRecord | None]:
    """(the message without what all nodes get alike, that record)."""
    shared = message.content.get(SHARED)
    if not isinstance(shared, ArrayRecord):
        return message, None
    bare = copy.copy(message)
    bare.content = RecordDict({k: v for k, v in message.content.items() if k != SHARED})
    return bare, shared


def first_line(error: BaseException) -> str:
    """What an error says first, or its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
