"""The layer-drop trace of a FedD2S run: which blocks are in the federation, where knowledge passes, who has a teacher.

Reads ``level``, ``cut`` and ``teachers`` of ``rounds.jsonl``; any method that writes a level gets the same figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedkd.report.run_folder import RunFolder
from fedkd.report.style import BLUE, GREEN, ORANGE, PAPER, RULE, Picture, canvas, finish, round_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEACHER = {
    "features": "the server's head, which learned from the features of all clients that took part",
    "heads": "the weighted mean of all clients' heads",
    "class_means": "the table of class means over all clients",
}
"""who teaches, by the method's ``knowledge``"""


def level_changes(run: RunFolder) -> list[tuple[int, int]]:
    """(round, level) where the level is first seen or changes; empty for methods without levels."""
    changes: list[tuple[int, int]] = []
    for t, value in zip(*run.series("level"), strict=True):
        if not changes or changes[-1][1] != int(value):
            changes.append((t, int(value)))
    return changes


def layer_trace(run: RunFolder) -> Picture | None:
    """Blocks by rounds, and below them the number of clients with a teacher; None for methods without levels."""
    rounds, levels = run.series("level")
    if not rounds:
        return None
    cuts = dict(zip(*run.series("cut"), strict=True))
    names = _block_names(run, levels, list(cuts.values()))
    teachers = run.series("teachers")
    with canvas(1.5 + 0.3 * len(names) + (1.0 if teachers[0] else 0.0)) as figure:
        if teachers[0]:
            ratio = [0.3 * len(names), 0.75]
            top, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": ratio})
            _teachers(below, run, teachers)
        else:
            top = below = figure.subplots()
        _blocks(top, rounds, [int(s) for s in levels], {t: int(c) for t, c in cuts.items()}, names)
        if below is not top:
            top.tick_params(bottom=False, labelbottom=False)
        round_axis(below, rounds[0], rounds[-1])
        _legend(figure, run, any(cuts.values()))
        return finish(figure, "layers", "Which layers are in the federation", _caption(run))


def _block_names(run: RunFolder, levels: Sequence[float], cuts: Sequence[float]) -> list[str]:
    """Blocks shallow to deep, the classifier last: from the summary, else as many as levels and cuts imply."""
    stored = run.summary.get("blocks")
    if isinstance(stored, list) and stored and len(stored) >= max(levels):
        return [str(name) for name in stored]
    count = max(int(max(levels)), int(max(cuts, default=0)) + 1, 2)
    return [f"block {b}" for b in range(1, count)] + ["classifier"]


def _blocks(axes: Axes, rounds: list[int], levels: list[int], cuts: dict[int, int], names: list[str]) -> None:
    for row in range(1, len(names) + 1):
        for first, last, inside in _spans([(t, level >= row) for t, level in zip(rounds, levels, strict=True)]):
            colour, alpha = (BLUE, 0.85) if inside else (RULE, 0.55)
            axes.barh(row, last - first + 1, 0.8, left=first + 0.5, color=colour, alpha=alpha, linewidth=0)
    for first, last, cut in _spans(sorted(cuts.items())):
        for colour, width, order in ((PAPER, 5.6, 3.0), (ORANGE, 3.2, 3.1)):
            if cut:
                axes.hlines(cut, first + 0.5, last + 1.5, color=colour, linewidth=width, zorder=order)
    axes.set_ylim(0.4, len(names) + 0.6)
    axes.set_yticks(range(1, len(names) + 1), [name[:18] for name in names])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _spans(values: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(first round, last round, value) of every unbroken stretch of one value."""
    spans: list[tuple[int, int, int]] = []
    for t, value in values:
        if spans and spans[-1][1] == t - 1 and spans[-1][2] == value:
            spans[-1] = (spans[-1][0], t, value)
        else:
            spans.append((t, t, value))
    return spans


def _teachers(axes: Axes, run: RunFolder, teachers: tuple[list[int], list[float]]) -> None:
    count = dict(zip(*teachers, strict=True))
    first, last = min(count), max(count)
    heights = [count.get(t, 0.0) for t in range(first, last + 1)]
    axes.stairs(heights, [t + 0.5 for t in range(first, last + 2)], fill=True, color=GREEN, linewidth=0)
    top = max([*heights, *run.series("clients_trained")[1], 1.0])
    axes.set_ylim(0, top * 1.08)
    axes.set_yticks([0, round(top)])
    axes.set_ylabel("clients\ntaught")


def _legend(figure: Figure, run: RunFolder, any_cut: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    averaged = "shared and averaged" if run.method_args.get("average", True) else "in the federation (not averaged)"
    handles: list[Patch | Line2D] = []
    if any(run.series("level")[1]):
        handles.append(Patch(color=BLUE, alpha=0.85, label=averaged))
    if any_cut:
        handles.append(Line2D([], [], color=ORANGE, linewidth=3.2, label="cut: knowledge passes here"))
    handles.append(Patch(facecolor=RULE, edgecolor=PAPER, alpha=0.55, label="private: left, or never shared"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.6, columnspacing=1.4)


def _caption(run: RunFolder) -> str:
    changes = level_changes(run)
    trace = ", ".join(f"level {level} from round {t + 1}" for t, level in changes)
    parts = [f"Shallow blocks at the bottom, the classifier on top; level s means that blocks 1 to s are in: {trace}."]
    if not any(level for _, level in changes):
        parts = ["Shallow blocks at the bottom, the classifier on top. No block is averaged in this run (level 0)."]
    cuts = [(t, int(c)) for t, c in zip(*run.series("cut"), strict=True)]
    with_cut = [t for t, cut in cuts if cut > 0]
    if with_cut:
        parts.append(
            f"Knowledge passes at the cut (orange), last in round {with_cut[-1] + 1}; a block that has left is neither "
            "averaged nor overwritten and goes on as its client's own."
        )
    else:
        parts.append("No knowledge is distilled in this run; a block that has left goes on as its client's own.")
    if run.series("teachers")[0] and with_cut:
        teacher = _TEACHER.get(str(run.method_args.get("knowledge", "features")), "the server")
        parts.append(f"Who learns from whom: the green area counts the clients taught in a round, by {teacher}.")
    return " ".join(parts)
