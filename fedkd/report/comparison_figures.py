"""The figures of a comparison: accuracy over rounds, paired differences per client, accuracy against bytes.

A method keeps its colour and marker in all three. The baseline is drawn in the text's colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkd.report.comparison import Comparison, MethodRow, client_gains
from fedkd.report.style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PAPER,
    PINK,
    SKY,
    Picture,
    canvas,
    finish,
    legend_above,
    round_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (ORANGE, GREEN, PINK, AMBER, SKY)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
_POINTS_SHOWN = 400


@dataclass(frozen=True)
class Look:
    """How one method is drawn in every figure."""

    colour: str
    dashes: Any
    marker: str
    width: float


def looks(comparison: Comparison) -> dict[str, Look]:
    """Label -> look: the baseline in the text's colour, FedD2S in blue and heavier, the others in turn."""
    chosen: dict[str, Look] = {}
    best_first = sorted(comparison.methods, key=lambda row: -row.accuracy_mean)
    own = [row.label for row in best_first if row.label.startswith("FedD2S")]
    others = 0
    for index, row in enumerate(comparison.methods):
        marker = MARKERS[index % len(MARKERS)]
        if row.label == comparison.baseline:
            chosen[row.label] = Look(INK, (0, (2, 1.5)), marker, 1.5)
        elif row.label.startswith("FedD2S"):
            chosen[row.label] = Look(BLUE, _DASHES[own.index(row.label) % len(_DASHES)], marker, 2.3)
        else:
            dashes = _DASHES[others // len(_COLOURS) % len(_DASHES)]
            chosen[row.label] = Look(_COLOURS[others % len(_COLOURS)], dashes, marker, 1.6)
            others += 1
    return chosen


def comparison_figures(comparison: Comparison) -> list[Picture]:
    """The three figures, each left out where there is nothing to draw."""
    drawn = [accuracy_curves(comparison), paired_clients(comparison), bytes_against_accuracy(comparison)]
    return [picture for picture in drawn if picture is not None]


def accuracy_curves(comparison: Comparison) -> Picture | None:
    """Mean client accuracy per round, mean over seeds with the seeds' range; None without scored rounds."""
    curves = [(row, *_over_seeds(row)) for row in comparison.methods]
    curves = [curve for curve in curves if curve[1]]
    if not curves:
        return None
    style = looks(comparison)
    with canvas(3.9, 7.4) as figure:
        axes = figure.subplots()
        for row, rounds, values in curves:
            look = style[row.label]
            x, y = [t + 1 for t in rounds], values.mean(axis=0)
            few: dict[str, Any] = {"marker": look.marker, "markersize": 4.5} if len(rounds) < 6 else {}
            axes.plot(x, y, color=look.colour, linestyle=look.dashes, linewidth=look.width, **few)
            if len(values) > 1:
                axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=look.colour, alpha=0.13, linewidth=0)
        round_axis(axes, min(rounds[0] for _, rounds, _ in curves), comparison.rounds - 1)
        axes.set_ylabel("accuracy, mean over clients, %")
        axes.set_ylim(*_view([values for _, _, values in curves]))
        ends = [(row.label, rounds[-1] + 1, float(values[:, -1].mean())) for row, rounds, values in curves]
        _end_labels(axes, ends, style, figure.get_figheight())
        seeds = len(comparison.seeds)
        spread_text = f"averaged over {seeds} seeds; the shade is the range of the seeds" if seeds > 1 else "of one seed"
        caption = (
            f"Each line is the mean over clients, scored on their own test examples, {spread_text}."
            " The vertical axis does not start at zero, and the steep first rounds may lie below it."
        )
        return finish(figure, "accuracy", "Accuracy over rounds", caption, png=True)


def paired_clients(comparison: Comparison) -> Picture | None:
    """Every client's difference to itself under the baseline, one row per method; None without a baseline."""
    if comparison.baseline is None:
        return None
    baseline = comparison.row(comparison.baseline)
    rows = [(row, client_gains(row, baseline)) for row in comparison.methods if row.label != comparison.baseline]
    rows = [(row, gains) for row, gains in rows if gains]
    if not rows:
        return None
    style = looks(comparison)
    with canvas(0.85 + 0.42 * len(rows), 7.4) as figure:
        axes = figure.subplots()
        for y, (row, gains) in enumerate(rows):
            _gain_row(axes, y, np.asarray(gains), style[row.label].colour)
        axes.axvline(0, color=INK, linewidth=1.0, zorder=1)
        axes.set_yticks(range(len(rows)), [_short(row.label) for row, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"accuracy minus {comparison.baseline}, points, same client and seed")
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        caption = (
            f"Each dot is one client of one seed: its final accuracy under the method minus its own under "
            f"{comparison.baseline}. The bar holds the middle half, the light line is the median. Left of zero: "
            "clients that would have done better with the baseline."
        )
        return finish(figure, "clients", f"Every client against {comparison.baseline}", caption)


def bytes_against_accuracy(comparison: Comparison) -> Picture | None:
    """Accuracy over bytes per client and round, one mark per method; None where no bytes were counted."""
    rows = [row for row in comparison.methods if math.isfinite(row.kb_up + row.kb_down)]
    if not rows:
        return None
    style = looks(comparison)
    with canvas(3.7, 7.4) as figure:
        axes = figure.subplots()
        for row in rows:
            look, x = style[row.label], row.kb_up + row.kb_down
            seeds = [100 * value for value in row.accuracy_by_seed]
            axes.plot([x, x], [min(seeds), max(seeds)], color=look.colour, linewidth=1.4, alpha=0.7)
            mark: dict[str, Any] = {"s": 80, "marker": look.marker, "color": look.colour, "linewidths": 0}
            axes.scatter([x], [100 * row.accuracy_mean], zorder=3, label=_short(row.label), **mark)
        axes.set_xlim(left=-0.03 * max(1.0, *(row.kb_up + row.kb_down for row in rows)))
        axes.set(xlabel="kB up and down, per client and round", ylabel="accuracy, mean over clients, %")
        axes.grid(visible=True, axis="both")
        legend_above(figure, axes, columns=3)
        caption = (
            "Up and to the left is better: more accuracy for fewer bytes. Bytes are the clients' own records; the "
            "stroke through a mark is the range over seeds. The vertical axis does not start at zero."
        )
        return finish(figure, "bytes", "Accuracy against bytes", caption)


def _over_seeds(row: MethodRow) -> tuple[list[int], Any]:
    """Rounds that every seed scored, and [seeds, rounds] accuracies in points."""
    series = [dict(zip(*run.series("accuracy_mean"), strict=True)) for run in row.runs]
    rounds = sorted(set.intersection(*(set(one) for one in series)))
    return rounds, 100 * np.array([[one[t] for t in rounds] for one in series])


def _view(curves: Sequence[Any]) -> tuple[float, float]:
    """Vertical range: everything from a tenth of the rounds on, so that the first steps do not flatten the rest."""
    shown = [values[:, values.shape[1] // 10 :] for values in curves]
    low, high = min(float(v.min()) for v in shown), max(float(v.max()) for v in shown)
    pad = max(0.04 * (high - low), 0.5)
    return low - pad, high + pad


def _gain_row(axes: Axes, y: int, gains: Any, colour: str) -> None:
    shown = np.sort(gains)
    if shown.size > _POINTS_SHOWN:
        shown = shown[np.linspace(0, shown.size - 1, _POINTS_SHOWN).round().astype(int)]
    jitter = ((np.arange(shown.size) * 0.618034) % 1.0 - 0.5) * 0.5
    axes.scatter(shown, y + jitter, s=9, color=colour, alpha=0.45, linewidths=0, zorder=2)
    low, middle, high = np.percentile(gains, (25, 50, 75))
    axes.barh(y, high - low, left=low, height=0.34, color=colour, alpha=0.9, zorder=3, linewidth=0)
    axes.plot([middle, middle], [y - 0.17, y + 0.17], color=PAPER, linewidth=2.0, zorder=4, solid_capstyle="butt")


def spread(values: Sequence[float], step: float) -> list[float]:
    """The nearest places (least squares) to ascending ``values`` that keep ``step`` between neighbours."""
    blocks: list[list[float]] = []
    for index, value in enumerate(values):
        blocks.append([value - index * step])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    flat = [float(np.mean(block)) for block in blocks for _ in block]
    return [place + index * step for index, place in enumerate(flat)]


def _end_labels(axes: Axes, ends: Sequence[tuple[str, int, float]], style: dict[str, Look], height: float) -> None:
    """Names at the lines' ends, pushed apart where they would touch, tied to their lines by thin strokes."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    step = 0.165 * (high - low) / (0.84 * height)
    ordered = sorted(ends, key=lambda end: end[2])
    places = spread([y for _, _, y in ordered], step)
    gap = 0.022 * (right - axes.get_xlim()[0])
    for (label, x, y), place in zip(ordered, places, strict=True):
        axes.plot([x, right + gap], [y, place], color=MUTED, linewidth=0.6, clip_on=False, zorder=1)
        axes.text(right + 1.25 * gap, place, _short(label), color=style[label].colour, va="center", fontsize=8.5,
                  fontweight="bold" if label.startswith("FedD2S") else "normal")  # fmt: skip
    axes.set_ylim(low, high)


def _short(label: str) -> str:
    return label if len(label) <= 30 else label[:29] + "…"
