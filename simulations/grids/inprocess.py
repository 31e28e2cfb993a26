"""The in-process grid: calls the ClientApp directly (one worker), or in fresh worker processes (several).

The readable, debuggable reference of every other grid: the same ServerApp, Strategy, messages and ClientApp, without Ray
and without a SuperLink.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedkd.config import Scalar

CODE_RAISED = 2
"""Flower's code for an app that raised."""
CODE_GONE = 5
"""Flower's code for a node that is unavailable."""

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Thread pools that a worker process starts with one thread."""

DEATHS = 3
"""Deaths of a worker on the same message before its clients count as failed."""

_ids = itertools.count(1)


def identify(run_id: int, node_id: int = 0) -> None:
    """Set the identity that Flower's messages are stamped with (not public API: one function, one test)."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 1, node_id


def stamp(message: Message) -> Message:
    """Give an outgoing message the id that a SuperLink would (not public API: one function, one test)."""
    message.metadata.__dict__["_message_id"] = f"local-{next(_ids)}"
    return message


def call(message: Message, context: Context) -> Message:
    """Run the ClientApp; an exception becomes the error reply that Flower would send."""
    from clients.client_app import app

    try:
        return app(message, context)
    except Exception as error:
        return Message(Error(CODE_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


class InProcessGrid(Grid):
    """``nodes`` nodes served by ``workers`` workers; node i belongs to worker i mod workers.

    Raises: RunError where a worker process cannot start.
    """

    def __init__(self, run_config: dict[str, Scalar], nodes: int, workers: int = 1) -> None:
        identify(run_id=1)
        self.contexts = {
            n: Context(run_id=1, node_id=n, node_config={}, state=RecordDict(), run_config=run_config)  # type: ignore[arg-type]
            for n in range(1, nodes + 1)
        }
        self._pool = _Pool(self.contexts, min(workers, nodes)) if workers > 1 and nodes > 1 else None

    def set_run(self, run: Any) -> None:
        """There is one run."""

    @property
    def run(self) -> Any:
        """There is no Flower run object in process."""
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes are there from the start."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Messages run when they are sent; their replies wait for ``pull_messages``."""
        self._waiting: dict[str, Message] = getattr(self, "_waiting", {})
        batch = [stamp(m) for m in messages]
        for reply in self._run(batch, None):
            self._waiting[reply.metadata.reply_to_message_id] = reply
        return [m.metadata.message_id for m in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to the given messages."""
        waiting = getattr(self, "_waiting", {})
        return [waiting.pop(i) for i in message_ids if i in waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run each message and return the replies; those not there after ``timeout`` seconds are left out."""
        return self._run([stamp(m) for m in messages], timeout)

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()

    def _run(self, batch: list[Message], timeout: float | None) -> list[Message]:
        if self._pool is not None:
            return self._pool.run(batch, timeout)
        return [call(m, self.contexts[m.metadata.dst_node_id]) for m in batch]


class _Pool:
    """Worker processes, each with a pipe; a worker that dies is replaced and its message runs again (same bits)."""

    def __init__(self, contexts: dict[int, Context], workers: int) -> None:
        self.contexts, self.workers = contexts, workers
        self.pipes: list[Connection] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        for position in range(workers):
            pipe, process = self._start(position)
            self.pipes.append(pipe)
            self.processes.append(process)

    def _start(self, position: int) -> tuple[Connection, subprocess.Popen[bytes]]:
        """A fresh interpreter (never a fork, and no re-import of the caller's main module) that holds one end of a pipe."""
        ours, theirs = Pipe()
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": paths}
        command = [sys.executable, "-m", "simulations.grids.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        ours.send({n: c for n, c in self.contexts.items() if (n - 1) % self.workers == position})
        return ours, process

    def run(self, batch: list[Message], timeout: float | None) -> list[Message]:
        deadline = None if timeout is None else time.monotonic() + timeout
        queues: list[list[Message]] = [[] for _ in self.pipes]
        for message in batch:
            queues[(message.metadata.dst_node_id - 1) % self.workers].append(message)
        replies: list[Message] = []
        deaths: Counter[str] = Counter()
        running: dict[Connection, tuple[int, Message]] = {}
        for position, queue in enumerate(queues):
            self._next(position, queue, running, deaths, replies)
        while running:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = wait(list(running), left)
            if not ready:
                for position, _ in running.values():
                    self._restart(position)
                return replies
            for pipe in ready:
                assert isinstance(pipe, Connection)
                position, message = running.pop(pipe)
                try:
                    replies.append(pipe.recv())
                except (EOFError, OSError):
                    self._bury(position, message, queues[position], deaths, replies)
                self._next(position, queues[position], running, deaths, replies)
        return replies

    def _next(
        self,
        position: int,
        queue: list[Message],
        running: dict[Connection, tuple[int, Message]],
        deaths: Counter[str],
        replies: list[Message],
    ) -> None:
        """Give a worker its next message; one that died while it was idle is replaced first."""
        while queue:
            message = queue.pop(0)
            try:
                self.pipes[position].send(message)
                running[self.pipes[position]] = (position, message)
                return
            except OSError:
                self._bury(position, message, queue, deaths, replies)

    def _bury(
        self, position: int, message: Message, queue: list[Message], deaths: Counter[str], replies: list[Message]
    ) -> None:
        """Replace a dead worker; its message comes first again, or counts as failed after ``DEATHS`` deaths."""
        code = self._restart(position)
        deaths[message.metadata.message_id] += 1
        if deaths[message.metadata.message_id] < DEATHS:
            queue.insert(0, message)
        else:
            reason = f"worker process ended {DEATHS} times (exit code {code})"
            replies.append(Message(Error(CODE_GONE, reason), reply_to=message))

    def _restart(self, position: int) -> int:
        """Replace a worker and return the exit code of the one before."""
        self.processes[position].kill()
        code = self.processes[position].wait()
        self.pipes[position].close()
        self.pipes[position], self.processes[position] = self._start(position)
        return code

    def close(self) -> None:
        for pipe in self.pipes:
            try:
                pipe.send(None)
            except OSError:
                continue
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in self.pipes:
            pipe.close()


def serve(pipe: Connection) -> None:
    """The loop of a worker process: contexts first, then messages until None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    identify(run_id=1)
    try:
        contexts: dict[int, Context] = pipe.recv()
        while (message := pipe.recv()) is not None:
            pipe.send(call(message, contexts[message.metadata.dst_node_id]))
    except (EOFError, OSError):
        return
