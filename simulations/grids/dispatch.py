"""What the grids of our own share: a Grid whose nodes are served by workers, and what happens where a worker dies or is late.

Node i belongs to worker (i - 1) mod workers. Which worker runs a message is never in its result, so a message whose worker
died runs again elsewhere with the same bits.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
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


class Died(Exception):
    """A worker is gone; the text says how it ended."""


class Pool(ABC):
    """Workers with one message each at a time; one that dies is replaced and its message runs again (same bits)."""

    kind = "worker process"

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @abstractmethod
    def send(self, position: int, message: Message) -> None:
        """Hand a message to an idle worker. Raises: Died."""

    @abstractmethod
    def ready(self, positions: Sequence[int], seconds: float | None) -> list[int]:
        """Of these busy workers, those that have answered or died; empty after ``seconds``."""

    @abstractmethod
    def receive(self, position: int) -> Message:
        """The reply of a worker that is ready. Raises: Died."""

    @abstractmethod
    def replace(self, position: int) -> str:
        """End a worker, start another in its place and say how the one before ended."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def run(self, batch: Sequence[Message], timeout: float | None) -> list[Message]:
        """The replies to a batch; those not there after ``timeout`` seconds are left out and their workers replaced."""
        deadline = None if timeout is None else time.monotonic() + timeout
        queues = self.queues(batch)
        replies: list[Message] = []
        deaths: Counter[str] = Counter()
        running: dict[int, Message] = {}
        for position, queue in enumerate(queues):
            self._next(position, queue, running, deaths, replies)
        while running:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = self.ready(list(running), left)
            if not ready:
                for position in running:
                    self.replace(position)
                return replies
            for position in ready:
                message = running.pop(position)
                try:
                    replies.append(self.receive(position))
                except Died as death:
                    self._bury(position, message, queues[position], deaths, replies, death)
                self._next(position, queues[position], running, deaths, replies)
        return replies

    def queues(self, batch: Sequence[Message]) -> list[list[Message]]:
        """The messages of each worker, in the order in which they were sent."""
        queues: list[list[Message]] = [[] for _ in range(self.workers)]
        for message in batch:
            queues[(message.metadata.dst_node_id - 1) % self.workers].append(message)
        return queues

    def _next(
        self, position: int, queue: list[Message], running: dict[int, Message], deaths: Counter[str], replies: list[Message]
    ) -> None:
        """Give a worker its next message; one that died while it was idle is replaced first."""
        while queue:
            message = queue.pop(0)
            try:
                self.send(position, message)
                running[position] = message
                return
            except Died as death:
                self._bury(position, message, queue, deaths, replies, death)

    def _bury(
        self,
        position: int,
        message: Message,
        queue: list[Message],
        deaths: Counter[str],
        replies: list[Message],
        death: Died,
    ) -> None:
        """Replace a dead worker; its message comes first again, or counts as failed after ``DEATHS`` deaths."""
        how = self.replace(position) or str(death)
        deaths[message.metadata.message_id] += 1
        if deaths[message.metadata.message_id] < DEATHS:
            queue.insert(0, message)
        else:
            replies.append(Message(Error(CODE_GONE, f"{self.kind} ended {DEATHS} times ({how})"), reply_to=message))


class WorkerGrid(Grid, ABC):
    """``nodes`` nodes that are there from the start; a subclass says who runs their messages."""

    name = ""
    """the grid as ``--grid`` and ``environment.json`` call it"""

    def __init__(self, run_config: dict[str, Scalar], nodes: int) -> None:
        identify(run_id=1)
        self.contexts = {
            n: Context(run_id=1, node_id=n, node_config={}, state=RecordDict(), run_config=run_config)  # type: ignore[arg-type]
            for n in range(1, nodes + 1)
        }
        self._waiting: dict[str, Message] = {}

    @abstractmethod
    def answer(self, batch: list[Message], timeout: float | None) -> list[Message]:
        """The replies to a batch of stamped messages, as far as they come within ``timeout`` seconds."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def set_run(self, run: Any) -> None:
        """There is one run."""

    @property
    def run(self) -> Any:
        """There is no Flower run object."""
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
        batch = [stamp(m) for m in messages]
        for reply in self.answer(batch, None):
            self._waiting[reply.metadata.reply_to_message_id] = reply
        return [m.metadata.message_id for m in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to the given messages."""
        return [self._waiting.pop(i) for i in message_ids if i in self._waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run each message and return the replies; those not there after ``timeout`` seconds are left out."""
        return self.answer([stamp(m) for m in messages], timeout)
