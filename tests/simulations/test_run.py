"""The run wrapper: how a configuration is loaded, and that every end has its true exit code."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedkd.errors import ConfigError, RunError, WaitExpired
from server import strategy
from simulations import run as runs
from simulations.grids import flower
from simulations.grids.inprocess import InProcessGrid
from simulations.run import Outcome, execute, folders_of, load, read_status
from tests.small_runs import final_hash, lines, small, status

CONFIG = """\
num-server-rounds = 2
num-clients = 3
method.name = "local"
model.name = "mlp"
model.args = "hidden = [8]"
max-samples = 150
report = false
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG)
    return path


# ----- load ------------------------------------------------------------------------------------------------------------
def test_settings_and_overrides_win_in_this_order(config: Path, tmp_path: Path) -> None:
    sets = ["num-server-rounds=5", "method.args=", "label=a word", 'model.args="hidden = [4]"', "report = true", "seed=3"]
    e = load(config, sets, output=str(tmp_path), seed=7, workers=None)
    assert (e.name, e.num_server_rounds, e.label, e.model_args, e.report, e.seed) == (
        "tiny",
        5,
        "a word",
        "hidden = [4]",
        True,
        7,
    )
    assert e.workers == 2
    assert e.command.startswith(f"python -m simulations run {config} --set num-server-rounds=5")


def test_the_output_folder_is_given_by_the_environment_or_the_working_folder(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDKD_OUTPUT", raising=False)
    assert load(config).output == str(tmp_path / "runs")
    monkeypatch.setenv("FEDKD_OUTPUT", "/somewhere")
    assert load(config).output == "/somewhere"
    assert load(config, output="/else").output == "/else"
    with pytest.raises(ConfigError, match=rf"not absolute; e\.g\. --output {tmp_path}/here"):
        load(config, output="here")


@pytest.mark.parametrize(
    ("setting", "said"),
    [("seed", "write key=value"), ("sed=1", "unknown key 'sed'"), ("seed=x", "expected int"), ("workers=0", "at least 1")],
)
def test_a_wrong_setting_is_refused(config: Path, setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(config, [setting])


def test_provenance_is_the_commit_of_the_sources() -> None:
    said = runs.provenance()
    assert said == "" or len(said.removesuffix("+dirty")) == 40


# ----- exit codes ------------------------------------------------------------------------------------------------------
def test_0_done(config: Path, tmp_path: Path) -> None:
    experiment = load(config, output=str(tmp_path / "out"), seeds="0,1", workers=1)
    outcome = execute(experiment)
    assert (outcome.code, outcome.reason) == (0, "")
    assert outcome.folders == folders_of(experiment)
    assert [f.name[-2:] for f in outcome.folders] == ["s0", "s1"]
    environment = json.loads((outcome.folders[0] / "environment.json").read_text())
    assert environment["command"] == f"python -m simulations run {config} --grid inprocess --seed 0"
    assert environment["grid"] == "inprocess"


def test_1_failed_with_the_line_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1:0")
    outcome = execute(small(tmp_path))
    (folder,) = outcome.folders
    assert outcome.code == 1
    assert outcome.reason.startswith("1 of 3 clients failed (on-failure = abort). First: client 0, round 2: RuntimeError")
    assert outcome.reason.endswith(f"; go on with: python -m simulations resume {folder}")
    assert read_status(folder)[0] == 1


def test_1_for_an_error_that_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(strategy, "write_commit", broken)
    outcome = execute(small(tmp_path))
    assert outcome.code == 1
    assert outcome.reason.startswith("division by zero; go on with")
    assert "Traceback" in capsys.readouterr().err
    assert read_status(outcome.folders[0]) == (1, "ZeroDivisionError: division by zero")


def test_3_finished_with_failures_above_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1:0")
    assert execute(small(tmp_path / "a", on_failure="skip")).code == 3
    assert execute(small(tmp_path / "b", on_failure="skip", max_failures=1)).code == 0


def test_4_a_bounded_wait_ran_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InProcessGrid, "get_node_ids", lambda self: [1])
    outcome = execute(small(tmp_path, node_wait_s=0.2))
    assert (outcome.code, outcome.reason) == (4, "1 of 2 nodes came within node-wait-s = 0.2")
    assert read_status(outcome.folders[0])[0] == 4


def test_130_interrupted_and_the_printed_line_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = strategy.write_commit

    def interrupted(folder: Path, commit: Any) -> None:
        if commit.round == 1:
            raise KeyboardInterrupt
        real(folder, commit)

    monkeypatch.setattr(strategy, "write_commit", interrupted)
    experiment = small(tmp_path)
    outcome = execute(experiment)
    assert outcome.code == 130
    assert outcome.reason == f"interrupted; go on with: python -m simulations resume {outcome.folders[0]}"
    assert status(outcome.folders[0])[0] == 130
    monkeypatch.setattr(strategy, "write_commit", real)
    assert execute(replace(experiment, resume=True)).code == 0
    plain = execute(small(tmp_path / "plain")).folders[0]
    assert final_hash(outcome.folders[0]) == final_hash(plain)
    assert lines(outcome.folders[0], "clients") == lines(plain, "clients")


def test_several_seeds_end_with_the_worst_of_their_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:0:0")
    monkeypatch.setenv("FEDKD_FAULT_ONCE", str(tmp_path / "fired"))
    outcome = execute(small(tmp_path, on_failure="skip", seeds="0,1"))
    assert [read_status(f)[0] for f in outcome.folders] == [3, 0]
    assert outcome.code == 3


def test_a_missing_or_torn_status_is_a_failure(tmp_path: Path) -> None:
    assert read_status(tmp_path) == (1, f"{tmp_path} has no status.json: the run did not end")
    for text in ("", "{}", '{"exit_code": "x", "reason": ""}'):
        (tmp_path / "status.json").write_text(text)
        assert read_status(tmp_path)[0] == 1


# ----- the wrapper around flwr run -------------------------------------------------------------------------------------
@pytest.fixture
def fake_flower(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Flower replaced by a script: each start takes the next entry: per run folder (exit code, reason, committed round) or
    None for a run that did not begin; one such tuple stands for the first folder."""

    def install(script: list[Any], folders: list[Path]) -> list[Any]:
        seen: list[Any] = []
        committed = [-1]

        @contextmanager
        def link(**_: Any) -> Iterator[Any]:
            yield SimpleNamespace(log=lambda run: "the log")

        def submit(_: Any, experiment: Any) -> str:
            seen.append(experiment)
            return "1"

        def follow(*_: Any) -> str:
            entry = script[len(seen) - 1]
            if entry is None:
                return "finished:completed"
            for folder, ended in zip(folders, entry if isinstance(entry, list) else [entry], strict=False):
                if ended is not None:
                    code, reason, committed[0] = ended
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "config.toml").touch()
                    (folder / "status.json").write_text(json.dumps({"exit_code": code, "reason": reason}))
            return ""

        monkeypatch.setattr(flower, "superlink", link)
        monkeypatch.setattr(flower, "submit", submit)
        monkeypatch.setattr(flower, "follow", follow)
        monkeypatch.setattr(runs, "_progress", lambda folders: list(committed))
        return seen

    return install


def on_flower(tmp_path: Path, fake: Callable[..., list[Any]], script: list[Any]) -> tuple[Outcome, list[Any]]:
    experiment = small(tmp_path)
    seen = fake(script, folders_of(experiment))
    return execute(experiment, "flower"), seen


LOST = "WorkerLost: node 2, round 3: ActorDiedError"


def test_flower_is_believed_only_where_our_own_status_says_so(tmp_path: Path, fake_flower: Any) -> None:
    outcome, seen = on_flower(tmp_path, fake_flower, [None])
    assert outcome.code == 1
    assert "has no status.json" in outcome.reason
    assert "finished:completed" in outcome.reason
    assert "the log" in outcome.reason
    assert len(seen) == 1


@pytest.mark.parametrize(("code", "reason"), [(0, ""), (3, "RunError: 1 client-rounds failed")])
def test_a_run_on_flower_ends_with_the_code_of_its_status(tmp_path: Path, fake_flower: Any, code: int, reason: str) -> None:
    outcome, seen = on_flower(tmp_path, fake_flower, [(code, reason, 2)])
    assert (outcome.code, outcome.reason) == (code, reason)
    assert seen[0].trusted
    assert not seen[0].resume


def test_a_dead_actor_is_resumed_from_the_last_commit(tmp_path: Path, fake_flower: Any) -> None:
    outcome, seen = on_flower(tmp_path, fake_flower, [(1, LOST, 1), (1, LOST, 1), (1, LOST, 2), (0, "", 2)])
    assert outcome.code == 0
    assert [e.resume for e in seen] == [False, True, True, True]


def test_of_several_runs_in_one_start_only_what_is_left_goes_on(tmp_path: Path, fake_flower: Any) -> None:
    experiment = small(tmp_path, seeds="0,1,2")
    done, lost = (0, "", 2), (1, LOST, 1)
    seen = fake_flower([[done, lost, None], [None, done, done]], folders_of(experiment))
    assert execute(experiment, "flower").code == 0
    assert [[(r.seed, r.resume) for r in e.runs()] for e in seen] == [
        [(0, False), (1, False), (2, False)],
        [(1, True), (2, False)],
    ]


def test_resumes_without_a_new_commit_are_bounded(tmp_path: Path, fake_flower: Any) -> None:
    outcome, seen = on_flower(tmp_path, fake_flower, [(1, LOST, -1)] * 10)
    assert outcome.code == 1
    assert LOST in outcome.reason
    assert len(seen) == 1 + runs.RESUMES


def test_another_failure_on_flower_is_not_tried_again(tmp_path: Path, fake_flower: Any) -> None:
    outcome, seen = on_flower(tmp_path, fake_flower, [(1, "RunError: 1 of 3 clients failed", 0)])
    assert outcome.code == 1
    assert len(seen) == 1
    outcome, _ = on_flower(tmp_path / "b", fake_flower, [(4, "WaitExpired: 1 of 2 nodes came", -1)])
    assert (outcome.code, outcome.reason) == (4, "WaitExpired: 1 of 2 nodes came")


class Link:
    """A SuperLink whose run has the given status."""

    def __init__(self, home: Path, status: str = "running", code: int | None = None) -> None:
        self.home, self.said, self.asked = home, status, 0
        self.process = SimpleNamespace(poll=lambda: code, returncode=code)

    def status(self, run: str) -> tuple[str, str]:
        self.asked += 1
        return self.said, "details"


def test_following_a_run_is_bounded_and_ends_with_the_superlink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "ASK", 0.0)
    follow: Any = flower.follow
    assert follow(Link(tmp_path), "1", lambda: True, 5.0) == ""
    with pytest.raises(WaitExpired, match=r"did not end within 0\.15 s"):
        follow(Link(tmp_path), "1", lambda: False, 0.15)
    (tmp_path / "superlink.log").write_text("it said this")
    with pytest.raises(RunError, match=r"SuperLink ended with exit code 3: it said this"):
        follow(Link(tmp_path, code=3), "1", lambda: False, 5.0)
    assert follow(Link(tmp_path, "finished:failed"), "1", lambda: False, 5.0) == "finished:failed details"


def test_the_private_environment_keeps_flower_and_ray_to_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = flower.private_environment(tmp_path)
    assert not {"RAY_ADDRESS", "PYTHONPATH"} & set(environment)
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", flower.free_port()))


def test_a_missing_command_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(flower.tool("flwr")).name == "flwr"
    with pytest.raises(ConfigError, match=r"pip install 'flwr\[simulation\]'"):
        flower.tool("no-such-command")
