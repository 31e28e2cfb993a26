"""The server of a stock Flower app: FedAvg over a share of the nodes, every node waited for before round 1.

The only addition to Flower's own strategy is a record of when a round ended and which clients Flower drew for the first one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.speed import nets
from benchmarks.speed.inputs import Inputs, keep

app = ServerApp()
WAIT = 180.0
"""Seconds to wait for the nodes."""


class Recorded(FedAvg):
    """Flower's FedAvg that leaves a line at the end of each round."""

    def __init__(self, out: Path, names: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.out, self.names = out, names

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average as Flower does, then say that the round has ended."""
        replies = list(replies)
        average, metrics = super().aggregate_train(server_round, replies)
        if server_round == 1 and average is not None:
            clients = [int(r.content["metrics"]["client"]) for r in replies if not r.has_error()]  # type: ignore[index, call-overload, arg-type]
            values = [v.numpy() for v in average.values()]
            keep(self.out, dict(zip(self.names, values, strict=True)), sorted(clients))
        with (self.out / "rounds.jsonl").open("a") as file:
            file.write(json.dumps({"round": server_round - 1, "at": time.monotonic()}) + "\n")
        return average, metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds. Raises: RuntimeError where nodes are missing."""
    torch.set_num_threads(1)
    config = context.run_config
    inputs, out = Inputs(Path(str(config["inputs"]))), Path(str(config["out"]))
    meta = inputs.meta
    deadline = time.monotonic() + WAIT
    while len(list(grid.get_node_ids())) < meta["clients"]:
        if time.monotonic() > deadline:
            raise RuntimeError("nodes are missing")
        time.sleep(0.1)
    module = nets.build(meta["net"], meta["shape"], meta["classes"])
    nets.load(module, inputs.initial)
    cohort = len(inputs.cohort(0))
    strategy = Recorded(
        out, list(inputs.initial), fraction_train=cohort / meta["clients"], fraction_evaluate=0.0,
        min_train_nodes=cohort, min_evaluate_nodes=0, min_available_nodes=meta["clients"],
    )  # fmt: skip
    strategy.start(grid, initial_arrays=ArrayRecord(module.state_dict()), num_rounds=int(config["rounds"]))
    (out / "done").touch()
