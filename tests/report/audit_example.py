"""An ``audit.json`` by its schema: two channels, two models, statistics by the shared evaluation core on made-up scores."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.evaluate import Config, evaluate
from fedkd.scores import Table
from fedkd.verdict import LEAK, MEASURED, NO_LEAK, NOT_TESTED, Row, verdict

SERVER, CLIENTS, HOLDER = "server that keeps every upload", "other clients", "holder of a final model"
UP, DOWN, OWN = "features up", "soft labels down", "personal models"


def membership(threat: str, view: str, attack: str, gap: float, members: int = 1200, seed: int = 0) -> tuple[list, list, dict]:
    """Rows, verdicts and curves of scores whose members stand ``gap`` standard deviations higher."""
    rng = np.random.default_rng([seed, int(100 * gap)])
    member = np.arange(2 * members) < members
    score = rng.normal(size=2 * members) + gap * member
    group = np.array([f"client {i % 4}" for i in range(2 * members)])
    table = Table(member, score, group=group, source="made up", sha256="0" * 64)
    options = Config(threat_model=threat, view=view, attack=attack, model="audited run", permutations=10, seed=seed)
    body = evaluate(table, options).to_json()
    verdicts = body["verdicts"][:1]
    rows = body["rows"]
    if verdicts[0]["text"].startswith("no leak"):
        first = next(r for r in rows if r["status"] == NO_LEAK and r["target_group"] == "all")
        verdicts = [{**verdicts[0], "text": verdict(Row(**first))}]
    shown = {line["target_group"]: line for line in body["verdicts"] if line["text"].startswith("leak shown")}
    return (
        rows,
        list({**{verdicts[0]["target_group"]: verdicts[0]}, **shown}.values()),
        {f"{view} | {attack}": body["curves"]["all"]},
    )


def row(
    threat: str,
    view: str,
    attack: str,
    statistic: str,
    values: tuple[float | None, ...],
    group: str,
    status: str,
    unit: str = "record",
    reason: str = "",
    sizes: tuple[int, int] = (400, 0),
    detectable: float | None = None,
) -> dict:
    value, low, high = values
    made = Row(
        threat,
        attack,
        "audited run",
        group,
        unit,
        view,
        statistic,
        value,
        low,
        high,
        0.95,
        *sizes,
        "none",
        detectable,
        1,
        status,
        reason,
    )
    return dataclasses.asdict(made)


def example(leak: float = 0.9, mechanism: str = "none", accuracy: float = 0.81, seed: int = 0) -> dict[str, Any]:
    """The file's content; ``leak`` is how far members stand out in the features that go up."""
    return copy.deepcopy(_example(leak, mechanism, accuracy, seed))


@functools.cache
def _example(leak: float, mechanism: str, accuracy: float, seed: int) -> dict[str, Any]:
    up = membership(SERVER, UP, "features_membership", leak, seed=seed)
    own = membership(HOLDER, OWN, "loss", 0.0, 400, seed=seed)
    inversion = [
        {
            "cut": cut,
            "mechanism": mechanism,
            "attacker": "decoder",
            "n": 200,
            "ssim": s,
            "ssim_low": s - 0.04,
            "ssim_high": s + 0.04,
            "chance_ssim": 0.31,
            "chance_low": 0.28,
            "chance_high": 0.34,
            "gain": s - 0.31,
            "gain_low": s - 0.35,
            "gain_high": s - 0.27,
            "rank_median": 900 * (0.9 - s),
            "rank_low": 800 * (0.9 - s),
            "rank_high": 1000 * (0.9 - s),
            "pool": 1000,
            "top1": s / 2,
            "top1_low": s / 2 - 0.05,
            "top1_high": s / 2 + 0.05,
            "shuffled_ssim": 0.30,
        }
        for cut, s in ((1, 0.3 + leak / 2), (2, 0.3 + leak / 3), (3, 0.3 + leak / 9))
    ]
    rows = [*up[0], *own[0]]
    verdicts = [*up[1], *own[1]]
    for record in inversion:
        shown = LEAK if record["ssim_low"] > record["chance_high"] else NO_LEAK
        made = row(
            SERVER,
            UP,
            "inversion",
            "ssim",
            tuple(record[k] for k in ("ssim", "ssim_low", "ssim_high")),
            f"cut {record['cut']}",
            shown,
            detectable=0.38,
        )
        rows.append(made)
        verdicts.append({"threat_model": SERVER, "target_group": made["target_group"], "text": verdict(Row(**made))})
    rows.append(row(SERVER, UP, "linkage", "top1_accuracy", (0.42, 0.38, 0.46), "pairs of rounds", LEAK, sizes=(600, 0)))
    rows.append(row(SERVER, UP, "label_disclosure", "label_accuracy", (1.0, 0.99, 1.0), "labels", LEAK))
    rows.append(
        row(
            CLIENTS,
            DOWN,
            "logits_membership",
            "auc",
            (None, None, None),
            "all",
            NOT_TESTED,
            reason="does not apply: no soft labels come down with knowledge = heads",
            sizes=(0, 0),
        )
    )
    rows.append(row(SERVER, UP, "features_membership", "flip_rate", (0.1, 0.05, 0.2), "all", MEASURED))
    for made in rows[-4:-1]:
        verdicts.append(
            {"threat_model": made["threat_model"], "target_group": made["target_group"], "text": verdict(Row(**made))}
        )
    rng = np.random.default_rng(seed)
    points = [
        {
            "round": t,
            "value": 0.5 + leak * 0.25 * (1 - 0.8**t),
            "low": 0.47 + leak * 0.25 * (1 - 0.8**t),
            "high": 0.53 + leak * 0.25 * (1 - 0.8**t),
            "n_members": 1200,
            "n_non_members": 1200,
        }
        for t in range(0, 20, 2)
    ]
    control = [{"round": p["round"], "value": float(0.5 + rng.normal(0, 0.01))} for p in points]
    series = [
        {
            "channel": UP,
            "attack": "features_membership",
            "statistic": "auc",
            "points": points,
            "chance": 0.5,
            "control": control,
        },
        {
            "channel": UP,
            "attack": "linkage",
            "statistic": "top1_accuracy",
            "chance": 0.05,
            "control": [],
            "points": [{**p, "value": p["value"] - 0.2, "low": p["low"] - 0.2, "high": p["high"] - 0.2} for p in points],
        },
        {"channel": OWN, "attack": "loss", "statistic": "auc", "points": points[-1:], "chance": 0.5, "control": []},
    ]
    lower = {"epsilon": 1.9, "ceiling": 6.2, "delta": 1e-5, "alpha": 0.05, "canaries": 1000, "guesses": 200, "correct": 180}
    bracket = {
        "mechanism": "user_clip_noise",
        "unit": "user",
        "adjacency": "add/remove",
        "reads": "the releases of 20 rounds",
        "adversary": "those who see only aggregates; the server is trusted",
        "lower": lower,
        "two_sample": None,
        "claimed": 4.0,
        "line": "user_clip_noise: epsilon at least 1.9 for who sees the releases of 20 rounds; at "
        "most 4 by "
        "the accountant. Unit: user, add/remove; delta = 1e-05.",
    }
    run = {
        "name": "fedd2s-digits",
        "label": f"FedD2S-avg, {mechanism}",
        "method": "fedd2s",
        "dataset": "digits",
        "model": "cnn_small",
        "seed": seed,
        "rounds": 20,
        "clients": 20,
        "command": "python -m simulations audit configs/audit-digits.toml",
        "final_state_sha256": "b" * 64,
        "mechanism": mechanism,
        "guarantee": "No guarantee: features, scores of each client leave without accounted noise.",
    }
    channels = [
        {
            "channel": UP,
            "direction": "up",
            "kinds": ["features", "labels"],
            "who_sees": "server",
            "mechanism": mechanism,
            "covered": False,
            "bytes_per_client_round": 153_000.0,
            "attacks": ["features_membership", "inversion", "linkage"],
            "rounds": [0, 19],
        },
        {
            "channel": DOWN,
            "direction": "down",
            "kinds": ["soft_labels"],
            "who_sees": "every client",
            "mechanism": None,
            "covered": False,
            "bytes_per_client_round": 12_000.0,
            "attacks": ["logits_membership"],
            "rounds": [1, 19],
        },
        {
            "channel": OWN,
            "direction": "model",
            "kinds": ["weights"],
            "who_sees": "its own client",
            "mechanism": None,
            "covered": False,
            "bytes_per_client_round": None,
            "attacks": ["loss"],
            "rounds": [19, 19],
        },
    ]
    return {
        "schema": 1,
        "kind": "run_audit",
        "run": run,
        "config": {"seeds": [0], "holdout": 0.5, "shadows": 16},
        "comparisons": 20,
        "channels": channels,
        "rows": rows,
        "verdicts": verdicts,
        "controls": [
            {"name": "blind baseline", "status": "clean", "detail": "AUC 0.497 [0.46, 0.53]"},
            {"name": "label permutation", "status": "measured", "detail": "p = 0.001 over 1,000 permutations"},
            {"name": "known_leaky", "status": "caught", "detail": "leak planted into half of the members"},
        ],
        "series": series,
        "curves": {**up[2], **own[2]},
        "exposure": [
            {
                "view": "released",
                "strings": 12,
                "median_bits": 14.0 * leak,
                "low": 10.0 * leak,
                "high": 19.0 * leak,
                "null_bits": 1.44,
                "p": 0.001,
                "labels_sent": 1.0,
            },
            {
                "view": "own model",
                "strings": 12,
                "median_bits": 1.9,
                "low": 0.9,
                "high": 3.1,
                "null_bits": 1.44,
                "p": 0.4,
                "labels_sent": None,
            },
        ],
        "brackets": [bracket],
        "inversion": inversion,
        "conformance": [{"what": "client 0, round 3", "status": "conforms", "detail": "12 steps, 12 charged"}],
        "utility": {
            "accuracy_mean": accuracy,
            "accuracy_low": accuracy - 0.02,
            "accuracy_high": accuracy + 0.02,
            "worst_decile": accuracy - 0.2,
            "bytes_up": 61_200_000,
            "bytes_down": 4_800_000,
        },
        "not_run": [{"attack": "gradient_inversion", "reason": "does not apply: no gradient leaves a client"}],
    }


def write_audit(run: Path, content: dict[str, Any] | None = None, pairs: bool = True) -> Path:
    """Put the example (or ``content``) and its pairs of images into a run's folder; returns the run."""
    folder = run / "audit"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(content or example(), indent=1), encoding="utf-8")
    if pairs:
        rng = np.random.default_rng(0)
        true = {cut: rng.random((8, 14, 14), dtype=np.float32) for cut in (1, 2)}
        arrays = {f"cut{cut}_true": x for cut, x in true.items()}
        arrays |= {f"cut{cut}_rebuilt": x / 2 for cut, x in true.items()} | {
            f"cut{cut}_chance": x * 0 for cut, x in true.items()
        }
        np.savez(folder / "pairs.npz", **arrays)
    return run
