"""Federated swing on digits, round by round: who reads what after each round, both round policies, and p read from flatness.

``python -m benchmarks.federated_flatness`` (or ``make swing-federated``) runs FedD2S-avg on digits with label canaries, three
seeds, without a mechanism, with swing on every row under both round policies, and with a likelihood that varies (rarity of the
label at its client), which is what flatness could give away; then writes ``docs/results/federated_flatness.json`` and ``.md``.
A finished run is not repeated. Everything was fixed before the first run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated_swing import CONFIG, SENT, SETTINGS, finished, protected, span, study
from fedkd import plugins, rng, transcripts
from fedkd.attacks import flatness
from fedkd.config import parse_args
from fedkd.finished import Finished, open_finished
from fedkd.intervals import Bools, Floats, t_interval
from fedkd.label_exposure import audit, curves, label_strings
from fedkd.metrics import auc_delong, halves, tpr_at_fpr
from fedkd.report.run_folder import read_run
from server.run_folder import run_id, state_root_of
from simulations.run import load

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
READING = "FedD2S-avg (ours)"
FPR = 0.1
LIKELIHOOD = ("frequency", "")
"""The estimator whose p flatness is asked for, in every arm alike."""
ARMS: dict[str, tuple[dict[str, Any], tuple[str, str]] | None] = {
    "none": None,
    "swing, every row, refresh": ({}, ("constant", "likelihood = 1.0")),
    "swing, every row, once": ({"round_policy": "once"}, ("constant", "likelihood = 1.0")),
    "swing, rare labels, refresh": ({"noise_scope": "private"}, LIKELIHOOD),
    "temperature only, rare labels": ({"noise_scale": 0.0, "noise_scope": "private"}, LIKELIHOOD),
}


def one(arm: str, seed: int, output: Path) -> dict[str, Any]:
    """Run one federation, or read it, and audit it."""
    base = load(CONFIG, SETTINGS, output=str(output), seed=seed, name=f"fedd2s-digits-{list(ARMS).index(arm)}")
    experiment, how = base, ARMS[arm]
    if how is not None:
        experiment = protected(base, {"pass_through": list(SENT[READING]), **how[0]}, how[1])
    folder = finished(experiment, f"{arm}, seed {seed}")
    states = state_root_of(experiment) / run_id(experiment)
    run = open_finished(folder, states)
    views = {v.name: None if v.report is None else v.report.strata[0].mean for v in audit(folder, states)}
    scores = list(read_run(folder).final_scores().values())
    rounds = {
        view: {str(n): float(np.mean(list(by.values()))) for n, by in of.items() if by}
        for view, of in curves(folder, run.data.path).items()
    }
    last = {view: {str(c): v for c, v in of[max(of)].items()} for view, of in curves(folder, run.data.path).items() if of}
    return {
        "arm": arm, "seed": seed, "accuracy": float(np.mean(scores)), "bits": views, "by_round": rounds, "by_client": last,
        "flatness": {"private": _private(run), "canary": _canaries(run)},
    }  # fmt: skip


def _rows(run: Finished) -> list[tuple[int, Any, Floats]]:
    """(client, ids, flatness of each row's mean over rounds) of every client that uploaded."""
    found = []
    for client in range(run.data.num_clients):
        ids, q = transcripts.mean_rows(run.folder, "up", client)
        if len(ids):
            found.append((client, ids, flatness.score(flatness.Config(), log_q=np.log(np.maximum(q, 1e-300)))))
    return found


def _private(run: Finished) -> dict[str, float] | None:
    """Does flatness tell which rows ``LIKELIHOOD`` takes for private?"""
    module = plugins.find("sensitivity", LIKELIHOOD[0])
    config = parse_args(LIKELIHOOD[1], module.Config, "sensitivity.args")
    score, private = list[Floats](), list[Bools]()
    for client, ids, flat in _rows(run):
        train = run.data.client(client).train
        labels = np.asarray(train.y)
        own = labels[np.searchsorted(train.ids, ids)]
        arrays = {"labels": own, "counts": np.bincount(labels, minlength=run.data.classes)}
        likelihood = module.likelihood(config, **{n: arrays[n] for n in module.READS})
        score.append(flat)
        private.append(np.asarray(likelihood >= 0.5))
    return rates(np.concatenate(score), np.concatenate(private))


def _canaries(run: Finished) -> dict[str, float] | None:
    """Does flatness tell which rows have a planted label?"""
    planted = sorted({int(i) for string in label_strings(run.data, 1) for i in string.ids})
    parts = _rows(run)
    return rates(np.concatenate([p[2] for p in parts]), np.concatenate([np.isin(p[1], planted) for p in parts]))


def rates(score: Floats, private: Bools) -> dict[str, float] | None:
    """AUC and TPR at ``FPR``; None where a class has fewer than 20 rows."""
    if min(int(private.sum()), int((~private).sum())) < 20:
        return None
    area = auc_delong(score[private], score[~private])
    rate = tpr_at_fpr(private, score, halves(private, rng.experiment(0, "flatness halves")), FPR)
    return {"auc": area.value, "low": area.low, "high": area.high, "tpr": rate.tpr.value, "private": float(private.mean())}


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and t intervals over seeds."""
    rows = []
    for arm in ARMS:
        own = [r for r in runs if r["arm"] == arm]
        row: dict[str, Any] = {"arm": arm, "accuracy": _t([r["accuracy"] for r in own])}
        row["bits"] = {view: _t([r["bits"][view] for r in own]) for view in own[0]["bits"]}
        for view in own[0]["by_round"]:
            rounds = [n for n in own[0]["by_round"][view] if all(n in r["by_round"].get(view, {}) for r in own)]
            row[f"{view} by round"] = {n: float(np.mean([r["by_round"][view][n] for r in own])) for n in rounds}
        for question in ("private", "canary"):
            kept = [r["flatness"][question] for r in own]
            row[question] = {n: _t([k[n] for k in kept]) for n in ("auc", "tpr")} if all(kept) else None
        rows.append(row)
    return rows


def _t(values: list[float | None]) -> list[float] | None:
    known = [v for v in values if v is not None]
    return list(t_interval(known)[:3]) if len(known) == len(values) else None


def table(result: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Federated swing on digits, by round, and p read from flatness",
        "",
        f"{READING}, 10 clients, 20 rounds, seeds {', '.join(map(str, result['seeds']))}; bits as in federated_swing.md "
        "(chance 1.44, most 19.0); mean and 95 % t interval over seeds. Flatness: entropy of a row's mean over rounds, AUC and "
        f"TPR at {FPR:.0%} FPR for the rows whose label is rare at its client, and for the rows with a planted label.",
        "",
        "| mechanism | accuracy, % | released | returned | own model | other models | AUC, rare | TPR | AUC, planted | TPR |",
        "| --- |" + " ---: |" * 9,
    ]
    for r in result["rows"]:
        cells = [r["arm"], span([100 * v for v in r["accuracy"]], 1)]
        cells += [span(r["bits"][view], 2) for view in ("released", "returned", "own model", "other models")]
        for question in ("private", "canary"):
            cells += [span(r[question][n], 2) if r[question] else "–" for n in ("auc", "tpr")]
        lines.append("| " + " | ".join(cells) + " |")
    for view in ("released", "returned"):
        shown = {n: None for r in result["rows"] for n in r.get(f"{view} by round", {})}
        rounds = sorted(map(int, shown))[:: max(1, len(shown) // 8)]
        lines += ["", f"{view.capitalize()} rows after round, mean bits:", ""]
        lines += ["| mechanism | " + " | ".join(str(n + 1) for n in rounds) + " |", "| --- |" + " ---: |" * len(rounds)]
        for r in result["rows"]:
            own = r.get(f"{view} by round", {})
            lines.append(f"| {r['arm']} | " + " | ".join(f"{own[str(n)]:.1f}" if str(n) in own else "–" for n in rounds) + " |")
    return "\n".join([*lines, "", f"Reproduce: `{result['command']}`.", ""])


def main() -> None:
    """Run, audit, write."""
    study("federated_flatness", str(__doc__), one, [(arm, seed) for seed in SEEDS for arm in ARMS], summed, table, indent=1)


def summed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page is drawn from."""
    rows = summarise(runs)
    return {"schema": 1, "command": "python -m benchmarks.federated_flatness", "seeds": list(SEEDS), "rows": rows}


if __name__ == "__main__":
    main()
