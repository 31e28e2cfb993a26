"""A swing study by the command that a user types: run folder, resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from fedkd.swing_plan import read_plan
from simulations.__main__ import app
from simulations.swing import folder_of, needed

PLAN = """
kind = "swing"
regimes = ["R2"]
arms = ["ce", "kd", "control", "swing", "public"]
[text]
name = "template"
rows = 30
validation = 10
[canaries]
repetitions = [0, 2]
per_count = 2
decoys = 4
[teacher]
width = 16
layers = 1
heads = 2
epochs = 1
[student]
width = 16
layers = 1
heads = 2
epochs = 1
"""


def test_a_study_runs_resumes_and_reports(tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text(PLAN)
    command = ["run", str(config), "--output", str(tmp_path / "out")]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "3 teachers and 5 students to train, 2 processes" in first.output
    folder = folder_of(read_plan(config), tmp_path / "out")
    summary = json.loads((folder / "summary.json").read_text())
    assert [r["arm"] for r in summary["arms"]] == ["ce", "kd", "control", "swing", "public"]
    assert set(summary["teachers"]) == {"s0-private", "s0-control", "s0-public"}
    assert summary["token_map"]
    page = (folder / "report.html").read_text()
    secrets = [c["id"] for s in folder.glob("s0-R2-*.json") for c in json.loads(s.read_text())["canaries"]]
    assert secrets
    assert "Swing distillation: small" in page
    kept = (folder / "s0-R2-kd.json").read_bytes()
    (folder / "s0-R2-swing.json").unlink()
    again = CliRunner().invoke(app, [*command, "--workers", "1"])
    assert again.exit_code == 0, again.output
    assert "0 teachers and 1 students to train" in again.output
    assert (folder / "s0-R2-kd.json").read_bytes() == kept
    assert json.loads((folder / "summary.json").read_text())["arms"] == summary["arms"], "resumed = undisturbed"


def test_a_wrong_study_is_one_line_and_code_2_and_writes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    for text, more, said in (
        (PLAN.replace('"kd"', '"magic"'), [], "unknown arm 'magic'"),
        (PLAN.replace("rows = 30", "rows = 300000"), [], "too few rows"),
        (PLAN, ["--grid", "flower"], "only --output, --seed, --seeds and --workers apply"),
        (PLAN, ["--set", "rows=3"], "only --output"),
        (PLAN, ["--overwrite"], "only --output"),
        (PLAN, ["--seed", "7"], "has no seed 7; its seeds: 0"),
        (PLAN, ["--seeds", "x"], "valid: whole numbers"),
        (PLAN, ["--workers", "0"], "valid: 1 or more"),
    ):
        config.write_text(text)
        result = CliRunner().invoke(app, ["run", str(config), "--output", str(tmp_path / "out"), *more])
        assert result.exit_code == 2, result.output
        assert said in result.output
        assert not (tmp_path / "out").exists()


def test_a_student_needs_the_teachers_that_its_lesson_reads(tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text(PLAN)
    found = {task.arm: needed(task) for task in read_plan(config).tasks()}
    assert found == {
        "ce": (), "kd": ("private",), "control": ("control",), "swing": ("private",), "public": ("private", "public")
    }  # fmt: skip
