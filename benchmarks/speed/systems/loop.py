"""The plain torch loop: one reused module, rows staged once, index batches, foreach SGD; one process or several.

Several workers get the weights and a share of the cohort each round and return a weighted sum, as a careful user would
write it by hand.
"""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.speed import nets
from benchmarks.speed.inputs import Inputs, Weights, arguments, argv, device, keep, said


class Loop:
    """One process's part: the module, the optimizer's settings, the rows that were staged."""

    def __init__(self, inputs: Inputs) -> None:
        torch.set_num_threads(1)
        torch.backends.cudnn.allow_tf32 = False  # equality is with float32
        self.device = torch.device(device())
        self.inputs, meta = inputs, inputs.meta
        self.module = nets.build(meta["net"], meta["shape"], meta["classes"]).to(self.device)
        self.parameters = list(self.module.parameters())
        self.staged: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def train(self, round: int, client: int, start: list[torch.Tensor]) -> int:
        """Train one client from ``start`` in place; returns K_n."""
        meta = self.inputs.meta
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, start)
        optimizer = torch.optim.SGD(self.parameters, lr=meta["learning_rate"], momentum=meta["momentum"], foreach=True)
        if client not in self.staged:
            x, y = self.inputs.rows(client)
            self.staged[client] = torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)
        x, y = self.staged[client]
        for batch in self.inputs.batches(round, client):
            rows = torch.from_numpy(batch).to(self.device)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(self.module(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return len(y)

    @torch.no_grad()
    def add(self, total: list[torch.Tensor], weight: int) -> None:
        """Add this client's weighted model to float64 sums."""
        torch._foreach_add_(total, [p.double() for p in self.parameters], alpha=weight)

    def share(self, round: int, cohort: list[int], start: Weights) -> tuple[list[Any], int]:
        """(weighted sums, weight) of some clients of a round."""
        first = [torch.from_numpy(v).to(self.device) for v in start.values()]
        total = [torch.zeros_like(v, dtype=torch.float64) for v in first]
        weight = 0
        for client in cohort:
            count = self.train(round, client, first)
            self.add(total, count)
            weight += count
        return [t.cpu().numpy() for t in total], weight


def serve(pipe: Connection, folder: str) -> None:
    """A worker process: (round, clients, weights) in, (sums, weight) out, until None."""
    loop = Loop(Inputs(Path(folder)))
    while (order := pipe.recv()) is not None:
        pipe.send(loop.share(*order))


def run(inputs: Inputs, rounds: int, workers: int, each: Callable[[int, Weights], bool] | None = None) -> Weights:
    """The average of round 0. ``each`` is given every average instead of the harness, and ends the run by False."""
    pipes: list[Any] = []
    context = mp.get_context("spawn")
    for _ in range(workers if workers > 1 else 0):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, str(inputs.folder)), daemon=True).start()
        pipes.append(ours)
    alone = Loop(inputs) if not pipes else None
    weights, first = inputs.initial, inputs.initial
    for round in range(rounds):
        cohort = inputs.cohort(round)
        for position, pipe in enumerate(pipes):
            pipe.send((round, cohort[position::workers], weights))
        parts = [pipe.recv() for pipe in pipes] if alone is None else [alone.share(round, cohort, weights)]
        count = sum(weight for _, weight in parts)
        sums = [np.add.reduce([total[i] for total, _ in parts]) for i in range(len(weights))]
        weights = {n: (s / count).astype(np.float32) for n, s in zip(weights, sums, strict=True)}
        first = weights if round == 0 else first
        if each is None:
            said(round)
        elif not each(round, weights):
            break
    for pipe in pipes:
        pipe.send(None)
    return first


if __name__ == "__main__":
    inputs, rounds, workers, out = arguments(argv())
    keep(out, run(inputs, rounds, workers), inputs.cohort(0))
