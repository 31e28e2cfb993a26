"""The first result: FedD2S through ``flwr run`` and Ray, its comparators in process beside it, one table and one report."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fedkd.config import Experiment, together
from fedkd.prepare import prepare
from server.run_folder import state_root_of
from simulations.compare import report_on
from simulations.run import DONE, FAILED, execute, folders_of, load

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

SIZE = (
    "num-server-rounds=8",
    "local-epochs=2",
    "num-clients=10",
    "model.name=mlp",
    'model.args="hidden = [64, 64, 64]"',
    "workers=1",
    "report=false",
)
"""The demo is the study's configurations at a size that two cores finish in less than 90 seconds."""

IN_PROCESS = ("local-digits", "fedavg-digits", "fedavg-digits-fine_tune", "fedavg-digits-then_local", "fedper-digits")
ON_FLOWER = ("fedd2s-digits-kd_only", "fedd2s-digits")
FINE_TUNE = {"fedavg-digits-fine_tune": 'method.args="fine_tune_epochs = 1"'}
"""One epoch here: five would take longer than all other rows together."""


def run_demo(output: str | None, seeds: str) -> int:
    """Run every row, print the table, the sentence and the report's path. Returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    started = time.perf_counter()
    root = Path(output) if output else Path.cwd() / "runs" / "demo"
    order = [load_demo(name, str(root), seeds) for name in (*IN_PROCESS, *ON_FLOWER)]
    console.print(
        f"fedkd demo: {len(order)} methods x seeds {seeds} on scikit-learn's digits, 10 clients, 8 rounds. "
        "FedD2S runs through flwr run and Ray; its comparators run in process beside it."
    )
    beside = _start_beside(str(root), seeds)
    try:
        for run in order[0].runs():  # every row has the same data: prepared once, while the other process imports
            prepare(run, state_root_of(run))
        assert beside.stdin is not None
        beside.stdin.close()
        console.print(f"  data prepared {time.perf_counter() - started:.1f} s")
        code = _flower(order[len(IN_PROCESS) :], console)
        code = max(code, beside.wait())
    finally:
        if beside.poll() is None:
            beside.terminate()
            beside.wait()
    console.print(f"all runs: {time.perf_counter() - started:.1f} s")
    if code:
        print("the demo did not finish: see the lines above", file=sys.stderr)
        return FAILED
    folders = [f for e in order for f in folders_of(e)]
    names = ("FedD2S-avg (ours)", "FedAvg 75 % + local")
    result = report_on(folders, root / "comparison", baseline="local-digits", pairs=[names])
    shown = folders_of(order[-1])[0]
    from fedkd.report import build

    page = build(shown, [f for e in order[:-1] for f in folders_of(e)[:1]])
    console.print(result.table)
    console.print(result.sentence)
    console.print(f"total {time.perf_counter() - started:.1f} s")
    console.print(f"one run in full: {page}")
    console.print(f"report: {result.page}")
    return DONE


def load_demo(name: str, output: str, seeds: str) -> Experiment:
    """A study configuration at the demo's size. Raises: ConfigError."""
    settings = [*SIZE, *([FINE_TUNE[name]] if name in FINE_TUNE else [])]
    return load(CONFIGS / f"{name}.toml", settings, output=output, seeds=seeds, overwrite=True)


def _start_beside(output: str, seeds: str) -> subprocess.Popen[bytes]:
    """The comparators in a process of their own, on the other core."""
    root = str(CONFIGS.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    command = [
        sys.executable,
        "-c",
        f"from simulations.demo import run_beside; raise SystemExit(run_beside({output!r}, {seeds!r}))",
    ]
    return subprocess.Popen(command, env=environment, cwd=root, stdin=subprocess.PIPE)


def run_beside(output: str, seeds: str) -> int:
    """The comparators, one after the other, one worker, once the data is there. Returns the worst exit code."""
    importlib.import_module("server.server_app")  # takes seconds: while the other process prepares the data

    sys.stdin.read()
    os.nice(10)  # Flower and Ray take longer than all comparators: what they wait for comes first
    worst = DONE
    for name in IN_PROCESS:
        started = time.perf_counter()
        experiment = replace(load_demo(name, output, seeds), workers=1)
        outcome = execute(experiment, "inprocess")
        worst = max(worst, outcome.code)
        said = outcome.reason or "done"
        print(f"  in process   {experiment.title:<34} {time.perf_counter() - started:5.1f} s  {said}", flush=True)
    return worst


def _flower(experiments: list[Experiment], console: Console) -> int:
    """Every FedD2S run in one start of Flower and Ray. Returns the exit code."""
    started = time.perf_counter()
    outcome = execute(together([run for e in experiments for run in e.runs()]), "flower")
    whole = time.perf_counter() - started
    for experiment in experiments:
        seconds = sum(read_seconds(folder) for folder in folders_of(experiment))
        whole -= seconds
        console.print(f"  flwr run/Ray {experiment.title:<34} {seconds:5.1f} s  {outcome.reason or 'done'}")
    console.print(f"  flwr run/Ray {'start of SuperLink and Ray, and stop':<34} {whole:5.1f} s")
    return outcome.code


def read_seconds(folder: Path) -> float:
    """Seconds of a finished run; 0 where it did not finish."""
    try:
        return float(json.loads((folder / "summary.json").read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0
