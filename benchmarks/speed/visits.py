"""Visits: each system in processes of its own, A B C A B C; one round to warm up, rounds that count, one for memory.

A visit's times count only where its first average equals the float64 reference (``reference.TOLERANCE``).
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import processes, reference
from benchmarks.speed.inputs import Inputs, device

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
"""Seconds after which a visit is given up."""
PSS_EVERY = 0.2
"""Seconds between two looks at memory, in the last round only (it is not timed)."""


@dataclass(frozen=True)
class System:
    """One row of the table: how it is started, and how many processes train."""

    key: str
    label: str
    module: str
    """of benchmarks.speed.systems"""
    workers: int
    more: tuple[str, ...] = ()
    compared: bool = True
    """False for an echo client: there is no average to compare"""
    visits: int = 9
    """at most so many, where a start takes long"""


@dataclass
class Visit:
    """What one visit measured."""

    system: str
    seconds: list[float] = field(default_factory=list)
    """of the rounds that count"""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of all its processes in these rounds"""
    start_up: float = 0.0
    """from the command to the end of the first round, less one median round"""
    pss: int = 0
    """largest proportional set size in the last round, bytes"""
    load: float = 0.0
    """load average of one minute before the visit"""
    gap: float | None = None
    """largest difference of the first average from float64"""
    error: str = ""

    @property
    def counts(self) -> bool:
        """Whether its times may be quoted."""
        return not self.error and bool(self.seconds) and (self.gap is None or self.gap <= reference.TOLERANCE)


def interleaved(systems: Sequence[System], visits: int) -> list[System]:
    """A B C A B C; a system with fewer visits has the first ones."""
    return [system for turn in range(visits) for system in systems if turn < system.visits]


def durations(ends: Sequence[float], timed: int) -> list[float]:
    """Seconds of the rounds that count: all after the warm-up round, ``timed`` of them."""
    return [later - earlier for earlier, later in pairwise(ends[: timed + 1])]


def visit(system: System, inputs: Inputs, timed: int, python: str, check: Callable[[Path], float | None]) -> Visit:
    """Run a system once: a warm-up round, ``timed`` rounds, one for memory. A failure is in the visit, not raised."""
    made, mark = Visit(system.key, load=os.getloadavg()[0]), uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as place:
        command = [python, "-m", f"benchmarks.speed.systems.{system.module}", str(inputs.folder), str(timed + 2)]
        command += [str(system.workers), place, *system.more]
        environment = {**os.environ, processes.MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        commands = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))  # where flower-superlink is
        environment["PATH"] = os.pathsep.join(p for p in commands if p)
        environment["RAY_worker_niceness"] = str(os.getpriority(os.PRIO_PROCESS, 0))  # Ray's own 15 gives way to any other job
        if device() == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""  # pfl and JAX take a GPU unasked
        started, errors = time.monotonic(), (Path(place) / "errors").open("w+")
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        timer = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGTERM))
        timer.start()
        try:
            ends, used = _follow(process, mark, timed, made)
            code = process.wait(timeout=60)
            if code or len(ends) <= timed:
                errors.seek(0)
                made.error = f"exit code {code} after {len(ends)} rounds: {errors.read()[-600:]}"
                return made
            made.seconds = durations(ends, timed)
            made.cpu = durations(used, timed)
            made.start_up = ends[0] - started - statistics.median(made.seconds)
            made.gap = check(Path(place)) if system.compared else None
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            made.error = f"{type(error).__name__}: {error}"
        finally:
            timer.cancel()
            _end(mark)
            errors.close()
            if process.stdout is not None:
                process.stdout.close()
            process.wait()
    return made


def checker(inputs: Inputs) -> Callable[[Path], float | None]:
    """Compares what a driver kept with float64, one reference per cohort."""
    known: dict[tuple[int, ...], reference.Weights] = {}

    def check(place: Path) -> float | None:
        if not (place / "average.npz").exists():
            return None  # halves: each averages its own half; the same driver is compared as one process
        cohort = tuple(json.loads((place / "cohort.json").read_text()))
        if cohort not in known:
            known[cohort] = reference.average(inputs, 0, list(cohort), inputs.initial)
        with np.load(place / "average.npz") as stored:
            return reference.gap(known[cohort], {n: stored[n] for n in stored.files})

    return check


def summary(visits: Sequence[Visit], clients: int) -> dict[str, Any]:
    """One row: median, least, largest and best over the rounds that count of all visits of a system."""
    good = [v for v in visits if v.counts]
    error = next((v.error for v in visits if v.error), "")
    rows = {"visits": [asdict(v) for v in visits], "counts": bool(good), "error": error}
    if not good:
        return rows
    seconds = [s for v in good for s in v.seconds]
    return {
        **rows,
        "rounds": len(seconds),
        "clients_per_second": clients / statistics.median(seconds),
        "clients_per_second_min": clients / max(seconds),
        "clients_per_second_max": clients / min(seconds),
        "round_seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(c for v in good for c in v.cpu),
        "start_up_seconds": statistics.median(v.start_up for v in good),
        "pss_bytes": max(v.pss for v in good),
        "load": max(v.load for v in good),
        "gap": max((v.gap for v in good if v.gap is not None), default=None),
    }


def bench_python() -> str:
    """The interpreter of the benchmark's own environment, or this one where it was not made."""
    own = ROOT / ".venv-bench" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def _follow(process: subprocess.Popen[str], mark: str, timed: int, made: Visit) -> tuple[list[float], list[float]]:
    """Read the ends of rounds; after the last one that counts, watch memory until the process says the next."""
    ends: list[float] = []
    used: list[float] = []
    over = threading.Event()
    watch = threading.Thread(target=_memory, args=(mark, over, made))
    assert process.stdout is not None
    for line in process.stdout:
        with suppress(ValueError, KeyError, TypeError):
            ends.append(float(json.loads(line)["at"]))
            if len(ends) <= timed + 1:
                used.append(processes.cpu_seconds(processes.marked(mark)))
            if len(ends) == timed + 1:
                watch.start()
            elif len(ends) == timed + 2:
                over.set()
    over.set()
    if watch.ident is not None:
        watch.join()
    return ends, used


def _memory(mark: str, over: threading.Event, made: Visit) -> None:
    while True:
        made.pss = max(made.pss, processes.pss_bytes(processes.marked(mark)))
        if over.wait(PSS_EVERY):
            return


def _end(mark: str) -> None:
    """End what a visit left running."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes.marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + 5
        while processes.marked(mark) and time.monotonic() < deadline:
            time.sleep(0.1)
