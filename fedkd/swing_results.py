"""What the students of a swing study add up to: exposure by copies, reductions, utility (specs: swing, section 6).

Canaries are paired over arms: the same secrets are drawn in every arm of a seed. Intervals over canaries do not cover what
another seed would change; where there are several seeds, one figure per seed stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from fedkd import rng
from fedkd.inference import holm, paired_bootstrap
from fedkd.intervals import Floats, clopper_pearson, t_interval
from fedkd.swing_arms import ARMS
from fedkd.swing_formal import sentence

MARGIN = 1.0
"""bits above the control that swing may show in a group of copies (fixed beforehand)"""
_PLACE = {"R2": 0, "R1": 1, "R3": 2, "R4": 3}
Student = Mapping[str, Any]


def summarise(students: Sequence[Student]) -> dict[str, Any]:
    """Everything that a page shows, from the content of the students' files.

    Raises: ValueError where there is no student.
    """
    if not students:
        raise ValueError("a study without students has no result")
    groups: dict[tuple[str, int, str], list[Student]] = {}
    for s in students:
        groups.setdefault((s["regime"], s["factor"], s["arm"]), []).append(s)
    order = {name: place for place, name in enumerate(ARMS)}
    rows = []
    for regime, factor, arm in sorted(groups, key=lambda k: (_PLACE[k[0]], k[1], order[k[2]])):
        own = groups[regime, factor, arm]
        rows.append(_row(own, groups.get((regime, factor, "kd")), groups.get((regime, factor, "control"))))
    return {
        "schema": 1,
        "seeds": sorted({s["seed"] for s in students}),
        "copies": sorted({c["copies"] for s in students for c in s["canaries"]}),
        "arms": rows,
    }


def _row(own: Sequence[Student], kd: Sequence[Student] | None, control: Sequence[Student] | None) -> dict[str, Any]:
    planted = _bits(own, planted=True)
    first = own[0]
    row: dict[str, Any] = {
        "regime": first["regime"], "factor": first["factor"], "arm": first["arm"], "label": ARMS[first["arm"]].label,
        "steps": first["steps"], "seeds": len(own), "planted": len(planted),
        "mean": _mean(np.array(list(planted.values())), first["arm"]),
        "mean_by_seed": [float(np.mean(list(_bits([s], planted=True).values()))) for s in _by_seed(own)],
        "by_copies": _by_copies(own), "extracted": _extracted(own),
        "perplexity": [s["perplexity"] for s in _by_seed(own)],
        "type_mass": _average(s["type_mass"] for s in own), "type_nll": _average(s["type_nll"] for s in own),
        "recall": _average(s.get("recall") for s in own), "precision": _average(s.get("precision") for s in own),
        "charges": _average(s.get("charges") for s in own),
        "sampled": float(np.mean([c["estimator"] == "sampled" for s in own for c in s["canaries"]])),
        "formal": max((s["formal"] for s in own if s.get("formal")), key=lambda f: float(f["epsilon"]), default=None),
        "warning": next((s["warning"] for s in own if s.get("warning")), ""),
    }  # fmt: skip
    if kd is not None and kd is not own:
        if first["arm"] != "control":  # its text holds other rows where the canaries were: perplexities do not compare
            row["perplexity_ratio"] = _ratio(own, kd)
        row["reduction"] = _reduction(planted, _bits(kd, planted=True), None, first["arm"])
        if control is not None:
            floor = _bits(control, planted=True)
            row["floor_corrected"] = _reduction(planted, _bits(kd, planted=True), floor, first["arm"])
    if control is not None and control is not own:
        row["minus_control"] = _against(own, control)
        row["minus_control"]["by_seed"] = [_against_one(s, control) for s in _by_seed(own)]
    return row


def _by_seed(students: Sequence[Student]) -> list[Student]:
    return sorted(students, key=lambda s: int(s["seed"]))


def _bits(students: Sequence[Student], planted: bool, copies: int | None = None) -> dict[tuple[int, str], float]:
    """(seed, canary) -> bits."""
    return {
        (int(s["seed"]), str(c["id"])): float(c["bits"])
        for s in _by_seed(students)
        for c in s["canaries"]
        if (c["copies"] > 0 or not planted) and (copies is None or c["copies"] == copies)
    }


def _mean(values: Floats, purpose: str) -> list[float]:
    """[mean, low, high] by a bootstrap over canaries."""
    if len(values) < 2:
        return [float(values.mean()), math.nan, math.nan] if len(values) else [math.nan] * 3
    stream = rng.experiment(0, f"swing bootstrap {purpose}")
    drawn = paired_bootstrap(lambda index: float(values[index].mean()), len(values), stream)
    return [drawn.value, drawn.low, drawn.high]


def _by_copies(students: Sequence[Student]) -> dict[str, list[float]]:
    counts = sorted({c["copies"] for s in students for c in s["canaries"]})
    return {str(n): _mean(np.array(list(_bits(students, False, n).values())), f"copies {n}") for n in counts}


def _extracted(students: Sequence[Student]) -> dict[str, Any]:
    found = [bool(c["greedy"]) for s in students for c in s["canaries"] if c["copies"] > 0]
    low, high = clopper_pearson(sum(found), len(found)) if found else (math.nan, math.nan)
    return {"count": sum(found), "of": len(found), "low": low, "high": high}


def _average(values: Any) -> float | None:
    known = [float(v) for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _ratio(own: Sequence[Student], kd: Sequence[Student]) -> list[float]:
    """Perplexity over KD's of the same seed: [mean, low, high] over seeds (t; NaN with one seed)."""
    base = {s["seed"]: s["perplexity"] for s in kd}
    return list(t_interval([s["perplexity"] / base[s["seed"]] for s in _by_seed(own) if s["seed"] in base])[:3])


def _reduction(
    own: Mapping[tuple[int, str], float],
    kd: Mapping[tuple[int, str], float],
    floor: Mapping[tuple[int, str], float] | None,
    purpose: str,
) -> list[float]:
    """1 - (E - floor) / (E_KD - floor) over the same canaries, [value, low, high] by a paired bootstrap."""
    keys = sorted(set(own) & set(kd) & (set(floor) if floor is not None else set(own)))
    if len(keys) < 2:
        return [math.nan] * 3
    a, b = np.array([own[k] for k in keys]), np.array([kd[k] for k in keys])
    c = np.array([floor[k] for k in keys]) if floor is not None else np.zeros(len(keys))

    def value(index: Any) -> float:
        leak = float(b[index].mean() - c[index].mean())
        return float(b[index].mean() - a[index].mean()) / leak if leak > 0 else math.nan

    try:
        drawn = paired_bootstrap(value, len(keys), rng.experiment(0, f"swing reduction {purpose}"))
    except ValueError:  # no leak to reduce in some resample
        return [value(np.arange(len(keys))), math.nan, math.nan]
    return [drawn.value, drawn.low, drawn.high]


def _against(own: Sequence[Student], control: Sequence[Student]) -> dict[str, Any]:
    """Bits above the control's student for the same canaries: over all planted ones, and by copies with Holm's correction.

    ``within``: per number of copies, the one-sided p value of "at least MARGIN bits above the control"; Holm's family is the
    numbers of copies of this arm. Canaries of one seed share a teacher: ``by_seed`` says how much that matters.
    """
    counts = sorted({c["copies"] for s in own for c in s["canaries"] if c["copies"] > 0})
    by: dict[str, list[float]] = {}
    p_values = []
    for n in counts:
        values = _differences(own, control, n)
        by[str(n)] = _mean(values, f"minus control {n}")
        p_values.append(_within(values))
    whole = _mean(np.concatenate([_differences(own, control, n) for n in counts]), "minus control")
    within = dict(zip(map(str, counts), (float(p) for p in holm(p_values)), strict=True))
    return {"all": whole, "by_copies": by, "within": within, "margin": MARGIN}


def _against_one(student: Student, control: Sequence[Student]) -> float | None:
    """One seed's mean difference, so that a reader sees what another teacher changes."""
    other = [s for s in control if s["seed"] == student["seed"]]
    counts = sorted({c["copies"] for c in student["canaries"] if c["copies"] > 0})
    return float(np.concatenate([_differences([student], other, n) for n in counts]).mean()) if other and counts else None


def _within(values: Floats) -> float:
    """One-sided p value of a mean of at least MARGIN; 1 where there is one value or no spread, which show nothing."""
    spread = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    if spread == 0:
        return 1.0
    return float(stats.t.cdf((values.mean() - MARGIN) / spread, len(values) - 1))


def _differences(own: Sequence[Student], control: Sequence[Student], copies: int) -> Floats:
    a, b = _bits(own, True, copies), _bits(control, True, copies)
    return np.array([a[k] - b[k] for k in sorted(set(a) & set(b))])


def table(summary: Mapping[str, Any]) -> str:
    """The Markdown tables, one per regime and length of training."""
    lines: list[str] = []
    copies = [str(n) for n in summary["copies"]]
    keys = dict.fromkeys((r["regime"], r["factor"]) for r in summary["arms"])
    for regime, factor in keys:
        rows = [r for r in summary["arms"] if (r["regime"], r["factor"]) == (regime, factor)]
        steps = rows[0]["steps"]
        lines += [f"### {regime}, {steps:,} steps", ""]
        names = head(copies)
        lines += ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
        lines += ["| " + " | ".join(cells(r, copies)) + " |" for r in rows]
        lines += ["", *totals(rows)]
    return "\n".join(lines)


def totals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each arm with a formal total: that of its student with the largest."""
    return [f"{r['label']}: {sentence(**r['formal'])}" for r in rows if r.get("formal")]


def head(copies: Sequence[str]) -> list[str]:
    """Column names of a table of arms."""
    planted = ["planted, mean [95 %]", "extracted", "minus control, bits", "reduction, %"]
    return ["arm", *(f"{n} copies" for n in copies), *planted, "perplexity / KD", "type mass", "type NLL"]


def cells(r: Mapping[str, Any], copies: Sequence[str]) -> list[str]:
    """One arm's row."""
    extracted = r["extracted"]
    control = r.get("minus_control")
    ratio, reduction = r.get("perplexity_ratio"), r.get("reduction")
    return [
        r["label"],
        *(f"{r['by_copies'][n][0]:.1f}" if n in r["by_copies"] else "–" for n in copies),
        _span(r["mean"]),
        f"{extracted['count']} of {extracted['of']}",
        _span(control["all"], sign=True) + _seeds(control["by_seed"]) if control else "–",
        _span([None if v is None else 100 * v for v in reduction], digits=0) if reduction else "–",
        _span(ratio, digits=3) if ratio else "–",
        "–" if r["type_mass"] is None else f"{r['type_mass']:.2f}",
        "–" if r["type_nll"] is None else f"{r['type_nll']:.2f}",
    ]


def _seeds(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f" (seeds {min(known):+.1f} to {max(known):+.1f})" if len(known) > 1 else ""


def _span(value: Sequence[Any], digits: int = 2, sign: bool = False) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    if value[1] is None or math.isnan(value[1]):
        return f"{value[0]:{form}}"
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"
