"""The page of a memorization study: rates, sets, dose-response, p_z, predictor and pre-filter, with hashed ids only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedkd.memorization_table import PUBLISHED, Grid, count_of, grids, number, ratio, span
from fedkd.report.memorization_figures import pictures
from fedkd.report.parts import Part
from fedkd.report.tables import Table
from fedkd.report.templates import render
from fedkd.verdict import check_words

_LIMITS = (
    "Models of under a million values, text planted in copies: directions may carry over to large models, sizes do not.",
    "A greedy rate counts exact continuations of one prefix. p_z and (n, p) extraction beside it show what more queries find; "
    "other attacks may find more still.",
    "An interval over teachers rests on as many values as there are teachers; Clopper-Pearson and the cluster bootstrap hold "
    "for these very models only. Students of one teacher differ in the order of the rows alone.",
    "At matched held-out loss the baseline is an early epoch whose learning rate had not come down yet.",
    "Figures of the paper (Borkar et al. 2026, arXiv 2601.15394) are known at second hand and from another scale: no target.",
    "The formulaic stratum holds lines of mails by real people: tables show hashed ids; strings come only on request.",
)


def page(summary: Mapping[str, Any]) -> str:
    """The HTML page. Raises: ConfigError where a name contains a word that no report may use."""
    parts = [Part(g.title, _lines(g, summary), grid_table(g)) for g in grids(summary)]
    drawn = [Part(p.title, (), None, p) for p in pictures(summary)]
    rule = summary["rule"]
    done, of = summary.get("finished", [1, 1])
    beside = [] if "student" in summary else [Part("The paper's main run", (), published(summary))]
    sizes = summary["sizes"]
    values = {
        "title": f"What a student remembers of its teacher's data: {summary['name']}",
        "subtitle": f"{count_of(summary)} · {sizes['passages']} passages a teacher · {sizes['held_out']} held-out rows · "
        f"{done} of {of} students trained",
        "verdicts": [{"text": line, "bad": bad} for line, bad in verdicts(summary)],
        "sections": [*parts[:2], *drawn[:2], *parts[2:], *drawn[2:], *beside],
        "command": summary["command"],
        "notes": [
            f"One forward pass against real greedy generation: {rule['disagree']} of {rule['passages']:,} decisions disagree, "
            f"{rule['unexplained']} without a near tie of the top two logits.",
            *_LIMITS,
            f"Commits: {', '.join(c[:12] + c[40:] for c in summary['provenance']) or 'unknown'}.",
        ],
    }
    return check_words(render("study", values))


def grid_table(grid: Grid) -> Table:
    """A grid as a table of the page."""
    return Table(grid.title, grid.head, ["", *["n"] * (len(grid.head) - 1)], grid.rows)


def published(summary: Mapping[str, Any]) -> Table:
    """The paper's figures beside ours."""
    own = {r["model"]: r for r in summary["models"]}
    soft, hard = (summary["headline"]["equal"].get(n) for n in ("student", "hard_student"))
    values = [
        *(span(own[m]["rate"], 100, 1) if m in own else "–" for m in ("teacher", "baseline", "student")),
        *([span(soft["greedy_ratio"]), _percent(soft["easy"]), _percent(soft["inherited"])] if soft else ["–"] * 3),
        _percent(hard["inherited"]) if hard else "–",
        ratio(summary["headline"]["equal"].get("hard_over_soft", {}).get("inherited")),
    ]
    rows = [[name, theirs, ours] for (name, theirs), ours in zip(PUBLISHED, values, strict=True)]
    head = ["", "published, at second hand", f"here ({count_of(summary)})"]
    return Table("Published figures beside ours: another scale, no target", head, ["", "n", "n"], rows)


def _percent(found: Mapping[str, Any]) -> str:
    value = found["pooled"]["value"]
    return "n/a" if value is None else f"{100 * value:.1f}"


def verdicts(summary: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """What was found, in sentences with intervals. (text, warns)"""
    found: list[tuple[str, bool]] = []
    for name in ("teacher", "baseline", "student", "hard_student"):
        row = next((r for r in summary["models"] if r["model"] == name), None)
        if row and row["held_out"]["value"] is None:
            cell = 100 * row["train"]["value"]
            found.append(
                (f"{row['label']}: {number(cell, 1)} % come out word for word; not tested against held-out text.", cell > 0)
            )
        elif row:
            low = row["train"]["low"] - row["held_out"]["high"]
            value = 100 * (row["train"]["value"] - row["held_out"]["value"])
            word = "leak shown" if low > 0 else "no leak shown"
            found.append((
                f"{row['label']}: {word}: {number(value, 1)} points more of the planted passages than of held-out ones come "
                f"out word for word (lower end {number(100 * low, 1)}); r50 = {span(row['r50'])} copies.",
                low > 0,
            ))  # fmt: skip
    for kind, label in (("equal", "At equal steps"), ("matched", "At matched held-out loss")):
        soft = summary["headline"][kind].get("student")
        if soft:
            ahead = [
                p["teacher"]
                for p in summary["pairs"]
                if p["kind"] == kind and p["student"] == "student" and p["ahead"] != "never"
            ]
            found.append((
                f"{label}: B memorizes {span(soft['greedy_ratio'])} times as many passages as S, and S needs "
                f"{span(soft['r50_ratio'])} times as many copies for one half; by p_z, S is the more extractable one above "
                f"{span(soft['crossing'])} copies "
                f"(ahead from some number of copies on in {len(ahead)} of {soft['crossing']['of']} pairs).",
                bool(ahead),
            ))  # fmt: skip
    return found


def _lines(grid: Grid, summary: Mapping[str, Any]) -> list[str]:
    """Above the predictor's table: does it beat what needs no fit, by more than the interval? Above the filter's: its limit."""
    if grid.title.startswith("Pre-filter"):
        return ["The filter takes passages with many copies, so an epoch has fewer rows and S gets fewer steps than after the "
                "random removal: part of what is no longer memorized is less training."]  # fmt: skip
    if not grid.title.startswith("Predictor"):
        return []
    found = []
    for mode, values in summary["predictor"].items():
        for key, rival in (("gain_copies", "copies alone"), ("gain_baseline_ppl", "perplexity of B alone")):
            low = values[key][1]
            word = "beats" if low is not None and low > 0 else "not shown to beat"
            found.append(f"{mode}: {word} {rival} (difference of AUC {_signed(values[key])}).")
    return found


def _signed(values: Sequence[float | None]) -> str:
    """A difference with its interval."""
    value, low, high = ("n/a" if v is None else f"{v:+.4f}" for v in values)
    return value if low == "n/a" else f"{value} [{low}, {high}]"
