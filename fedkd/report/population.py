"""The population of one run: final accuracy of every client, against local training where given, and who holds what.

Up to 60 clients are drawn one by one, more as distributions; the label map never has more than 40 rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedkd.report.run_folder import RunFolder, whole
from fedkd.report.style import BLUE, INK, MUTED, ORANGE, PAPER, Picture, canvas, finish, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ONE_BY_ONE = 60
_ROWS = 40
_SHADES = 6
_OPACITY = (0.09, 0.24, 0.40, 0.56, 0.73, 0.90)
_TITLE = "Accuracy of each client"

Grid = npt.NDArray[np.float64]


def client_scores(run: RunFolder, local: RunFolder | None = None) -> Picture | None:
    """Final accuracy per client, paired with ``local`` by client; None without a scored client."""
    scores = run.final_scores()
    if not scores:
        return None
    other = {c: v for c, v in (local.final_scores() if local else {}).items() if c in scores}
    if len(scores) <= _ONE_BY_ONE:
        return _bars(scores, other)
    return _distribution(scores, other)


def label_map(run: RunFolder) -> Picture | None:
    """Clients by classes, shaded by the share of a client's examples; None without a histogram."""
    counts = _histogram(run)
    if counts is None:
        return None
    grid, names, grouped = _rows(counts)
    with canvas(max(1.6, 0.95 + (0.1 if grouped else 0.19) * len(names))) as figure:
        axes = figure.subplots()
        _cells(axes, grid)
        if not grouped and counts.shape[1] <= 12:
            _write_counts(axes, counts, grid)
        _label_axes(axes, names, counts, "" if grouped else _what_counts(run, counts))
        _shade_legend(figure)
        return finish(figure, "labels", "Who holds which labels", _label_caption(run, counts, grouped))


def _bars(scores: dict[int, float], other: dict[int, float]) -> Picture:
    order = sorted(scores, key=lambda c: (scores[c], c))
    values = np.array([100 * scores[c] for c in order])
    below = np.array([c in other and scores[c] < other[c] for c in order])
    x = np.arange(len(order))
    with canvas(3.1) as figure:
        axes = figure.subplots()
        named = "this run" if not other else "this run, at or above local"
        axes.bar(x[~below], values[~below], width=0.72, color=BLUE, label=named, linewidth=0)
        if below.any():
            axes.bar(x[below], values[below], width=0.72, color=ORANGE, label="this run, below local", linewidth=0)
        paired = [i for i, c in enumerate(order) if c in other]
        if paired:
            heights = [100 * other[order[i]] for i in paired]
            axes.scatter(paired, heights, marker="D", s=26, color=INK, edgecolors=PAPER, zorder=3, label="local")
        count = _lowest_tenth(len(order))
        if len(order) > 1:
            axes.axhline(float(values.mean()), color=MUTED, linestyle="--", linewidth=1.0, label="mean of this run")
            axes.axvspan(-0.5, count - 0.5, color=MUTED, alpha=0.16, linewidth=0, zorder=0.4, label="worst tenth")
        axes.set(ylim=(0, 100), xlim=(-0.6, len(order) - 0.4))
        axes.set(xlabel="client, lowest accuracy first", ylabel="accuracy, %")
        step = math.ceil(len(order) / 30)
        axes.set_xticks(x[::step], [str(c) for c in order[::step]])
        axes.tick_params(axis="x", length=0)
        legend_above(figure, axes, columns=5, first="this run")
        return finish(figure, "clients", _TITLE, _bars_caption(scores, other))


def _bars_caption(scores: dict[int, float], other: dict[int, float]) -> str:
    text = "One bar per client: its final accuracy on its own test examples (the summary's figure), sorted."
    if not other:
        return text + " No run of local training was given to compare with."
    return f"{text} {_paired_sentence(scores, other)}. The diamond is the same client trained alone."


def _paired_sentence(scores: dict[int, float], other: dict[int, float]) -> str:
    gains = [100 * (scores[c] - other[c]) for c in other]
    kept = sum(gain >= 0 for gain in gains)
    mean = sum(gains) / len(gains)
    return f"{kept:,} of {len(gains):,} clients are not below local training; the mean difference is {mean:+.2f} points"


def _distribution(scores: dict[int, float], other: dict[int, float]) -> Picture:
    values = np.array([100 * v for v in scores.values()])
    with canvas(2.9) as figure:
        panels = figure.subplots(1, 2) if other else [figure.subplots()]
        left = panels[0]
        bins = np.linspace(*_limits(values, [100 * v for v in other.values()]), 26)
        left.hist(values, bins=bins.tolist(), color=BLUE, label="this run", linewidth=0)
        if other:
            left.hist([100 * v for v in other.values()], bins=bins.tolist(), histtype="step", color=INK, linewidth=1.3,
                      label="local")  # fmt: skip
        tenth = float(np.sort(values)[: _lowest_tenth(values.size)].max())
        left.axvline(tenth, color=ORANGE, linewidth=1.3, linestyle="--", label="worst tenth: left of this line")
        left.set(xlabel="accuracy, %", ylabel="clients")
        if other:
            gains = np.array([100 * (scores[c] - other[c]) for c in other])
            edges = np.linspace(*_limits(gains, [0.0]), 26)
            panels[1].hist(gains[gains >= 0], bins=edges.tolist(), color=BLUE, linewidth=0)
            panels[1].hist(gains[gains < 0], bins=edges.tolist(), color=ORANGE, linewidth=0)
            panels[1].axvline(0, color=INK, linewidth=1.0)
            panels[1].set(xlabel="this run minus local, points", ylabel="clients")
        legend_above(figure, left)
        caption = f"{len(scores):,} clients by final accuracy on their own test examples."
        if other:
            caption += f" Right: the same clients, this run minus local. {_paired_sentence(scores, other)}."
        return finish(figure, "clients", _TITLE, caption)


def _limits(values: Grid, more: Sequence[float]) -> tuple[float, float]:
    low, high = min([*values, *more]), max([*values, *more])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _lowest_tenth(count: int) -> int:
    return math.ceil(count / 10 - 1e-9)


def _histogram(run: RunFolder) -> Grid | None:
    rows = run.partition.get("histogram")
    if not isinstance(rows, list) or not rows or not all(isinstance(r, list) and r for r in rows):
        return None
    width = len(rows[0])
    numbers = [[whole(v) for v in row] for row in rows]
    if any(len(row) != width or any(v is None or v < 0 for v in row) for row in numbers):
        return None
    return np.array(numbers, dtype=np.float64)


def _rows(counts: Grid) -> tuple[Grid, list[str], bool]:
    """Shares per row: one client each, or groups of clients that are alike where there are too many."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    if len(shares) <= _ROWS:
        return shares, [str(c) for c in range(len(shares))], False
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    groups = np.array_split(shares[order], _ROWS)
    return np.stack([group.mean(axis=0) for group in groups]), [""] * _ROWS, True


def _cells(axes: Axes, grid: Grid) -> None:
    """Each shade is one path, so that a large map stays a small file."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    shades = np.ceil(grid * _SHADES - 1e-9).astype(int)
    square = np.array([[-0.47, -0.45], [0.47, -0.45], [0.47, 0.45], [-0.47, 0.45], [-0.47, -0.45]])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    for shade in range(1, _SHADES + 1):
        rows, columns = np.nonzero(shades == shade)
        if rows.size:
            vertices = np.concatenate([square + np.array([c, r]) for r, c in zip(rows, columns, strict=True)])
            path = Path(vertices, np.array(codes * rows.size))
            axes.add_patch(PathPatch(path, facecolor=BLUE, alpha=_OPACITY[shade - 1], linewidth=0))


def _write_counts(axes: Axes, counts: Grid, grid: Grid) -> None:
    for (row, column), value in np.ndenumerate(counts):
        if value:
            dark = grid[row, column] * _SHADES > 4
            axes.text(column, row, f"{value:.0f}", ha="center", va="center_baseline", fontsize=7.5,
                      color=PAPER if dark else INK, in_layout=False)  # fmt: skip


def _what_counts(run: RunFolder, counts: Grid) -> str:
    """What the histogram counts: "training examples" where it adds up to the training sizes, else "examples"."""
    sizes = run.partition.get("sizes")
    return "training examples" if isinstance(sizes, list) and sizes == counts.sum(axis=1).tolist() else "examples"


def _label_axes(axes: Axes, names: list[str], counts: Grid, totals: str) -> None:
    """``totals`` names the numbers on the right; empty for groups of clients, which have none."""
    grouped = not totals
    rows, classes = len(names), counts.shape[1]
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(rows - 0.5, -0.5), xlabel="class")
    axes.set_ylabel("groups of similar clients" if grouped else "client")
    step = math.ceil(classes / 20)
    axes.set_xticks(range(0, classes, step))
    every = 1 if rows <= 40 else 5
    axes.set_yticks([] if grouped else range(0, rows, every), [] if grouped else names[::every], fontsize=7.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    if not grouped:
        right = axes.twinx()
        right.set_ylim(axes.get_ylim())
        right.set_yticks(range(rows), [f"{total:,.0f}" for total in counts.sum(axis=1)], fontsize=7.5)
        right.set_ylabel(totals)
        right.grid(visible=False)
        right.spines[:].set_visible(False)
        right.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _shade_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    labels = [f"to {100 * shade / _SHADES:.0f} %" for shade in range(1, _SHADES + 1)]
    labels[0] = f"share of a client's data: {labels[0]}"
    handles = [Patch(color=BLUE, alpha=a, linewidth=0, label=t) for a, t in zip(_OPACITY, labels, strict=True)]
    figure.legend(handles=handles, loc="outside upper left", ncols=_SHADES, handlelength=1.0, handletextpad=0.5,
                  columnspacing=0.8)  # fmt: skip


def _label_caption(run: RunFolder, counts: Grid, grouped: bool) -> str:
    held = (counts > 0).sum(axis=1)
    text = (
        f"A dark cell: most of that client's examples carry this label. A client holds {np.median(held):.0f} of "
        f"{counts.shape[1]} classes (median)."
    )
    if grouped:
        text += f" {len(counts):,} clients, sorted by their most frequent label and averaged in {_ROWS} groups."
    if run.partition.get("truncated"):
        total = f" of {run.num_clients:,}" if run.num_clients else ""
        text += f" Only the first {len(counts):,}{total} clients are on record."
    return text
