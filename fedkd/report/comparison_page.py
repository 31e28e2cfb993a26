"""``comparison.json``, ``comparison.html`` and the Markdown table: the same numbers three times, and one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fedkd import schemas
from fedkd.report.comparison import Comparison, Difference
from fedkd.report.comparison_figures import comparison_figures
from fedkd.report.comparison_wording import comparison_notes, privacy_sentence, sentence
from fedkd.report.page import replace_text
from fedkd.report.tables import Table
from fedkd.report.templates import render
from fedkd.report.wording import MISSING, count, interval, percent, signed


def write_comparison(comparison: Comparison, output: Path) -> Path:
    """Write ``comparison.json``, ``.html``, ``.md`` and ``figures/`` (SVG, and the curves as PNG too) into ``output``.

    Returns the page. Raises: OSError where the folder cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison_json(comparison), indent=1, ensure_ascii=False, allow_nan=False)
    replace_text(output / "comparison.json", text + "\n")
    replace_text(output / "comparison.md", f"{markdown_table(comparison)}\n{sentence(comparison)}\n")
    pictures = comparison_figures(comparison)
    for picture in pictures:
        picture.save(output / "figures")
    table = method_table(comparison)
    values = {
        "title": f"{count(len(comparison.methods), 'method')} on {comparison.dataset}",
        "subtitle": (
            f"{count(comparison.clients, 'client')} · {comparison.partition} · {comparison.model} · "
            f"{count(comparison.rounds, 'round')} · {count(len(comparison.seeds), 'seed')}"
        ),
        "sentence": sentence(comparison),
        "privacy": privacy_sentence(comparison),
        "methods": table,
        "reading": "Bold: the highest mean. It is the highest mean, not a proven winner: read the intervals.",
        "pictures": pictures,
        "differences": difference_table(comparison),
        "notes": comparison_notes(comparison),
    }
    return replace_text(output / "comparison.html", render("comparison", values))


def method_table(comparison: Comparison) -> Table:
    """One row per method; accuracies in percent, differences in points."""
    against = comparison.baseline
    head = ["method", "accuracy, %", "worst tenth, %"]
    if against:
        head += [f"minus {against}, points [{100 * comparison.level:g} %]", f"clients not below {against}"]
    head += ["kB up / down", "seconds", "seeds"]
    rows = []
    for row in comparison.methods:
        cells = [row.label, percent(row.accuracy_mean), percent(row.accuracy_worst_decile)]
        if against:
            cells += _against_cells(row.difference, row.not_below_baseline, row.label == against)
        cells += [f"{_plain(row.kb_up)} / {_plain(row.kb_down)}", _plain(row.seconds), str(len(row.seeds))]
        rows.append(cells)
    best = max(range(len(rows)), key=lambda index: comparison.methods[index].accuracy_mean)
    title = "Means over seeds; bytes per client and round"
    return Table(title, head, ["", *["n"] * (len(head) - 1)], rows, best)


def difference_table(comparison: Comparison) -> Table | None:
    """Every difference with each seed's value, its sd and what the interval allows to say; None without any."""
    differences = _all_differences(comparison)
    if not differences:
        return None
    seeds = sorted({seed for d in differences for seed in d.seeds})
    head = ["difference, points", *(f"seed {seed}" for seed in seeds), "mean", "sd", "interval", "reading"]
    rows = []
    for d in differences:
        values = dict(zip(d.seeds, d.per_seed, strict=True))
        each = [signed(values.get(seed, math.nan)) for seed in seeds]
        sd = f"{d.sd:.2f}" if math.isfinite(d.sd) else MISSING
        name = f"{d.minuend} minus {d.subtrahend}"
        rows.append([name, *each, signed(d.mean), sd, interval(d.low, d.high), d.reading])
    title = f"Mean client accuracy, paired by seed; {100 * comparison.level:g} % Student intervals over seeds"
    return Table(title, head, ["", *["n"] * (len(head) - 2), ""], rows)


def markdown_table(comparison: Comparison) -> str:
    """The methods' table for a README or the docs."""
    table = method_table(comparison)
    align = ["---" if kind == "" else "---:" for kind in table.kinds]
    lines = [table.head, align, *table.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data after ``fedkd/schemas/comparison.json``; NaN becomes null."""
    rows = []
    for row in comparison.methods:
        kept = row.not_below_baseline
        rows.append(
            {
                "label": row.label,
                "name": row.name,
                "method": row.method,
                "config_hash": row.config_hash,
                "seeds": list(row.seeds),
                "accuracy_by_seed": list(row.accuracy_by_seed),
                "accuracy_mean": row.accuracy_mean,
                "accuracy_worst_decile": _null(row.accuracy_worst_decile),
                "kb_up": _null(row.kb_up),
                "kb_down": _null(row.kb_down),
                "seconds": _null(row.seconds),
                "failures": row.failures,
                "clients_not_below_baseline": kept[0] if kept else None,
                "clients_paired": kept[1] if kept else None,
                "difference": _difference_json(row.difference) if row.difference else None,
            }
        )
    return {
        "schema": schemas.version("comparison"),
        "dataset": comparison.dataset,
        "partition": comparison.partition,
        "model": comparison.model,
        "rounds": comparison.rounds,
        "clients": comparison.clients,
        "seeds": list(comparison.seeds),
        "level": comparison.level,
        "baseline": comparison.baseline,
        "methods": rows,
        "pairs": [_difference_json(pair) for pair in comparison.pairs],
        "sentence": sentence(comparison),
        "notes": comparison_notes(comparison),
        "runs": [f"{run.path.parent.name}/{run.path.name}" for row in comparison.methods for run in row.runs],
    }


def _all_differences(comparison: Comparison) -> list[Difference]:
    against = [row.difference for row in comparison.methods if row.difference]
    return [*against, *comparison.pairs]


def _against_cells(difference: Difference | None, kept: tuple[int, int] | None, is_baseline: bool) -> list[str]:
    if is_baseline or difference is None:
        return ["–", "–"]
    clients = f"{kept[0]:,} of {kept[1]:,}" if kept else MISSING
    return [f"{signed(difference.mean)} {interval(difference.low, difference.high)}", clients]


def _plain(value: float) -> str:
    if not math.isfinite(value):
        return MISSING
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "minuend": difference.minuend,
        "subtrahend": difference.subtrahend,
        "seeds": list(difference.seeds),
        "per_seed": list(difference.per_seed),
        "mean": difference.mean,
        "low": _null(difference.low),
        "high": _null(difference.high),
        "sd": _null(difference.sd),
        "reading": difference.reading,
    }


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
