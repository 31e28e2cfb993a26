"""The grid on Ray actors: the bits of one process for any number of actors and after their deaths; nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from simulations.grids.ray_runtime import Need, connected
from simulations.run import DONE, EXPIRED, INTERRUPTED, WITH_FAILURES, execute
from tests.small_runs import ROOT, final_hash, lines, run, small

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

METHOD = {"method_name": "fedd2s", "num_server_rounds": 2, "num_clients": 4, "max_samples": 200}


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One private Ray for the tests of this module; nothing of it is left."""
    before = left_of_ray()
    with connected("", Need(), 2):
        yield
    assert left_of_ray() == before


def left_of_ray() -> set[str]:
    """Ray's processes among our descendants, private folders, and the file that makes flwr run hang."""
    names = {f"{p.pid} {p.name()}" for p in psutil.Process().children(recursive=True) if "ray" in p.name() or "gcs" in p.name()}
    marker = Path("/tmp/ray/ray_current_cluster")
    return names | ({str(marker)} if marker.exists() else set())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small(tmp_path_factory.mktemp("alone"), **METHOD))


@pytest.mark.usefixtures("one_ray")
def test_two_actors_with_five_nodes_give_the_bits_of_one_process(tmp_path: Path, alone: Path) -> None:
    outcome = execute(small(tmp_path, workers=2, num_nodes=5, **METHOD), "ray")
    assert outcome.code == DONE, outcome.reason
    (folder,) = outcome.folders
    assert final_hash(folder) == final_hash(alone)
    assert lines(folder, "clients") == lines(alone, "clients")
    assert json.loads((folder / "environment.json").read_text())["grid"] == "ray"


@pytest.mark.usefixtures("one_ray")
def test_an_actor_that_dies_within_its_cohort_costs_time_alone(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKD_FAULT", "client-written:1:1")
    monkeypatch.setenv("FEDKD_FAULT_ONCE", str(tmp_path / "fired"))
    outcome = execute(small(tmp_path, workers=2, **METHOD), "ray")
    assert outcome.code == DONE, outcome.reason
    assert (tmp_path / "fired").exists(), "no actor was killed"
    (folder,) = outcome.folders
    assert final_hash(folder) == final_hash(alone)
    for name in ("rounds", "clients", "failures"):
        assert lines(folder, name) == lines(alone, name)


@pytest.mark.usefixtures("one_ray")
def test_three_deaths_on_one_cohort_are_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Client 1 kills its actor each time: the cohort of its node fails in round 2, the other one does not."""
    monkeypatch.setenv("FEDKD_FAULT", "client-written:1:1")
    skipping = {"on_failure": "skip", "min_replies": 0.1}
    outcome = execute(small(tmp_path, workers=2, **{**METHOD, **skipping}), "ray")
    assert outcome.code == WITH_FAILURES, outcome.reason
    failures = lines(outcome.folders[0], "failures")
    assert 1 in {f["client"] for f in failures} < {0, 1, 2, 3}
    assert {f["error"] for f in failures} == {"FlowerError5"}
    assert failures[0]["message"].startswith("Ray actor ended 3 times (ActorDiedError: ")
    said = capfd.readouterr()
    assert said.out == "", "Ray wrote where a command's JSON goes"
    assert said.err.count("a Ray actor died while it ran its clients (ActorDiedError: ") == 3


@pytest.mark.usefixtures("one_ray")
def test_an_actor_that_cannot_start_in_time_is_exit_code_4(tmp_path: Path) -> None:
    outcome = execute(small(tmp_path, workers=2, node_wait_s=0.01), "ray")
    assert outcome.code == EXPIRED
    assert "Ray actors started within node-wait-s = 0.01" in outcome.reason


@pytest.mark.usefixtures("one_ray")
def test_more_workers_than_fit_are_refused(tmp_path: Path) -> None:
    outcome = execute(small(tmp_path, workers=3, num_nodes=3), "ray")
    assert outcome.code == 2
    assert outcome.reason == "3 workers of 1 CPUs and 0 GPUs: this machine has room for 2; use workers = 2"


@pytest.mark.usefixtures("one_ray")
def test_a_private_ray_listens_on_loopback_alone() -> None:
    listening: set[str] = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            listening |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


CONFIG = """
num-server-rounds = 400
num-clients = 4
max-samples = 200
model.name = "mlp"
model.args = "hidden = [8]"
report = false
"""


def begun(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run in a process group of its own that has committed a round, and every process that it started."""
    (tmp_path / "long.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "simulations", "run", str(tmp_path / "long.toml"), "--grid", "ray"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path)], cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("long/*/checkpoints/*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, psutil.Process(process.pid).children(recursive=True)


def test_an_interrupted_run_says_how_to_go_on_and_leaves_nothing_of_ray(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group of processes. RAY_ADDRESS, where no Ray is, counts for nothing."""
    before = set(Path("/tmp").glob("fedkd-ray-*"))
    process, started = begun(tmp_path)
    tokens = {p.environ().get("RAY_AUTH_TOKEN", "") for p in started if p.name() in ("gcs_server", "raylet")}
    assert len(tokens) == 1 and len(tokens.pop()) == 64
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED, said
    assert "interrupted; go on with: python -m simulations resume" in said
    alive = psutil.wait_procs(started, timeout=30)[1]
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert not set(Path("/tmp").glob("fedkd-ray-*")) - before
