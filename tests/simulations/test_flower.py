"""What goes wrong on Flower's grid ends with a true exit code: Flower itself would say 0 (specs: Flower, section 5)."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from simulations.grids.flower import private_environment, superlink
from simulations.run import FAILED, USAGE, WITH_FAILURES, execute, load

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "check.toml"
SMALL = ["num-server-rounds=3", "num-clients=4", "fraction-train=1.0", "max-samples=160", "report=false"]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_a_raising_client_aborts_with_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "raise:1:2")
    outcome = execute(load(CONFIG, SMALL, output=str(tmp_path)), "flower")
    assert outcome.code == FAILED
    assert "client 2" in outcome.reason and "resume" in outcome.reason
    status = json.loads((outcome.folders[0] / "status.json").read_text())
    assert status["exit_code"] == FAILED


def test_a_skipped_client_is_counted_and_gives_exit_code_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "nan:1:2")
    outcome = execute(load(CONFIG, [*SMALL, "on-failure=skip"], output=str(tmp_path)), "flower")
    assert outcome.code == WITH_FAILURES, outcome.reason
    failures = (outcome.folders[0] / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["client"] for line in failures] == [2]


def test_a_dead_actor_ends_the_flower_run_and_the_wrapper_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor dies once, after a client wrote its state: the resumed run has the undisturbed run's hash."""
    undisturbed = execute(load(CONFIG, SMALL, output=str(tmp_path / "a")), "inprocess")
    monkeypatch.setenv("FEDKD_FAULT", "client-written:1:2")
    monkeypatch.setenv("FEDKD_FAULT_ONCE", str(tmp_path / "fired"))
    outcome = execute(load(CONFIG, SMALL, output=str(tmp_path / "b")), "flower")
    assert outcome.code == 0, outcome.reason
    assert (tmp_path / "fired").exists()
    hashes = [json.loads((o.folders[0] / "summary.json").read_text())["final_state_sha256"] for o in (undisturbed, outcome)]
    assert hashes[0] == hashes[1]


def test_a_port_in_use_is_a_usage_error_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = execute(load(CONFIG, SMALL, output=str(tmp_path)), "flower", port=port)
    assert outcome.code == USAGE
    assert str(port) in outcome.reason and "0 for any free port" in outcome.reason


def test_nothing_of_a_private_superlink_is_left(tmp_path: Path) -> None:
    with superlink() as link:
        home, pid = link.home, link.process.pid
        assert (home.stat().st_mode & 0o777) == 0o700
        assert link.flwr("ls", "own")["success"] is True
    assert not home.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_private_environment_never_reuses_the_users_ray_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    environment = private_environment(tmp_path)
    assert "RAY_ADDRESS" not in environment
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
