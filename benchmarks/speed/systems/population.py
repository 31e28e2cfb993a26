"""A population of generated clients in process: ``configs/fedavg-synthetic.toml``, of another size; what is left on disk.

With state: FedPer, whose clients keep their classifier between rounds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.speed.inputs import argv
from benchmarks.speed.systems.ours import Commits
from simulations.run import execute, load

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "fedavg-synthetic.toml"
FEDPER = (
    "method.name=fedd2s",
    "method.args=\"knowledge = 'none', schedule = 'none', top_level = 3, head_ce_weight = 0.0\"",
    "score=after_local",
)


def settings(clients: int, sampled: int, rounds: int, state: bool) -> tuple[str, ...]:
    """What is changed in the configuration."""
    size = (f"num-clients={clients}", f"fraction-train={sampled / clients}", f"num-server-rounds={rounds}", "report=false")
    return (*size, *(FEDPER if state else ()))


def disk(folder: Path) -> dict[str, int]:
    """Files, folders and bytes below a folder."""
    every = list(folder.rglob("*"))
    files = [p for p in every if p.is_file()]
    return {"files": len(files), "folders": len(every) - len(files), "bytes": sum(p.stat().st_size for p in files)}


def run(out: Path, rounds: int, workers: int, clients: int, sampled: int, state: bool) -> None:
    """Run, say when each round ended, and write ``disk.json``. Raises: RuntimeError where the run failed."""
    with tempfile.TemporaryDirectory() as place:
        changed = settings(clients, sampled, rounds, state)
        outcome = execute(
            load(CONFIG, changed, output=place, workers=workers, num_nodes=workers), "inprocess", watch=Commits(rounds).watch
        )
        if outcome.code:
            raise RuntimeError(outcome.reason)
        (folder,) = outcome.folders
        kept = {"state": disk(Path(place) / "state"), "run": disk(folder), "commits": disk(folder / "checkpoints")}
        (out / "disk.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    _, _, rounds, workers, place, clients, sampled, state = argv()
    run(Path(place), int(rounds), int(workers), int(clients), int(sampled), state == "state")
