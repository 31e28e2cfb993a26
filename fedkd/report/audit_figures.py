"""The drawings of a run's audit, from its file alone: ROC with bands, AUC by group, scores, epsilon brackets, exposure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkd.intervals import clopper_pearson
from fedkd.report.style import (
    AMBER,
    BLUE,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    SERIES,
    WIDTH,
    Picture,
    canvas,
    finish,
    legend_above,
)
from fedkd.run_audit import RunAudit
from fedkd.verdict import LEAK, NO_LEAK, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES = 6
"""ROC curves in one drawing; those with the largest AUC are drawn"""
_GROUPS = 30
"""rows of the AUC drawing"""


_LOOKS = {LEAK: (ORANGE, "s"), NO_LEAK: (BLUE, "o")}


def membership_pictures(audit: RunAudit) -> list[Picture]:
    """ROC, AUC by channel and group, and scores; [] where no membership was measured."""
    found = [roc(audit), forest(audit), histograms(audit)]
    return [picture for picture in found if picture is not None]


def short(text: str, width: int = 34) -> str:
    """A label that a drawing has room for."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _best_curves(audit: RunAudit) -> list[tuple[str, Mapping[str, Sequence[float]], Row | None]]:
    """(name, curve, its AUC's row) of the curves with the largest AUC."""
    curves: Mapping[str, Mapping[str, Sequence[float]]] = audit.content["curves"]
    aucs = {
        f"{row.view} | {row.attack}": row for row in reversed(audit.rows) if row.statistic == "auc" and row.value is not None
    }
    first = {f"{r.view} | {r.attack}": r for r in reversed(audit.rows) if r.statistic == "auc" and r.target_group == "all"}
    known = {**aucs, **{name: row for name, row in first.items() if row.value is not None}}
    named = [(name, curve, known.get(name)) for name, curve in curves.items() if len(curve["fpr"]) > 1]
    return sorted(named, key=lambda one: -(one[2].value or 0.0) if one[2] else 0.0)[:_CURVES]


def roc(audit: RunAudit) -> Picture | None:
    """Both axes logarithmic, a band per curve, chance as the diagonal."""
    best = _best_curves(audit)
    if not best:
        return None
    sizes = [row.n_non_members for _, _, row in best if row is not None and row.n_non_members]
    floor = max(1e-5, 0.5 / max(sizes, default=1000))
    with canvas(4.1) as figure:
        axes: Axes = figure.subplots()
        axes.plot([floor, 1.0], [floor, 1.0], color=MUTED, linestyle="--", linewidth=1.0, label="chance")
        for place, (name, curve, row) in enumerate(best):
            fpr, tpr = np.maximum(np.asarray(curve["fpr"]), floor), np.asarray(curve["tpr"])
            seen = tpr > 0
            axes.plot(fpr[seen], tpr[seen], color=SERIES[place], label=short(name, 42), linewidth=1.6)
            low, high = band(curve, row.n_members if row is not None else 0)
            if low is not None and high is not None:
                lower = np.maximum(low, floor)
                axes.fill_between(fpr[seen], lower[seen], high[seen], color=SERIES[place], alpha=0.14, linewidth=0)
        axes.set(xscale="log", yscale="log", xlim=(floor, 1.0), ylim=(floor, 1.3))
        _percent(axes)
        axes.grid(visible=True, axis="both")
        axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
        legend_above(figure, axes, columns=2)
        caption = (
            "Both axes are logarithmic: what counts is the left edge, where an attacker accuses few wrongly. Bands: "
            "pointwise 95 % "
            "intervals of the true-positive rate. A curve picks its thresholds on the scores that it shows, so preset rates "
            "with "
            "thresholds from other scores stand in the table."
        )
        return finish(figure, "roc", "ROC of the strongest attacks", caption)


def band(curve: Mapping[str, Sequence[float]], members: int) -> tuple[Any, Any]:  # -> two [points] or two None
    """The file's band or, without one, Clopper-Pearson at each point for ``members`` trials."""
    if curve.get("tpr_low") and curve.get("tpr_high"):
        return np.asarray(curve["tpr_low"]), np.asarray(curve["tpr_high"])
    if members < 1:
        return None, None
    ends = np.array([clopper_pearson(round(min(1.0, rate) * members), members) for rate in curve["tpr"]])
    return ends[:, 0], ends[:, 1]


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, position: f"{100 * value:g} %")
        axis.set_minor_formatter("")


def forest(audit: RunAudit) -> Picture | None:
    """AUC with interval for each channel and attack on all candidates, its values on single groups as small marks."""
    rows = [row for row in audit.rows if row.statistic == "auc" and row.value is not None]
    whole = [row for row in rows if row.target_group == "all"]
    shown = (whole or rows)[:_GROUPS]
    if not shown:
        return None
    with canvas(0.95 + 0.27 * len(shown)) as figure:
        axes: Axes = figure.subplots()
        axes.axvline(0.5, color=MUTED, linestyle="--", linewidth=1.0)
        for height, row in enumerate(reversed(shown)):
            parts = (
                [r.value or 0.0 for r in rows if r is not row and (r.view, r.attack) == (row.view, row.attack)] if whole else []
            )
            axes.scatter(parts, [height] * len(parts), s=14, color=MUTED, alpha=0.45, linewidths=0, zorder=1)
            value = row.value or 0.0
            low, high = (value if end is None else end for end in (row.low, row.high))
            colour, marker = _LOOKS.get(row.status, (MUTED, "D"))
            spread = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(value, height, xerr=spread, fmt=marker, color=colour, capsize=2.5, markersize=5)
        groups = "" if whole else " · {0.target_group}"
        names = [f"{short(row.view, 24)} · {short(row.attack, 24)}" + groups.format(row) for row in reversed(shown)]
        axes.set_yticks(range(len(shown)), names)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="AUC with its interval", ylim=(-0.6, len(shown) - 0.4))
        more = len(whole or rows) - len(shown)
        caption = (
            "Dashed: a coin's 1/2. Squares: a leak is shown after correction; discs: none is shown; diamonds: no verdict. "
            "Grey dots: single groups, such as clients." + (f" {more} more stand in the tables." if more else "")
        )
        return finish(figure, "auc", "AUC by channel and attack", caption)


def histograms(audit: RunAudit) -> Picture | None:
    """Scores of members and others, one panel per curve."""
    best = [one for one in _best_curves(audit)[:4] if one[1]["edges"]]
    if not best:
        return None
    rows = (len(best) + 1) // 2
    with canvas(0.5 + 1.75 * rows) as figure:
        grid = np.atleast_1d(figure.subplots(rows, 2 if len(best) > 1 else 1)).reshape(-1)
        for axes, (name, curve, _) in zip(grid, best, strict=False):
            axes.stairs(curve["members"], curve["edges"], color=ORANGE, linewidth=1.5, label="members")
            axes.stairs(curve["non_members"], curve["edges"], color=INK, linewidth=1.1, label="non-members")
            axes.set_title(short(name, 42), fontsize=8.5, loc="left")
        for axes in grid[len(best) :]:
            axes.set_visible(False)
        grid[0].set_ylabel("share of candidates")
        legend_above(figure, grid[0])
        caption = "Scores, higher = more likely member. The 0.1 % at either end is drawn in the last bar."
        return finish(figure, "scores", "Scores of members and of others", caption)


def brackets(audit: RunAudit) -> Picture | None:
    """Lower end, ceiling and claim of each audited epsilon; None without any."""
    found = audit.list("brackets")
    if not found:
        return None
    with canvas(0.95 + 0.42 * len(found)) as figure:
        axes: Axes = figure.subplots()
        for height, record in enumerate(reversed(found)):
            low, ceiling, claim = record["lower"]["epsilon"] or 0.0, record["lower"]["ceiling"], record["claimed"]
            marks = [low, *(value for value in (ceiling, claim) if value is not None)]
            axes.plot([low, max(marks)], [height, height], color=MUTED, linewidth=1.2, zorder=1)
            first = height == 0
            axes.scatter([low], [height], s=55, color=BLUE, marker=">", zorder=3, label="at least (attack)" if first else None)
            if ceiling is not None:
                label = "most that this audit could show" if first else None
                axes.scatter([ceiling], [height], s=45, color=AMBER, marker="|", linewidths=2.5, zorder=2, label=label)
            if claim is not None:
                label = "at most (accountant)" if first else None
                axes.scatter([claim], [height], s=55, color=ORANGE, marker="<", zorder=3, label=label)
        names = [short(f"{r['mechanism']} ({r['unit']})") for r in reversed(found)]
        axes.set_yticks(range(len(found)), names)
        axes.set(xlabel="epsilon", ylim=(-0.6, len(found) - 0.4), xlim=(-0.02 * max(axes.get_xlim()[1], 1.0), None))
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        legend_above(figure, axes, columns=3)
        caption = (
            "The attack's end says at least how much is lost, for the adversary and unit in the line below; the accountant's "
            "says at "
            "most. An end of 0 proves nothing: the bar is how much this audit could have shown at its size. An attack's end "
            "right of "
            "the accountant's says that the mechanism does not do what is claimed."
        )
        return finish(figure, "epsilon-bracket", "Epsilon: at least and at most", caption)


def exposure(audit: RunAudit) -> Picture | None:
    """Bits of planted label strings by observer, chance beside them; None without canaries."""
    found = [record for record in audit.list("exposure") if record["median_bits"] is not None]
    if not found:
        return None
    with canvas(0.85 + 0.36 * len(found), WIDTH) as figure:
        axes: Axes = figure.subplots()
        axes.axvline(found[0]["null_bits"], color=MUTED, linestyle="--", linewidth=1.0, label="mean of chance")
        for height, record in enumerate(reversed(found)):
            value = record["median_bits"]
            low, high = (value if record[end] is None else record[end] for end in ("low", "high"))
            spread = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(value, height, xerr=spread, fmt=MARKERS[0], color=BLUE, capsize=3)
        axes.set_yticks(range(len(found)), [f"{short(r['view'])} ({r['strings']})" for r in reversed(found)])
        axes.set(xlabel="exposure, bits", ylim=(-0.6, len(found) - 0.4))
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        legend_above(figure, axes)
        caption = "Median over label strings with its interval; in brackets the strings that this observer could rank."
        return finish(figure, "exposure", "Exposure of planted labels", caption)
