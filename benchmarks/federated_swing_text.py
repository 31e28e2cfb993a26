"""What swing hides in a federation of language models that exchange soft labels on public text (FedMD), role by role.

``python -m benchmarks.federated_swing_text`` (or ``make swing-federated-text``) runs six Shakespeare roles with planted
secrets of their own, three seeds (other roles, secrets and weights each), without a mechanism, with swing on the uploads under
both round policies, and with each part alone; then writes ``docs/results/federated_swing_text.json`` and ``.md``. Digits of the
public text are the private rows: their likelihood is public, so that the flatness attack has an answer to compare with. A
finished run is not repeated. Learning rate and sizes were set on data seed 100, by whether one role learns its secrets; seed 0
without a mechanism was run once before the others, for its time, and nothing was changed after it.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated_swing import finished, protected, span, study
from fedkd import transcripts
from fedkd.attacks import flatness
from fedkd.config import parse_args
from fedkd.data import next_token
from fedkd.finished import open_finished
from fedkd.intervals import t_interval
from fedkd.metrics import auc
from fedkd.report.run_folder import read_run
from fedkd.text_exposure import VIEWS, of_models, of_rows, planted
from server.run_folder import run_id, state_root_of
from simulations.run import load

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "fedmd-shakespeare.toml"
SEEDS = (0, 1, 2)
SETTINGS = ("record=messages", "report=false", "workers=1")
ARMS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "temperature only": {"noise_scale": 0.0},
    "noise only": {"temperature_high": 1.0, "noise_scope": "private"},
    "swing, refresh": {"noise_scope": "private"},
    "swing, once": {"noise_scope": "private", "round_policy": "once"},
}
"""Defaults otherwise: T_hi = 20, Laplace of scale 0.1, a new release every five of ten rounds."""


def one(arm: str, seed: int, output: Path) -> dict[str, Any]:
    """Run one federation, or read it, and audit it."""
    base = load(CONFIG, SETTINGS, output=str(output), seed=seed)
    data_args = f"{base.data_args}, seed = {seed}"
    name = f"fedmd-shakespeare-{list(ARMS).index(arm)}"
    experiment = replace(base, name=name, data_args=data_args)
    fields = ARMS[arm]
    if fields is not None:
        digits = next_token.tokenizer(parse_args(data_args, next_token.Config, "data.args")).digits
        likelihood = ("classes", f"private = {list(digits)}")
        experiment = protected(experiment, {"pass_through": ["ids"], "refresh_every": 5, **fields}, likelihood)
    folder = finished(experiment, f"{arm}, seed {seed}")
    run = open_finished(folder, state_root_of(experiment) / run_id(experiment))
    known = planted(run)
    exposed = [e._asdict() for view in ("up", "down") for e in of_rows(run, known, "up" if view == "up" else "down")]
    exposed += [e._asdict() for e in of_models(run, known)]
    last = json.loads((folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    scores = list(read_run(folder).final_scores().values())
    return {
        "arm": arm, "seed": seed, "accuracy": float(np.mean(scores)), "perplexity": math.exp(last["loss_mean"]),
        "flatness": _flatness(run, known.digits), "exposed": exposed,
    }  # fmt: skip


def _flatness(run: Any, digits: Any) -> dict[str, float]:
    """AUC of each statistic for "this row is private", mean over clients; the rows of a client's last upload."""
    public = run.data.public
    private = np.isin(public.y, digits)
    found: dict[str, list[float]] = {}
    for client in range(run.data.num_clients):
        message = list(transcripts.messages(run.folder, "up", client))[-1]
        of = private[np.searchsorted(public.ids, message.ids)]
        for statistic in ("entropy", "top", "gap"):
            score = flatness.score(flatness.Config(statistic), log_q=np.log(np.maximum(message.q, 1e-12)))
            found.setdefault(statistic, []).append(auc(score[of], score[~of]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _bits(run: dict[str, Any], view: str, planted_only: bool, round: int | None = None) -> float:
    """Mean bits of a run's secrets in a view, after its last round unless said."""
    own = [e for e in run["exposed"] if e["view"] == view and (e["copies"] > 0) == planted_only]
    last = max(e["round"] for e in own) if round is None else round
    return float(np.mean([e["bits"] for e in own if e["round"] == last]))


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and t intervals over seeds, per arm and view; curves over rounds and per client beside them."""
    rows = []
    for arm in ARMS:
        own = [r for r in runs if r["arm"] == arm]
        row: dict[str, Any] = {"arm": arm}
        for name in ("accuracy", "perplexity"):
            row[name] = list(t_interval([r[name] for r in own])[:3])
        for view in VIEWS:
            row[view] = list(t_interval([_bits(r, view, True) for r in own])[:3])
            row[f"{view}, never planted"] = list(t_interval([_bits(r, view, False) for r in own])[:3])
        row["flatness"] = {k: list(t_interval([r["flatness"][k] for r in own])[:3]) for k in own[0]["flatness"]}
        rounds = sorted({e["round"] for e in own[0]["exposed"] if e["view"] == "released"})
        row["by_round"] = {
            view: {str(n): float(np.mean([_bits(r, view, True, n) for r in own])) for n in rounds if view == "released" or n}
            for view in ("released", "returned")
        }
        row["by_client"] = {
            str(client): float(np.mean([
                e["bits"] for r in own for e in r["exposed"]
                if e["view"] == "released" and e["client"] == client and e["copies"] and e["round"] == rounds[-1]
            ]))
            for client in sorted({e["client"] for e in own[0]["exposed"]})
        }  # fmt: skip
        rows.append(row)
    return {"schema": 1, "command": "python -m benchmarks.federated_swing_text", "seeds": list(SEEDS), "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Federated swing on text: six Shakespeare roles exchange soft labels on public text (FedMD)",
        "",
        f"Seeds {', '.join(map(str, result['seeds']))}; each role planted secrets of six digits (16 copies), and others "
        "nowhere (never planted). Bits by exact rank among 10^6 (chance 1.44, most 19.9); mean and 95 % t interval over seeds. "
        "Released: all uploads of the role until the end. Returned: the consensus that every role reads. Models: final.",
        "",
        "| mechanism | accuracy, % | perplexity | released rows | never planted | returned rows | own model | other models "
        "| flatness AUC |",
        "| --- |" + " ---: |" * 8,
    ]
    for r in result["rows"]:
        cells = [r["arm"], span([100 * v for v in r["accuracy"]], 1), span(r["perplexity"], 1)]
        cells += [span(r[k], 2) for k in ("released", "released, never planted", "returned", "own model", "other models")]
        cells.append(span(r["flatness"]["entropy"], 3))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Released rows after each round, mean bits of planted secrets:", ""]
    rounds = list(result["rows"][0]["by_round"]["released"])
    lines += ["| mechanism | " + " | ".join(str(int(n) + 1) for n in rounds) + " |", "| --- |" + " ---: |" * len(rounds)]
    for r in result["rows"]:
        lines.append(f"| {r['arm']} | " + " | ".join(f"{r['by_round']['released'][n]:.1f}" for n in rounds) + " |")
    clients = list(result["rows"][0]["by_client"])
    lines += ["", "The same per role after the last round:", "", "| mechanism | " + " | ".join(clients) + " |"]
    lines.append("| --- |" + " ---: |" * len(clients))
    for r in result["rows"]:
        lines.append(f"| {r['arm']} | " + " | ".join(f"{r['by_client'][n]:.1f}" for n in clients) + " |")
    lines += ["", f"Reproduce: `{result['command']}`.", ""]
    return "\n".join(lines)


def main() -> None:
    """Run, audit, write."""
    study("federated_swing_text", str(__doc__), one, [(arm, seed) for seed in SEEDS for arm in ARMS], summarise, table)


if __name__ == "__main__":
    main()
