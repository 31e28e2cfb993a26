"""``report.html`` of one run: reads the folder, draws the figures, fills the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError
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
from fedkd.report.verdict_cards import cards, summary_line
from fedkd.report.wording import verdict
from fedkd.run_audit import NOT_AUDITED, path_of, read
from fedkd.verdict import check_words, quoted


def write_report(run: Path, compared: Sequence[Path] = ()) -> Path:
    """Write ``figures/*.svg`` and ``report.html`` into ``run``; the page replaces an older one in one step.

    Raises: ConfigError where a path is no run folder; OSError where the folder cannot be written.
    """
    own = read_run(run)
    others = [read_run(path) for path in compared if path.resolve() != run.resolve()]
    local, remarks = _local_partner(own, others)
    pictures = run_figures(own, others, local)
    audit, unshown = _audit(own)
    for picture in pictures:
        picture.save(run / "figures")
    values = {
        "title": own.title,
        "subtitle": _subtitle(own),
        "bad": own.status != "completed",
        "verdict": verdict(own, local, audit is not None),
        "numbers": key_numbers(own),
        "pictures": pictures,
        "audit": audit,
        "not_audited": f"{NOT_AUDITED} (CONFIG is the file this run was started with, RUN the folder of this page).",
        "statements": statement_tables(own),
        "failures": failure_table(own),
        "failures_text": failure_text(own),
        "configuration": configuration_tables(own),
        "environment": environment_table(own),
        "reproduce": reproduce_lines(own),
        "command": quoted(str(own.environment.get("command") or "")),
        "notes": [*_partition_notes(own), *remarks, *unshown, *_unreadable(own)],
    }
    return replace_text(run / "report.html", render("run", values))


def _unreadable(run: RunFolder) -> list[str]:
    return [f"Could not be read: {quoted(line)}." for line in run.unreadable]


def _audit(run: RunFolder) -> tuple[dict[str, Any] | None, list[str]]:
    """(the verdict lines of the run's audit, why they are not shown); (None, []) before an audit."""
    if not path_of(run.path).is_file():
        return None, []
    try:
        audit = read(path_of(run.path))
    except ConfigError as error:
        return None, [f"Could not be read: {quoted(str(error))}."]
    if audit.run["final_state_sha256"] != run.summary.get("final_state_sha256"):
        return None, ["The audit in this folder is of another final state than the run's; audit it again."]
    return {"cards": cards(audit), "summary": summary_line(audit)}, []


def replace_text(target: Path, text: str) -> Path:
    """Write a file in one step: a reader sees the old one or the new one.

    Raises: OSError; ConfigError where a text, not JSON, contains a word that no report may use.
    """
    if target.suffix != ".json":
        check_words(text)
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
