"""Small federations for tests: digits, an MLP, three clients, three rounds, one process. A run takes some 0.3 s."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedkd.config import Experiment
from server.server_app import run_all
from server.strategy import OnRound
from simulations.grids.inprocess import InProcessGrid

ROOT = Path(__file__).resolve().parents[1]

SMALL: dict[str, Any] = {
    "method_name": "fedavg",
    "model_name": "mlp",
    "model_args": "hidden = [8, 8]",
    "num_clients": 3,
    "num_server_rounds": 3,
    "max_samples": 150,
    "partition_args": "alpha = 1.0",
    "report": False,
    "num_nodes": 2,
    "workers": 1,
    "trusted": True,
}


def small(output: Path, **changes: Any) -> Experiment:
    """The small experiment with some keys changed; its runs lie below ``output``."""
    return Experiment(**{**SMALL, "output": str(output), **changes})


class Grid(InProcessGrid):
    """The in-process grid whose replies pass through ``change`` (None = a reply that never comes)."""

    def __init__(self, experiment: Experiment, change: Callable[[Message, Message], Message | None] | None = None) -> None:
        super().__init__(experiment.to_run_config(), experiment.num_nodes, experiment.workers)
        self.change = change
        self.sent: list[Message] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        asked = list(messages)
        self.sent += asked
        replies = list(super().send_and_receive(asked, timeout=timeout))
        if self.change is None:
            return replies
        by_id = {m.metadata.message_id: m for m in asked}
        changed = [self.change(by_id[r.metadata.reply_to_message_id], r) for r in replies]
        return [r for r in changed if r is not None]


def run(
    experiment: Experiment,
    change: Callable[[Message, Message], Message | None] | None = None,
    on_round: OnRound | None = None,
) -> Path:
    """Run every seed on the in-process grid and return the first run folder."""
    grid = Grid(experiment, change)
    try:
        return run_all(grid, experiment, on_round)[0]
    finally:
        grid.close()


def resume(experiment: Experiment) -> Path:
    """Go on with an unfinished run of the experiment."""
    return run(replace(experiment, resume=True))


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """Objects of ``<name>.jsonl``, without what differs between two equal runs."""
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "server_seconds", "node")} for row in rows]


def summary(folder: Path) -> dict[str, Any]:
    """The content of ``summary.json``."""
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def final_hash(folder: Path) -> str:
    """``final_state_sha256`` of a finished run."""
    return str(summary(folder)["final_state_sha256"])


def status(folder: Path) -> tuple[int, str]:
    """(exit code, reason) of ``status.json``."""
    content = json.loads((folder / "status.json").read_text())
    return int(content["exit_code"]), str(content["reason"])


def copy_sources(target: Path) -> Path:
    """A copy of the repository's packages, configurations and contract tests, without results; returns ``target``."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("fedkd", "clients", "server", "simulations", "configs"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    shutil.copytree(ROOT / "tests" / "contracts", target / "tests" / "contracts", ignore=ignored)
    for file in ("pyproject.toml", "tests/conftest.py", "tests/toy.py"):
        shutil.copy2(ROOT / file, target / file)
    return target
