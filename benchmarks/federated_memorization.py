"""What a federation that exchanges logits (FedMD) remembers of its clients' texts, client by client.

``python -m benchmarks.federated_memorization`` (or ``make memorization-federated``) runs six Shakespeare roles that hold
passages of their own 0 to 12 times, three seeds (other roles, passages and weights each): alone, with exchange on other groups'
text, and with exchange on text that holds half of the passages (as many rows); then writes
``docs/results/federated_memorization.json`` and ``.md``. The holder of a passage is the teacher T, every other client a student
S, the same client alone the baseline B. A finished run is not repeated. Learning rate and rounds were set on data seed 100,
each client alone, so that half of what stands three times is memorized.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated_swing import finished, span, study
from fedkd.finished import open_finished
from fedkd.intervals import Bools, t_interval
from fedkd.memorization import dose_response, inheritance, share
from fedkd.passage_recall import recall
from fedkd.report.run_folder import read_run
from server.run_folder import run_id, state_root_of
from simulations.run import load

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "fedmd-shakespeare-passages.toml"
SEEDS = (0, 1, 2)
SETTINGS = ("record=messages", "report=false", "workers=1")
ARMS = {
    "alone": ('digest_epochs = 0, consensus = "probabilities"', "none"),
    "exchange on other text": ('consensus = "probabilities"', "none"),
    "exchange on text with half of the passages": ('consensus = "probabilities"', "half"),
}
"""Label -> (method.args, which passages the public rows hold)."""
HALVES = ("public half", "other half")
"""Of the passages: those that the last arm's public rows hold, and the rest."""


def one(arm: str, seed: int, output: Path, config: Path = CONFIG, settings: tuple[str, ...] = SETTINGS) -> dict[str, Any]:
    """Run one federation, or read it, and ask every final model for every passage."""
    base = load(config, settings, output=str(output), seed=seed)
    method_args, public = ARMS[arm]
    data_args = f'{base.data_args}, public_passages = "{public}", seed = {seed}'
    name = f"{base.name}-{list(ARMS).index(arm)}"
    experiment = replace(base, name=name, method_args=method_args, data_args=data_args)
    folder = finished(experiment, f"{arm}, seed {seed}")
    found = recall(open_finished(folder, state_root_of(experiment) / run_id(experiment)))
    last = json.loads((folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return {
        "arm": arm, "seed": seed, "perplexity": math.exp(last["loss_mean"]), "disagree": found.disagree,
        "accuracy": float(np.mean(list(read_run(folder).final_scores().values()))),
        "holder": found.holder.tolist(), "copies": found.copies.tolist(), "public": [p.public for p in found.passages],
        "hits": found.hits.tolist(), "log_pz": np.round(found.log_pz, 3).tolist(),
    }  # fmt: skip


class Pairs:
    """Every passage beside every model that did not hold it, of one run, with that client alone: flat arrays."""

    def __init__(self, run: Mapping[str, Any], alone: Mapping[str, Any]) -> None:
        hits, before = np.array(run["hits"]), np.array(alone["hits"])
        logs, holder = np.array(run["log_pz"]), np.array(run["holder"])
        model, passage = np.nonzero(np.arange(len(hits))[:, None] != holder[None, :])
        own = hits[holder, np.arange(len(holder))]
        self.in_t, self.in_b, self.in_s = own[passage], before[model, passage], hits[model, passage]
        self.gap = (logs - np.array(alone["log_pz"]))[model, passage] / math.log(10)
        self.copies, self.holder = np.array(run["copies"])[passage], holder[passage]
        # a passage is public in the arm where half of them are: the same passages are followed in the other arms
        self.even = np.array(run["even"])[passage]


def figures(run: Mapping[str, Any], alone: Mapping[str, Any]) -> dict[str, Any]:
    """What one run says: own models by copies, and other clients' models by whether the passage is of the public half."""
    pairs, hits = Pairs(run, alone), np.array(run["hits"])
    holder, copies = np.array(run["holder"]), np.array(run["copies"])
    own = hits[holder, np.arange(len(holder))]
    held = copies > 0
    found: dict[str, Any] = {
        "own": float(own[held].mean()), "own, control": float(own[~held].mean()),
        "r50": dose_response(copies[held], own[held]).r50,
        "own by copies": {str(n): float(own[copies == n].mean()) for n in np.unique(copies)},
        "own by client": {str(c): float(own[held & (holder == c)].mean()) for c in np.unique(holder)},
    }  # fmt: skip
    planted = pairs.copies > 0
    for half, part in zip(HALVES, (pairs.even, ~pairs.even), strict=True):
        mask = planted & part
        found[half] = {
            "others": float(pairs.in_s[mask].mean()),
            "inherited": asdict(inheritance(pairs.in_t[mask], pairs.in_b[mask], pairs.in_s[mask])),
            "gap": float(np.median(pairs.gap[mask])),
            "dose": _median(pairs, part, pairs.copies.max()) - _median(pairs, part, 0),
            "gap by copies": {str(n): float(np.median(pairs.gap[(pairs.copies == n) & part])) for n in np.unique(pairs.copies)},
            "by client": {str(c): float(pairs.in_s[mask & (pairs.holder == c)].mean()) for c in np.unique(pairs.holder)},
        }
    return found


def _median(pairs: Pairs, part: Bools, copies: int) -> float:
    return float(np.median(pairs.gap[part & (pairs.copies == copies)]))


def over(values: Iterable[float]) -> list[float]:
    """Mean and 95 % t interval over seeds."""
    return list(t_interval(list(values))[:3])


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and t intervals over seeds per arm; inheritance pooled over seeds (Clopper-Pearson) and over seeds."""
    halves = {r["seed"]: r["public"] for r in runs if any(r["public"])}
    for run in runs:
        run["even"] = halves[run["seed"]]
    alone = {r["seed"]: r for r in runs if r["arm"] == "alone"}
    rows = []
    for arm in ARMS:
        own = [r for r in runs if r["arm"] == arm]
        before = [alone[r["seed"]] for r in own]
        each = [figures(r, b) for r, b in zip(own, before, strict=True)]
        row: dict[str, Any] = {"arm": arm, "disagree": sum(r["disagree"] for r in own)}
        for name in ("perplexity", "accuracy"):
            row[name] = over(r[name] for r in own)
        for name in ("own", "own, control", "r50"):
            row[name] = over(e[name] for e in each)
        row["own, minus alone"] = over(e["own"] - figures(b, b)["own"] for e, b in zip(each, before, strict=True))
        for name in ("own by copies", "own by client"):
            row[name] = {k: float(np.mean([e[name][k] for e in each])) for k in each[0][name]}
        for half in HALVES:
            parts = [e[half] for e in each]
            rates = [p["inherited"]["value"] for p in parts]
            count, of = (sum(p["inherited"][k] for p in parts) for k in ("count", "of"))
            row[half] = {
                "others": over(p["others"] for p in parts),
                "gap": over(p["gap"] for p in parts),
                "dose": over(p["dose"] for p in parts),
                "inherited": over(rates) if None not in rates else None,
                "inherited, pooled": asdict(share(count, of)),
            }
            for name in ("gap by copies", "by client"):
                row[half][name] = {n: float(np.mean([p[name][n] for p in parts])) for n in parts[0][name]}
        rows.append(row)
    return {"schema": 1, "command": "python -m benchmarks.federated_memorization", "seeds": list(SEEDS), "rows": rows}


def table(result: Mapping[str, Any]) -> str:
    """The Markdown page."""
    rows = result["rows"]
    lines = [
        "# What a federation that exchanges logits remembers: six Shakespeare roles (FedMD)",
        "",
        f"Seeds {', '.join(map(str, result['seeds']))}: other roles, passages and weights each. A passage is 48 characters of "
        "its holder's own text; memorized = the 24 after the prefix come out greedily. Mean and 95 % t interval over seeds. "
        "Inherited: of what the holder memorizes and the other client alone does not, what that client memorizes after the "
        "exchange. The public half of the passages stands in the public rows of the last run only; the other half only at its "
        "holder. Change of p_z: median over passages and clients of log10 p_z in another client's model, minus that client "
        "alone. Passages are dealt to numbers of copies at random, so what a change has more with the most copies than with "
        "none comes from their holder.",
        "",
        "| run | perplexity | own model, % | minus alone, points | own model, never planted, % | r50 of own, copies |",
        "| --- |" + " ---: |" * 5,
    ]
    for r in rows:
        shares = (_percent(r[name]) for name in ("own", "own, minus alone", "own, control"))
        lines.append(_line(r["arm"], span(r["perplexity"]), *shares, span(r["r50"])))
    head = ("run", "passages", "memorized, %", "inherited, % (over seeds)", "pooled (Clopper-Pearson)", "change of log10 p_z",
            "with the most copies minus with none")  # fmt: skip
    lines += ["", "Other clients' models:", "", _line(*head), "| --- | --- |" + " ---: |" * 5]
    for r in rows:
        for half in HALVES:
            p = r[half]
            rate = "n/a" if p["inherited"] is None else _percent(p["inherited"])
            cells = (_percent(p["others"], 2), rate, _pooled(p["inherited, pooled"]), span(p["gap"]), span(p["dose"]))
            lines.append(_line(r["arm"], half, *cells))
    for title, keys, scale, digits in (
        ("Own model, memorized %, by copies", ("own by copies",), 100, 0),
        ("Other models, change of log10 p_z by copies, public half", ("public half", "gap by copies"), 1, 2),
        ("Other models, change of log10 p_z by copies, other half", ("other half", "gap by copies"), 1, 2),
        ("Own model, memorized %, by client", ("own by client",), 100, 0),
        ("Other models, memorized % of this client's public half", ("public half", "by client"), 100, 1),
    ):
        found = [r[keys[0]] if len(keys) == 1 else r[keys[0]][keys[1]] for r in rows]
        lines += ["", f"{title}:", "", _line("run", *found[0]), "| --- |" + " ---: |" * len(found[0])]
        for r, values in zip(rows, found, strict=True):
            lines.append(_line(r["arm"], *(f"{scale * v:.{digits}f}" for v in values.values())))
    wrong = sum(r["disagree"] for r in rows)
    lines += ["", f"The one-pass rule and real greedy generation disagree in {wrong} decisions.", ""]
    return "\n".join([*lines, f"Reproduce: `{result['command']}`.", ""])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(value: list[float], digits: int = 1) -> str:
    return span([100 * v for v in value], digits)


def _pooled(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "n/a"
    ends = f"[{100 * found['low']:.2f}, {100 * found['high']:.2f}]"
    return f"{found['count']}/{found['of']} = {100 * found['value']:.2f} {ends}"


def main() -> None:
    """Run, ask, write."""
    study("federated_memorization", str(__doc__), one, [(arm, seed) for seed in SEEDS for arm in ARMS], summarise, table)


if __name__ == "__main__":
    main()
