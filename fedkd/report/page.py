"""``report.html`` of one run: reads the folder, draws the figures, fills the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fedkd.report.figures import run_figures
from fedkd.report.run_folder import RunFolder, read_run
from fedkd.report.tables import (
    configuration_tables,
    environment_table,
    failure_table,
    failure_text,
    key_numbers,
    reproduce_lines,
    statement_tables,
)
from fedkd.report.templates import render
from fedkd.report.wording import verdict


def write_report(run: Path, compared: Sequence[Path] = ()) -> Path:
    """Write ``figures/*.svg`` and ``report.html`` into ``run``; the page replaces an older one in one step.

    Raises: ConfigError where a path is no run folder; OSError where the folder cannot be written.
    """
    own = read_run(run)
    others = [read_run(path) for path in compared if path.resolve() != run.resolve()]
    local, remarks = _local_partner(own, others)
    pictures = run_figures(own, others, local)
    for picture in pictures:
        picture.save(run / "figures")
    values = {
        "title": own.title,
        "subtitle": _subtitle(own),
        "bad": own.status != "completed",
        "verdict": verdict(own, local),
        "numbers": key_numbers(own),
        "pictures": pictures,
        "statements": statement_tables(own),
        "failures": failure_table(own),
        "failures_text": failure_text(own),
        "configuration": configuration_tables(own),
        "environment": environment_table(own),
        "reproduce": reproduce_lines(own),
        "command": str(own.environment.get("command") or ""),
        "notes": [*_partition_notes(own), *remarks, *(f"Could not be read: {line}." for line in own.unreadable)],
    }
    return replace_text(run / "report.html", render("run", values))


def replace_text(target: Path, text: str) -> Path:
    """Write a file in one step: a reader sees the old one or the new one. Raises: OSError."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _local_partner(run: RunFolder, others: Sequence[RunFolder]) -> tuple[RunFolder | None, list[str]]:
    """The ``local`` run on the same partition and seed, and why a candidate was not taken."""
    remarks = []
    for other in others:
        if other.method != "local" or run.method == "local":
            continue
        if not run.data_hash or (other.data_hash, other.seed) != (run.data_hash, run.seed):
            remarks.append(
                f"{other.title} ({other.path.name}) is not paired: its partition or seed may differ from this run's."
            )
        elif other.status != "completed":
            remarks.append(f"{other.title} ({other.path.name}) is not paired: it is {other.status}.")
        else:
            return other, remarks
    return None, remarks


def _subtitle(run: RunFolder) -> str:
    s = run.summary
    parts = [
        run.name,
        str(s.get("dataset") or run.config.get("data.name") or ""),
        str(s.get("model") or run.config.get("model.name") or ""),
        f"seed {run.seed}" if run.seed is not None else "",
        run.status,
    ]
    return " · ".join(part for part in parts if part)


def _partition_notes(run: RunFolder) -> list[str]:
    notes = run.partition.get("notes")
    return [f"Partition: {note}" for note in notes] if isinstance(notes, list) else []
