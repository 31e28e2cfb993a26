"""How much the row "FedAvg + fine-tune" of the study depends on its fine-tuning: learning rate and momentum.

``python -m benchmarks.fine_tune`` trains what is missing of FedAvg on the study's task (seeds 0-9, and 100 and 101, which are
for choosing only), fine-tunes each client's copy of the last average for five epochs in every way, and writes
``docs/results/fine_tune.json`` and ``fine_tune.md``. The choice is made on the clients' pooled validation images. With
``--set max-samples=1785 --name fine_tune_fewer`` the clients hold a median of 58 training images instead of 65.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from statistics import fmean, median
from typing import Any

from fedkd.executors import loop
from fedkd.intervals import paired_t, t_interval
from fedkd.jobs import local_job
from fedkd.prepare import open_data, prepare
from fedkd.report.run_folder import read_run
from fedkd.setting import build
from fedkd.store import read_commit
from fedkd.train import evaluate, stage
from fedkd.verdict import check_words
from server.run_folder import folder_of, state_root_of
from simulations.pool import worker
from simulations.run import load, provenance

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/fedavg-fashion_mnist.toml"
LOCAL = "configs/local-fashion_mnist.toml"
EPOCHS = 5
RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
MOMENTA = (0.0, 0.9)
CHOOSING = (100, 101)
REPORTED = tuple(range(10))
COMPARED = ("fedd2s-fashion_mnist", "fedavg-fashion_mnist-then_local", "fedper-fashion_mnist")
"""rows of the study that the chosen fine-tuning is set beside"""
STUDY = (0.01, 0.9)
"""learning rate and momentum of the study's row"""


def train(output: Path, settings: list[str]) -> None:
    """FedAvg and local training with every seed that has no finished folder, two processes."""
    every = (*REPORTED, *CHOOSING)
    started = []
    for half in (every[::2], every[1::2]):
        command = [sys.executable, "-m", "simulations", "compare", CONFIG, LOCAL, "--seeds", ",".join(map(str, half))]
        command += ["--workers", "1", "--output", str(output), "--format", "json"]
        command += [argument for setting in settings for argument in ("--set", setting)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL))
    if sum(process.wait() for process in started):
        raise SystemExit("FedAvg or local training failed")


def tune(output: Path, seed: int, settings: list[str]) -> dict[str, Any]:
    """Mean test accuracy over clients, and accuracy on all clients' validation images, without and with each fine-tuning."""
    experiment = load(ROOT / CONFIG, settings, output=str(output), seed=seed)
    commit = read_commit(folder_of(experiment) / "checkpoints")
    if commit is None:
        raise SystemExit(f"no finished run below {folder_of(experiment)}")
    data = open_data(prepare(experiment, state_root_of(experiment)))
    setting = build(experiment, data.shape, data.classes)
    average = {n.removeprefix("avg/"): v for n, v in commit.state.items() if n.startswith("avg/")}
    ways = [(0.0, 0.0), *((rate, momentum) for momentum in MOMENTA for rate in RATES)]
    test: dict[str, list[float]] = {_key(*w): [] for w in ways}
    right, seen = dict.fromkeys(test, 0.0), 0
    images = []
    for number in range(data.num_clients):
        client = data.client(number)
        images.append(len(client.train))
        seen += len(client.val)
        for rate, momentum in ways:
            job = local_job(setting, setting.rounds, client, average, epochs=EPOCHS if rate else 0, learning_rate=rate)
            params = job.params
            if rate:
                ((_, outcome),) = loop.run([dataclasses.replace(job, momentum=momentum)])
                if isinstance(outcome, Exception):
                    raise outcome
                params = outcome
            test[_key(rate, momentum)].append(evaluate(setting.model, params, *stage(client.test, setting.device))[0])
            if len(client.val):
                correct = evaluate(setting.model, params, *stage(client.val, setting.device))[0] * len(client.val)
                right[_key(rate, momentum)] += correct
    alone = folder_of(load(ROOT / LOCAL, settings, output=str(output), seed=seed))
    return {
        "seed": seed,
        "local": fmean(read_run(alone).final_scores().values()),
        "median_images": median(images),
        "test": {k: fmean(v) for k, v in test.items()},
        "validation": {k: v / seen for k, v in right.items()},
    }


def against_study(results: Path, found: dict[int, dict[str, Any]], chosen: str) -> dict[str, list[float]]:
    """Rows of the study minus the chosen fine-tuning: mean and 95 % paired t interval over the reported seeds."""
    study = json.loads((results / "pilot.json").read_text(encoding="utf-8"))
    own = [found[seed]["test"][chosen] for seed in REPORTED]
    rows = {m["name"]: m for m in study["methods"]}
    pairs = {rows[name]["label"]: paired_t(rows[name]["accuracy_by_seed"], own)[:3] for name in COMPARED}
    return {label: list(pair) for label, pair in pairs.items()}


def _key(rate: float, momentum: float) -> str:
    return f"{rate:g} momentum {momentum:g}" if rate else "none"


def table(result: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# FedAvg + fine-tune: what its fine-tuning does to it",
        "",
        f"The last average of FedAvg (the study's task), then {EPOCHS} epochs of SGD on each client's copy. Accuracy in "
        "percent: mean over clients on their test images, mean and 95 % t interval over seeds 0 to 9; pooled validation "
        "images of seeds 100 and 101, which choose.",
        "",
        "| learning rate | momentum | test, % | validation, % |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for key, row in result["rows"].items():
        rate, _, momentum = key.partition(" momentum ")
        mark = " (the study's row)" if key == _key(*STUDY) else " (chosen)" if key == result["chosen"] else ""
        mean, low, high = row["test"]
        value = f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        lines.append(f"| {rate}{mark} | {momentum or '–'} | {value} | {100 * row['validation']:.2f} |")
    mean, low, high = (100 * v for v in result["local"])
    images = fmean(result["median_images"])
    lines += ["", f"Local training alone: {mean:.2f} [{low:.2f}, {high:.2f}]. Median training images per client: {images:.1f}."]
    for label, (mean, low, high) in result["study_minus_chosen"].items():
        difference = f"{100 * mean:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"
        lines += ["", f"{label} of the study (mean of its last three rounds) minus the chosen fine-tuning: {difference}."]
    lines += ["", f"Reproduce: `{result['command']}`.", ""]
    return "\n".join(lines)


def main() -> None:
    """Train, tune, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "fine_tune")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--name", default="fine_tune", help="stem of the result's files")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="key=value for the FedAvg runs")
    given = parser.parse_args()
    train(given.output, given.settings)
    seeds = (*REPORTED, *CHOOSING)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=worker) as pool:
        found = dict(zip(seeds, pool.map(tune, repeat(given.output), seeds, repeat(given.settings)), strict=True))
    rows = {}
    for key in found[0]["test"]:
        mean = t_interval([found[s]["test"][key] for s in REPORTED])
        rows[key] = {"test": mean[:3], "validation": fmean(found[s]["validation"][key] for s in CHOOSING)}
    chosen = max(rows, key=lambda key: rows[key]["validation"])
    settings = "".join(f" --set {s}" for s in given.settings) + (f" --name {given.name}" if given.settings else "")
    result = {
        "schema": 1,
        "command": f"python -m benchmarks.fine_tune{settings}",
        "provenance": provenance(),
        "chosen": chosen,
        "local": t_interval([found[s]["local"] for s in REPORTED])[:3],
        "median_images": [found[s]["median_images"] for s in REPORTED],
        "rows": rows,
        "study_minus_chosen": {} if given.settings else against_study(given.results, found, chosen),
        "seeds": list(found.values()),
    }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / f"{given.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page = table(result)
    (given.results / f"{given.name}.md").write_text(check_words(page), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
