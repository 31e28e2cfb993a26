"""LiRA, loss and calibrated loss on Fashion-MNIST: train the shadows, score every target, write the table.

``python -m benchmarks.lira`` (or ``make lira``) writes ``docs/results/lira.json`` and ``lira.md``; with ``--plan
benchmarks/distill_lira.toml`` it does the same for students of a distillation (``distill_lira.json`` and ``.md``). The
headline target is model 0, fixed beforehand; the mean over all models as targets stands beside it. Thresholds come from a
calibration half, rates and intervals from the other half.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedkd import metrics, rng
from fedkd.attacks import calibrated_loss, distill_lira, lira, loss
from fedkd.shadows import Plan, Shadows, folder_of, load, read_plan
from fedkd.verdict import check_words
from simulations.run import provenance
from simulations.shadows import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
FPRS = (0.01, 0.001)
NAMES = {
    "loss": "loss",
    "calibrated_loss": "calibrated loss",
    "lira_offline": "LiRA, offline",
    "lira": "LiRA, online",
    "distill_lira": "LiRA with 8 proxy queries",
    "teacher_lira": "LiRA on the teacher itself (not the attacker's view)",
}


def scores(found: Shadows, target: int) -> dict[str, np.ndarray]:
    """Every attack's score of one target, [pool] each."""
    own, others, inside = found.target(target)
    out = {
        "loss": loss.score(loss.Config(), target_logprob=own["target_logprob"]),
        "calibrated_loss": calibrated_loss.score(
            calibrated_loss.Config(),
            target_logprob=own["target_logprob"],
            shadow_logprob=others["target_logprob"],
            shadow_in=inside,
        ),
    }
    both = {"phi": own["phi"], "shadow_phi": others["phi"], "shadow_in": inside}
    out["lira_offline"] = lira.score(lira.Config(mode="offline"), **both)
    out["lira"] = lira.score(lira.Config(), **both)
    if "transfer_phi" in own:
        pool = found.plan.pool
        embedding = own["teacher_embedding"]
        near = distill_lira.nearest(embedding[:pool], embedding[pool:], distill_lira.Config.queries)
        out["distill_lira"] = distill_lira.score(
            distill_lira.Config(),
            **both,
            transfer_phi=own["transfer_phi"],
            shadow_transfer_phi=others["transfer_phi"],
            proxies=near,
        )
        teacher = {"phi": own["teacher_phi"], "shadow_phi": others["teacher_phi"], "shadow_in": inside}
        out["teacher_lira"] = lira.score(lira.Config(), **teacher)
    return out


def judge(member: np.ndarray, every: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Statistics of every attack on one target, and LiRA minus each other attack on the same evaluation members."""
    split = metrics.halves(member, rng.experiment(seed, "lira halves"))
    chosen = split.evaluation & member
    result: dict[str, Any] = {}
    hits: dict[str, dict[float, np.ndarray]] = {}
    for name, score in every.items():
        auc = metrics.auc_delong(score[member], score[~member])
        row: dict[str, Any] = {"auc": [auc.value, auc.low, auc.high]}
        hits[name] = {}
        for fpr in FPRS:
            found = metrics.tpr_at_fpr(member, score, split, fpr)
            row[f"tpr@{fpr:g}"] = [found.tpr.value, found.tpr.low, found.tpr.high]
            row[f"realised_fpr@{fpr:g}"] = [found.realised_fpr.value, found.realised_fpr.low, found.realised_fpr.high]
            hits[name][fpr] = score[chosen] > found.threshold
        result[name] = row
    pairs: dict[str, Any] = {}
    best = "distill_lira" if "distill_lira" in every else "lira"
    for name in every:
        if name == best:
            continue
        for fpr in FPRS:
            gap = hits[best][fpr].astype(float) - hits[name][fpr]
            drawn = metrics.paired_bootstrap(
                lambda index, gap=gap: float(gap[index].mean()), len(gap), rng.experiment(seed, "lira pairs")
            )
            pairs[f"{best} - {name} at {fpr:g}"] = [drawn.value, drawn.low, drawn.high]
    sizes = {"members": int(chosen.sum()), "non_members": int((split.evaluation & ~member).sum())}
    return {"attacks": result, "pairs": pairs, "evaluation": sizes}


def study(plan: Plan, path: Path, output: Path, workers: int) -> dict[str, Any]:
    """Train what is missing, score every target and return the result."""
    started = time.perf_counter()
    train(path, output, workers, lambda done, of: print(f"{done} of {of} models", flush=True))
    trained = time.perf_counter() - started
    found = load(plan, output)
    started = time.perf_counter()
    judged = [judge(found.inside[t], scores(found, t), plan.experiment.seed) for t in range(plan.models)]
    scored = time.perf_counter() - started
    over: dict[str, Any] = {}
    for name in judged[0]["attacks"]:
        for statistic in ("auc", *(f"tpr@{fpr:g}" for fpr in FPRS)):
            mean, low, high, _ = metrics.t_interval([j["attacks"][name][statistic][0] for j in judged])
            over.setdefault(name, {})[statistic] = [mean, low, high]
    return {
        "schema": 1,
        "plan": {"name": plan.name, "hash": plan.hash, "pool": plan.pool, "members": plan.members, "models": plan.models},
        "pipeline": plan.pipeline,
        "command": f"python -m benchmarks.lira --plan benchmarks/{path.name}",
        "provenance": provenance(),
        "seconds": {"train": trained, "score": scored, "workers": workers, "cores": os.cpu_count()},
        "accuracy": {
            "members": float(found.signals["accuracy_members"].mean()),
            "test": float(found.signals["accuracy_test"].mean()),
        },
        "target": judged[0],
        "all_targets": over,
    }


def table(result: dict[str, Any]) -> str:
    """The Markdown page."""
    plan, seconds, sizes = result["plan"], result["seconds"], result["target"]["evaluation"]
    what = "students of a distillation" if result["pipeline"] == "distilled" else "models trained on them"
    lines = [
        f"# Membership on Fashion-MNIST 14x14: {what}",
        "",
        f"{plan['models']} models (`cnn_small`), each on {plan['members']:,} images drawn independently from {plan['pool']:,}; "
        f"target = model 0, shadows = the other {plan['models'] - 1}. "
        f"Accuracy {100 * result['accuracy']['members']:.1f} % on the members, {100 * result['accuracy']['test']:.1f} % on "
        "2,000 held-out images (means). "
        f"Rates on the evaluation half ({sizes['members']} members, {sizes['non_members']:,} non-members), thresholds from the "
        "other half; 95 % intervals: DeLong (AUC), Clopper-Pearson (rates), paired bootstrap over members (differences).",
        "",
        "| attack | AUC | TPR at 1 % FPR | realised FPR | TPR at 0.1 % FPR | all targets: AUC, TPR at 1 %, at 0.1 % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in result["target"]["attacks"].items():
        over = result["all_targets"][name]
        means = f"{over['auc'][0]:.3f}, {_percent(over['tpr@0.01'])}, {_percent(over['tpr@0.001'])}"
        cells = [NAMES[name], _plain(row["auc"]), _percent(row["tpr@0.01"]), _percent(row["realised_fpr@0.01"])]
        lines.append("| " + " | ".join([*cells, _percent(row["tpr@0.001"]), means]) + " |")
    lines += ["", "Differences of true-positive rates on the same evaluation members, percentage points:", ""]
    lines += [f"- {name}: {_percent(value, sign=True)}" for name, value in result["target"]["pairs"].items()]
    lines += [
        "",
        f"Training: {seconds['train']:.0f} s with {seconds['workers']} workers on {seconds['cores']} cores; scoring all "
        f"{plan['models']} targets: {seconds['score']:.0f} s. Reproduce: `{result['command']}`. One data set and one net; the "
        "targets share images, so the last column's models are not independent.",
        "",
    ]
    return "\n".join(lines)


def _plain(value: list[float]) -> str:
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def _percent(value: list[float], sign: bool = False) -> str:
    form = "+.2f" if sign else ".2f"
    return f"{100 * value[0]:{form}} [{100 * value[1]:{form}}, {100 * value[2]:{form}}]"


def main() -> None:
    """Train, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=Path(__file__).parent / "lira.toml")
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    plan = read_plan(arguments.plan)
    before = folder_of(plan, arguments.output).exists()
    result = study(plan, arguments.plan, arguments.output, arguments.workers)
    if before:
        print("some models were there before: the training time below is not the whole of it")
    page = table(result)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{plan.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.results / f"{plan.name}.md").write_text(check_words(page))
    print(page)


if __name__ == "__main__":
    main()
