"""The drawings of federated channels: leak over rounds per channel, inversion per cut with pairs of images, the frontier."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkd.errors import ConfigError
from fedkd.report.audit_figures import short
from fedkd.report.style import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    Picture,
    canvas,
    finish,
    legend_above,
    round_axis,
)
from fedkd.run_audit import RunAudit
from fedkd.verdict import LEAK, NO_LEAK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAIRS, _PIXELS = 8, 256
"""pairs of images per cut; images with longer sides are refused"""
_ROWS = ("true", "rebuilt", "chance")
PAIRS = "pairs-cut"
"""how the names of drawings of clients' images begin"""
Record = Mapping[str, Any]


def over_rounds(audit: RunAudit) -> list[Picture]:
    """One drawing per channel and statistic: the attacks' values by round with intervals, chance and control."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in audit.list("series"):
        if sum(point["value"] is not None for point in record["points"]) > 1:  # one round alone stands in the tables
            groups.setdefault((record["channel"], record["statistic"]), []).append(record)
    return [_over_rounds(place, *key, own) for place, (key, own) in enumerate(groups.items())]


def called(statistic: str) -> str:
    """A statistic as a reader calls it."""
    head, _, rate = statistic.rpartition("_")
    if head == "tpr_at_fpr":
        return f"TPR at {100 * float(rate):g} % FPR"
    return {"auc": "AUC", "ssim": "SSIM"}.get(statistic, statistic.replace("_", " "))


def _over_rounds(place: int, channel: str, statistic: str, records: Sequence[Record]) -> Picture:
    with canvas(2.9) as figure:
        axes: Axes = figure.subplots()
        rounds: list[int] = []
        for index, record in enumerate(records):
            points = [point for point in record["points"] if point["value"] is not None]
            colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
            shift = 0.07 * (index - (len(records) - 1) / 2)
            x, y = [p["round"] + 1 + shift for p in points], [p["value"] for p in points]
            low = [v if p["low"] is None else min(v, p["low"]) for p, v in zip(points, y, strict=True)]
            high = [v if p["high"] is None else max(v, p["high"]) for p, v in zip(points, y, strict=True)]
            axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.5, label=short(record["attack"]))
            axes.vlines(x, low, high, color=colour, linewidth=1.1, alpha=0.75)
            if len(records) < 3:  # more bands would hide each other
                axes.fill_between(x, low, high, color=colour, alpha=0.10, linewidth=0)
            control = [point for point in record.get("control", []) if point["value"] is not None]
            if control:
                places = [p["round"] + 1 for p in control], [p["value"] for p in control]
                axes.plot(
                    *places, color=colour, linestyle=":", linewidth=1.3, label=f"control of {short(record['attack'], 22)}"
                )
            rounds += [p["round"] for p in (*points, *control)]
        for value in sorted({r["chance"] for r in records if r.get("chance") is not None}):
            axes.axhline(value, color=MUTED, linestyle="--", linewidth=1.0)
        round_axis(axes, min(rounds), max(rounds))
        axes.set_ylabel(called(statistic))
        legend_above(figure, axes, columns=2)
        caption = f"{called(statistic)} of what an attacker reads from “{channel}” by round, with intervals; dashed: chance" + (
            "; dotted: the control." if any(r.get("control") for r in records) else "."
        )
        return finish(figure, f"rounds-{place + 1}", f"{channel}: {called(statistic)} over rounds", caption)


def inversion(audit: RunAudit) -> Picture | None:
    """SSIM of rebuilt inputs per cut beside chance; None where none was rebuilt."""
    found = [record for record in audit.list("inversion") if record["ssim"] is not None]
    if not found:
        return None
    cuts = sorted({record["cut"] for record in found})
    kinds = list(dict.fromkeys((str(r["mechanism"] or "none"), r["attacker"]) for r in found))
    with canvas(2.9) as figure:
        axes: Axes = figure.subplots()
        for place, kind in enumerate(kinds):
            own = [r for r in found if (str(r["mechanism"] or "none"), r["attacker"]) == kind]
            _ends(axes, own, "ssim", 0.08 * (place - (len(kinds) - 1) / 2), SERIES[place % len(SERIES)],
                  MARKERS[place % len(MARKERS)], short(f"{kind[1]}, {kind[0]}"))  # fmt: skip
        chance = [r for r in found if r["chance_ssim"] is not None]
        _ends(axes, chance, "chance", 0.3, MUTED, "_", "chance (mean image of the label)")
        axes.set_xticks(cuts, [f"cut {cut}" for cut in cuts])
        axes.set(ylabel="SSIM, higher = closer to the input", xlim=(min(cuts) - 0.6, max(cuts) + 0.6))
        legend_above(figure, axes, columns=2)
        caption = (
            "Structural similarity of the rebuilt image to the true one, mean with interval, per layer at which features "
            "leave. "
            "Chance is what the class's mean image reaches; a leak is an interval above that of chance."
        )
        return finish(figure, "inversion", "Inputs rebuilt from features, per cut", caption)


def _ends(axes: Axes, records: Sequence[Record], name: str, shift: float, colour: str, marker: str, label: str) -> None:
    keys = ("chance_ssim", "chance_low", "chance_high") if name == "chance" else (name, f"{name}_low", f"{name}_high")
    values = [record[keys[0]] for record in records]
    ends = [[v if r.get(k) is None else r[k] for r, v in zip(records, values, strict=True)] for k in keys[1:]]
    spread = [[max(0.0, v - low) for v, low in zip(values, ends[0], strict=True)],
              [max(0.0, high - v) for v, high in zip(values, ends[1], strict=True)]]  # fmt: skip
    axes.errorbar([r["cut"] + shift for r in records], values, spread, fmt=marker, color=colour, capsize=3, label=label)


def read_pairs(path: Path) -> dict[int, dict[str, Any]]:  # -> cut -> {"true", "rebuilt", "chance"}: [m, H, W] in 0..1
    """The images of ``pairs.npz``; {} where there is none. Raises: ConfigError for a file of another form."""
    if not path.is_file():
        return {}
    found: dict[int, dict[str, Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                head, _, kind = key.partition("_")
                if kind in _ROWS and head.startswith("cut") and head[3:].isdigit():
                    found.setdefault(int(head[3:]), {})[kind] = _images(file[key], key)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ConfigError(f"{path.name}: {error}") from None
    complete = {cut: images for cut, images in sorted(found.items()) if {"true", "rebuilt"} <= set(images)}
    if any(len({len(x) for x in images.values()}) > 1 for images in complete.values()):
        raise ConfigError(f"{path.name}: the images of a cut do not pair")
    return complete


def _images(values: Any, key: str) -> Any:
    if values.ndim != 3 or values.dtype.kind != "f" or max(values.shape[1:]) > _PIXELS or not np.isfinite(values).all():
        raise ConfigError(f"pairs.npz: {key} has shape {values.shape} of {values.dtype}; expected finite [m, H, W] floats")
    return np.clip(values[:_PAIRS], 0.0, 1.0)


def pairs(images: Mapping[int, Mapping[str, Any]]) -> list[Picture]:
    """Per cut the true images, what was rebuilt from their features, and chance."""
    made = []
    for cut, own in images.items():
        rows = [name for name in _ROWS if name in own]
        columns = len(own["true"])
        if not columns:
            continue
        with canvas(0.3 + 0.78 * len(rows)) as figure:
            grid = np.asarray(figure.subplots(len(rows), columns, squeeze=False))
            for y, name in enumerate(rows):
                for x in range(columns):
                    axes = grid[y, x]
                    axes.imshow(own[name][x], cmap="gray", vmin=0, vmax=1, interpolation="none")
                    axes.set(xticks=[], yticks=[])
                    axes.spines[:].set_visible(False)
                    axes.grid(visible=False)
                grid[y, 0].set_ylabel(name, rotation=0, ha="right", va="center")
            caption = (
                f"Cut {cut}. Top: inputs of clients; below: what the attacker rebuilt from their features alone"
                + ("; last: the mean image of the label, which needs no feature." if "chance" in own else ".")
                + " Chosen by a fixed rule, not by how well they came out."
            )
            made.append(finish(figure, f"{PAIRS}{cut}", f"True and rebuilt images, cut {cut}", caption))
    return made


@dataclass(frozen=True)
class Point:
    """One run on the frontier between utility, what leaks, and bytes."""

    label: str
    accuracy: tuple[float, float, float]
    """mean over clients and its interval, 0..1; NaN where there is none"""
    auc: tuple[float, float, float]
    """the membership attack with the highest lower end"""
    auc_of: str
    gain: tuple[float, float, float]
    """SSIM above chance at the cut with the highest lower end"""
    gain_of: str
    leaks: int
    """verdict rows that show a leak"""
    megabytes: float
    """up and down, whole run"""
    alive: bool | None
    """whether the accuracy's interval lies above always naming a client's most frequent label; None where that is unknown"""
    guarantee: str


def point(audit: RunAudit) -> Point:
    """A run's place."""
    aucs = [r for r in audit.rows if r.statistic == "auc" and r.value is not None and r.status in (LEAK, NO_LEAK)]
    auc = max(aucs, key=lambda r: -math.inf if r.low is None else r.low, default=None)
    rebuilt = [r for r in audit.list("inversion") if r["gain"] is not None]
    gain = max(rebuilt, key=lambda r: -math.inf if r["gain_low"] is None else r["gain_low"], default=None)
    use = audit.content["utility"]
    return Point(
        str(audit.run["label"] or audit.run["name"]),
        _three(use.get("accuracy_mean"), use.get("accuracy_low"), use.get("accuracy_high")),
        _three(auc.value, auc.low, auc.high) if auc else (math.nan,) * 3,
        f"{auc.view}, {auc.attack}, {auc.target_group}" if auc else "none measured",
        _three(gain["gain"], gain["gain_low"], gain["gain_high"]) if gain else (math.nan,) * 3,
        f"cut {gain['cut']}, {gain['attacker']}" if gain else "none measured",
        sum(row.status == LEAK for row in audit.rows),
        ((use["bytes_up"] or 0) + (use["bytes_down"] or 0)) / 1e6,
        _alive(use.get("accuracy_low"), use.get("guess")),
        str(audit.run["guarantee"] or "No guarantee was computed."),
    )


def _alive(low: float | None, guess: float | None) -> bool | None:
    return None if low is None or guess is None else low > guess


def _three(value: float | None, low: float | None, high: float | None) -> tuple[float, float, float]:
    middle = math.nan if value is None else float(value)
    return middle, middle if low is None else float(low), middle if high is None else float(high)


def frontier(points: Sequence[Point]) -> Picture | None:
    """What leaks against accuracy, and bytes against accuracy; None for fewer than two runs."""
    if len(points) < 2:
        return None
    panels = [
        ("highest membership AUC", [p.auc for p in points], 0.5),
        ("SSIM gained over chance", [p.gain for p in points], 0.0),
        ("MB up and down, whole run", [(p.megabytes,) * 3 for p in points], None),
    ]
    shown = [panel for panel in panels if any(math.isfinite(values[0]) for values in panel[1])]
    with canvas(2.9 + 0.19 * ((len(points) + 1) // 2), 2.45 * len(shown) + 0.4) as figure:
        grid = np.atleast_1d(figure.subplots(1, len(shown)))
        for axes, (label, values, chance) in zip(grid, shown, strict=True):
            if chance is not None:
                axes.axhline(chance, color=MUTED, linestyle="--", linewidth=1.0)
            for place, (own, three) in enumerate(zip(points, values, strict=True)):
                look: dict[str, Any] = {"color": (*SERIES[:6], INK)[place % 7], "fmt": MARKERS[place % 7], "markersize": 5.5}
                if not math.isfinite(three[0]) or not math.isfinite(own.accuracy[0]):
                    axes.errorbar([], [], label=short(own.label, 44), **look)
                    continue
                ends = [[[max(0.0, v[0] - v[1])], [max(0.0, v[2] - v[0])]] for v in (own.accuracy, three)]
                spread = {"xerr": [[100 * e[0]] for e in ends[0]], "yerr": ends[1], "capsize": 2, "elinewidth": 1.0}
                axes.errorbar(100 * own.accuracy[0], three[0], label=short(own.label, 44), **spread, **look)
            axes.set(xlabel="accuracy, %", title=label)
            axes.title.set_fontsize(8.5)
            axes.grid(visible=True, axis="both")
            if chance is None:
                axes.set_ylim(0, 1.1 * max(v[0] for v in values) or 1.0)
        legend_above(figure, grid[0], columns=2)
        caption = (
            "Each mark is one run. Down and to the right is better: less that an attacker gets, fewer bytes, more accuracy. "
            "Dashed: chance. Strokes: intervals; that of the accuracy is over clients, who differ and are the "
            "same in every run. One seed per mark."
        )
        return finish(figure, "frontier", "Privacy, utility and bytes over mechanisms", caption)
