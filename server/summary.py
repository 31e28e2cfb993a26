"""A finished run in one object: computed from the files of the run alone, so that a resumed run gives the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedkd.config import Experiment
from server.round import number, spread

LAST = 3
"""The score of a run is the mean over its last three scored rounds."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a ``.jsonl`` file, [] where it is missing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def client_scores(rows: list[dict[str, Any]], field: str = "accuracy") -> dict[int, float]:
    """Per client the mean over the run's last scored rounds; an absent client keeps its last score."""
    by_round: dict[int, dict[int, float]] = {}
    for row in rows:
        if row.get(field) is not None:
            by_round.setdefault(int(row["round"]), {})[int(row["client"])] = float(row[field])
    latest: dict[int, float] = {}
    history: list[dict[int, float]] = []
    for round in sorted(by_round):
        latest = {**latest, **by_round[round]}
        history.append(latest)
    tail = history[-LAST:]
    return {c: sum(h.get(c, latest[c]) for h in tail) / len(tail) for c in sorted(latest)}


def summarize(
    experiment: Experiment, folder: Path, state_sha256: str, failures: int, seconds: float, resumed_at: int, blocks: list[str]
) -> dict[str, Any]:
    """The content of ``summary.json``."""
    rounds, clients = read_lines(folder / "rounds.jsonl"), read_lines(folder / "clients.jsonl")
    scores, val = client_scores(clients), client_scores(clients, "val_accuracy")
    took_part = [r for r in clients if r["seconds"] > 0]
    up, down = sum(r["bytes_up"] for r in rounds), sum(r["bytes_down"] for r in rounds)
    none = {"accuracy_mean": None, "accuracy_std": None, "accuracy_worst_decile": None}
    return {
        "schema": 1,
        "name": experiment.name or experiment.method_name,
        "label": experiment.title,
        "method": experiment.method_name,
        "dataset": experiment.data_name,
        "model": experiment.model_name,
        "blocks": blocks,
        "seed": experiment.seed,
        "rounds": experiment.num_server_rounds,
        "clients": experiment.num_clients,
        "status": "completed",
        **(spread(list(scores.values())) if scores else none),
        "accuracy_val_mean": number(sum(val.values()) / len(val)) if val else None,
        "accuracy_clients": {str(c): a for c, a in scores.items()},
        "bytes_up": up,
        "bytes_down": down,
        "bytes_up_client_round": up / len(took_part) if took_part else 0.0,
        "bytes_down_client_round": down / len(took_part) if took_part else 0.0,
        "seconds": round(sum(r["seconds"] for r in rounds), 3),
        "seconds_with_start": round(seconds, 3),
        "failures": failures,
        "resumed_at": resumed_at,
        "final_state_sha256": state_sha256,
        "privacy": None,
        "audits": [],
    }


def charges(folder: Path) -> dict[str, Any]:
    """Rows released anew over the run, up and down, per client: a list and its maximum, never a mean of the federation.

    Of accepted answers; the ledger on the sender's side also counts what was refused, late or lost.
    """
    totals: dict[str, dict[str, int]] = {"charges": {}, "charges_down": {}}
    for row in read_lines(folder / "clients.jsonl"):
        for name, by_client in totals.items():
            client = str(row["client"])
            by_client[client] = by_client.get(client, 0) + int(row.get(name, 0))
    return {**totals, "charges_max": max(totals["charges"].values(), default=0)}
