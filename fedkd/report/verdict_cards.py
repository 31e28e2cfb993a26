"""The verdict lines of a run's audit as cards, one per threat model: on the audit's page, and on the run's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkd.report.wording import count
from fedkd.run_audit import RunAudit, status_of
from fedkd.verdict import LEAK, NO_LEAK, NOT_TESTED


def summary_line(audit: RunAudit) -> str:
    """How many verdict lines say what."""
    texts = [line["text"] for line in audit.list("verdicts")]
    kinds = {status: sum(status_of(text) == status for text in texts) for status in (LEAK, NO_LEAK, NOT_TESTED)}
    said = ", ".join(f"{n} {status}" for status, n in kinds.items() if n)
    return (
        f"{count(len(texts), 'verdict line')}: {said}. They share one error probability over "
        f"{count(audit.content['comparisons'], 'comparison')}; the intervals further down are not corrected."
    )


def cards(audit: RunAudit) -> list[dict[str, Any]]:
    """One card per threat model with its verdict lines, those with a leak first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in audit.list("verdicts"):
        groups.setdefault(line["threat_model"], []).append(line)
    made = []
    for title, lines in groups.items():
        states = {status_of(line["text"]) for line in lines}
        look = "bad" if LEAK in states else "" if NO_LEAK in states else "open"
        shown = [{"group": _group(line), "text": line["text"]} for line in lines]
        shown.sort(key=lambda line: status_of(line["text"]) != LEAK)
        made.append({"title": title, "look": look, "lines": shown})
    return sorted(made, key=lambda card: ("bad", "", "open").index(card["look"]))


def _group(line: Mapping[str, Any]) -> str:
    return f"{line['view']}, {line['target_group']}" if line.get("view") else str(line["target_group"])
