"""The tables and figures of ``benchmarks/private.py``: accuracy beside epsilon, local training and no noise, as measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.federated_swing import span
from fedkd.intervals import t_interval
from fedkd.report.style import BLUE, GREEN, INK, ORANGE, Picture, canvas, finish
from fedkd.verdict import check_words
from simulations.run import provenance

COLOURS = {"FedD2S-avg, heads (ours)": BLUE, "FedAvg": ORANGE, "share-late": GREEN}
MARKS = {"FedD2S-avg, heads (ours)": "o", "FedAvg": "s", "share-late": "^"}
NOISELESS = ("no mechanism", "clipped, no noise")

Row = dict[str, Any]


def rows_of(runs: Sequence[Row]) -> list[Row]:
    """One row per task, method and protection: mean with its t interval over seeds (none for one seed)."""
    keys = list(dict.fromkeys((r["task"], r["method"], r["protection"]) for r in runs))
    found = []
    for task, method, protection in keys:
        own = [r for r in runs if (r["task"], r["method"], r["protection"]) == (task, method, protection)]
        known = [r["accuracy"] for r in own if r["accuracy"] is not None]
        first = own[0]
        row = {
            "task": task, "method": method, "protection": protection, "seeds": len(own), "diverged": len(own) - len(known),
            "accuracy": over_seeds(known), "by_seed": {str(r["seed"]): r["accuracy"] for r in own},
            "worst_decile": over_seeds([r["worst_decile"] for r in own if r["accuracy"] is not None]),
            **{k: first.get(k) for k in ("clip", "rate", "epsilon", "noise_multiplier", "participations", "noise_per_number")},
            **{k: over_seeds([r[k] for r in own if r.get(k) is not None]) for k in ("median_norm", "clipped", "head_share")},
        }  # fmt: skip
        row["epsilon"] = max((r["epsilon"] for r in own if r["epsilon"]), default=None)
        found.append(row)
    return found


def over_seeds(values: Sequence[float]) -> list[float] | None:
    """[mean, low, high]; [value] for one seed; None for none."""
    if len(values) > 1:
        return list(t_interval(values)[:3])
    return list(values) or None


def percent(value: Sequence[float] | None) -> str:
    """A mean in percent with its interval, or one seed, marked."""
    if value is None:
        return "diverged"
    return f"{100 * value[0]:.1f} (one seed)" if len(value) == 1 else span([100 * v for v in value], 1)


def users_table(rows: Sequence[Row], majority: Mapping[str, float]) -> list[str]:
    """Section 1: user level."""
    lines = []
    for task in dict.fromkeys(r["task"] for r in rows):
        own = [r for r in rows if r["task"] == task]
        lines += [
            f"### {task} clients", "",
            f"Always the most frequent label of a client's own training rows: {100 * majority[task]:.1f} % (seed 0).", "",
            "| method | protection | accuracy, % | worst decile, % | epsilon spent | z | participations | noise per number |"
            " clip | rate | clipped, % | heads' share, % |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]  # fmt: skip
        for r in own:
            noisy = r["protection"] not in NOISELESS
            said = f"epsilon {r['protection'].removesuffix('.0')}" if noisy else r["protection"]
            cells = [
                r["method"], "nothing leaves" if r["method"] == "local" else said, percent(r["accuracy"]) + _lost(r),
                percent(r["worst_decile"]), f"{r['epsilon']:.2f}" if noisy else "–",
                f"{r['noise_multiplier']:.2f}" if noisy else "–", str(r["participations"]) if r["method"] != "local" else "–",
                f"{r['noise_per_number']:.4f}" if noisy else "–", f"{r['clip']:g}" if r["clip"] else "–", f"{r['rate']:g}",
                _share(r["clipped"]) if r["clip"] else "–", _share(r["head_share"]),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _lost(row: Row) -> str:
    return f", {row['diverged']} of {row['seeds']} seeds diverged" if row["diverged"] and row["accuracy"] else ""


def _share(value: Sequence[float] | None) -> str:
    return "–" if not value else f"{100 * value[0]:.0f}"


def examples_table(rows: Sequence[Row], examples: Mapping[str, Any]) -> list[str]:
    """Section 2: example level."""
    lines = []
    for task in dict.fromkeys(r["task"] for r in rows):
        own = [r for r in rows if r["task"] == task]
        floor = examples["majority"][task]
        s = examples["steps"][task]
        lines += [
            f"### {task} a client", "",
            f"{s['steps']:.0f} noisy steps, Poisson rate {s['rate']:.4f}, expected batch {s['expected_batch']}. Always the "
            f"most frequent label of a client's own training images: {100 * sum(floor) / len(floor):.1f} %.", "",
            "| method | protection | accuracy, % | worst decile, % | epsilon spent | z | clip | rate | reading |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        ]  # fmt: skip
        for r in own:
            noisy = r["protection"] not in NOISELESS
            said = f"epsilon {r['protection'].removesuffix('.0')}" if noisy else "no noise"
            cells = [
                r["method"], "nothing leaves" if r["method"] == "local" else said, percent(r["accuracy"]),
                percent(r["worst_decile"]), f"{r['epsilon']:.2f}" if noisy else "–",
                f"{r['noise_multiplier']:.2f}" if noisy else "–", f"{r['clip']:g}" if noisy else "–", f"{r['rate']:g}",
                reading(r, own, sum(floor) / len(floor)),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def reading(row: Row, rows: Sequence[Row], floor: float) -> str:
    """Against the floor and local training: what the figure says in words."""
    if row["accuracy"] is None or row["method"] == "local":
        return ""
    value = row["accuracy"][0]
    if value <= floor:
        return "**the model is noise**: no better than one label"
    alone = next((r["accuracy"][0] for r in rows if r["method"] == "local" and r["accuracy"]), None)
    return "" if alone is None else "below local" if value < alone else "not below local"


def figure(task: str, rows: Sequence[Row], name: str, local: Row | None, bare_is: str = NOISELESS[1]) -> Picture:
    """Accuracy against epsilon with intervals; lines for no noise and for local training."""
    noisy = [r for r in rows if r["protection"] not in NOISELESS and r["accuracy"]]
    with canvas(3.9) as drawing:
        axes = drawing.add_subplot()
        methods = [m for m in COLOURS if any(r["method"] == m for r in noisy)]
        for offset, method in enumerate(methods):
            own = sorted((float(r["protection"]), r["accuracy"]) for r in noisy if r["method"] == method)
            x = [e * (1 + 0.03 * (offset - (len(methods) - 1) / 2)) for e, _ in own]
            y = [100 * a[0] for _, a in own]
            tall = [
                [100 * (a[0] - a[1]) if len(a) > 1 else 0 for _, a in own],
                [100 * (a[2] - a[0]) if len(a) > 1 else 0 for _, a in own],
            ]
            axes.errorbar(x, y, yerr=tall, color=COLOURS[method], marker=MARKS[method], capsize=3, label=method)
            bare = next((r for r in rows if r["method"] == method and r["protection"] == bare_is and r["accuracy"]), None)
            if bare:
                axes.axhline(100 * bare["accuracy"][0], color=COLOURS[method], linestyle="--", linewidth=1.0,
                             label=f"{method}: {bare_is}")  # fmt: skip
        if local is not None and local["accuracy"]:
            axes.axhline(100 * local["accuracy"][0], color=INK, linestyle=":", linewidth=1.5, label="local: nothing leaves")
        ticks = sorted({float(r["protection"]) for r in noisy})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("epsilon")
        axes.set_ylabel("accuracy, %")
        handles, labels = axes.get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside upper left", ncols=2)
        return finish(drawing, name, task, "Mean over clients; bars: 95 % t interval over seeds, none for one seed.", png=True)


def page(result: Mapping[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Private federations: accuracy beside epsilon", "",
        "What it means is in [private](../private.md). Accuracy: mean over clients of the model that each client holds, on its "
        "own test rows; mean and 95 % t interval over seeds. Chosen on the validation rows of seed 100; delta = "
        f"{result['delta']:g}.", "",
        "## 1. User level: `user_clip_noise`", "",
        "Unit: one user, add/remove, everything that it ever sends. Against those who see only aggregates (the other clients "
        "included); the server is trusted. No amplification by sampling is credited: of 5,000 clients 1,000 take part in a "
        "round, and the claim is that of the client drawn most often. Simulation: the noise seed is known. z: noise "
        "multiplier. Noise per number: standard deviation on each released number of the mean. Clipped: share of differences "
        "above the bound. Heads' share: of a difference's squared norm (median).", "",
        *users_table(result["users"], result["majority"]),
        *_on_grid(result["grid"]),
        "## 2. Example level: `dpsgd`", "",
        "Unit: one training example of one client, add/remove. Against everyone, the server included. Simulation: the noise "
        "seed is known.", "",
        *examples_table(result["examples"], result["example_study"]),
        "## 3. At least, at most", "",
        "One audit each at the study's own parameters: canaries through the mechanism's own code, and a bound of 95 %. At "
        "least is for the audit's adversary, at most is the accountant's. A small lower end proves nothing.", "",
        *(f"- {b['task']}: {b['line']}" for b in result["brackets"]), "",
        "## What was tried on seed 100", "",
        "| task | method | protection | clip | rate | validation, % |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        *_tried(result), "",
        f"Reproduce: `{result['command']}`.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _on_grid(grid: Mapping[str, Any] | None) -> list[str]:
    if grid is None:
        return []
    one, other = grid["grid"], grid["stacked"]
    return [
        f"These runs train stacked clients (`benchmarks/population.py`). The row {one['task']}, {one['method']}, epsilon "
        f"{one['protection'].removesuffix('.0')}, seed {one['seed']} was also run on the in-process grid, with messages, "
        f"client states and every client's ledger: {100 * one['accuracy']:.2f} % there, {100 * other['accuracy']:.2f} % "
        f"here. Its summary says: {one['guarantee']}", "",
    ]  # fmt: skip


def _tried(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for chosen in (result["chosen"], result["example_study"]["chosen"]):
        for task, methods in chosen.items():
            for method, c in methods.items():
                for r in c["candidates"]:
                    said = r["protection"] if r["protection"] in NOISELESS else f"epsilon {r['protection'].removesuffix('.0')}"
                    value = "diverged" if r["validation"] is None else f"{100 * r['validation']:.1f}"
                    lines.append(f"| {task} | {method} | {said} | {r['clip']:g} | {r['rate']:g} | {value} |")
    return lines


def write(
    results: Path,
    chosen: Mapping[str, Any],
    runs: Sequence[Row],
    examples: Mapping[str, Any],
    brackets: Sequence[Row],
    majority: Mapping[str, float],
    delta: float,
    local_of: Mapping[str, str],
    grid: Mapping[str, Any] | None,
) -> None:
    """``private.json``, ``private.md`` and figures."""
    rows, example_rows = rows_of(runs), rows_of(examples["runs"])
    result = {
        "schema": 1, "command": "python -m benchmarks.private", "delta": delta, "users": rows, "examples": example_rows,
        "provenance": sorted({r["provenance"] for r in (*runs, *examples["runs"])}), "written_by": provenance(),
        "majority": dict(majority), "grid": grid, "brackets": list(brackets), "chosen": dict(chosen),
        "example_study": {k: v for k, v in examples.items() if k != "runs"}, "runs": list(runs),
        "example_runs": examples["runs"],
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    (results / "private.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (results / "private.md").write_text(check_words(page(result)), encoding="utf-8")
    for task in dict.fromkeys(r["task"] for r in rows):
        own = [r for r in rows if r["task"] == task]
        alone = next((r for r in rows if r["task"] == (local_of[task] or task) and r["method"] == "local"), None)
        name = task.lower().replace(", ", "-").replace(",", "")
        figure(f"{task} clients, user level", own, name, alone).save(results / "figures" / "private")
    for task in dict.fromkeys(r["task"] for r in example_rows):
        own = [r for r in example_rows if r["task"] == task]
        alone = next((r for r in own if r["method"] == "local"), None)
        name = f"dpsgd-{task.lower().replace(',', '').replace(' ', '-')}"
        figure(f"{task} a client, example level", own, name, alone, NOISELESS[0]).save(results / "figures" / "private")
    print(page(result))
