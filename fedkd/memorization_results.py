"""What the models of a memorization study add up to: rates, dose-response, sets, predictor, with intervals over teachers.

A teacher draws text, bases and students anew, so an interval over teachers (t, on the teachers' means over seeds) says what
another run would give; a cluster bootstrap over passages and Clopper-Pearson stand beside it (specs: memorization, section 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from fedkd import memorization as m
from fedkd import rng
from fedkd.attacks.extraction import chance
from fedkd.intervals import Floats
from fedkd.memorization_bench import Arrays, Found
from fedkd.memorization_headline import Models, Teachers, headline, over_teachers
from fedkd.memorization_pairs import pairs_of
from fedkd.memorization_plan import ARMS, Plan
from fedkd.memorization_predictor import predictor

LABELS = {
    "base": "base (untouched)",
    "base_large": "base of T",
    "teacher": "T",
    "teacher_stopped": "T, chosen on held-out loss",
}
QUERIES = (1, 100, 1_000_000)
"""n of (n, p) extraction, at p = 1/2"""
SHOWN = 10
"""examples at each end that the page shows; all are in examples.csv"""
NEAR = 0.10
"""edit distance over the suffix's length that approximate extraction allows"""


def summarise(plan: Plan, teachers: Teachers) -> dict[str, Any]:
    """Everything that a page shows. Raises: ValueError where there is no teacher."""
    if not teachers:
        raise ValueError("a study without teachers has no result")
    pairs = [p for t, (about, models) in teachers.items() for p in pairs_of(t, about, models)]
    first = next(iter(teachers))
    about, models = teachers[first]
    return {
        "schema": 1,
        "teachers": list(teachers),
        "seeds": sorted({s for _, own in teachers.values() for name, s in own if name == "student"}),
        "sizes": {"passages": len(about["copies"]), "held_out": len(about["held_stratum"]),
                  "clusters": [len(np.unique(a["cluster"])) for a, _ in teachers.values()]},
        "copies": [int(n) for n in np.unique(about["copies"])],
        "strata": list(dict.fromkeys(about["stratum"].tolist())),
        "models": [_model(teachers, name) for name in _names(teachers)],
        "headline": {kind: headline(pairs, teachers, kind) for kind in ("equal", "matched")},
        "pairs": [{k: v for k, v in p.items() if not k.startswith("_")} for p in pairs],
        "patterns": _patterns(models, plan.seeds[0]),
        "patterns_of": {"teacher": first, "seed": plan.seeds[0]},
        "recurrent": _recurrent(teachers),
        "predictor": predictor(teachers, plan.seeds[0], features),
        "filter": _filter(teachers, plan.seeds[0]),
        "entropy": _entropy(about, models, plan.seeds[0]) if ("baseline", plan.seeds[0]) in models else None,
        "examples": _examples(about, models, plan.seeds[0]),
        "rule": _rule(teachers),
    }  # fmt: skip


def features(about: Arrays, models: Models, seed: int) -> Floats:  # -> [N, 4], the order of FEATURES
    """What the predictor reads: perplexities of teacher and baseline, KL(T || B), zlib bytes."""
    teacher, baseline = models["teacher", 0].arrays, models["baseline", seed].arrays
    columns = [np.exp(teacher["nll"]), np.exp(baseline["nll"]), baseline["kld"], about["zlib_entropy"]]
    return np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)


# ----- one model -----------------------------------------------------------------------------------------------------------
def _names(teachers: Teachers) -> list[str]:
    order = [*LABELS, *ARMS]
    return [name for name in order if any(name == n for _, models in teachers.values() for n, _ in models)]


def _model(teachers: Teachers, name: str) -> dict[str, Any]:
    """One kind of model over teachers and seeds."""
    own = [(t, about, found) for t, (about, models) in teachers.items() for (n, _), found in models.items() if n == name]
    hits = np.concatenate([f.arrays["hits"] for _, _, f in own])
    held = np.concatenate([f.arrays["held_hits"] for _, _, f in own])
    strata = list(dict.fromkeys(own[0][1]["stratum"].tolist()))
    train, control = m.share(int(hits.sum()), len(hits)), m.share(int(held.sum()), len(held))
    return {
        "model": name, "label": LABELS.get(name) or ARMS[name].label, "models": len(own),
        "train": asdict(train), "held_out": asdict(control),
        "rate": _per(own, lambda a, f: float(f.arrays["hits"].mean())),
        "difference": _per(own, lambda a, f: float(f.arrays["hits"].mean()) - _mean(f.arrays["held_hits"])),
        "approximate": _per(own, lambda a, f: float((f.arrays["distance"] <= NEAR + 1e-12).mean())),
        "approximate_held": _per(own, lambda a, f: _mean(f.arrays["held_distance"] <= NEAR + 1e-12)),
        "r50": _per(own, lambda a, f: m.dose_response(a["copies"], f.arrays["hits"]).r50, log=True),
        "r50_by_stratum": {s: _per(own, _r50_in(s), log=True) for s in strata},
        "held_out_loss": _per(own, lambda a, f: float(f.facts["held_out_loss"])),
        "prose_perplexity": _per(own, lambda a, f: float(f.facts["prose_perplexity"])),
        "by_copies": {str(n): _cell(own, "copies", n) for n in np.unique(own[0][1]["copies"]).tolist()},
        "by_stratum": {s: _stratum(own, s) for s in strata},
        "np": {str(n): [_np(own, "log_pz", n), _np(own, "held_log_pz", n)] for n in QUERIES},
        "epochs": _epochs(own), "steps": own[0][2].facts.get("steps"), "rows": own[0][2].facts.get("rows"),
        "epoch": [f.facts["epoch"] for _, _, f in own if "epoch" in f.facts],
        "forced": [f.facts["forced"] for _, _, f in own if "forced" in f.facts],
        "transfer": _transfer(own),
    }  # fmt: skip


Own = Sequence[tuple[int, Arrays, Found]]


def _mean(values: npt.NDArray[Any]) -> float:
    """NaN for nothing."""
    return float(values.mean()) if values.size else math.nan


def _per(own: Own, value: Callable[[Arrays, Found], float], log: bool = False) -> dict[str, Any]:
    """One figure of each model, over teachers."""
    return over_teachers(_grouped(own, value), log)


def _grouped(own: Own, value: Callable[[Arrays, Found], float]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for t, about, file in own:
        found.setdefault(t, []).append(value(about, file))
    return found


def _r50_in(stratum: str) -> Callable[[Arrays, Found], float]:
    def value(about: Arrays, found: Found) -> float:
        inside = about["stratum"] == stratum
        return m.dose_response(about["copies"][inside], found.arrays["hits"][inside]).r50

    return value


def _cell(own: Own, name: str, value: Any) -> dict[str, Any]:
    """Rate and p_z of the passages whose ``name`` is ``value`` (decision 19)."""
    hits = np.concatenate([f.arrays["hits"][a[name] == value] for _, a, f in own])
    logs = np.concatenate([f.arrays["log_pz"][a[name] == value] for _, a, f in own])
    return {**asdict(m.share(int(hits.sum()), len(hits))), "median_log10": float(np.median(logs)) / math.log(10),
            "half": float((logs >= math.log(0.5)).mean())}  # fmt: skip


def _stratum(own: Own, stratum: str) -> dict[str, Any]:
    held = np.concatenate([f.arrays["held_hits"][a["held_stratum"] == stratum] for _, a, f in own])
    return {**_cell(own, "stratum", stratum), "held_out": asdict(m.share(int(held.sum()), len(held)))}


def _np(own: Own, name: str, n: int) -> float:
    return _mean(chance(np.concatenate([f.arrays[name] for _, _, f in own]), n) >= 0.5)


def _epochs(own: Own) -> dict[str, list[float]]:
    """Means over teachers and seeds: memorized share and held-out loss after each epoch."""
    known = [f.arrays for _, _, f in own if "epoch_hits" in f.arrays]
    if not known:
        return {}
    return {
        "memorized": np.mean([a["epoch_hits"].mean(axis=1) for a in known], axis=0).tolist(),
        "loss": np.mean([a["epoch_loss"] for a in known], axis=0).tolist(),
    }


def _transfer(own: Own) -> dict[str, Any]:
    """Rates inside and outside of the transfer set, where it is not the teacher's."""
    inside = np.concatenate([f.arrays.get("in_transfer", np.ones(len(a["copies"]), np.bool_)) for _, a, f in own])
    hits = np.concatenate([f.arrays["hits"] for _, _, f in own])
    if inside.all():
        return {}
    return {
        name: asdict(m.share(int(hits[part].sum()), int(part.sum())))
        for name, part in (("inside", inside), ("outside", ~inside))
    }


# ----- the rest ------------------------------------------------------------------------------------------------------------
def _patterns(models: Models, seed: int) -> dict[str, int]:
    names = {"T": ("teacher", 0), "B": ("baseline", seed), "S": ("student", seed), "S_hard": ("hard_student", seed)}
    return m.patterns({n: models[key].arrays["hits"] for n, key in names.items() if key in models})


def _recurrent(teachers: Teachers) -> list[dict[str, int]]:
    """A looser sense of "easy": what the baselines of every seed memorize, and what students make of it."""
    found = []
    for t, (_, models) in teachers.items():
        b, s = ([f.arrays["hits"] for (n, _), f in models.items() if n == name] for name in ("baseline", "student"))
        if len(b) > 1:
            core, other = np.logical_and.reduce(b), np.logical_or.reduce(s)
            found.append({"teacher": t, "seeds": len(b), "in_every_baseline": int(core.sum()),
                          "of_these_in_no_student": int((core & ~other).sum())})  # fmt: skip
    return found


def _filter(teachers: Teachers, seed: int) -> list[dict[str, Any]]:
    """Before and after, on every passage of the teacher (it was trained on all of them)."""
    found = []
    for t, (_, models) in teachers.items():
        row: dict[str, Any] = {"teacher": t}
        for name, key in (("after", "student_filtered"), ("random", "student_random")):
            if (key, seed) in models:
                file = models[key, seed]
                inside = file.arrays["in_transfer"]
                row[name] = {"memorized": int(file.arrays["hits"].sum()), "removed": int((~inside).sum()),
                             "of_removed": int((file.arrays["hits"] & ~inside).sum()), "rows": file.facts["rows"],
                             "held_out_loss": file.facts["held_out_loss"]}  # fmt: skip
        if "after" in row:
            row |= {"baseline_before": int(models["baseline", seed].arrays["hits"].sum()),
                    "student_before": int(models["student", seed].arrays["hits"].sum())}  # fmt: skip
            found.append(row)
    return found


def _entropy(about: Arrays, models: Models, seed: int) -> dict[str, Any]:
    """The picture of section 7 for the first teacher: (M_T and M_B) without M_S, and as many random passages in grey."""
    t, b, s = (models[key].arrays for key in (("teacher", 0), ("baseline", seed), ("student", seed)))
    flags = t["hits"] & b["hits"] & ~s["hits"]
    drawn = np.zeros(len(flags), np.bool_)
    drawn[rng.experiment(0, "memorization grey").permutation(len(flags))[: max(1, int(flags.sum()))]] = True
    named = {"T": t, "B": b, "S": s}
    if ("hard_student", seed) in models:
        named["S_hard"] = models["hard_student", seed].arrays
    found = {n: m.entropy_points(flags, a["log_pz"], a["entropy"]) for n, a in named.items()}
    return {"models": found, "random": m.entropy_points(drawn, s["log_pz"], s["entropy"])}


def _examples(about: Arrays, models: Models, seed: int) -> list[dict[str, Any]]:
    """Of the first teacher, the passages that S knows best beside B and those that B knows best beside S, by log p_z."""
    names = {"T": ("teacher", 0), "B": ("baseline", seed), "S": ("student", seed), "S_hard": ("hard_student", seed)}
    own = {n: models[key].arrays for n, key in names.items() if key in models}
    if not {"B", "S"} <= set(own):
        return []
    order = np.argsort(own["B"]["log_pz"] - own["S"]["log_pz"], kind="stable")
    return [
        {"id": str(about["id"][i]), "stratum": str(about["stratum"][i]), "copies": int(about["copies"][i]),
         "cluster": int((about["cluster"] == about["cluster"][i]).sum()),
         "models": {n: [bool(a["hits"][i]), float(a["log_pz"][i]) / math.log(10)] for n, a in own.items()}}
        for i in dict.fromkeys([*order[:SHOWN].tolist(), *order[-SHOWN:].tolist()])
    ]  # fmt: skip


def _rule(teachers: Teachers) -> dict[str, int]:
    rules = [f.facts["rule"] for _, models in teachers.values() for f in models.values()]
    return {name: sum(r[name] for r in rules) for name in ("passages", "disagree", "unexplained")}
