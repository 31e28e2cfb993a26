"""The command line, command by command: exit codes, one line per error, JSON that parses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedkd import plugins
from fedkd.errors import RunError
from simulations import compare
from simulations.__main__ import app
from simulations.run import execute
from tests.small_runs import final_hash

CONFIG = """\
label = "Tiny {name}"
num-server-rounds = 2
num-clients = 3
workers = 1
method.name = "{name}"
model.name = "mlp"
model.args = "hidden = [8]"
max-samples = 150
report = false
"""


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two configurations and, below ``out``, one finished run of each."""
    root = tmp_path_factory.mktemp("cli")
    for name in ("local", "fedavg"):
        (root / f"tiny-{name}.toml").write_text(CONFIG.format(name=name))
        assert call("run", root / f"tiny-{name}.toml", "--output", root / "out").exit_code == 0
    return root


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """The finished run folder of ``local``."""
    return next((place / "out" / "tiny-local").iterdir())


def test_no_command_shows_the_commands() -> None:
    result = call()
    for command in ("run", "resume", "runs", "report", "compare", "list", "doctor", "demo"):
        assert command in result.output


# ----- run and resume --------------------------------------------------------------------------------------------------
def test_run_prints_one_line_per_seed(place: Path, tmp_path: Path) -> None:
    result = call("run", place / "tiny-local.toml", "--output", tmp_path, "--seeds", "0,1", "--set", "num-server-rounds=1")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stdout.splitlines() if "accuracy" in line]
    assert len(said) == 2
    assert said[1].startswith("Tiny local, seed 1: accuracy ")


def test_run_as_json_is_json_alone(place: Path, tmp_path: Path) -> None:
    sets = ("--set", "num-server-rounds=1", "--set", 'method.args=""', "--set", "seed=4")
    result = call("run", place / "tiny-local.toml", "--output", tmp_path, "--format", "json", *sets)
    got = parsed(result)
    assert (got["exit_code"], got["reason"]) == (0, "")
    assert got["summaries"][0]["rounds"] == 1
    assert got["summaries"][0]["seed"] == 4
    assert Path(got["folders"][0]).is_dir()


def test_json_stays_json_where_the_report_cannot_be_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedkd.report

    def broken(*_: Any) -> Path:
        raise RuntimeError("no page today")

    monkeypatch.setattr(fedkd.report, "build", broken)
    sets = ("--set", "num-server-rounds=1", "--set", "report=true")
    result = call("run", place / "tiny-local.toml", "--output", tmp_path, "--format", "json", *sets)
    assert parsed(result)["exit_code"] == 0, "a report error fails nothing"
    assert "report not written: RuntimeError: no page today" in result.stderr


def test_a_finished_folder_is_refused_and_overwrite_replaces_it(place: Path, finished: Path) -> None:
    before = final_hash(finished)
    again = call("run", place / "tiny-local.toml", "--output", place / "out")
    assert again.exit_code == 2
    assert "holds a finished run; use --overwrite to replace it, or another --output (grid" in again.stderr
    assert call("run", place / "tiny-local.toml", "--output", place / "out", "--overwrite").exit_code == 0
    assert final_hash(finished) == before


def test_an_unfinished_run_names_resume_and_resume_finishes_it(
    place: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1:0")
    failed = call("run", place / "tiny-local.toml", "--output", tmp_path)
    assert failed.exit_code == 1
    monkeypatch.delenv("FEDKD_FAULT")
    (folder,) = (tmp_path / "tiny-local").iterdir()
    assert f"python -m simulations resume {folder}" in failed.stderr
    refused = call("run", place / "tiny-local.toml", "--output", tmp_path)
    assert refused.exit_code == 2
    assert f"python -m simulations resume {folder}" in refused.stderr
    resumed = call("resume", folder, "--format", "json")
    assert parsed(resumed)["summaries"][0]["resumed_at"] == 1
    assert final_hash(folder) == final_hash(finished)


def test_resume_of_a_finished_run_says_so_and_changes_nothing(finished: Path) -> None:
    before = (finished / "rounds.jsonl").read_bytes()
    again = call("resume", finished)
    assert again.exit_code == 0
    assert "had finished before; nothing is run again" in again.stdout.replace("\n", " ")
    assert (finished / "rounds.jsonl").read_bytes() == before


def test_resume_refuses_what_is_no_run(tmp_path: Path, finished: Path) -> None:
    result = call("resume", tmp_path)
    assert result.exit_code == 2
    assert "is not a run folder: it has no config.toml" in result.stderr
    (tmp_path / "config.toml").write_text('"seed" = 0\n"num-cli')
    damaged = call("resume", tmp_path)
    assert damaged.exit_code == 2
    assert "config.toml is damaged" in damaged.stderr
    other = call("resume", finished, "--set", "learning-rate=0.5")
    assert other.exit_code == 2
    assert "holds no run to resume" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "num-rounds=3"), "unknown key 'num-rounds'; valid keys: "),
        (("--set", "seed"), "write key=value"),
        (("--grid", "ray-cluster"), "valid grids: inprocess, flower, ray"),
        (("--ray-address", "head:6379"), "--ray-address names a cluster for --grid ray"),
        (("--grid", "ray", "--ray-address", "ray://head"), "valid: host:port of the cluster's head"),
        (("--workers", "3"), "raise num-nodes"),
        (("--seeds", "1,1"), "names a seed twice"),
        (("--output", "relative"), "is not absolute"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(place: Path, arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = call("run", place / "tiny-local.toml", "--output", tmp_path, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not any(tmp_path.rglob("*.jsonl"))


# ----- runs, report, compare -------------------------------------------------------------------------------------------
def test_runs_lists_finished_failed_and_unfinished_runs(
    place: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, files in {
        "good": {"summary.json": json.dumps({"status": "completed", "label": "L", "accuracy_mean": 0.5})},
        "bad": {"status.json": json.dumps({"exit_code": 1, "reason": "RunError: it broke"})},
        "cut": {},
    }.items():
        (tmp_path / "c" / name).mkdir(parents=True)
        (tmp_path / "c" / name / "config.toml").write_text("")
        for file, text in files.items():
            (tmp_path / "c" / name / file).write_text(text)
    rows = {Path(r["folder"]).name: r for r in parsed(call("runs", "--output", tmp_path, "--format", "json"))}
    assert {n: r["status"] for n, r in rows.items()} == {"good": "completed", "bad": "failed", "cut": "unfinished"}
    assert rows["good"]["accuracy_mean"] == 0.5
    assert rows["bad"]["reason"] == "RunError: it broke"
    monkeypatch.setenv("FEDKD_OUTPUT", str(place / "out"))
    listed = parsed(call("runs", "--format", "json"))
    assert str(finished) in [r["folder"] for r in listed]
    assert call("runs", "--output", tmp_path / "nothing").exit_code == 0


def test_report_writes_the_page_and_refuses_other_folders(finished: Path, tmp_path: Path) -> None:
    result = call("report", finished)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(finished / "report.html")
    assert "Tiny local" in (finished / "report.html").read_text()
    assert call("report", tmp_path).exit_code == 2


def test_compare_runs_what_is_missing_and_ends_with_a_table(place: Path) -> None:
    configs = [place / "tiny-local.toml", place / "tiny-fedavg.toml"]
    before = {p: p.stat().st_mtime_ns for p in (place / "out").glob("*/*/summary.json")}
    result = call("compare", *configs, "--seeds", "0,1", "--output", place / "out", "--format", "json")
    assert result.exit_code == 0, result.output
    table = parsed(result)
    assert "Tiny local" in json.dumps(table)
    assert "Tiny fedavg" in json.dumps(table)
    after = {p: p.stat().st_mtime_ns for p in (place / "out").glob("*/*/summary.json")}
    assert len(after) == 4
    assert {p: after[p] for p in before} == before, "a finished run was run again"


def test_on_ray_compare_starts_everything_that_is_missing_at_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def instead(experiment: Any, grid: str, ray_address: str) -> Any:
        started.append(([(r.label, r.seed) for r in experiment.runs()], grid, ray_address))
        return execute(experiment, "inprocess")

    monkeypatch.setattr(compare, "execute", instead)
    configs = [place / "tiny-local.toml", place / "tiny-fedavg.toml"]
    arguments = ("--seeds", "0,1", "--output", tmp_path, "--grid", "ray", "--ray-address", "head:6379", "--format", "json")
    result = call("compare", *configs, *arguments)
    assert result.exit_code == 0, result.output
    rows = [(label, seed) for label in ("Tiny local", "Tiny fedavg") for seed in (0, 1)]
    assert started == [(rows, "ray", "head:6379")]
    assert len(list(tmp_path.glob("*/*/summary.json"))) == 4


def test_compare_ends_with_one_line_where_a_run_fails(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:0:0")
    result = call("compare", place / "tiny-local.toml", "--seeds", "0", "--output", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: tiny-local.toml, seed 0: 1 of 3 clients failed")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("command", "work"),
    [("compare", "compare.compare_configs"), ("audit", "audit.audit_paths"), ("shadows", "shadows.train")],
)
@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        (RunError("disk full"), 1, "error: disk full"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on where it was"),
        (KeyboardInterrupt("resume FOLDER"), 130, "resume FOLDER"),
    ],
)
def test_work_that_stops_ends_with_one_line(
    command: str, work: str, end: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **more: Any) -> None:
        raise end

    monkeypatch.setattr(f"simulations.{work}", stop)
    result = call(command, "any.toml")
    assert (result.exit_code, result.stderr) == (code, f"{line}\n")


# ----- list and doctor -------------------------------------------------------------------------------------------------
def test_list_names_every_plugin_with_its_fields() -> None:
    rows = parsed(call("list", "--format", "json"))
    assert {(r["slot"], r["name"]) for r in rows} == {(s, n) for s in plugins.SLOTS for n in plugins.available(s)}
    fields = {r["field"]: r for r in rows if r["slot"] == "losses" and r["name"] == "kl" and r["field"]}
    assert fields["temperature"]["default"]
    assert fields["temperature"]["meaning"]
    assert all(r["meaning"] for r in rows)


def test_list_of_one_slot_and_of_none() -> None:
    assert "cnn_small" in call("list", "models").stdout
    refused = call("list", "optimizers")
    assert refused.exit_code == 2
    assert "slots: methods, losses" in refused.stderr


def test_doctor_exits_1_where_something_needs_fixing(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    result = call("doctor", place / "tiny-local.toml", "--set", f'output="{tmp_path}"', "--format", "json")
    findings = {f["check"]: f for f in parsed(result)}
    assert result.exit_code == 1
    assert findings["RAY_ADDRESS"] == {
        "check": "RAY_ADDRESS", "ok": False, "detail": "somewhere", "fix": "unset RAY_ADDRESS"
    }  # fmt: skip
    assert findings["configuration"]["ok"]
    text = call("doctor")
    assert "unset RAY_ADDRESS" in text.stdout


def test_fetch_hands_its_names_and_folder_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simulations import fetch

    monkeypatch.setitem(fetch.FETCHERS, "fashion_mnist", lambda root: root / "images")
    result = call("fetch", "fashion_mnist", "--root", tmp_path)
    assert result.exit_code == 0
    assert result.stdout == f"fashion_mnist: {tmp_path / 'images'}\n"
    assert call("fetch", "nothing").exit_code == 2
