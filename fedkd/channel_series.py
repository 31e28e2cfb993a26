"""What a page draws of an audit: leak over rounds with its control, clients one by one, ROC bands."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedkd import controls, evaluate, rng
from fedkd.channel_attacks import Scored
from fedkd.channel_candidates import Candidates
from fedkd.intervals import Floats, clopper_pearson
from fedkd.metrics import TooFew, auc, auc_delong
from fedkd.verdict import MEASURED, Row, show


def series(attacks: list[Scored], candidates: Candidates, level: float) -> list[dict[str, Any]]:
    """AUC of every attack in every round, and of its control."""
    found = []
    for one in attacks:
        points, control = [], []
        for at, number in enumerate(one.rounds):
            point = _point(number, one.by_round[at], candidates, level)
            if point is None:
                continue
            points.append(point)
            if one.control is not None:
                sides = _sides(one.control[at], candidates)
                control.append({"round": number, "value": auc(*sides)})
        record = {"channel": one.attack.channel, "attack": one.attack.name, "statistic": "auc", "points": points}
        found.append({**record, "chance": 0.5, "control": control})
    return found


def _sides(score: Floats, candidates: Candidates) -> tuple[Floats, Floats]:
    seen = np.isfinite(score)
    return score[seen & candidates.member], score[seen & ~candidates.member]


def _point(number: int, score: Floats, candidates: Candidates, level: float) -> dict[str, Any] | None:
    sides = _sides(score, candidates)
    try:
        e = auc_delong(*sides, level)
    except TooFew:
        return None
    sizes = {"n_members": len(sides[0]), "n_non_members": len(sides[1])}
    return {"round": number, "value": e.value, "low": e.low, "high": e.high, **sizes}


def client_rows(one: Scored, candidates: Candidates, config: evaluate.Config) -> list[Row]:
    """AUC of every client's candidates for the headline of a channel: descriptions, too small for rates."""
    seen = np.isfinite(one.total)
    stream = rng.experiment(config.seed, f"audit clients {config.view}")
    rows = []
    for c in controls.per_client(candidates.member[seen], one.total[seen], candidates.client[seen], stream, config.level):
        value, low, high = (None, None, None) if c.auc is None else (c.auc.value, c.auc.low, c.auc.high)
        why = "" if c.auc else "fewer than 2 candidates of a class"
        rows.append(Row(
            config.threat_model, config.attack, config.model, f"client {c.client}", config.unit, config.view, "auc", value, low,
            high, config.level, c.members, c.non_members, "none", None, config.attacks_tried, MEASURED, why,
        ))  # fmt: skip
    return sorted(rows, key=lambda r: int(r.target_group.removeprefix("client ")))


def curve_band(curves: dict[str, list[float]], members: int) -> dict[str, list[float]]:
    """A ROC with pointwise 95 % Clopper-Pearson ends of its true-positive rates (on ``members`` members)."""
    ends = [clopper_pearson(round(t * members), members) for t in curves["tpr"]]
    return {**curves, "tpr_low": [low for low, _ in ends], "tpr_high": [high for _, high in ends]}


def other_client(one: Scored, candidates: Candidates, level: float) -> list[dict[str, Any]]:
    """The control of a headline: the same attack, each candidate held against a client that never had it."""
    if one.control is None:
        return []
    seen = np.isfinite(one.control)
    total = np.where(seen, one.control, 0.0).sum(axis=0) / np.where(seen.any(axis=0), seen.sum(axis=0), np.nan)
    try:
        e = auc_delong(*_sides(total, candidates), level)
    except TooFew:
        return []
    found = f"{one.attack.channel} | {one.attack.name}: AUC {show(e.value)} [{show(e.low)}, {show(e.high)}]"
    detail = f"{found} against the message of a client that never had the example"
    return [{"name": "another_client", "status": "measured", "detail": detail}]
