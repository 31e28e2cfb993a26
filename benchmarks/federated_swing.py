"""What swing on uploaded soft labels hides in a federation, and what it does not: label canaries per observer.

``python -m benchmarks.federated_swing`` runs FedD2S (with and without averaging) on digits with label canaries, five seeds,
with no mechanism, each part of swing, both, and with labels redrawn from the release; then it writes
``docs/results/federated_swing.json`` and ``.md``. Everything was fixed before the first run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedkd.config import Experiment
from fedkd.intervals import paired_t, t_interval
from fedkd.label_exposure import audit
from fedkd.report.run_folder import read_run
from fedkd.verdict import check_words
from server.run_folder import folder_of, run_id, state_root_of
from simulations.pool import worker
from simulations.run import execute, load, provenance

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "fedd2s-digits.toml"
SEEDS = tuple(range(5))
SETTINGS = ("num-server-rounds=20", "num-clients=10", "audit.canaries=240", "record=messages", "report=false", "workers=1")
READINGS = {"FedD2S-avg (ours)": "", "FedD2S (KD only)": "average = false, kd_after_drop = 'follow', schedule = 'equal'"}
SENT = {"FedD2S-avg (ours)": ("features", "ids", "labels", "weights"), "FedD2S (KD only)": ("features", "ids", "labels")}
SHOWN = ("released", "own model", "other models")
ARMS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "temperature only (T 20)": {"temperature_high": 20.0, "noise_scale": 0.0},
    "noise only (b 0.1)": {"temperature_high": 1.0, "noise_scale": 0.1},
    "swing": {"temperature_high": 20.0, "noise_scale": 0.1},
    "swing, labels redrawn": {"temperature_high": 20.0, "noise_scale": 0.1, "redraw_labels": True},
}
"""Every row counts as private: with label canaries no estimator could know which labels are wrong."""


def one(reading: str, arm: str, seed: int, output: Path) -> dict[str, Any]:
    """Run one federation, or read it, and audit it."""
    name = f"fedd2s-digits-{list(READINGS).index(reading)}-{list(ARMS).index(arm)}"
    experiment = load(CONFIG, SETTINGS, output=str(output), seed=seed, name=name, method_args=READINGS[reading])
    fields = ARMS[arm]
    if fields is not None:
        beside = [kind for kind in SENT[reading] if kind != "labels" or not fields.get("redraw_labels")]
        experiment = protected(experiment, {**fields, "pass_through": beside}, ("constant", "likelihood = 1.0"))
    folder = finished(experiment, f"{reading}, {arm}, seed {seed}")
    views = audit(folder, state_root_of(experiment) / run_id(experiment))
    scores = list(read_run(folder).final_scores().values())
    found = {v.name: None if v.report is None else v.report.strata[0].mean for v in views}
    ceiling = next(v.report.ceiling for v in views if v.report is not None)
    sent = next(v.labels_sent for v in views if v.name == "released")
    sizes = {"strings": views[0].strings, "ceiling": ceiling, "labels_sent": sent}
    return {"reading": reading, "arm": arm, "seed": seed, "accuracy": sum(scores) / len(scores), "bits": found, **sizes}


def protected(experiment: Experiment, fields: dict[str, Any], sensitivity: tuple[str, str]) -> Experiment:
    """The experiment with swing on what clients send; the noise repeats, since this is a simulation."""
    text = ", ".join(f"{k} = {json.dumps(v)}" for k, v in {**fields, "insecure_seeded_noise": True}.items())
    name, args = sensitivity
    return replace(experiment, mechanism_name="swing", mechanism_args=text, sensitivity_name=name, sensitivity_args=args)


def finished(experiment: Experiment, what: str) -> Path:
    """The folder of a run, which is run where it has not been. Raises: SystemExit where it failed."""
    folder = folder_of(experiment)
    if not (folder / "summary.json").exists():
        outcome = execute(replace(experiment, overwrite=True))
        if outcome.code:
            raise SystemExit(f"{what}: {outcome.reason}")
    return folder


def table(result: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Federated swing on digits: exposure of label canaries",
        "",
        f"10 clients, 20 rounds, seeds 0 to 4, about {result['strings']:.0f} label strings of six canaries each per run; "
        f"bits by exact rank (chance 1.44, most possible {result['ceiling']:.1f}); mean and 95 % t interval over seeds. "
        "Released: every row of soft labels that a client uploaded, averaged over rounds. Own model, other models: final "
        "models.",
        "",
        "| federation | mechanism | accuracy, % | minus none, points | released rows | own model | other models | raw labels |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        cells = [span(row["bits"][name]) for name in SHOWN]
        accuracy = span([100 * v for v in row["accuracy"]])
        sent = "none" if row["labels_sent"] is None else f"{100 * row['labels_sent']:.0f} %"
        cost = "–" if row["minus_none"] is None else span([100 * v for v in row["minus_none"]])
        lines.append(f"| {row['reading']} | {row['arm']} | {accuracy} | {cost} | " + " | ".join(cells) + f" | {sent} |")
    lines += [
        "",
        "Swing bounds the rows of soft labels and nothing else: features, raw labels, weights and the final models are not "
        f"protected. Reproduce: `{result['command']}`.",
        "",
    ]
    return "\n".join(lines)


def span(value: list[float] | None, digits: int = 2) -> str:
    """A mean with its interval."""
    return "–" if value is None else f"{value[0]:.{digits}f} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]"


def study(
    name: str,
    said: str,
    one: Callable[..., dict[str, Any]],
    jobs: Sequence[tuple[Any, ...]],
    summarise: Callable[[list[dict[str, Any]]], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    indent: int | None = None,
) -> Path:
    """Command of a federated study: run ``one(*job, output)`` in processes, write ``<name>.json`` and ``<name>.md``, print.

    Returns: the folder of both files.
    """
    parser = argparse.ArgumentParser(description=said, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / name)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn"), initializer=worker) as pool:
        waiting = [pool.submit(one, *job, given.output) for job in jobs]
        runs = [w.result() for w in waiting]
    result = {**summarise(runs), "provenance": provenance(), "runs": runs}
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / f"{name}.json").write_text(json.dumps(result, indent=indent) + "\n", encoding="utf-8")
    page = table(result)
    (given.results / f"{name}.md").write_text(check_words(page), encoding="utf-8")
    print(page)
    results: Path = given.results
    return results


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and t intervals over seeds, per reading and arm."""
    rows = []
    for reading in READINGS:
        for arm in ARMS:
            own = [f for f in runs if f["reading"] == reading and f["arm"] == arm]
            bits = {
                name: list(t_interval([f["bits"][name] for f in own])[:3]) for name in ("released", "own model", "other models")
            }
            accuracy = list(t_interval([f["accuracy"] for f in own])[:3])
            sent = None if own[0]["labels_sent"] is None else sum(f["labels_sent"] for f in own) / len(own)
            base = [f["accuracy"] for f in runs if f["reading"] == reading and f["arm"] == "none"]
            cost = list(paired_t([f["accuracy"] for f in own], base)[:3]) if arm != "none" else None
            rows.append(
                {"minus_none": cost, "reading": reading, "arm": arm, "accuracy": accuracy, "bits": bits, "labels_sent": sent}
            )
    return {
        "schema": 1,
        "command": "python -m benchmarks.federated_swing",
        "strings": sum(f["strings"] for f in runs) / len(runs),
        "ceiling": runs[0]["ceiling"],
        "rows": rows,
    }


def main() -> None:
    """Run, audit, write."""
    jobs = [(reading, arm, seed) for reading in READINGS for arm in ARMS for seed in SEEDS]
    study("federated_swing", str(__doc__), one, jobs, summarise, table, indent=1)


if __name__ == "__main__":
    main()
