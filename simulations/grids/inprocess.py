"""The in-process grid: calls the ClientApp directly (one worker), or in fresh worker processes (several).

The readable, debuggable reference of every other grid: the same ServerApp, Strategy, messages and ClientApp, without Ray
and without a SuperLink.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from flwr.app import Context, Message

from fedkd.config import Scalar
from simulations.grids.dispatch import ONE_THREAD, Died, Pool, WorkerGrid, call, identify


class InProcessGrid(WorkerGrid):
    """``nodes`` nodes served by ``workers`` workers; node i belongs to worker i mod workers.

    Raises: RunError where a worker process cannot start.
    """

    name = "inprocess"

    def __init__(self, run_config: dict[str, Scalar], nodes: int, workers: int = 1) -> None:
        super().__init__(run_config, nodes)
        self._pool = _Processes(self.contexts, min(workers, nodes)) if workers > 1 and nodes > 1 else None

    def answer(self, batch: list[Message], timeout: float | None) -> list[Message]:
        """The replies of the ClientApp, called here where there is one worker."""
        if self._pool is not None:
            return self._pool.run(batch, timeout)
        return [call(m, self.contexts[m.metadata.dst_node_id]) for m in batch]

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()


class _Processes(Pool):
    """Worker processes, each with a pipe."""

    def __init__(self, contexts: dict[int, Context], workers: int) -> None:
        super().__init__(workers)
        self.contexts = contexts
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

    def send(self, position: int, message: Message) -> None:
        """Write the message into the worker's pipe. Raises: Died."""
        try:
            self.pipes[position].send(message)
        except OSError as error:
            raise Died(str(error)) from None

    def ready(self, positions: Sequence[int], seconds: float | None) -> list[int]:
        """Workers whose pipe has something to read or was closed at the other end."""
        by_pipe = {self.pipes[p]: p for p in positions}
        return [by_pipe[pipe] for pipe in wait(list(by_pipe), seconds) if isinstance(pipe, Connection)]

    def receive(self, position: int) -> Message:
        """Read the reply from the worker's pipe. Raises: Died."""
        try:
            reply: Message = self.pipes[position].recv()
            return reply
        except (EOFError, OSError) as error:
            raise Died(str(error)) from None

    def replace(self, position: int) -> str:
        """Kill a worker, start another and name the exit code of the one before."""
        self.processes[position].kill()
        code = self.processes[position].wait()
        self.pipes[position].close()
        self.pipes[position], self.processes[position] = self._start(position)
        return f"exit code {code}"

    def close(self) -> None:
        """Ask every worker to end, and end those that do not within 10 s."""
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
