"""The harness: interleaving, medians, what does not count, and one real visit whose average is compared."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.speed import processes
from benchmarks.speed.systems.catalogue import SYSTEMS
from benchmarks.speed.systems.halves import ends
from benchmarks.speed.visits import Visit, checker, durations, interleaved, summary, visit
from benchmarks.speed.workloads import W3, export


def test_visits_are_interleaved_and_a_slow_start_is_visited_less() -> None:
    a, b = SYSTEMS["loop-1"], SYSTEMS["stock-echo"]
    assert [s.key for s in interleaved([a, b], 2)] == ["loop-1", "stock-echo", "loop-1"]
    assert [s.key for s in interleaved([a, replace(b, visits=9)], 2)] == ["loop-1", "stock-echo"] * 2


def test_the_first_round_and_the_one_for_memory_do_not_count() -> None:
    """Rounds end at 10 (warm-up), 11, 13, 16 (three that count), 26 (memory)."""
    assert durations([10.0, 11.0, 13.0, 16.0, 26.0], 3) == [1.0, 2.0, 3.0]
    assert ends([[1.0, 5.0], [2.0, 4.0]]) == [2.0, 5.0]


def test_median_least_and_largest_by_hand() -> None:
    """Seconds 1, 2 | 4, 5 of 100 clients: median 3 s, so 100/3 a second, from 100/5 to 100/1."""
    visits = [
        Visit("a", [1.0, 2.0], [0.5, 0.5], 7.0, 10, 0.1, 1e-7),
        Visit("a", [4.0, 5.0], [1.5, 1.5], 9.0, 30, 0.4, 2e-7),
        Visit("a", [0.001], [0.0], 0.0, 99, 9.0, 1e-3),
    ]
    row = summary(visits, 100)
    assert row["rounds"] == 4
    assert row["clients_per_second"] == pytest.approx(100 / 3)
    assert (row["clients_per_second_min"], row["clients_per_second_max"]) == (20.0, 100.0)
    assert (row["cpu_seconds"], row["start_up_seconds"], row["pss_bytes"], row["load"], row["gap"]) == (1.0, 8.0, 30, 0.4, 2e-7)


@pytest.mark.parametrize(
    "bad", [Visit("a", [0.1], gap=1.01e-5), Visit("a", [0.1], gap=float("inf")), Visit("a", error="x"), Visit("a", [])]
)
def test_no_time_without_equality(bad: Visit) -> None:
    assert not bad.counts
    row = summary([bad], 100)
    assert not row["counts"]
    assert "clients_per_second" not in row


def test_a_visit_of_the_loop_measures_and_compares(tmp_path: Path) -> None:
    small = 'data.args="clients = 6, shape = [1, 28, 28], samples_per_client = 12"'
    inputs = export(replace(W3, settings=(*W3.settings, "num-clients=6", "fraction-train=0.5", small)), 4, tmp_path / "W3")
    made = visit(SYSTEMS["loop-1"], inputs, 2, sys.executable, checker(inputs))
    assert made.error == ""
    assert made.counts
    assert len(made.seconds) == len(made.cpu) == 2
    assert min(made.seconds) > 0
    assert made.gap is not None
    assert 0 < made.gap <= 1e-5
    assert made.pss > 50_000_000, "torch alone is larger"
    assert made.start_up > 0
    gone = visit(replace(SYSTEMS["loop-1"], module="not_there"), inputs, 2, sys.executable, checker(inputs))
    assert "exit code" in gone.error
    assert not gone.counts


def test_processes_are_found_by_their_mark_and_measured() -> None:
    mark = f"test-{os.getpid()}"
    environment = {**os.environ, processes.MARK: mark}
    work = "import time\nx = bytearray(60_000_000)\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    command = [sys.executable, "-c", work + "print(1, flush=True); input()"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = processes.marked(mark)
        assert pids == [process.pid]
        assert 0.25 <= processes.cpu_seconds(pids) < 5
        assert processes.pss_bytes(pids) >= 60_000_000
        process.communicate(b"\n")
    assert processes.marked(mark) == []
    assert processes.pss_bytes([process.pid]) == 0
