"""fedkd itself: the app as a user runs it, on one of its grids; a round has ended when its commit is on disk."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.numpy import load as load_bytes

from benchmarks.speed import workloads
from benchmarks.speed.inputs import Inputs, Weights, arguments, argv, device, keep, said
from simulations.run import execute

LOOK = 0.002
"""Seconds between two looks at the folder of commits."""


class Commits:
    """Says when each round's commit appears, and keeps the first average."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.first = rounds, Weights()

    @contextmanager
    def watch(self, folder: Path) -> Any:
        """Look at a run folder for the time of the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(folder / "checkpoints", ended))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look(self, checkpoints: Path, ended: threading.Event) -> None:
        for round in range(self.rounds):
            while not (checkpoints / str(round)).exists():
                if ended.is_set() and not (checkpoints / str(round)).exists():
                    return
                time.sleep(LOOK)
            said(round)
            if round == 0:
                state = load_bytes((checkpoints / "0" / "server.safetensors").read_bytes())
                self.first = {n.removeprefix("avg/"): v for n, v in state.items() if n.startswith("avg/")}


def run(inputs: Inputs, rounds: int, workers: int, grid: str, more: tuple[str, ...] = ()) -> Weights:
    """The average of round 0. Raises: RuntimeError where the run failed."""
    workload = workloads.WORKLOADS[inputs.meta["workload"]]
    with tempfile.TemporaryDirectory() as output:
        experiment = workloads.experiment(workload, rounds, inputs.folder / "state", Path(output), workers, more)
        commits = Commits(rounds)
        outcome = execute(experiment, grid, watch=commits.watch)
        if outcome.code:
            raise RuntimeError(outcome.reason)
    return {n: commits.first[n] for n in inputs.initial}


if __name__ == "__main__":
    inputs, rounds, workers, out = arguments(argv())
    settings = (*argv()[6:], f"device={device()}")
    keep(out, run(inputs, rounds, workers, argv()[5], settings), inputs.cohort(0))
