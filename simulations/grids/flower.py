"""``flwr run`` on a private SuperLink: Flower's own simulation engine on a local Ray, with a true exit code.

Flower adopts whatever answers on its port, re-installs dependencies by default and exits 0 when a run failed. So this
wrapper owns the SuperLink (fresh home, free port, empty working folder, own process group), follows the run's status and
believes only our ``status.json``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedkd.config import Experiment
from fedkd.errors import ConfigError, RunError, WaitExpired
from server.run_folder import toml_of

APP = Path(__file__).resolve().parents[2]
"""The folder whose pyproject.toml describes the Flower app."""

PARTS = ("pyproject.toml", "README.md", "LICENSE", "fedkd", "clients", "server", "configs")
"""What of it the bundle is made from."""

CONNECTION = "own"

ASK = 15.0
"""Seconds between two questions to Flower whether a run still lives."""


@dataclass
class SuperLink:
    """A running private SuperLink."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    simulation: bool = True
    """whether it simulates its nodes; False: SuperNodes connect to it"""

    def flwr(self, *arguments: str, seconds: float = 120.0) -> dict[str, Any]:
        """Run one ``flwr`` command with ``--format json`` and return its answer.

        Raises: RunError with the command's own words where it fails.
        """
        command = [tool("flwr"), *arguments, "--format", "json"]
        done = subprocess.run(
            command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=seconds, check=False
        )
        try:
            answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            raise RunError(f"flwr {arguments[0]}: {(done.stderr or done.stdout).strip()[-800:]}") from None
        if done.returncode or answer.get("success") is False:
            raise RunError(f"flwr {arguments[0]}: {answer.get('error-message') or done.stderr.strip()[-800:]}")
        return answer

    def status(self, run: str) -> tuple[str, str]:
        """("running" or "finished:<how>", details) of a run."""
        runs = self.flwr("ls", CONNECTION).get("runs", [])
        mine = [r for r in runs if str(r.get("run-id")) == run]
        return (str(mine[0].get("status", "")), str(mine[0].get("status-details", ""))) if mine else ("", "")

    def log(self, run: str) -> str:
        """What the apps of a run have printed so far."""
        done = subprocess.run(
            [tool("flwr"), "log", run, CONNECTION, "--show"],
            env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr


def tool(name: str) -> str:
    """A command of the environment that runs us. Raises: ConfigError where Flower's commands are not installed."""
    path = Path(sys.executable).parent / name
    found = str(path) if path.exists() else shutil.which(name)
    if not found:
        raise ConfigError(f"{name} is not installed; pip install 'flwr[simulation]'")
    return found


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def private_environment(home: Path) -> dict[str, str]:
    """The variables that a private SuperLink and every ``flwr`` command beside it need."""
    dropped = ("RAY_ADDRESS", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    environment |= {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return environment


@contextlib.contextmanager
def superlink(
    *, simulation: bool = True, port: int = 0, wait: float = 60.0, extra: Mapping[str, str] | None = None
) -> Iterator[SuperLink]:
    """A private SuperLink for the time of the block; nothing of it is left afterwards.

    Args:
        port: 0 finds a free one (three attempts); a port given by the user is taken as it is.

    Raises: ConfigError where the given port is in use; WaitExpired where it does not come up.
    """
    if port and (reason := _unusable(port)):
        raise ConfigError(f"port {port} {reason}; choose another one, or 0 for any free port")
    home = Path(tempfile.mkdtemp(prefix="fedkd-flwr-"))
    home.chmod(0o700)
    empty = home / "empty"
    empty.mkdir()
    environment = {**private_environment(home), **(extra or {})}
    process: subprocess.Popen[bytes] | None = None
    try:
        for _ in range(1 if port else 3):
            chosen = port or free_port()
            process = _start(home, empty, chosen, environment, simulation)
            if _ready(process, chosen, wait):
                break
            stop(process)
        else:
            raise WaitExpired(f"the SuperLink did not come up within {wait:g} s: {_tail(home / 'superlink.log')}")
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{chosen}"\ninsecure = true\n'
        )
        yield SuperLink(home, chosen, process, environment, simulation)
    finally:
        if process is not None:
            stop(process)
        shutil.rmtree(home, ignore_errors=True)


def staged_app(home: Path) -> Path:
    """A copy of the app without what lies beside it in a checkout.

    ``flwr run`` looks at every file below the app's folder before it drops what does not belong: 50,000 files and 10 s of
    a core where a virtual environment lies there.
    """
    target = home / "fedkd"
    target.mkdir(exist_ok=True)
    for part in PARTS:
        source = APP / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(source, target / part)
    return target


def submit(link: SuperLink, experiment: Experiment) -> str:
    """Start a run of our app with this experiment and return Flower's run id. Raises: RunError."""
    config = link.home / "run.toml"
    config.write_text(toml_of(experiment.to_run_config()), encoding="utf-8")
    federation = (
        f"num-supernodes={experiment.num_nodes} client-resources-num-cpus={experiment.cpus_per_worker:g} "
        f"client-resources-num-gpus={experiment.gpus_per_worker:g} "
        f"init-args-num-cpus={max(1, round(experiment.workers * experiment.cpus_per_worker))}"
    )
    resources = ["--federation-config", federation] if link.simulation else []
    answer = link.flwr("run", str(staged_app(link.home)), CONNECTION, "-c", str(config), *resources)
    return str(answer["run-id"])


def follow(link: SuperLink, run: str, ended: Callable[[], bool], seconds: float) -> str:
    """Wait until our own files say that the run has ended, or Flower says so, and return Flower's last word.

    Flower is asked every ``ASK`` seconds only: each question starts a process that imports all of Flower.

    Args:
        ended: whether every run folder has its ``status.json``.

    Raises: WaitExpired after ``seconds``; RunError where the SuperLink itself ends.
    """
    start = asked = time.monotonic()
    while not ended():
        now = time.monotonic()
        if link.process.poll() is not None:
            raise RunError(
                f"the SuperLink ended with exit code {link.process.returncode}: {_tail(link.home / 'superlink.log')}"
            )
        if now - start > seconds:
            raise WaitExpired(f"the Flower run did not end within {seconds:g} s")
        if now - asked > ASK:
            status, details = link.status(run)
            asked = time.monotonic()
            if status.startswith("finished"):
                return f"{status} {details}".strip()
        time.sleep(0.1)
    return ""


def _start(home: Path, empty: Path, port: int, environment: dict[str, str], simulation: bool) -> subprocess.Popen[bytes]:
    command = [
        tool("flower-superlink"),
        "--insecure",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--database",
        str(home / "state.db"),
    ]
    command += ["--simulation"] if simulation else []
    with (home / "superlink.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, cwd=empty, stdout=log, stderr=log, start_new_session=True)


def _unusable(port: int) -> str:
    """Why nothing can listen on a port of loopback, or "". A connection that is still closing is no reason."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    return ""


def _ready(process: subprocess.Popen[bytes], port: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return process.poll() is None
        except OSError:
            time.sleep(0.1)
    return False


def stop(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """SIGTERM to the process group, SIGKILL after ``patience`` seconds, and to whatever it started outside the group.

    Flower starts its app processes in sessions of their own: the tree is noted before its root is gone.
    """
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    for child in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            process.wait(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            continue
    for survivor in _wait_for_end(tree, 3.0):
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()
    _wait_for_end(tree, 5.0)


def _wait_for_end(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after at most ``seconds``. A zombie has ended: in a container nobody may ever collect it."""
    deadline = time.monotonic() + seconds
    while True:
        alive = [p for p in processes if _runs(p)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _tail(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-800:]
    except OSError:
        return ""
