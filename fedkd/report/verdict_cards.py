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
        f"{count(audit.content['comparisons'], 'comparison')}; the intervals in tables are not corrected."
    )


def cards(audit: RunAudit) -> list[dict[str, Any]]:
    """The verdict lines, one per threat model and target group, by what they say: leaks first."""
    made = []
    for status, look in ((LEAK, "bad"), (NO_LEAK, ""), (NOT_TESTED, "open")):
        lines = [line for line in audit.list("verdicts") if status_of(line["text"]) == status]
        if lines:
            shown = [{"group": _group(line), "text": line["text"]} for line in lines]
            made.append({"title": f"{status}: {len(lines)}", "look": look, "lines": shown})
    return made


def _group(line: Mapping[str, Any]) -> str:
    parts = [line["threat_model"], line.get("view") or "", line["target_group"] if line["target_group"] != "all" else ""]
    return " · ".join(part for part in parts if part)
