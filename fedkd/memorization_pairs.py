"""One student against one baseline: sets, r50, the crossing of p_z and what was inherited (specs: memorization, 3 and 5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats

from fedkd import memorization as m
from fedkd.memorization_bench import Arrays, Found

Models = Mapping[tuple[str, int], Found]


def pairs_of(teacher: int, about: Arrays, models: Models) -> Iterator[dict[str, Any]]:
    """Every student and hard student of a teacher beside the baseline of its seed, at equal steps and at matched held-out loss.

    *Matched*: the epoch of the same baseline whose held-out loss is nearest to the student's; its learning rate had not come
    down yet. Keys with an underscore are arrays for the bootstrap and never written.
    """
    seeds = sorted({s for name, s in models if name == "baseline"})
    for name in ("student", "hard_student"):
        own = {s: models[name, s] for s in seeds if (name, s) in models}
        for kind in ("equal", "matched"):
            at = {s: _epoch(models["baseline", s], found, kind) for s, found in own.items()}
            flags = {s: models["baseline", s].arrays["epoch_hits"][e] for s, e in at.items()}
            for seed, found in own.items():
                about_it = {"teacher": teacher, "seed": seed, "student": name, "kind": kind, "epoch": at[seed] + 1}
                every = list(flags.values())
                yield about_it | _pair(about, models["teacher", 0], models["baseline", seed], found, at[seed], every)


def _epoch(baseline: Found, student: Found, kind: str) -> int:
    losses = baseline.arrays["epoch_loss"]
    return len(losses) - 1 if kind == "equal" else m.matched_epoch(losses, float(student.facts["glance_loss"]))


def _pair(about: Arrays, teacher: Found, baseline: Found, student: Found, epoch: int, every: list[Any]) -> dict[str, Any]:
    in_t, in_s, copies = teacher.arrays["hits"], student.arrays["hits"], about["copies"]
    in_b, log_b = baseline.arrays["epoch_hits"][epoch], baseline.arrays["epoch_log_pz"][epoch]
    union = np.logical_or.reduce(every)
    b, s = m.dose_response(copies, in_b), m.dose_response(copies, in_s)
    only_b, only_s = int((in_b & ~in_s).sum()), int((in_s & ~in_b).sum())
    crossed = m.crossing(copies, student.arrays["log_pz"], log_b)
    counts, gap = m.gaps(copies, student.arrays["log_pz"], log_b)
    return {
        "baseline_count": int(in_b.sum()), "count": int(in_s.sum()),
        "baseline_loss": float(baseline.arrays["epoch_loss"][epoch]), "loss": float(student.facts["glance_loss"]),
        "r50_baseline": b.r50, "r50": s.r50, "r50_inside": b.inside and s.inside, "r50_ratio": _ratio(s.r50, b.r50),
        "crossing": crossed, "ahead": "always" if bool((gap > 0).all()) else "never" if crossed is None else "above",
        "gap_log10": {str(n): float(g) / math.log(10) for n, g in zip(counts.tolist(), gap, strict=True)},
        "inherited": asdict(m.inheritance(in_t, in_b, in_s)), "inherited_union": asdict(m.inheritance(in_t, union, in_s)),
        "easy": asdict(m.easy_share(in_t, in_b, in_s)),
        "regions": {n: int(mask.sum()) for n, mask in m.regions(in_t, in_b, in_s).items()},
        "discordant": [only_b, only_s, float(stats.binomtest(only_b, only_b + only_s).pvalue) if only_b + only_s else 1.0],
        "_hits": in_s, "_baseline": in_b,
    }  # fmt: skip


def _ratio(a: float, b: float) -> float:
    """a / b; NaN where both are infinite or either is no number."""
    if math.isinf(a) and math.isinf(b):
        return math.nan
    return math.inf if b == 0 else a / b
