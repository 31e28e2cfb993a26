"""Small federations that an audit can open: digits, half of the rows held out by a coin, every message recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkd.finished import Finished, open_finished
from server.run_folder import run_id
from tests.small_runs import run, small

RECORDED: dict[str, Any] = {
    "method_name": "fedd2s",
    "model_args": "hidden = [16, 16]",
    "num_clients": 4,
    "num_server_rounds": 4,
    "max_samples": 600,
    "audit_holdout": 0.5,
    "record": "messages",
    "local_epochs": 2,
}


def recorded(output: Path, **changes: Any) -> tuple[Path, Path]:
    """(folder, states) of a finished run."""
    experiment = small(output, **{**RECORDED, **changes})
    return run(experiment), output / "state" / run_id(experiment)


def opened(output: Path, **changes: Any) -> Finished:
    """The same, opened."""
    return open_finished(*recorded(output, **changes))
