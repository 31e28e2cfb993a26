"""One federation through ``flwr run`` and Ray: the same final hash as in process (part of ``make test``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.run import DONE, execute, load

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "check.toml"
SMALL = ["num-server-rounds=3", "num-clients=4", "max-samples=160", "report=false"]


def final_hash(output: Path, grid: str, workers: int) -> str:
    experiment = load(CONFIG, SMALL, output=str(output), workers=workers)
    outcome = execute(experiment, grid)
    assert outcome.code == DONE, outcome.reason
    summary = json.loads((outcome.folders[0] / "summary.json").read_text())
    return str(summary["final_state_sha256"])


@pytest.mark.smoke
@pytest.mark.timeout(240)
def test_flwr_run_on_ray_equals_in_process(tmp_path: Path) -> None:
    """Law 1: the grid is never in the result."""
    assert final_hash(tmp_path / "flower", "flower", 2) == final_hash(tmp_path / "inprocess", "inprocess", 1)
