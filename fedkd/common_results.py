"""Choosing and confirming what keeps the common and hides the rare: rules that were fixed before seeds 1 to 8 were run.

- *Choose* (seeds 1 to 3): a setting is eligible where its mean exposure minus the control's student is at most +0.5 bit, for
  rare (1 copy) and for repeated (4 to 64 copies) secrets alike; of each family the eligible setting with the lowest NLL of
  common digits is taken, and the ``CONFIRMED`` best families go on.
- *Confirm* (seeds 4 to 8: new laws, people, plays, teachers, students): for each of them, over seeds as units, one-sided t
  tests that exposure minus control is below +0.5 bit (rare, repeated) and that NLL is below each opponent's (typed redaction
  with the pooled prior and with the prior per place, public substitution); Holm over all tests of all of them.
- A variant *beats* redaction's kin where all its adjusted p values are at most 0.05. Recommended is, of those that beat, the
  one with the lowest NLL that needs no context class to be named (``counted`` does), else ``counted``; else nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from fedkd.common_arms import LABELS, VARIANTS
from fedkd.inference import holm
from fedkd.intervals import Floats, t_interval

MARGIN = 0.5
"""bits above the control's student"""
CHOICE, CONFIRMATION = (1, 2, 3), (4, 5, 6, 7, 8)
"""Seeds."""
CONFIRMED = 2
"""Families that go on, at most."""
OPPONENTS = ("typed_prior", "typed_place", "public")
"""Whose NLL must be beaten, all three."""
GROUPS = {"rare": (1,), "repeated": (4, 16, 64)}
"""Copies."""
Student = Mapping[str, Any]


def by_seed(students: Sequence[Student], arm: str) -> dict[int, Student]:
    """Seed -> the arm's student, ascending."""
    return {int(s["seed"]): s for s in sorted(students, key=lambda s: int(s["seed"])) if s["arm"] == arm}


def against_control(own: Mapping[int, Student], control: Mapping[int, Student], copies: Sequence[int], what: str) -> Floats:
    """Per seed, the mean over canaries of those copies of (arm minus control), in bits."""
    found = []
    for seed, student in own.items():
        base = {c["id"]: c[what] for c in control[seed]["canaries"]}
        found.append(float(np.mean([c[what] - base[c["id"]] for c in student["canaries"] if c["copies"] in copies])))
    return np.array(found)


def choose(students: Sequence[Student]) -> dict[str, Any]:
    """Which settings go on, and the figures behind it. Raises: KeyError without a control."""
    control = by_seed(students, "control")
    rows: list[dict[str, Any]] = []
    for arm, variant in VARIANTS.items():
        own = by_seed(students, arm)
        if not own:
            continue
        bits = {g: float(against_control(own, control, copies, "bits").mean()) for g, copies in GROUPS.items()}
        nll = float(np.mean([s["nll_common"] for s in own.values()]))
        eligible = max(bits.values()) <= MARGIN
        rows.append({"arm": arm, "family": variant.family, "nll": nll, **bits, "eligible": eligible, "seeds": list(own)})
    best: dict[str, dict[str, Any]] = {}
    for row in sorted((r for r in rows if r["eligible"]), key=lambda r: r["nll"]):
        best.setdefault(row["family"], row)
    chosen = [r["arm"] for r in sorted(best.values(), key=lambda r: r["nll"])][:CONFIRMED]
    return {"settings": rows, "chosen": chosen}


def confirm(students: Sequence[Student], chosen: Sequence[str]) -> dict[str, Any]:
    """Every test with its interval and Holm's p value, which variants beat, and what is recommended ("" = nothing)."""
    control = by_seed(students, "control")
    tests: list[dict[str, Any]] = []
    for arm in chosen:
        own = by_seed(students, arm)
        for group, copies in GROUPS.items():
            tests.append(_test(arm, f"exposure, {group}", against_control(own, control, copies, "bits"), MARGIN))
        for opponent in OPPONENTS:
            other = by_seed(students, opponent)
            gaps = np.array([s["nll_common"] - other[seed]["nll_common"] for seed, s in own.items()])
            tests.append(_test(arm, f"NLL minus {LABELS[opponent]}", gaps, 0.0))
    for test, p in zip(tests, holm([t["p"] for t in tests]) if tests else [], strict=True):
        test["holm"] = float(p)
    beats = [arm for arm in chosen if all(t["holm"] <= 0.05 for t in tests if t["arm"] == arm)]
    rows = {arm: float(np.mean([s["nll_common"] for s in by_seed(students, arm).values()])) for arm in beats}
    ranked = sorted(beats, key=lambda arm: (VARIANTS[arm].family == "counted", rows[arm]))
    return {"tests": tests, "beats": beats, "recommended": ranked[0] if ranked else ""}


def _test(arm: str, what: str, values: Floats, margin: float) -> dict[str, Any]:
    """One-sided: the mean is below the margin. ``upper`` is the bound that the test reads, of level 95 %."""
    mean, low, high, sd = t_interval(values)
    error = sd / math.sqrt(len(values)) if len(values) > 1 else math.nan
    if not error > 0:  # one seed, or no spread: nothing is shown
        return {"arm": arm, "what": what, "mean": mean, "low": None, "high": None, "upper": None, "margin": margin, "p": 1.0}
    freedom = len(values) - 1
    upper = mean + error * float(stats.t.ppf(0.95, freedom))
    p = float(stats.t.cdf((mean - margin) / error, freedom))
    return {"arm": arm, "what": what, "mean": mean, "low": low, "high": high, "upper": upper, "margin": margin, "p": p,
            "by_seed": values.tolist()}  # fmt: skip


def rows(students: Sequence[Student]) -> list[dict[str, Any]]:
    """One row per arm over its seeds: [mean, low, high] by t intervals over seeds."""
    control, found = by_seed(students, "control"), []
    for arm, label in LABELS.items():
        own = by_seed(students, arm)
        if not own:
            continue
        row: dict[str, Any] = {"arm": arm, "label": label, "seeds": list(own)}
        for name in ("nll_common", "nll_rare", "ece", "perplexity"):
            row[name] = _interval([float(s[name]) for s in own.values()])
        for group, copies in GROUPS.items():
            row[group] = _interval(against_control(own, control, copies, "bits")) if arm != "control" else None
            row[f"code_{group}"] = _interval(against_control(own, control, copies, "code_bits")) if arm != "control" else None
        counts = sorted({c["copies"] for s in own.values() for c in s["canaries"]})
        row["bits"] = {str(n): _mean_bits(own, n) for n in counts}
        row["reliability"] = _pooled([s["reliability"] for s in own.values()])
        found.append(row)
    return found


def _mean_bits(own: Mapping[int, Student], copies: int) -> float:
    return float(np.mean([c["bits"] for s in own.values() for c in s["canaries"] if c["copies"] == copies]))


def _interval(values: Sequence[float] | Floats) -> list[float | None]:
    mean, low, high, _ = t_interval(np.asarray(values, dtype=np.float64))
    return [mean, None if math.isnan(low) else low, None if math.isnan(high) else high]


def _pooled(seeds: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Reliability bins of several seeds joined by tenths of confidence: [confidence, probability of being right, share]."""
    whole = np.array([b for bins in seeds for b in bins])
    place = np.minimum((whole[:, 0] * 10).astype(int), 9)
    return [
        [float(np.average(whole[place == b, i], weights=whole[place == b, 2])) for i in (0, 1)]
        + [float(whole[place == b, 2].sum() / whole[:, 2].sum())]
        for b in sorted(set(place.tolist()))
    ]


def table(result: Mapping[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# What is common at private positions",
        "",
        f"Nats per common digit: {result['entropy']:.3f} is the least possible, {result['unigram'][0]:.3f} the unigram of "
        f"all places and {result['unigram'][1]:.3f} the unigram per place (means over seeds), 2.303 uniform. Exposure among "
        "10^4 secrets: chance 1.44 bits, most 13.29. Mean and 95 % t interval over seeds.",
        "",
    ]
    for name, seeds in (("choice", CHOICE), ("confirmation", CONFIRMATION)):
        own = result[name]["rows"]
        if own:
            lines += [f"## {name.capitalize()}, seeds {seeds[0]} to {seeds[-1]}", "", *_arms(own), ""]
    chosen = result["choice"]["chosen"]
    lines += [f"Chosen on seeds 1 to 3: {', '.join(LABELS[a] for a in chosen) or 'none (no setting was within 0.5 bit)'}.", ""]
    if result["confirmation"].get("tests"):
        lines += ["## Tests on seeds 4 to 8 (Holm over all of them)", "", *_tests(result["confirmation"]["tests"]), ""]
        beats = ", ".join(LABELS[a] for a in result["confirmation"]["beats"])
        lines += [f"Beat typed redaction with prior and public substitution: {beats or 'none'}.", ""]
    return "\n".join([*lines, f"Reproduce: `{result['command']}`.", ""])


def _arms(own: Sequence[Mapping[str, Any]]) -> list[str]:
    copies = list(own[0]["bits"])
    head = ["private positions learn from", "NLL, common", "NLL, rare", "ECE", *(f"{n} copies" for n in copies),
            "rare minus control", "repeated minus control", "own code, 1 copy", "own code, repeated", "perplexity"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for r in sorted(own, key=lambda r: r["nll_common"][0]):
        cells = [
            r["label"], _span(r["nll_common"], 3), f"{r['nll_rare'][0]:.2f}", f"{r['ece'][0]:.3f}",
            *(f"{r['bits'][n]:.1f}" for n in copies),
            *(_span(r[k], 2, True) if r[k] else "–" for k in ("rare", "repeated", "code_rare", "code_repeated")),
            f"{r['perplexity'][0]:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _tests(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| variant | difference | mean [95 %] | upper bound, one-sided | must be below | p, Holm |",
        "| --- | --- |" + " ---: |" * 4,
    ]
    for t in tests:
        upper = "–" if t["upper"] is None else f"{t['upper']:+.3f}"
        span = _span([t["mean"], t["low"], t["high"]], 3, True)
        p = "< 0.0001" if t["holm"] < 1e-4 else f"{t['holm']:.4f}"
        lines.append(f"| {LABELS[t['arm']]} | {t['what']} | {span} | {upper} | {t['margin']:g} | {p} |")
    return lines


def _span(value: Sequence[float | None], digits: int, sign: bool = False) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    if value[1] is None or value[2] is None:
        return f"{value[0]:{form}}"
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"
