"""A Ray cluster by its address: two nodes on this machine, behind a token; one of them is killed, or sees another disk."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulations.checks import _kill_tree
from simulations.grids.flower import free_port
from simulations.run import DONE, USAGE, execute, load
from tests.small_runs import ROOT, final_hash, lines

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

CONFIG = ROOT / "configs" / "check.toml"
SMALL = ["num-server-rounds=3", "num-clients=6", "fraction-train=1.0", "max-samples=300", "local-epochs=12", "report=false"]
RAY = Path(sys.executable).parent / "ray"

Cluster = SimpleNamespace


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with one CPU; ``add`` starts another node with one, ``end`` kills it as a power cut would."""
    temp, port = Path(tempfile.mkdtemp(prefix="fedkd-ray-", dir="/tmp")), free_port()
    dropped = ("RAY_ADDRESS", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    common = [str(RAY), "start", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--block"]
    nodes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, inside: str = "") -> subprocess.Popen[bytes]:
        command = [*common, *arguments]
        if inside:
            command = ["unshare", "-m", "sh", "-c", f'{inside} && exec "$0" "$@"', *command]
        said = temp / f"start-{len(nodes)}.log"
        with said.open("ab") as log:
            nodes.append(subprocess.Popen(command, cwd=temp, env=environment, stdout=log, stderr=log, start_new_session=True))
        wait_for(lambda: "Ray runtime started" in said.read_text(), nodes[-1])
        return nodes[-1]

    def add(inside: str = "") -> subprocess.Popen[bytes]:
        return start(f"--address=127.0.0.1:{port}", inside=inside)

    try:
        start("--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={temp}", "--include-dashboard=false")
        yield Cluster(address=f"127.0.0.1:{port}", environment=environment, add=add, end=end)
    finally:
        for process in reversed(nodes):
            end(process)
        shutil.rmtree(temp, ignore_errors=True)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _kill_tree(process.pid)
    process.wait()


def wait_for(done: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)


def start(cluster: Cluster, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "simulations", "run", str(CONFIG), "--grid", "ray", "--ray-address", cluster.address]
    command += ["--output", str(output), "--format", "json", *(part for s in SMALL for part in ("--set", s))]
    return subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_node_that_sees_another_disk_is_refused_before_anything_starts(cluster: Cluster, tmp_path: Path) -> None:
    """The second node has an empty file system of its own where the state would lie."""
    output = tmp_path / "out"
    (output / "state").mkdir(parents=True)
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    node = cluster.add(inside=f"mount -t tmpfs tmpfs {output}/state")
    try:
        run = start(cluster, output)
        told = json.loads(run.communicate(timeout=120)[0])
    finally:
        cluster.end(node)
    assert (run.returncode, told["exit_code"]) == (USAGE, USAGE)
    assert f"state-root {output}/state is another folder there; put output (or state-root) on a file system" in told["reason"]
    assert not list(output.glob("check/*")), "a run folder was opened"
    assert not list((output / "state").glob(".seen*"))


def test_a_node_killed_in_the_middle_of_a_round_costs_time_alone(cluster: Cluster, tmp_path: Path) -> None:
    """Two nodes with one CPU each: after the death both cohorts run on the head, with the bits of one process."""
    alone = execute(load(CONFIG, SMALL, output=str(tmp_path / "alone"), workers=1))
    node = cluster.add()
    run = start(cluster, tmp_path / "out")
    state = tmp_path / "out" / "state"
    wait_for(lambda: bool(list(state.glob("check-*/*/1.safetensors"))), run)
    cluster.end(node)
    answer, said = run.communicate(timeout=200)
    told = json.loads(answer)
    assert b"a Ray actor died while it ran its clients" in said
    assert b"one does the work of two" in said
    assert told["exit_code"] == run.returncode == DONE, told["reason"]
    (folder,) = (Path(f) for f in told["folders"])
    assert final_hash(folder) == final_hash(alone.folders[0])
    for name in ("clients", "failures"):
        assert lines(folder, name) == lines(alone.folders[0], name)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["grid"] == "ray"
    assert f"--grid ray --ray-address {cluster.address}" in environment["command"]
