"""The same apps on a SuperLink with two SuperNodes on loopback: the same final hash as in process.

Insecure by design, on 127.0.0.1 only: a test helper, not a deployment guide (SECURITY.md).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedkd.prepare import prepare
from simulations.grids.flower import SuperLink, follow, free_port, stop, submit, superlink, tool
from simulations.run import execute, folders_of, load, read_status

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "check.toml"
SMALL = ["num-server-rounds=3", "num-clients=4", "fraction-train=1.0", "max-samples=160", "report=false"]


@contextlib.contextmanager
def supernode(link: SuperLink, clients: str, data: Path, state_root: Path) -> Iterator[None]:
    """A SuperNode that holds the given clients; ended by its own process group."""
    command = [tool("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{link.port}", "--max-retries", "5"]
    command += ["--port", str(free_port()), "--node-config", f'clients="{clients}" data="{data}" state-root="{state_root}"']
    with (link.home / f"node-{clients[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=link.environment, cwd=link.home / "empty", stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        stop(process, patience=10.0)


@pytest.mark.deploy
@pytest.mark.timeout(420)
def test_two_supernodes_on_loopback_equal_in_process(tmp_path: Path) -> None:
    """4 clients, 3 rounds; each node has its own state root and only its clients' ids."""
    local = execute(load(CONFIG, SMALL, output=str(tmp_path / "local")), "inprocess")
    assert local.code == 0, local.reason

    experiment = load(CONFIG, SMALL, output=str(tmp_path / "deployed"), num_nodes=2)
    data = prepare(experiment, tmp_path / "node-data")
    folder = folders_of(experiment)[0]
    with superlink(simulation=False) as link, contextlib.ExitStack() as nodes:
        for number, clients in enumerate(("0,3", "1,2")):
            nodes.enter_context(supernode(link, clients, data, tmp_path / f"state-{number}"))
        run = submit(link, replace(experiment, trusted=True))
        follow(link, run, lambda: (folder / "status.json").exists(), 360)
        assert read_status(folder)[0] == 0, read_status(folder)[1] + link.log(run)[-2000:]

    def final(place: Path) -> str:
        return str(json.loads((place / "summary.json").read_text())["final_state_sha256"])

    assert final(folder) == final(local.folders[0])
    assert sorted(p.name for p in (tmp_path / "state-0").glob("*/*")) == ["0", "3"]
