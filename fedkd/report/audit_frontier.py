"""One page over several audited runs: which mechanism buys how much, at which accuracy and bytes, and what the gate says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedkd import gate, run_audit
from fedkd.report.audit_channels import Point, frontier, point
from fedkd.report.audit_sections import LIMITS
from fedkd.report.audit_tables import frontier_table, guarantee_table
from fedkd.report.page import replace_text
from fedkd.report.parts import Part
from fedkd.report.tables import Table
from fedkd.report.templates import render
from fedkd.report.verdict_cards import summary_line
from fedkd.run_audit import RunAudit


def write_frontier(runs: Sequence[Path], target: Path, command: str, notes: Sequence[str] = ()) -> Path:
    """Write the page of audited runs to ``target``, its drawing beside it; returns the page.

    Args:
        runs: folders of audited runs, drawn in this order.
        command: the line that repeats it.
        notes: what the reader must know of these runs.

    Raises: ConfigError for a run without a well-formed audit; OSError where nothing can be written.
    """
    audits = [run_audit.read(run_audit.path_of(run)) for run in runs]
    points = [point(audit) for audit in audits]
    picture = frontier(points)
    first = audits[0].run
    parts = [
        *([Part(picture.title, (), None, picture)] if picture else []),
        Part("Runs side by side", (), frontier_table(points)),
        Part("Guarantees", (), guarantee_table(points)),
        Part("Verdict lines and gate", (_ABOUT,), _outcomes(runs, audits)),
    ]
    values = {
        "title": "Privacy, utility and bytes over mechanisms",
        "subtitle": f"{first['dataset']} · {first['model']} · {first['clients']:,} clients · {first['rounds']:,} rounds · "
        f"{len(runs)} audited runs, one seed each",
        "verdicts": [{"text": line, "bad": bad} for line, bad in _lines(points)],
        "sections": parts,
        "command": command,
        "notes": [*notes, *LIMITS],
    }
    if picture:
        picture.save(target.parent / "figures")
    return replace_text(target, render("study", values))


_ABOUT = (
    "The gate applies its preset rules; a run whose audit lacks power for one of them ends with a warning, never with a pass."
)


def _lines(points: Sequence[Point]) -> list[tuple[str, bool]]:
    """Which models learned anything, and who leaks most and least among them."""
    dead = [p.label for p in points if p.alive is False]
    alive = [p.label for p in points if p.alive]
    said = [(f"Alive, that is above always naming a client's most frequent label: {'; '.join(alive) or 'none'}.", not alive)]
    if dead:
        said.append((f"Dead: {'; '.join(dead)}. Little that leaks from a model that learned little says nothing for it.", True))
    return said


def _outcomes(runs: Sequence[Path], audits: Sequence[RunAudit]) -> Table:
    rows = []
    for run, audit in zip(runs, audits, strict=True):
        outcome = gate.apply(audit.content, gate.Config())
        failed = [f"{check.rule} [{check.target_group}]" for check in outcome.checks if check.status == gate.FAIL]
        said = f"{outcome.status}: {'; '.join(failed)}" if failed else outcome.status
        page = f"{run.parent.name}/{run.name}/{run_audit.FOLDER}/audit.html"
        rows.append([str(audit.run["label"] or audit.run["name"]), summary_line(audit).partition(". ")[0], said, page])
    return Table("Per run", ("run", "verdict lines", "gate", "page"), ("", "note", "wide", "long"), rows)
