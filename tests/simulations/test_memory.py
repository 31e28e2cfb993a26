"""A long run over a large population keeps its memory: 1,000 clients, 100 a round, 30 rounds.

Proportional set size (each shared page counted once, split over its users) of the command and all its descendants, read
when a round has ended: the median of rounds 27-29 against that of rounds 3-5.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.small_runs import lines, status

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """\
num-server-rounds = 30
num-clients = 1000
fraction-train = 0.1
method.name = "fedd2s"
model.name = "mlp"
model.args = "hidden = [32, 32]"
data.name = "synthetic"
data.args = "samples_per_client = 30"
report = false
"""


def proportional_set_size(root: psutil.Process) -> int:
    """Bytes over a process and its descendants; one that ends meanwhile counts nothing."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def sizes_by_round(command: list[str], output: Path, seconds: float) -> tuple[list[int], str]:
    """Run a command and read the size whenever ``rounds.jsonl`` has a new line."""
    sizes: list[int] = []
    deadline = time.monotonic() + seconds
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (output / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        root = psutil.Process(process.pid)
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline, f"not finished within {seconds} s, {len(sizes)} rounds seen"
                done = sum(p.read_bytes().count(b"\n") for p in output.glob("*/*/rounds.jsonl"))
                if done > len(sizes):
                    sizes += [proportional_set_size(root)] * (done - len(sizes))
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
    return sizes, (output / "said").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("grid", ["inprocess", pytest.param("flower", marks=pytest.mark.ray)])
def test_memory_does_not_grow_with_rounds(tmp_path: Path, grid: str) -> None:
    (tmp_path / "large.toml").write_text(CONFIG)
    output = tmp_path / "out"
    output.mkdir()
    config = str(tmp_path / "large.toml")
    command = [sys.executable, "-m", "simulations", "run", config, "--grid", grid, "--output", str(output)]
    sizes, said = sizes_by_round(command, output, 850)
    (folder,) = output.glob("large/*")
    assert status(folder) == (0, ""), said[-2000:]
    assert [r["clients_trained"] for r in lines(folder, "rounds")] == [100] * 30
    assert len(sizes) >= 30
    early, late = statistics.median(sizes[3:6]), statistics.median(sizes[27:30])
    said = f"{grid}: {early / 2**20:.1f} MiB in rounds 3-5, {late / 2**20:.1f} in 27-29; all: {[v >> 20 for v in sizes]}"
    print(said)
    assert early > 100 * 2**20, "the processes that train were not seen"
    assert late <= 1.02 * early + 8 * 2**20, said
