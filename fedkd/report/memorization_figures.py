"""The drawings of a memorization study, from its summary alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedkd.report.style import BLUE, GREEN, INK, MARKERS, MUTED, ORANGE, PINK, RULE, SKY, Picture, canvas, finish, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"base": MUTED, "teacher": INK, "baseline": ORANGE, "student": BLUE, "hard_student": PINK}
"""Of the headline models."""
PATTERNS = 12
"""bars of the UpSet plot"""


def pictures(summary: Mapping[str, Any]) -> list[Picture]:
    """Every figure of the page, to be saved as files as well."""
    found = [dose(summary), p_z(summary), upset(summary)]
    found += [entropy(summary)] if summary["entropy"] else []
    found += [curve(summary, mode) for mode in summary["predictor"] if summary["predictor"][mode]["curve"]]
    return [*found, filtered(summary)] if summary["filter"] else found


def _rows(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [r for r in summary["models"] if r["model"] in COLOURS]


def dose(summary: Mapping[str, Any]) -> Picture:
    """Memorized share by copies with Clopper-Pearson intervals."""
    with canvas(3.0) as figure:
        axes: Axes = figure.subplots()
        for place, row in enumerate(_rows(summary)):
            cells = [row["by_copies"][str(n)] for n in summary["copies"]]
            x = [n * 1.02 ** (place - 2) for n in summary["copies"]]
            spread = [[100 * (c["value"] - c["low"]) for c in cells], [100 * (c["high"] - c["value"]) for c in cells]]
            axes.errorbar(x, [100 * c["value"] for c in cells], spread, color=COLOURS[row["model"]], marker=MARKERS[place],
                          markersize=4, capsize=2, linewidth=1.3, label=row["label"])  # fmt: skip
        _copies(axes, summary)
        axes.set(ylabel="memorized, %", ylim=(-3, 103))
        legend_above(figure, axes, columns=5)
        caption = (
            "Share of the passages whose greedy continuation is the passage itself; 95 % Clopper-Pearson intervals, pooled."
        )
        return finish(figure, "dose-response", "Dose and response", caption)


def p_z(summary: Mapping[str, Any]) -> Picture:
    """Median log10 p_z by copies: what the greedy rate hides."""
    with canvas(3.0) as figure:
        axes: Axes = figure.subplots()
        for place, row in enumerate(_rows(summary)):
            values = [row["by_copies"][str(n)]["median_log10"] for n in summary["copies"]]
            axes.plot(
                summary["copies"], values, color=COLOURS[row["model"]], marker=MARKERS[place], markersize=4, label=row["label"]
            )
        _copies(axes, summary)
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(ylabel="median log10 p_z")
        axes.set_ylim(top=0.3)
        legend_above(figure, axes, columns=5)
        caption = (
            "Probability of the exact suffix given its prefix at temperature 1: higher = more extractable by who may ask often."
        )
        return finish(figure, "p-z", "Extractability by copies", caption)


def _copies(axes: Axes, summary: Mapping[str, Any]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(summary["copies"], [str(n) for n in summary["copies"]])
    axes.minorticks_off()
    axes.set_xlabel("copies of the passage in the teacher's text")


def upset(summary: Mapping[str, Any]) -> Picture:
    """Which sets memorize a passage together."""
    patterns = [(k, n) for k, n in summary["patterns"].items() if k][:PATTERNS]
    names = list(dict.fromkeys(part for k in summary["patterns"] for part in k.split("+") if part))
    names.sort(key=["S_hard", "S", "B", "T"].index)
    with canvas(3.2) as figure:
        bars, dots = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        bars.bar(range(len(patterns)), [n for _, n in patterns], color=BLUE, width=0.6)
        for i, (_, n) in enumerate(patterns):
            bars.annotate(str(n), (i, n), ha="center", va="bottom", fontsize=8.0, color=INK)
        bars.set(ylabel="passages")
        bars.margins(y=0.15)
        for i, (key, _) in enumerate(patterns):
            inside = [y for y, name in enumerate(names) if name in key.split("+")]
            dots.scatter([i] * len(names), range(len(names)), s=28, color=RULE)
            dots.plot([i] * len(inside), inside, color=INK, marker="o", markersize=5, linewidth=1.5)
        dots.set_yticks(range(len(names)), names)
        dots.set_xticks([])
        dots.grid(visible=False)
        dots.margins(y=0.3)
        of = summary["patterns_of"]
        who = f"Teacher {of['teacher']}, seed {of['seed']}"
        caption = f"{who}: passages memorized by exactly the dark models; by none: {summary['patterns'].get('', 0)}."
        return finish(figure, "upset", "Memorized sets", caption)


def entropy(summary: Mapping[str, Any]) -> Picture:
    """Sequence log-probability against entropy on what distillation does not pass on."""
    found = summary["entropy"]
    colours = {"T": INK, "B": ORANGE, "S": BLUE, "S_hard": PINK}
    with canvas(3.0) as figure:
        axes: Axes = figure.subplots()
        _scatter(axes, found["random"], RULE, "o", "S, random passages")
        for place, (name, own) in enumerate(found["models"].items()):
            _scatter(axes, own, colours[name], MARKERS[place], name)
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="log p_z of the suffix, nats", ylabel="mean entropy of the suffix, nats")
        legend_above(figure, axes, columns=5)
        count = found["models"]["S"]["count"]
        caption = f"The {count} passages that T and B memorize and S does not; grey: as many at random."
        return finish(figure, "entropy", "Entropy and log-probability of what S does not keep", caption)


def _scatter(axes: Axes, own: Mapping[str, Any], colour: str, marker: str, label: str) -> None:
    points: Sequence[Sequence[float]] = own["points"]
    axes.scatter([p[0] for p in points], [p[1] for p in points], s=14, color=colour, marker=marker, label=label, alpha=0.75)


def curve(summary: Mapping[str, Any], mode: str) -> Picture:
    """Precision against recall at the true base rate."""
    found = summary["predictor"][mode]["curve"]
    colours = dict(zip(found["lines"], (BLUE, ORANGE, GREEN, MUTED), strict=True))
    labels = {"copies": "copies alone", "baseline_ppl": "perplexity of B alone", "zlib_entropy": "zlib alone"}
    with canvas(2.8) as figure:
        axes: Axes = figure.subplots()
        for name, points in found["lines"].items():
            label = labels.get(name, name)
            axes.plot([p[0] for p in points], [p[1] for p in points], color=colours[name], label=label, linewidth=1.5)
        axes.set(xlabel="recall", ylabel="precision", ylim=(-0.03, 1.03), xlim=(-0.02, 1.02))
        legend_above(figure, axes, columns=4)
        learned = (
            "this very student's labels (an upper bound)"
            if mode == "oracle"
            else "a small student's labels (before the distillation)"
        )
        caption = f"Teacher {found['teacher']}; learned from {learned}, scored on other folds, at the true base rate."
        return finish(figure, f"precision-recall-{mode}", f"Predictor, {mode}", caption)


def filtered(summary: Mapping[str, Any]) -> Picture:
    """Memorized passages before and after the pre-filter, per teacher."""
    with canvas(2.6) as figure:
        axes: Axes = figure.subplots()
        rows = summary["filter"]
        bars: list[tuple[str, str, list[float]]] = [
            ("B before", ORANGE, [r["baseline_before"] for r in rows]), ("S before", BLUE, [r["student_before"] for r in rows]),
            ("S after the filter", GREEN, [r["after"]["memorized"] for r in rows]),
            ("S after random removal", SKY, [r.get("random", {}).get("memorized", 0) for r in rows]),
        ]  # fmt: skip
        for place, (label, colour, values) in enumerate(bars):
            drawn = axes.bar([i + 0.2 * (place - 1.5) for i in range(len(rows))], values, 0.18, color=colour, label=label)
            axes.bar_label(drawn, fontsize=8.0)
        axes.set_xticks(range(len(rows)), [f"teacher {r['teacher']}" for r in rows])
        axes.set(ylabel="memorized of all passages")
        legend_above(figure, axes, columns=4)
        caption = "Counted on all passages, removed ones included: the teacher was trained on all of them."
        return finish(figure, "pre-filter", "Pre-filter", caption)
