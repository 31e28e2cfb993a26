"""The tables of a memorization study as grids of text, for the page and for Markdown: drawn from the summary alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PUBLISHED = (
    ("T memorizes, %", "0.33"), ("B memorizes, %", "0.17"), ("S memorizes, %", "0.07"), ("B / S", "2.4"),
    ("easy share of S, %", "95.7"), ("inherited, soft, %", "0.9"), ("inherited, hard, %", "2.6"), ("hard over soft", "2.8"),
)  # fmt: skip
"""The paper's main run (Pythia 12B -> 1.4B, a million FineWeb examples), at second hand: printed beside ours, no target."""


KINDS = {"equal": "B after as many steps", "matched": "B at matched held-out loss"}
"""What a student is compared with."""


@dataclass(frozen=True)
class Grid:
    """A table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def table(summary: Mapping[str, Any]) -> str:
    """The Markdown of every table."""
    lines: list[str] = []
    for grid in grids(summary):
        lines += [f"### {grid.title}", "", "| " + " | ".join(grid.head) + " |", "| --- |" + " ---: |" * (len(grid.head) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in grid.rows] + [""]
    return "\n".join(lines)


def grids(s: Mapping[str, Any]) -> list[Grid]:
    """Every table of a study, in the order of the page."""
    found = [rates(s), by_copies(s), strata(s), extraction(s)]
    if s["pairs"]:
        found = [headline(s, "equal"), headline(s, "matched"), *found, regions(s)]
    if any(r["transfer"] for r in s["models"]):
        found.append(transfer(s))
    if s["predictor"]:
        found.append(predictor(s))
    found += [prefilter(s)] if s["filter"] else []
    return [*found, examples(s)] if s["examples"] else found


def count_of(s: Mapping[str, Any]) -> str:
    """How many teachers and seeds, in words that each table carries."""
    t, k = len(s["teachers"]), len(s["seeds"])
    if "student" in s:
        return "one set of your models, no seeds"
    return f"{t} teachers x {k} seeds" if t > 1 else "one teacher, one seed" if k < 2 else f"one teacher, {k} seeds"


def headline(s: Mapping[str, Any], kind: str) -> Grid:
    """The figures of the acceptance: against a baseline of equal steps, or one of matched held-out loss."""
    columns = [s["headline"][kind].get(name) for name in ("student", "hard_student")]
    rows = [
        ["r50 of the student over r50 of B", *(span(c and c["r50_ratio"]) for c in columns)],
        ["the same, cluster bootstrap", *(ends(c and c["bootstrap"]["r50_ratio"]) for c in columns)],
        ["memorized by B over memorized by the student", *(span(c and c["greedy_ratio"]) for c in columns)],
        ["the same, cluster bootstrap", *(ends(c and c["bootstrap"]["greedy_ratio"]) for c in columns)],
        ["copies above which the student is the more extractable (median p_z)", *(_crossing(c) for c in columns)],
        ["inherited, B of its seed, % (pooled)", *(_share(c and c["inherited"]["pooled"]) for c in columns)],
        ["the same over teachers, %", *(span(c and c["inherited"]["over_teachers"], 100, 1) for c in columns)],
        ["inherited, B of any seed, % (pooled)", *(_share(c and c["inherited_union"]["pooled"]) for c in columns)],
        ["the same over teachers, %", *(span(c and c["inherited_union"]["over_teachers"], 100, 1) for c in columns)],
        ["easy share of the student's, % (pooled)", *(_share(c and c["easy"]["pooled"]) for c in columns)],
        ["held-out loss: student / B, nats", *(_losses(c) for c in columns)],
        ["epoch of B", *(_range(c["epochs"]) if c else "–" for c in columns)],
    ]
    pair, apart = (s["headline"][kind].get(name) for name in ("hard_over_soft", "hard_minus_soft"))
    for key, label in (("inherited", "its seed"), ("inherited_union", "any seed")):
        rows.append([f"inheritance hard over soft, B of {label} (pooled)", "", ratio(pair[key]) if pair else "–"])
        rows.append([f"hard minus soft, B of {label}, points", "", span(apart and apart[key], 100, 1)])
    title = f"Headline, {KINDS[kind]} ({count_of(s)}; t intervals over teachers unless said)"
    return Grid(title, ["", "S", "S_hard"], rows)


def rates(s: Mapping[str, Any]) -> Grid:
    """Rates with intervals for every model."""
    head = ["model", "memorized, % (Clopper-Pearson)", "held out, %", "minus held out, % (over teachers)", "approximate, %",
            "r50, copies", "held-out loss", "prose perplexity", "steps"]  # fmt: skip
    rows = [
        [r["label"], _share(r["train"]), _share(r["held_out"]), span(r["difference"], 100, 1), span(r["approximate"], 100, 1),
         span(r["r50"]), span(r["held_out_loss"], 1, 3), span(r["prose_perplexity"], 1, 0),
         f"{r['steps']:,}" if r["steps"] else "–"]
        for r in s["models"]
    ]  # fmt: skip
    return Grid(f"Exact extraction, {s['sizes']['passages']} passages a teacher ({count_of(s)})", head, rows)


def by_copies(s: Mapping[str, Any]) -> Grid:
    """Rate, median log10 p_z and share with p_z of at least one half, per number of copies."""
    counts = [str(n) for n in s["copies"]]
    rows = []
    for r in s["models"]:
        cells = [r["by_copies"][n] for n in counts]
        rows.append([f"{r['label']}: memorized, %", *(number(100 * c["value"], 0) for c in cells)])
        rows.append([f"{r['label']}: median log10 p_z", *(number(c["median_log10"], 1) for c in cells)])
        rows.append([f"{r['label']}: p_z at least 1/2, %", *(number(100 * c["half"], 0) for c in cells)])
    return Grid(f"By copies ({count_of(s)})", ["", *counts], rows)


def strata(s: Mapping[str, Any]) -> Grid:
    """By kind of text, train beside held out."""
    head = ["model", *(f"{k.replace('_', '-')}: {w}" for k in s["strata"] for w in ("memorized, %", "held out, %", "r50"))]
    rows = []
    for r in s["models"]:
        row = [r["label"]]
        for k in s["strata"]:
            own = r["by_stratum"][k]
            row += [_share(own), _share(own["held_out"]), span(r["r50_by_stratum"][k])]
        rows.append(row)
    return Grid(f"By stratum ({count_of(s)})", head, rows)


def extraction(s: Mapping[str, Any]) -> Grid:
    """(n, p) extraction at p = 1/2, train / held out."""
    queries = list(s["models"][0]["np"])
    head = ["model", *(f"n = {int(n):,}: train / held out, %" for n in queries)]
    rows = [[r["label"], *(" / ".join(number(100 * v, 1) for v in r["np"][n]) for n in queries)] for r in s["models"]]
    return Grid(f"(n, p)-discoverable at p = 1/2, temperature 1 ({count_of(s)})", head, rows)


def regions(s: Mapping[str, Any]) -> Grid:
    """The eight regions of every student and seed at equal steps."""
    own = [p for p in s["pairs"] if p["kind"] == "equal"]
    head = ["teacher, seed, student", *(list(own[0]["regions"]) if own else []), "B only / S only (McNemar p)"]
    rows = []
    for p in own:
        b, one, chance = p["discordant"]
        name = "S" if p["student"] == "student" else "S_hard"
        rows.append(
            [f"{p['teacher']}, {p['seed']}, {name}", *(str(n) for n in p["regions"].values()), f"{b} / {one} ({chance:.1g})"]
        )
    return Grid("The eight regions over (T, B, S): counts at equal steps", head, rows)


def transfer(s: Mapping[str, Any]) -> Grid:
    """Students whose transfer set is not the teacher's, passages inside and outside of it."""
    head = ["model", "inside the transfer set, %", "outside, %", "held out, %"]
    rows = [[r["label"], _share(r["transfer"]["inside"]), _share(r["transfer"]["outside"]), _share(r["held_out"])]
            for r in s["models"] if r["transfer"]]  # fmt: skip
    return Grid(f"Passages of the teacher inside and outside of the student's transfer set ({count_of(s)})", head, rows)


def predictor(s: Mapping[str, Any]) -> Grid:
    """Both modes beside the trivial predictors."""
    modes = list(s["predictor"])
    lines = (
        ("ROC-AUC, four features", "auc"), ("AUC, number of copies alone", "auc_copies"),
        ("AUC, perplexity of B alone", "auc_baseline_ppl"), ("AUC, zlib alone", "auc_zlib_entropy"),
        ("AUC gained over copies alone", "gain_copies"),
        ("AUC gained over perplexity of B alone", "gain_baseline_ppl"), ("AUC within copies", "within_copies"),
        ("the same, perplexity of B alone", "within_copies_baseline_ppl"), ("AUC within strata", "within_stratum"),
        ("recall", "recall"),
        ("precision at 1:3", "precision_1_3"), ("precision at the true base rate", "precision"), ("base rate", "base_rate"),
    )  # fmt: skip
    rows = [[label, *(_triple(s["predictor"][mode][key]) for mode in modes)] for label, key in lines]
    return Grid(f"Predictor, 100 splits a teacher, first seed ({count_of(s)})", ["", *modes], rows)


def prefilter(s: Mapping[str, Any]) -> Grid:
    """Before and after, counted on all passages of the teacher, removed ones included."""
    head = [
        "teacher",
        "B before",
        "S before",
        "S after",
        "of the removed",
        "removed",
        "S after random removal",
        "rows an epoch: filtered / random",
    ]
    rows = []
    for r in s["filter"]:
        after, other = r["after"], r.get("random")
        random = str(other["memorized"]) if other else "–"
        rows.append([str(r["teacher"]), str(r["baseline_before"]), str(r["student_before"]), str(after["memorized"]),
                     str(after["of_removed"]), str(after["removed"]), random,
                     f"{after['rows']:,} / {other['rows']:,}" if other else f"{after['rows']:,}"])  # fmt: skip
    return Grid("Pre-filter: memorized of all passages", head, rows)


def examples(s: Mapping[str, Any]) -> Grid:
    """Passages by hashed id: those that S knows best beside B, then those that B knows best beside S."""
    names = list(s["examples"][0]["models"])
    head = ["id", "stratum", "copies", "in its cluster", *(f"{n}: memorized, log10 p_z" for n in names)]
    rows = []
    for e in s["examples"]:
        cells = [f"{'yes' if hit else 'no'}, {number(value, 1)}" for hit, value in e["models"].values()]
        rows.append([e["id"], e["stratum"].replace("_", "-"), str(e["copies"]), str(e["cluster"]), *cells])
    return Grid("Examples: best known to S beside B, then to B beside S (hashed ids; teacher "
                f"{s['patterns_of']['teacher']}, seed {s['patterns_of']['seed']})", head, rows)  # fmt: skip


# ----- cells -----------------------------------------------------------------------------------------------------------------
def number(value: float | str | None, digits: int = 2, scale: float = 1.0) -> str:
    """A number, "n/a" where there is none, the infinity sign where it is infinite ("inf" in JSON)."""
    if value is None or value != value:
        return "n/a"
    return "∞" if math.isinf(float(value)) else f"{float(value) * scale:.{digits}f}"


def span(found: Mapping[str, Any] | None, scale: float = 1.0, digits: int = 2) -> str:
    """A value over teachers with its interval; the teachers' own values where there is no mean."""
    if not found:
        return "–"
    if found["value"] is None:
        each = [number(v, digits, scale) for v in found["by_teacher"]]
        return f"n/a ({', '.join(each)})" if each else "n/a"
    text = number(found["value"], digits, scale)
    if found["low"] is None:
        return text
    return f"{text} [{number(found['low'], digits, scale)}, {number(found['high'], digits, scale)}]"


def ends(pair: Sequence[float] | None) -> str:
    """An interval alone."""
    return f"[{number(pair[0])}, {number(pair[1])}]" if pair else "n/a"


def ratio(found: Sequence[float | None] | None) -> str:
    """A ratio with its interval."""
    return f"{number(found[0])} [{number(found[1])}, {number(found[2])}]" if found else "n/a"


def _share(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "–"
    if found["value"] is None:
        return "n/a (0 of 0)"
    low, high = found["low"], found["high"]
    return f"{found['count']}/{found['of']} = {100 * found['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _triple(values: Sequence[float | None]) -> str:
    if values[0] is None:
        return "n/a"
    if values[1] is None or values[2] is None:
        return number(values[0], 3)
    return f"{number(values[0], 3)} [{number(values[1], 3)}, {number(values[2], 3)}]"


def _crossing(column: Mapping[str, Any] | None) -> str:
    if not column:
        return "–"
    c = column["crossing"]
    always = f", ahead at every count in {c['ahead_everywhere']}" if c["ahead_everywhere"] else ""
    return f"{span(c)} (crossed in {c['crossed']} of {c['of']}{always})"


def _losses(column: Mapping[str, Any] | None) -> str:
    return " / ".join(span(column["held_out"][k], 1, 2) for k in ("student", "baseline")) if column else "–"


def _range(epochs: Sequence[int]) -> str:
    return str(min(epochs)) if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}"
