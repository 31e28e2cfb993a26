"""The headline of a memorization study: ratios, crossing and inheritance, with intervals over teachers and over passages.

A t interval over the teachers' means says what another teacher would give; the cluster bootstrap and Clopper-Pearson say how
sure the figure is for these very models (specs: memorization, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedkd import memorization as m
from fedkd import rng
from fedkd.inference import paired_bootstrap
from fedkd.intervals import rate_ratio, t_interval
from fedkd.memorization_bench import Arrays, Found

Models = Mapping[tuple[str, int], Found]
Teachers = Mapping[int, tuple[Arrays, Models]]
Pairs = Sequence[Mapping[str, Any]]
RESAMPLES = 400


def over_teachers(values: Mapping[int, Sequence[float]], log: bool = False) -> dict[str, Any]:
    """Mean of the teachers' means over seeds with its t interval; ``log``: of logarithms, so a geometric mean.

    No interval with one teacher, or where a value is not finite (a model that memorizes nothing has no ratio).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        each = {t: float(np.mean(np.log(v) if log else v)) for t, v in values.items() if len(v)}
    known = [v for v in each.values() if math.isfinite(v)]
    back: Callable[[float], float] = (lambda v: math.exp(v) if math.isfinite(v) else (0.0 if v < 0 else v)) if log else float
    found: dict[str, Any] = {"by_teacher": [back(v) for v in each.values()], "teachers": len(each)}
    if len(known) < len(each) or not known:
        return {**found, "value": None, "low": None, "high": None}
    mean, low, high, _ = t_interval(known)
    return {
        **found,
        "value": back(mean),
        "low": back(low) if len(known) > 1 else None,
        "high": back(high) if len(known) > 1 else None,
    }


def headline(pairs: Pairs, teachers: Teachers, kind: str) -> dict[str, Any]:
    """r50 ratio, greedy ratio, crossing and inheritance, soft and hard, against a baseline of equal steps or matched loss."""
    found: dict[str, Any] = {}
    for name in ("student", "hard_student"):
        own = [p for p in pairs if p["kind"] == kind and p["student"] == name]
        if own:
            found[name] = _one(own, teachers)
    if len(found) == 2:
        found["hard_over_soft"] = {w: _hard_over_soft(found, w) for w in ("inherited", "inherited_union")}
        found["hard_minus_soft"] = {w: _hard_minus_soft(pairs, kind, w) for w in ("inherited", "inherited_union")}
    return found


def _one(own: Pairs, teachers: Teachers) -> dict[str, Any]:
    """One kind of student against its baselines."""
    b, s = ({t: sum(v) for t, v in _by(own, key).items()} for key in ("baseline_count", "count"))
    crossed = {t: [c for c in v if c is not None] for t, v in _by(own, "crossing").items()}
    return {
        "greedy_ratio": over_teachers({t: [b[t] / s[t] if s[t] else math.inf] for t in b}, log=True),
        "r50_ratio": over_teachers(_by(own, "r50_ratio"), log=True),
        "crossing": {
            **over_teachers({t: v for t, v in crossed.items() if v}, log=True),
            "crossed": sum(p["crossing"] is not None for p in own),
            "of": len(own),
            "ahead_everywhere": sum(p["ahead"] == "always" for p in own),
        },
        "inherited": _inherited(own, "inherited"),
        "inherited_union": _inherited(own, "inherited_union"),
        "easy": _inherited(own, "easy"),
        "held_out": {"student": over_teachers(_by(own, "loss")), "baseline": over_teachers(_by(own, "baseline_loss"))},
        "epochs": [p["epoch"] for p in own],
        "bootstrap": _bootstrap(own, teachers),
    }


def _by(own: Pairs, key: str) -> dict[int, list[Any]]:
    """Teacher -> values of its seeds."""
    return {t: [p[key] for p in own if p["teacher"] == t] for t in dict.fromkeys(p["teacher"] for p in own)}


def _inherited(own: Pairs, key: str) -> dict[str, Any]:
    count, of = sum(p[key]["count"] for p in own), sum(p[key]["of"] for p in own)
    return {"pooled": asdict(m.share(count, of)), "over_teachers": over_teachers(_rates(own, key))}


def _rates(own: Pairs, key: str) -> dict[int, list[float]]:
    """Teacher -> [rate pooled over its seeds], NaN where the set is empty."""
    found: dict[int, list[float]] = {}
    for t, shares in _by(own, key).items():
        total = sum(q["of"] for q in shares)
        found[t] = [sum(q["count"] for q in shares) / total if total else math.nan]
    return found


def _hard_over_soft(found: Mapping[str, Any], key: str) -> list[float] | None:
    """Ratio of the pooled inheritance rates, [ratio, low, high] as of disjoint sets; None where neither inherits."""
    hard, soft = (found[name][key]["pooled"] for name in ("hard_student", "student"))
    if not (hard["of"] and soft["of"] and hard["count"] + soft["count"]):
        return None
    return list(rate_ratio(hard["count"], hard["of"], soft["count"], soft["of"]))


def _hard_minus_soft(pairs: Pairs, kind: str, key: str) -> dict[str, Any]:
    """Difference of the inheritance rates of hard and soft students of one teacher, over teachers."""
    rates = [_rates([p for p in pairs if p["kind"] == kind and p["student"] == n], key) for n in ("hard_student", "student")]
    return over_teachers({t: [rates[0][t][0] - rates[1][t][0]] for t in rates[0] if t in rates[1]})


def _bootstrap(own: Pairs, teachers: Teachers) -> dict[str, list[float] | None]:
    """95 % cluster bootstrap over the passages of these very teachers: [low, high] of the r50 ratio and the greedy ratio."""
    order = list(dict.fromkeys(p["teacher"] for p in own))
    sizes = [len(teachers[t][0]["copies"]) for t in order]
    start = dict(zip(order, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    labels = np.concatenate([teachers[t][0]["cluster"] + start[t] for t in order])

    def parts(index: Any) -> list[tuple[Mapping[str, Any], Any]]:
        return [(p, index[(index >= start[p["teacher"]]) & (index < start[p["teacher"]] + n)] - start[p["teacher"]])
                for p in own for n in [sizes[order.index(p["teacher"])]]]  # fmt: skip

    def r50(index: Any) -> float:
        logs = []
        for p, rows in parts(index):
            copies = teachers[p["teacher"]][0]["copies"][rows]
            one, other = (m.dose_response(copies, p[k][rows]).r50 for k in ("_hits", "_baseline"))
            logs.append(math.log(one / other) if 0 < one < math.inf and 0 < other < math.inf else math.nan)
        return math.exp(float(np.mean(logs)))

    def greedy(index: Any) -> float:
        counts = [(float(p["_baseline"][rows].sum()), float(p["_hits"][rows].sum())) for p, rows in parts(index)]
        b, s = (sum(c[i] for c in counts) for i in (0, 1))
        return b / s if s else math.nan

    found: dict[str, list[float] | None] = {}
    for name, statistic in (("r50_ratio", r50), ("greedy_ratio", greedy)):
        try:
            drawn = paired_bootstrap(
                statistic, len(labels), rng.experiment(0, f"memorization {name}"), labels, resamples=RESAMPLES
            )
            found[name] = [drawn.low, drawn.high]
        except ValueError:  # a resample in which a model memorizes nothing
            found[name] = None
    return found
