"""The study of ``docs/results``: thirteen methods x ten seeds on Fashion-MNIST 14x14, 20 clients, 100 images each, alpha 0.5.

``python -m benchmarks.pilot`` runs what is missing (a stopped study goes on where it was), two methods at a time, and writes
``docs/results/pilot.json``, ``pilot.md`` and the figures. Seeds 0-9 were fixed before the first run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedkd.verdict import check_words

ROOT = Path(__file__).resolve().parents[1]

METHODS = (
    "local-fashion_mnist",
    "local-fashion_mnist-aux",
    "fedavg-fashion_mnist",
    "fedavg-fashion_mnist-local_epoch",
    "fedavg-fashion_mnist-then_local",
    "fedper-fashion_mnist",
    "share_late-fashion_mnist",
    "share_late-fashion_mnist-aux",
    "fedd2s-fashion_mnist-kd_only",
    "fedd2s-fashion_mnist-classifier_only",
    "fedd2s-fashion_mnist-heads",
    "fedd2s-fashion_mnist",
    "fedavg-fashion_mnist-fine_tune",
)

PILOT = {
    "local-fashion_mnist": 76.00,
    "local-fashion_mnist-aux": 76.28,
    "fedavg-fashion_mnist": 72.48,
    "fedavg-fashion_mnist-local_epoch": 78.84,
    "fedavg-fashion_mnist-fine_tune": 77.79,
    "fedavg-fashion_mnist-then_local": 81.34,
    "fedper-fashion_mnist": 79.27,
    "share_late-fashion_mnist": 81.00,
    "share_late-fashion_mnist-aux": 81.26,
    "fedd2s-fashion_mnist-kd_only": 76.77,
    "fedd2s-fashion_mnist-classifier_only": 81.75,
    "fedd2s-fashion_mnist-heads": 81.60,
    "fedd2s-fashion_mnist": 81.70,
}
"""Mean accuracy of the pilot's prototype (3 seeds, other partitions), in percent."""

PAIRS = (
    ("fedd2s-fashion_mnist", "fedavg-fashion_mnist-then_local"),
    ("fedd2s-fashion_mnist", "share_late-fashion_mnist-aux"),
    ("fedd2s-fashion_mnist", "share_late-fashion_mnist"),
    ("fedd2s-fashion_mnist", "fedd2s-fashion_mnist-classifier_only"),
    ("fedd2s-fashion_mnist", "fedper-fashion_mnist"),
    ("fedd2s-fashion_mnist", "fedd2s-fashion_mnist-heads"),
    ("fedd2s-fashion_mnist-kd_only", "local-fashion_mnist-aux"),
)


def main() -> int:
    """Run what is missing and write the results. Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--output", default=str(ROOT / "runs" / "pilot"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", default=str(ROOT / "docs" / "results"))
    given = parser.parse_args()
    if code := run_missing(given.output, given.seeds, given.processes):
        return code
    write_results(Path(given.output), given.seeds, Path(given.results))
    return 0


def run_missing(output: str, seeds: str, processes: int) -> int:
    """Every method, ``processes`` at a time, each in its own interpreter with one worker."""
    waiting, running = list(METHODS), dict[str, subprocess.Popen[bytes]]()
    worst = 0
    while waiting or running:
        while waiting and len(running) < processes:
            name = waiting.pop(0)
            running[name] = _start(name, output, seeds)
        for name in [n for n, process in running.items() if process.poll() is not None]:
            code = running.pop(name).wait()
            worst = max(worst, code)
            print(f"{name}: exit code {code}", flush=True)
        time.sleep(0.2)
    return worst


def _start(name: str, output: str, seeds: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "simulations", "compare", f"configs/{name}.toml", "--seeds", seeds, "--workers", "1"]
    command += ["--output", output, "--format", "json"]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def against_pilot(result: dict[str, Any]) -> list[str]:
    """Rows of our means beside the pilot's; the pilot has three seeds, so what three of our seeds give stands beside it."""
    found = {m["name"]: [100 * a for a in m["accuracy_by_seed"]] for m in result["methods"]}
    lines = [
        "| configuration | here, % | means of any three seeds, % | pilot, % | difference, points |",
        "|---|---|---|---|---|",
    ]
    for name in METHODS:
        own, threes = fmean(found[name]), [fmean(three) for three in itertools.combinations(found[name], 3)]
        span = f"{min(threes):.2f} to {max(threes):.2f}"
        lines.append(f"| {name} | {own:.2f} | {span} | {PILOT[name]:.2f} | {own - PILOT[name]:+.2f} |")
    return lines


def write_results(output: Path, seeds: str, results: Path) -> None:
    """Table, paired differences and figures from the run folders; the pilot's figures beside ours."""
    from simulations.compare import report_on
    from simulations.run import folders_of, load

    folders: list[Path] = []
    for name in METHODS:
        folders += folders_of(load(ROOT / "configs" / f"{name}.toml", output=str(output), seeds=seeds, report=False))
    made = report_on(folders, output / "comparison", baseline="local-fashion_mnist", pairs=PAIRS)
    lines = against_pilot(made.json)
    results.mkdir(parents=True, exist_ok=True)
    text = (output / "comparison" / "comparison.md").read_text(encoding="utf-8")
    page = text + "\n" + _pairs_table(made.json) + "\n" + "\n".join(lines) + "\n"
    (results / "pilot.md").write_text(check_words(page), encoding="utf-8")
    (results / "pilot.json").write_text(json.dumps({**made.json, "pilot": PILOT}, indent=1) + "\n", encoding="utf-8")
    shutil.copytree(output / "comparison" / "figures", results / "figures", dirs_exist_ok=True)
    print(text)
    print("\n".join(lines))


def _pairs_table(comparison: dict[str, object]) -> str:
    lines = ["| A minus B, points | mean | 95 % interval over seeds (paired t) | sd | per seed |", "|---|---|---|---|---|"]
    pairs: Sequence[dict[str, object]] = comparison["pairs"]  # type: ignore[assignment]
    for p in pairs:
        each = ", ".join(f"{x:+.2f}" for x in p["per_seed"])  # type: ignore[attr-defined]
        lines.append(
            f"| {p['minuend']} minus {p['subtrahend']} | {p['mean']:+.2f} | [{p['low']:+.2f}, {p['high']:+.2f}] "
            f"| {p['sd']:.2f} | {each} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
