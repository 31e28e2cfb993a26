"""The privacy-audit page of a run, and what goes with it: figures, model card, gate outcome, JUnit, evidence bundle.

Everything is drawn from ``<run>/audit/audit.json`` (and ``pairs.npz``) alone; compared runs add their own ``audit.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedkd import bundle, gate, run_audit
from fedkd.errors import ConfigError
from fedkd.junit import to_junit
from fedkd.report.audit_channels import pairs, point, read_pairs
from fedkd.report.audit_sections import Section, pictures, sections, without_images
from fedkd.report.model_card import model_card
from fedkd.report.page import replace_text, write_report
from fedkd.report.templates import render
from fedkd.report.verdict_cards import cards, summary_line
from fedkd.run_audit import RunAudit


def build(run: Path, compared: Sequence[Path] = ()) -> Path:
    """Write ``audit.html`` and its companions into ``<run>/audit``; returns the page.

    Args:
        run: the folder of an audited run.
        compared: folders of other audited runs, for the frontier of privacy, utility and bytes.

    Raises: ConfigError for a run without a well-formed audit, verdicts that do not follow from its rows, or a name with a
        word that no report may use; OSError where the folder cannot be written.
    """
    audit = _checked(run)
    others = [_checked(path) for path in compared if path.resolve() != run.resolve()]
    folder = run_audit.path_of(run).parent
    points = [point(one) for one in (audit, *others)]
    drawn = pairs(read_pairs(folder / "pairs.npz"))
    parts = sections(audit, points, drawn)
    for picture in pictures(parts):
        picture.save(folder / "figures")
    page = _page(audit, parts)
    target = replace_text(folder / "audit.html", page)
    _companions(run, audit, _page(audit, without_images(parts)) if drawn else page)
    if (run / "report.html").is_file():
        write_report(run, compared)
    return target


def _checked(run: Path) -> RunAudit:
    """Raises: ConfigError."""
    audit = run_audit.read(run_audit.path_of(run))
    if wrong := run_audit.unsupported(audit):
        raise ConfigError(f"audit.json of {run.name}: {wrong[0]}")
    return audit


def _page(audit: RunAudit, parts: Sequence[Section]) -> str:
    run = audit.run
    values = {
        "title": f"Privacy audit: {run['label'] or run['name']}",
        "subtitle": f"{run['name']} · {run['dataset']} · {run['model']} · {run['clients']:,} clients · {run['rounds']:,} "
        f"rounds · seed {run['seed']}",
        "mark": bundle.HASH_MARK,
        "sha256": audit.sha256,
        "summary": summary_line(audit),
        "cards": cards(audit),
        "sections": parts,
    }
    return render("audit", values)


def _companions(run: Path, audit: RunAudit, page: str) -> None:
    """Model card, the gate's outcome twice, and the bundle with its copy of the page."""
    folder = run_audit.path_of(run).parent
    config = gate.Config()
    outcome = gate.apply(audit.content, config)
    card, junit, record = model_card(audit, outcome), to_junit(outcome), gate.to_json(outcome, config)
    replace_text(folder / "model_card.md", card)
    replace_text(folder / "junit.xml", junit)
    replace_text(folder / "gate.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    bundle.write(run, page, card, junit, record)
