"""``make bench``: measure everything and write ``docs/results/speed.json``, the page and the figure (25 minutes at most)."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed import accuracy, ceiling, page, scale, steps, targets, visits, workloads
from benchmarks.speed.inputs import DEVICE, Inputs
from benchmarks.speed.systems.catalogue import SYSTEMS
from benchmarks.speed.workloads import WORKLOADS, Workload
from simulations.run import provenance

RESULTS = visits.ROOT / "docs" / "results"
ROUNDS = 30
"""Rounds whose cohorts and orders are exported: as many as the search for the target accuracy may take."""
TIMED = 6
"""Rounds that count, over all visits of a system: at least five."""
ON_A_GPU = ("loop-1", "inprocess-1", "pfl-1")
"""Systems that the variant for one GPU runs."""
NAMED = ("torch", "flwr", "ray", "pfl", "fedjax", "jax", "numpy")


def measure(workload: Workload, inputs: Inputs, only: set[str], end: float) -> dict[str, Any]:
    """The rows of one workload. After ``end`` (monotonic) a system that has been visited is not visited again."""
    systems = [SYSTEMS[k] for k in workload.systems if not only or k in only]
    check, made = visits.checker(inputs), {s.key: list[visits.Visit]() for s in systems}
    cores = os.cpu_count() or 1
    peak = {"one_core": ceiling.one_core(), "all_cores": ceiling.all_cores(cores)}
    for system in visits.interleaved(systems, workload.visits):
        if made[system.key] and time.monotonic() > end:
            continue
        timed = TIMED // min(workload.visits, system.visits)
        one = visits.visit(system, inputs, timed, visits.bench_python(), check)
        made[system.key].append(one)
        print(f"{workload.key} {system.key}: {[round(s, 3) for s in one.seconds]} s {one.error[-300:]}", flush=True)
    clients = len(inputs.cohort(0))
    rows = {key: {"label": SYSTEMS[key].label, **visits.summary(v, clients)} for key, v in made.items()}
    for row in rows.values():
        if row["counts"]:
            row["gflops"] = workloads.gflops(workload, inputs, row["round_seconds"])
    population = inputs.meta["clients"]
    out = {"title": workload.title, "clients_a_round": clients, "population": population, "peak": peak, "rows": rows}
    if workload.target:
        run = workloads.experiment(workload, ROUNDS, inputs.folder, inputs.folder, 1)
        x, y = workloads.held_out(inputs, run)
        needed, seen = accuracy.rounds_to(inputs, workload.target, x, y, ROUNDS, cores)
        out["target"] = {"accuracy": workload.target, "rounds": needed, "seen": seen}
    return out


def heads(python: str) -> dict[str, Any]:
    """W5: how long a round of FedD2S is and how much of it the server's head training takes."""
    kept: dict[str, Any] = {}

    def check(place: Path) -> None:
        kept.update(json.loads((place / "heads.json").read_text()))

    system = visits.System("W5", "", "heads", 2)
    made = visits.visit(system, Inputs(Path("-")), TIMED, python, check)
    if made.error:
        return {"error": made.error}
    spent = kept["heads"][1 : TIMED + 1]
    shares = [head / second for head, second in zip(spent, made.seconds, strict=True)]
    return {
        "error": "", "share": sum(spent) / sum(made.seconds), "share_max": max(shares), "shares": shares,
        "round_seconds": median(made.seconds), "seconds": made.seconds, "cuts": kept["cuts"],
    }  # fmt: skip


def host() -> dict[str, Any]:
    """What the figures hold for."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    shared = {d.metadata["Name"].lower(): d.version for d in distributions()}
    own = sorted((visits.ROOT / ".venv-bench" / "lib").glob("python*/site-packages"))
    shared |= {d.metadata["Name"].lower(): d.version for d in distributions(path=[str(p) for p in own])}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "cores": os.cpu_count(), "device": os.environ[DEVICE],
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else "",
        "python": platform.python_version(), "versions": {n: shared.get(n, "") for n in NAMED}, "git": provenance(),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default="W1,W3,W4,W2,W6")
    parser.add_argument("--systems", default="", help="only these, e.g. inprocess-2,loop-2")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: what trains in one process")
    parser.add_argument("--minutes", type=float, default=25.0, help="second visits and scale points stop in time for this")
    parser.add_argument("--without-scale", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--note", default="", help="what a reader must know of this run, e.g. that the host was busy")
    parser.add_argument("--keep", type=Path, default=None, help="folder for inputs, made once and used again")
    asked = parser.parse_args()
    started = time.monotonic()
    end = started + 60 * asked.minutes
    place = asked.keep or Path(tempfile.mkdtemp(prefix="fedkd-bench-"))
    only = {k for k in asked.systems.split(",") if k} or (set(ON_A_GPU) if asked.device == "cuda" else set())
    os.environ[DEVICE] = asked.device
    result: dict[str, Any] = {"schema": 1, "host": host(), "note": asked.note, "workloads": {}}
    result |= {"scale": [], "heads": {}, "steps": []}
    try:
        chosen = [WORKLOADS[k] for k in asked.workloads.split(",") if k]
        for position, workload in enumerate(chosen):
            inputs = workloads.export(workload, ROUNDS, place / workload.key)
            left = len(chosen) - position
            result["workloads"][workload.key] = measure(workload, inputs, only, end - 150 * left)
        if not asked.without_scale:
            result["heads"] = heads(visits.bench_python())
            result["steps"] = steps.measure(steps.CHOSEN) if asked.device == "cpu" else []
            for point in scale.POINTS:
                if time.monotonic() < end - 30:
                    result["scale"].append(scale.measure(point, visits.bench_python()))
                    print(f"scale {result['scale'][-1]}"[:300], flush=True)
    finally:
        if asked.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    rows = {key: w["rows"] for key, w in result["workloads"].items()}
    result["targets"] = targets.verdicts(rows, result["scale"], result["heads"])
    result["minutes"] = (time.monotonic() - started) / 60
    asked.results.mkdir(parents=True, exist_ok=True)
    (asked.results / "speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page.write(result, asked.results)


if __name__ == "__main__":
    main()
