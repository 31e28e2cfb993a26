"""Shadow models in parallel processes, by the command that a user types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedkd import shadows
from fedkd.errors import RunError
from simulations import shadows as workers
from simulations.__main__ import app

PLAN = """
pool = 200
members = 60
models = 3
test = 100
[experiment]
num-server-rounds = 2
batch-size = 32
model.name = "mlp"
model.args = "hidden = [16]"
"""


def test_two_workers_train_what_one_would_and_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(PLAN)
    plan = shadows.read_plan(path)
    list(shadows.train_missing(plan, tmp_path / "one"))
    said: list[tuple[int, int]] = []
    workers.train(path, tmp_path / "two", 2, lambda done, of: said.append((done, of)))
    one, two = shadows.load(plan, tmp_path / "one"), shadows.load(plan, tmp_path / "two")
    assert all(np.array_equal(one.signals[n], two.signals[n]) for n in one.signals)
    assert said[0] == (0, 3)
    assert said == sorted(said)
    kept = (shadows.folder_of(plan, tmp_path / "two") / "0.npz").stat().st_mtime_ns
    (shadows.folder_of(plan, tmp_path / "two") / "2.npz").unlink()
    result = CliRunner().invoke(app, ["shadows", str(path), "--output", str(tmp_path / "two"), "--workers", "2"])
    assert result.exit_code == 0, result.output
    assert "2 of 3 models" in result.output
    assert "3 of 3 models" in result.output
    assert (shadows.folder_of(plan, tmp_path / "two") / "0.npz").stat().st_mtime_ns == kept


def test_a_worker_that_fails_is_an_error_and_not_a_hang(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.toml"
    path.write_text(PLAN.replace("pool = 200", "pool = 5000").replace("test = 100", "test = 0"))
    with pytest.raises(RunError, match="2 of 2 workers failed"):
        workers.train(path, tmp_path, 2)
    assert "but digits has 1797 rows" in capfd.readouterr().err
    result = CliRunner().invoke(app, ["shadows", str(path), "--output", str(tmp_path)])
    assert result.exit_code == 1


def test_a_wrong_plan_is_one_line_and_code_2(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(PLAN.replace("models = 3", "models = 1"))
    result = CliRunner().invoke(app, ["shadows", str(path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
