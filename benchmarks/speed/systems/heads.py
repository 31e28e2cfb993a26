"""W5: rounds of FedD2S with averaging on Fashion-MNIST, and how much of each the server's head training takes."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.speed.inputs import argv
from benchmarks.speed.systems.ours import Commits
from fedkd.methods import fedd2s
from simulations.run import execute, load

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "fedd2s-fashion_mnist.toml"
SETTINGS = ("model.name=fedavg_cnn", "data.args=''", "report=false")


def timed(work: Any, spent: list[float]) -> Any:
    """The same function, which also notes how long each call took."""

    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - started)

    return call


def run(out: Path, rounds: int, workers: int) -> None:
    """Run on the in-process grid, say when rounds ended, write ``heads.json``. Raises: RuntimeError where the run failed."""
    spent: list[float] = []
    fedd2s.aggregate = timed(fedd2s.aggregate, spent)
    with tempfile.TemporaryDirectory() as place:
        settings = (*SETTINGS, f"num-server-rounds={rounds}")
        experiment = load(CONFIG, settings, output=place, workers=workers, num_nodes=workers)
        outcome = execute(experiment, "inprocess", watch=Commits(rounds).watch)
        if outcome.code:
            raise RuntimeError(outcome.reason)
        rows = [json.loads(line) for line in (outcome.folders[0] / "rounds.jsonl").read_text().splitlines()]
    kept = {"heads": spent, "levels": [r.get("level") for r in rows], "cuts": [r.get("cut") for r in rows]}
    (out / "heads.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    _, _, rounds, workers, place = argv()
    run(Path(place), int(rounds), int(workers))
    sys.exit(0)
