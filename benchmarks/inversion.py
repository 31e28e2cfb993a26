"""Images rebuilt from the features that clients upload, per cut, with and without each mechanism, on Fashion-MNIST 14x14.

``python -m benchmarks.inversion`` (or ``make inversion``) runs ``configs/fedd2s-fashion_mnist-follow.toml`` (20 clients, 100
images each, every cut of the network) with recorded messages, three seeds, under each mechanism of ``ARMS``; attacks the last
round of each cut (without a mechanism the first one too) with ``fedkd.reconstruct``; then writes
``docs/results/inversion.json``, ``.md`` and two figures. What is finished is not repeated; the transcripts take some 3 GB below
``runs/``. Arms, seeds and options were fixed before the first of these runs; the decoder's were chosen on public rows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.federated_swing import ROOT, finished, span, study
from fedkd.intervals import t_interval
from fedkd.reconstruct import ATTACKERS, AVERAGED, Config, audit_features
from fedkd.report import inversion_figures as figures
from fedkd.report.run_folder import read_run
from fedkd.types import Array
from fedkd.verdict import LEAK, NOT_TESTED, verdict
from server.run_folder import run_id, state_root_of
from simulations.run import load

CONFIG = ROOT / "configs" / "fedd2s-fashion_mnist-follow.toml"
SEEDS = (0, 1, 2)
SETTINGS = ("record=messages", "report=false", "workers=1")


class Arm(NamedTuple):
    """One way to run the federation."""

    mechanism: str = "none"
    args: str = ""
    method_args: str = ""
    """instead of the configuration's"""
    sensitivity: tuple[str, str] = ("constant", "")


SEEDED = "insecure_seeded_noise = true"
NOISED = f'clip = 1.0, pass_through = ["labels", "weights"], {SEEDED}'
SWING = f'temperature_high = 20.0, noise_scale = 0.1, pass_through = ["features", "ids", "labels", "weights"], {SEEDED}'
NONE = "none"
ARMS: dict[str, Arm] = {
    NONE: Arm(),
    "pool 4": Arm("pool", "group = 4"),
    "pool 16": Arm("pool", "group = 16"),
    "permute": Arm("permute", SEEDED),
    "swing": Arm("swing", SWING, sensitivity=("constant", "likelihood = 1.0")),
    "clip_noise 0.1": Arm("clip_noise", f"noise_scale = 0.1, {NOISED}"),
    "clip_noise 10": Arm("clip_noise", f"noise_scale = 10.0, {NOISED}"),
    "heads": Arm(method_args='knowledge = "heads", kd_after_drop = "follow"'),
}
"""Pool 16 keeps one number per channel; clip_noise 10 is the level of docs/guarantees.md; swing acts on soft labels alone."""

SHOWN = (NONE, "pool 16", "clip_noise 0.1", "clip_noise 10")
"""Arms whose pairs are drawn: those of the first seed, by the fixed rule of ``fedkd.reconstruct.Config.shown``."""
MEASURES = ("ssim", "chance_ssim", "gain", "top1", "shuffled_ssim")


def one(arm: str, seed: int, output: Path) -> dict[str, Any]:
    """Run one federation, or read it, and attack it."""
    how = ARMS[arm]
    base = load(CONFIG, SETTINGS, output=str(output), seed=seed, name=f"{CONFIG.stem}-{list(ARMS).index(arm)}")
    name, args = how.sensitivity
    experiment = replace(
        base, mechanism_name=how.mechanism, mechanism_args=how.args, method_args=how.method_args or base.method_args,
        sensitivity_name=name, sensitivity_args=args,
    )  # fmt: skip
    folder = finished(experiment, f"{arm}, seed {seed}")
    config = Config(rounds="both" if arm == NONE else "last", seed=seed)
    kept, options = folder / "inversion.json", json.loads(json.dumps(asdict(config)))
    if kept.exists() and (before := json.loads(kept.read_text(encoding="utf-8")))["options"] == options:
        return {**before["found"], "arm": arm, "seed": seed}
    records, rows, pairs = audit_features(folder, state_root_of(experiment) / run_id(experiment), config)
    untested = [verdict(r) for r in rows if r.status == NOT_TESTED]
    of = {n: [r.status == LEAK for r in rows if r.statistic == n] for n in ("ssim", "rank_top1")}
    for record, by_ssim, by_rank in zip(records, of["ssim"], of["rank_top1"], strict=False):
        last = max(r["round"] for r in records if r["cut"] == record["cut"])
        record.update(place="last" if record["round"] == last else "first", ssim_leak=by_ssim, top1_leak=by_rank)
    scores = list(read_run(folder).final_scores().values())
    shown = {n: _hex(v) for n, v in pairs.items()} if arm in SHOWN and seed == SEEDS[0] else {}
    found = {"accuracy": float(np.mean(scores)), "records": records, "not_tested": untested, "pairs": shown}
    kept.write_text(json.dumps({"options": options, "found": found}), encoding="utf-8")
    return {"arm": arm, "seed": seed, **found}


def _hex(images: Array) -> list[str]:  # [m, H, W] in 0..1 -> m texts
    """Each image as lines of two hexadecimal digits per pixel, with a space between lines."""
    return [" ".join(line.tobytes().hex() for line in image) for image in np.rint(255 * images).astype(np.uint8)]


def summed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and 95 % t intervals over seeds per arm, cut, round and attacker; ranks as medians on a logarithmic scale."""
    base = {r["seed"]: r["accuracy"] for r in runs if r["arm"] == NONE}
    arms, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    for arm in ARMS:
        own = [r for r in runs if r["arm"] == arm]
        accuracy = [r["accuracy"] for r in own]
        cost = None if arm == NONE else _t([r["accuracy"] - base[r["seed"]] for r in own])
        told = own[0]["not_tested"][0] if own[0]["not_tested"] else None
        arms.append(
            {"arm": arm, "seeds": [r["seed"] for r in own], "accuracy": _t(accuracy), "minus_none": cost, "not_tested": told}
        )
        keys = sorted({(r["cut"], r["place"], ATTACKERS.index(r["attacker"])) for r in own[0]["records"]})
        rows += [_summary(arm, own, *key) for key in keys]
    first = next(r["records"] for r in runs if r["arm"] == NONE)
    sizes = {n: first[0][n] for n in ("n", "clients", "public_rows", "pool")}
    return {
        "schema": 1, "command": "python -m benchmarks.inversion", "seeds": list(SEEDS), **sizes, "arms": arms, "rows": rows,
    }  # fmt: skip


def _summary(arm: str, runs: list[dict[str, Any]], cut: int, place: str, attacker: int) -> dict[str, Any]:
    wanted = (cut, place, ATTACKERS[attacker])
    of = [r for run in runs for r in run["records"] if (r["cut"], r["place"], r["attacker"]) == wanted]
    row: dict[str, Any] = {"arm": arm, "cut": cut, "place": place, "round": of[0]["round"], "attacker": wanted[2]}
    row.update({name: _t([r[name] for r in of]) for name in MEASURES})
    row["top1"] = [min(max(v, 0.0), 1.0) for v in row["top1"]]
    row["rank"] = [float(10**v) for v in _t([np.log10(r["rank_median"]) for r in of])]
    row.update({name: sum(r[name] for r in of) for name in ("ssim_leak", "top1_leak")})
    return row


def _t(values: list[float]) -> list[float]:
    return list(t_interval(values)[:3])


def table(result: dict[str, Any]) -> str:
    """The Markdown page."""
    seeds = len(result["seeds"])
    lines = [
        "# Images rebuilt from uploaded features, Fashion-MNIST 14x14",
        "",
        f"FedD2S-avg (ours) with knowledge at every cut, 20 clients of 100 images, 20 rounds, alpha 0.5, seeds "
        f"{', '.join(map(str, result['seeds']))}; some {result['n']} uploaded rows per run, {result['public_rows']} public "
        "rows. Mean and 95 % t interval over seeds. Chance: the class-mean image of the label, which travels. Rank of the true "
        f"image among {result['pool']} of its class, by distance to the rebuilt one (chance 500, top-1 0.1 %). Shuffled: a "
        f"decoder trained on pairs shuffled inside each class. Leak: seeds of {seeds} in which SSIM / top-1 show one.",
        "",
        "| mechanism | accuracy, % | minus none, points |",
        "| --- | ---: | ---: |",
    ]
    for a in result["arms"]:
        cost = "–" if a["minus_none"] is None else span([100 * v for v in a["minus_none"]], 1)
        lines.append(f"| {a['arm']} | {span([100 * v for v in a['accuracy']], 1)} | {cost} |")
    fewer = [f"{a['arm']} {len(a['seeds'])}" for a in result["arms"] if a["seeds"] != result["seeds"]]
    if fewer:
        lines += ["", f"**Not every seed is finished**; so far: {', '.join(fewer)}. Two seeds give very wide t intervals."]
    for attacker in ATTACKERS:
        lines += ["", f"Attacker with **{attacker}**, last round of each cut (and the first where it says so):", ""]
        lines += ["| mechanism | cut | SSIM | minus chance | shuffled | rank, median | top-1, % | leak |"]
        lines += ["| --- | --- |" + " ---: |" * 6]
        lines += [_line(r) for r in result["rows"] if r["attacker"] == attacker]
        for a in result["arms"]:
            if a["not_tested"]:
                lines.append(f"| {a['arm']} | – | {a['not_tested']} | – | – | – | – | – |")
    chance = next(r["chance_ssim"] for r in result["rows"] if r["attacker"] == AVERAGED)
    return "\n".join([*lines, "", f"SSIM of chance: {span(chance, 3)}. Reproduce: `{result['command']}`.", ""])


def _line(r: dict[str, Any]) -> str:
    cut = f"{r['cut']}, round {r['round'] + 1}" + (" (first)" if r["place"] == "first" else "")
    cells = [r["arm"], cut, span(r["ssim"], 3), span(r["gain"], 3), f"{r['shuffled_ssim'][0]:.3f}", span(r["rank"], 0)]
    return "| " + " | ".join([*cells, span([100 * v for v in r["top1"]], 1), f"{r['ssim_leak']} / {r['top1_leak']}"]) + " |"


def main() -> None:
    """Run, attack, write, draw."""
    results = study("inversion", str(__doc__), one, [(arm, seed) for seed in SEEDS for arm in ARMS], summed, table, indent=1)
    result = json.loads((results / "inversion.json").read_text(encoding="utf-8"))
    figures.similarity(result).save(results / "figures")
    figures.pairs(result).save(results / "figures").unlink()  # pixels: the PNG is enough


if __name__ == "__main__":
    main()
