"""The figures of one run over its rounds: accuracy with its spread over clients, and bytes.

``run_figures`` is the list that the page prints, in the page's order; each figure is left out where the run folder has
nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkd.report.layer_trace import layer_trace, level_changes
from fedkd.report.population import client_scores, label_map
from fedkd.report.run_folder import RunFolder
from fedkd.report.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PINK,
    Picture,
    canvas,
    finish,
    legend_above,
    round_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW_ROUNDS = 12
_OTHERS = ((GREEN, (0, (4, 1.5))), (PINK, (0, (1.5, 1.5))), (INK, (0, (6, 1.5, 1.5, 1.5))))
"""colour and dashes of the runs drawn beside this one"""


def run_figures(run: RunFolder, compared: Sequence[RunFolder] = (), local: RunFolder | None = None) -> list[Picture]:
    """Every figure that this run can show; ``local`` is the run that is paired with it client by client."""
    drawn = [
        accuracy_figure(run, compared),
        client_scores(run, local),
        label_map(run),
        layer_trace(run),
        bytes_figure(run),
    ]
    return [picture for picture in drawn if picture is not None]


def accuracy_figure(run: RunFolder, compared: Sequence[RunFolder] = ()) -> Picture | None:
    """Mean accuracy per round, the middle 80 % of clients and the worst tenth; None without a scored round."""
    rounds, mean = run.series("accuracy_mean")
    if not rounds:
        return None
    last = max(rounds[-1], (run.num_rounds or 1) - 1)
    shown = [other for other in compared if other.series("accuracy_mean")[0]][: len(_OTHERS)]
    with canvas(3.5) as figure:
        axes = figure.subplots()
        few: dict[str, Any] = {"marker": "o", "markersize": 4.0} if len(rounds) <= _FEW_ROUNDS else {}
        _band(axes, run)
        for other, (colour, dashes) in zip(shown, _OTHERS, strict=False):
            t, value = other.series("accuracy_mean")
            axes.plot(_shown(t), _points(value), color=colour, linestyle=dashes, linewidth=1.3, label=other.title)
        axes.plot(_shown(rounds), _points(mean), color=BLUE, label=f"{run.title}: mean over clients", **few)
        t, worst = run.series("accuracy_worst_decile")
        axes.plot(_shown(t), _points(worst), color=ORANGE, linewidth=1.5, label="worst tenth of clients", **few)
        round_axis(axes, rounds[0], last)
        axes.set_ylabel("accuracy, %")
        _mark_levels(axes, run)
        legend_above(figure, axes, columns=3, first=f"{run.title}: mean")
        return finish(figure, "accuracy", "Accuracy per round", _accuracy_caption(run, bool(shown)))


def bytes_figure(run: RunFolder) -> Picture | None:
    """Bytes up and down per round, the clients' own records and the real messages; None where nothing was counted."""
    keys = ("bytes_up", "bytes_down", "wire_bytes_up", "wire_bytes_down")
    data = {key: run.series(key) for key in keys}
    peak = max((max(values, default=0.0) for _, values in data.values()), default=0.0)
    if not data["bytes_up"][0] and not data["bytes_down"][0]:
        return None
    scale, unit = _byte_unit(peak)
    with canvas(2.8) as figure:
        axes = figure.subplots()
        looks = ((BLUE, "-", "up, own records"), (ORANGE, "-", "down, own records"),
                 (BLUE, ":", "up, on the wire"), (ORANGE, ":", "down, on the wire"))  # fmt: skip
        for key, (colour, line, label) in zip(keys, looks, strict=True):
            t, values = data[key]
            if t and (line == "-" or any(values)):
                few: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(t) <= _FEW_ROUNDS else {}
                look = {"color": colour, "linestyle": line, "drawstyle": "steps-mid", **few}
                axes.plot(_shown(t), np.asarray(values) / scale, label=label, **look)
        rounds = sorted({t for key in keys for t in data[key][0]})
        round_axis(axes, rounds[0], rounds[-1])
        axes.set_ylim(0, max(peak / scale, 1e-9) * 1.06)
        axes.set_ylabel(f"{unit} per round, all clients")
        legend_above(figure, axes)
        caption = (
            "Bytes per round, summed over the clients that took part. Solid: each client's own record as if it "
            "travelled alone, the figure of all tables, the same on every grid. Dotted, where counted: the messages "
            "that really travelled, which bundle many clients of one node and send shared parts once per node."
        )
        return finish(figure, "bytes", "Bytes per round", caption)


def _band(axes: Axes, run: RunFolder) -> None:
    spread = {t: v for t, v in run.scores_by_round().items() if len(v) > 1}
    if not spread:
        return
    low, high = zip(*(np.percentile(_points(v), (10, 90)) for v in spread.values()), strict=True)
    label = "10th to 90th percentile"
    if len(spread) == 1:
        (t,) = spread
        axes.vlines(t + 1, low[0], high[0], color=BLUE, alpha=0.35, linewidth=9, label=label)
    else:
        axes.fill_between(_shown(list(spread)), low, high, color=BLUE, alpha=0.18, linewidth=0, label=label)


def _mark_levels(axes: Axes, run: RunFolder) -> None:
    """A dotted line where blocks leave the federation, the level that holds from there on above the plot."""
    changes = level_changes(run)
    if len(changes) < 2:
        return
    for index, (t, level) in enumerate(changes):
        if index:
            axes.axvline(t + 0.5, color=MUTED, linewidth=0.8, linestyle=":", zorder=0.5)
        text = f"level {level}" if index == 0 else str(level)
        axes.text(t + (0.5 if index else 1), 1.01, text, transform=axes.get_xaxis_transform(), fontsize=8, color=MUTED)


def _accuracy_caption(run: RunFolder, others: bool) -> str:
    parts = [
        "Each client's model is scored on that client's own test examples; the blue line is the unweighted mean over "
        "the clients scored in the round, the band holds the middle 80 % of them, the orange line is the mean of the "
        "lowest tenth."
    ]
    if others:
        parts.append("Dashed lines are the means of the runs compared.")
    if len(level_changes(run)) > 1:
        parts.append("Dotted lines mark the rounds from which fewer blocks are in the federation (numbers on top).")
    parts.append("The vertical axis does not start at zero.")
    return " ".join(parts)


def _shown(rounds: Sequence[int]) -> list[int]:
    return [t + 1 for t in rounds]


def _points(values: Sequence[float]) -> list[float]:
    return [100.0 * value for value in values]


def _byte_unit(peak: float) -> tuple[float, str]:
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if peak >= scale:
            return scale, unit
    return 1.0, "bytes"
