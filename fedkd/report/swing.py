"""The page of a swing study: what leaked, to which protection, at which price, and what redaction does for comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedkd.report.parts import Part
from fedkd.report.style import AMBER, BLUE, GREEN, INK, MARKERS, MUTED, ORANGE, PINK, SKY, Picture, canvas, finish, legend_above
from fedkd.report.tables import Table
from fedkd.report.templates import render
from fedkd.swing_results import cells, head, totals
from fedkd.verdict import check_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedkd.swing_plan import Plan

DRAWN = ("kd", "control", "temperature", "noise", "swing", "redaction", "typed", "typed_prior", "public")
_COLOURS = {
    "kd": ORANGE, "control": INK, "temperature": SKY, "noise": PINK, "swing": BLUE, "redaction": GREEN, "typed": AMBER,
    "typed_prior": MUTED, "public": INK,
}  # fmt: skip
REGIMES = {
    "R1": "the student learns on the teacher's own rows (the control's student on rows without secrets)",
    "R2": "the student learns on the teacher's rows with fresh random digits in every copy: its text never holds a secret",
    "R3": "the student learns on text without the template",
    "R4": "the student learns on public text that no teacher with secrets has read",
}
_LIMITS = (
    "Swing is a reconstruction from the abstract of arXiv 2212.08349; set-up, formulas and numbers are this project's.",
    "Exposure in bits: 1.44 is what chance gives on average, log2 of the number of secrets the most that is possible. A tie "
    "counts as a leak.",
    "Intervals over canaries do not cover what other teachers would change; with one seed they say nothing about another seed.",
    "The noise is a noise level per position. No end-to-end guarantee of differential privacy is stated, but where a line says "
    "what the total of an arm is.",
    "An attack that asks otherwise may find more.",
)


def _facts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The detector's recall and precision, the releases that were charged, and how to read the last two columns."""
    swing = next((r for r in rows if r["arm"] == "swing"), None)
    found = [
        "Type mass: probability of a digit after a name that was never used. Type NLL: nats per digit of secrets that nobody "
        "planted; 2.30 for a uniform digit. Perplexity below KD's at short training is what any arm gains that does not learn "
        "the secrets' digits."
    ]
    if swing is not None and swing["recall"] is not None:
        precision = "no token flagged" if swing["precision"] is None else f"precision {swing['precision']:.3f}"
        detector = f"recall {swing['recall']:.3f}, {precision} on planted secrets"
        found.insert(0, f"Detector: {detector}. Noise: {swing['charges']:,.0f} distinct releases at private positions.")
    return found


def page(plan: Plan, summary: Mapping[str, Any]) -> str:
    """The HTML page. Raises: ConfigError where a name contains a word that no report may use."""
    rows: list[Mapping[str, Any]] = list(summary["arms"])
    seeds = summary["seeds"]
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    parts = []
    for regime, factor, own in _groups(rows):
        title = f"{regime}, {own[0]['steps']:,} steps"
        copies = [str(n) for n in summary["copies"]]
        names = head(copies)
        grid = Table(
            f"Exposure in bits by copies, and utility ({count})", names, ["", *["n"] * (len(names) - 1)],
            [cells(r, copies) for r in own],
        )  # fmt: skip
        warnings = [f"{r['label']}: {r['warning']}." for r in own if r.get("warning")]
        drawn = _drawn(own, copies, f"{regime}-{factor}")
        parts.append(Part(title, [f"Here {REGIMES[regime]}.", *warnings, *totals(own)], grid, drawn[0]))
        parts += [Part(f"{title}: what is left of the type", (), None, picture) for picture in drawn[1:]]
    shown = summary.get("token_map")
    if shown:
        parts.append(Part("One protected record", (), token_table(shown)))
    values = {
        "title": f"Swing distillation: {plan.name}",
        "subtitle": f"{plan.text.name} · {count} · {plan.canaries.per_count} canaries per count and seed · detector "
        f"{plan.sensitivity}",
        "verdicts": [{"text": line, "bad": bad} for line, bad in verdicts(summary)],
        "sections": parts,
        "command": summary["command"],
        "notes": [*_facts(rows), *_LIMITS],
    }
    return check_words(render("study", values))


def pictures(summary: Mapping[str, Any]) -> list[Picture]:
    """The page's figures, to be saved as files."""
    copies = [str(n) for n in summary["copies"]]
    return [p for regime, factor, own in _groups(summary["arms"]) for p in _drawn(own, copies, f"{regime}-{factor}")]


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, list[Mapping[str, Any]]]]:
    keys = dict.fromkeys((r["regime"], r["factor"]) for r in rows)
    return [(regime, factor, [r for r in rows if (r["regime"], r["factor"]) == (regime, factor)]) for regime, factor in keys]


def _drawn(rows: Sequence[Mapping[str, Any]], copies: Sequence[str], name: str) -> list[Picture]:
    found = [_by_copies(rows, copies, name)]
    return [*found, _frontier(rows, name)] if any(r["type_mass"] is not None for r in rows) else found


def verdicts(summary: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Sentences with intervals: does distillation leak, and what is left of it under swing and redaction. (text, warns)"""
    rows = {(r["regime"], r["factor"], r["arm"]): r for r in summary["arms"]}
    found = []
    for regime in dict.fromkeys(r["regime"] for r in summary["arms"]):
        kd = rows.get((regime, 1, "kd"))
        if kd is None or "minus_control" not in kd:
            continue
        value, low, high = (_number(v) for v in kd["minus_control"]["all"])
        through = "soft targets" if regime != "R1" else "hard labels and soft targets together"
        text = (
            f"{regime}: leak shown through {through} of plain distillation: {value:+.1f} bits [{low:+.1f}, {high:+.1f}] "
            "above students of a teacher that never saw the secrets, "
            f"{kd['extracted']['count']} of {kd['extracted']['of']} secrets extracted."
            if low > 0
            else f"{regime}: no leak of plain distillation shown: {value:+.1f} bits [{low:+.1f}, {high:+.1f}] above control."
        )
        for arm in ("swing", "redaction", "typed"):
            row = rows.get((regime, 1, arm))
            if row is not None and "minus_control" in row:
                v, lo, hi = (_number(x) for x in row["minus_control"]["all"])
                text += f" {row['label'].capitalize()}: {v:+.1f} [{lo:+.1f}, {hi:+.1f}], {row['extracted']['count']} extracted."
        found.append((text, low > 0))
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def token_table(shown: Sequence[Mapping[str, Any]]) -> Table:
    """The token map: likelihood, temperature and noise of each run of tokens treated alike; private strings are masked."""
    rows: list[list[str]] = []
    for s in shown:
        cells = [f"{s['likelihood']:.2f}", f"{s['temperature']:.1f}", f"{s['noise']:.2f}"]
        if rows and rows[-1][1:] == cells:
            rows[-1][0] += s["token"]
        else:
            rows.append([s["token"], *cells])
    names = ["tokens", "likelihood", "temperature", "noise scale"]
    return Table("Token map of the beginning of one planted record (its secret masked)", names, ["code", "n", "n", "n"], rows)


def _by_copies(rows: Sequence[Mapping[str, Any]], copies: Sequence[str], name: str) -> Picture:
    with canvas(3.1) as figure:
        axes: Axes = figure.subplots()
        axes.axhline(1 / math.log(2), color=MUTED, linestyle="--", linewidth=1.0, label="chance, 1.44")
        for place, row in enumerate(r for r in rows if r["arm"] in DRAWN):
            values = [row["by_copies"][n] for n in copies]
            x = [i + 0.05 * (place - 4) for i in range(len(copies))]
            means = [v[0] for v in values]
            spread = [[max(0.0, v[0] - _low(v)) for v in values], [max(0.0, _high(v) - v[0]) for v in values]]
            axes.errorbar(
                x, means, spread, color=_COLOURS[row["arm"]], marker=MARKERS[place % len(MARKERS)], markersize=4, capsize=2,
                linewidth=1.3, label=row["label"],
            )  # fmt: skip
        axes.set_xticks(range(len(copies)), copies)
        axes.set(xlabel="copies of the secret in the teacher's text", ylabel="exposure, bits")
        legend_above(figure, axes, columns=3)
        return finish(figure, f"copies-{name}", "Exposure by copies", "Means over canaries with 95 % bootstrap intervals.")


def _frontier(rows: Sequence[Mapping[str, Any]], name: str) -> Picture:
    with canvas(3.0) as figure:
        axes: Axes = figure.subplots()
        drawn = [r for r in rows if r["arm"] in DRAWN and r["type_mass"] is not None]
        for place, row in enumerate(drawn):
            mean = row["mean"]
            axes.errorbar(
                row["type_mass"], mean[0], [[max(0.0, mean[0] - _low(mean))], [max(0.0, _high(mean) - mean[0])]], capsize=2,
                color=_COLOURS[row["arm"]], marker=MARKERS[place % len(MARKERS)], label=row["label"], linestyle="none",
            )  # fmt: skip
        axes.axhline(1 / math.log(2), color=MUTED, linestyle="--", linewidth=1.0)
        axes.set(
            xlabel="probability of the type (a digit) after a name that was never used",
            ylabel="exposure, bits",
            xlim=(-0.03, 1.05),
        )
        legend_above(figure, axes, columns=3)
        caption = "Good is right and low: the secret's kind is known and the secret is not. Dashed: chance."
        return finish(figure, f"frontier-{name}", "Type kept against exposure", caption)


def _low(value: Sequence[float | None]) -> float:
    return _end(value, 1)


def _high(value: Sequence[float | None]) -> float:
    return _end(value, 2)


def _end(value: Sequence[float | None], which: int) -> float:
    """An end of an interval; the value itself where there is none."""
    middle, end = _number(value[0]), _number(value[which])
    return middle if math.isnan(end) else end
