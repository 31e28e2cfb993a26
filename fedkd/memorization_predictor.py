"""Can it be predicted what a student will memorize, and better than by counting copies? (specs: memorization, section 6)

*Oracle*: the labels are this very student's, an upper bound. *Transfer*: the labels come from a small student (the scout) and
are tested on the real one; only this predicts before the distillation. The two are never mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedkd import memorization as m
from fedkd import rng
from fedkd.intervals import Floats, t_interval
from fedkd.memorization_bench import Arrays, Found

Models = Mapping[tuple[str, int], Found]
TRIALS = 100
LEAST = 10
"""examples of each class below which no predictor is fitted"""
CURVE = 60
"""points of a curve that a page draws"""
RIVALS = ("copies", "baseline_ppl", "zlib_entropy")


def predictor(
    teachers: Mapping[int, tuple[Arrays, Models]], seed: int, features: Callable[[Arrays, Models, int], Floats]
) -> dict[str, Any]:
    """Both modes: means over teachers of each teacher's mean over trials, with t intervals; curves of the first teacher."""
    found: dict[str, Any] = {}
    for mode in ("oracle", "transfer"):
        each: list[dict[str, float]] = []
        curve: dict[str, Any] | None = None
        for t, (about, models) in teachers.items():
            needed = ("baseline", "student", *(["scout"] if mode == "transfer" else []))
            if any((name, seed) not in models for name in needed):
                continue
            four, labels = features(about, models, seed), models["student", seed].arrays["hits"]
            learned = None if mode == "oracle" else models["scout", seed].arrays["hits"]
            own = one_teacher(four, labels, about["copies"], learned, t, about["stratum"].tolist())
            if own is not None:
                each.append(own)
                curve = curve or curves(four, labels, about["copies"], learned, t)
        if each:
            found[mode] = {"teachers": len(each), "curve": curve,
                           **{k: _over([e[k] for e in each]) for k in each[0]}}  # fmt: skip
    return found


def one_teacher(
    four: Floats, labels: Any, copies: Any, learned: Any, teacher: int, strata: list[str] | None = None
) -> dict[str, float] | None:
    """Means and deviations over trials; None where a class is too rare to split."""
    for classes in (labels, labels if learned is None else learned):
        if min(int(classes.sum()), int((~classes).sum())) < LEAST:
            return None
    stream = rng.experiment(teacher, f"memorization predictor {'oracle' if learned is None else 'transfer'}")
    trials = [r for r in (m.trial(four, labels, copies, stream, learned) for _ in range(TRIALS)) if r is not None]
    if len(trials) < TRIALS // 2:
        return None
    found = {k: float(np.nanmean([r[k] for r in trials])) for k in trials[0]}
    for name in ("auc", "recall", "precision", "precision_1_3"):
        found[f"{name}_sd"] = float(np.nanstd([r[name] for r in trials], ddof=1))
    for rival in RIVALS:
        found[f"gain_{rival}"] = found["auc"] - found[f"auc_{rival}"]
    score = m.crossfit(four, labels if learned is None else learned, stream)
    for name, groups in (("copies", copies.tolist()), ("stratum", strata or ["all"] * len(labels))):
        inside = m.within(groups, score, labels)
        found[f"within_{name}"] = math.nan if inside is None else inside
        rival_inside = m.within(groups, -four[:, 1], labels)
        found[f"within_{name}_baseline_ppl"] = math.nan if rival_inside is None else rival_inside
    return {**found, "base_rate": float(np.mean(labels))}


def curves(four: Floats, labels: Any, copies: Any, learned: Any, teacher: int) -> dict[str, Any]:
    """Precision and recall of scores from other folds, and of the trivial predictors, at the true base rate."""
    stream = rng.experiment(teacher, "memorization curve")
    scores = {"four features": m.crossfit(four, labels if learned is None else learned, stream), **m.trivial(four, copies)}
    found = {}
    for name, score in scores.items():
        recall, precision = m.precision_recall(score, labels)
        keep = np.unique(np.linspace(0, len(recall) - 1, CURVE).round().astype(int))
        found[name] = [[round(recall[i], 4), round(precision[i], 4)] for i in keep]
    return {"teacher": teacher, "lines": found}


def _over(values: list[float]) -> list[float]:
    """[mean, low, high] over teachers; NaN ends with one teacher, NaN where a value is missing."""
    if any(math.isnan(v) for v in values):
        return [math.nan, math.nan, math.nan]
    return list(t_interval(values)[:3])
