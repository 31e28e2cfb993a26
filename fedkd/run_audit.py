"""``audit.json`` of a run, read by pages, the gate and ``fedkd verify``: its schema, and whether its verdicts follow.

The file may come from others: its size is bounded, its schema is checked, and a verdict line counts only where a row of
the same threat model and target group says it (specs: audit, section 8).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError
from fedkd.verdict import LEAK, MEASURED, NO_LEAK, NOT_TESTED, Row, row_from, verdict

KIND = "run_audit"
MAX_BYTES = 64 * 2**20
"""A larger file is refused unread."""
FOLDER, FILE = "audit", "audit.json"
NOT_AUDITED = (
    "not audited: run python -m simulations audit CONFIG, which runs the configuration again with messages recorded and rows "
    "held out; audit RUN where a run has both"
)
"""What a run's page says before its audit; RUN is the run's folder."""
_ORDERS = ((LEAK, "leak shown: "), (NO_LEAK, "no leak shown at detectable size "), (NOT_TESTED, "not tested: "))


@dataclass(frozen=True)
class RunAudit:
    """The audit of one run."""

    content: Mapping[str, Any]
    """the file, as its schema says"""
    sha256: str
    """of the file's bytes"""
    rows: tuple[Row, ...]
    """every statistic"""

    def list(self, name: str) -> list[Mapping[str, Any]]:
        """One of the file's lists of objects."""
        found: list[Mapping[str, Any]] = self.content[name]
        return found

    @property
    def run(self) -> Mapping[str, Any]:
        """What was audited."""
        found: Mapping[str, Any] = self.content["run"]
        return found


def path_of(run: Path) -> Path:
    """Where a run's audit lies."""
    return run / FOLDER / FILE


def read(path: Path) -> RunAudit:
    """Read and check an ``audit.json``. Raises: ConfigError for a missing, oversized or malformed file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path.name} has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path.parent.parent.name}: {NOT_AUDITED} ({path.name}: {error.strerror})") from None
    return parse(raw, path.name)


def parse(raw: bytes, where: str = FILE) -> RunAudit:
    """The content of an ``audit.json``. Raises: ConfigError naming the first place that is wrong."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where} is not a readable JSON file") from None
    problem = schema_problem(content, KIND)
    if problem:
        raise ConfigError(f"{where}: {problem}")
    rows = tuple(row_from(record) for record in content["rows"])
    return RunAudit(content, hashlib.sha256(raw).hexdigest(), rows)


def schema_problem(content: Any, name: str) -> str:
    """The first place where ``content`` breaks the schema ``name``, in one line; "" where it follows it."""
    import jsonschema

    from fedkd import schemas

    errors = jsonschema.Draft202012Validator(schemas.load(name)).iter_errors(content)
    first = next(iter(sorted(errors, key=lambda e: [str(part) for part in e.absolute_path])), None)
    if first is None:
        return ""
    return f"{'/'.join(map(str, first.absolute_path)) or 'the file'}: {first.message[:300]}"


def unsupported(audit: RunAudit) -> list[str]:
    """Verdict lines that no row says, and leaks that no line says; [] where the verdicts follow from the rows."""
    found = []
    reasons = {f"not tested: {record['reason']}" for record in audit.list("not_run")}
    lines = audit.list("verdicts")
    for line in lines:
        own = [row for row in audit.rows if _speaks_of(line, row)]
        untested = line["text"].startswith("not tested: ") and not own  # claims nothing, and no row says otherwise
        if line["text"] not in reasons and not untested and not _said(line["text"], own):
            where = f"{line['threat_model']} [{line['target_group']}]"
            found.append(f"verdict {where} does not follow from the rows: {line['text']}")
        elif any(row.status == LEAK for row in own) and not line["text"].startswith("leak shown"):
            found.append(
                f"a leak is in the rows of {line['threat_model']} [{line['target_group']}], and its line does not say so"
            )
    return [*found, *_impossible(audit.rows)]


def _speaks_of(line: Mapping[str, Any], row: Row) -> bool:
    """Whether a verdict line is about a row; a line whose threat model ends in a channel is about that channel alone."""
    models = (row.threat_model, f"{row.threat_model} ({row.view})")
    return (
        line["threat_model"] in models and line["target_group"] == row.target_group and line.get("view", row.view) == row.view
    )


def _said(text: str, rows: list[Row]) -> bool:
    """Whether ``text`` is the sentence of a row, or the joint sentence of several rows that show none."""
    if any(row.status != MEASURED and verdict(row) == text for row in rows):
        return True
    head = dict(_ORDERS)[NO_LEAK]
    sizes = {verdict(row).removeprefix(head) for row in rows if row.status == NO_LEAK}
    return text.startswith(head) and set(text.removeprefix(head).split("; ")) <= sizes


def _impossible(rows: tuple[Row, ...]) -> Iterator[str]:
    for row in rows:
        where = f"{row.attack} {row.view} [{row.target_group}] {row.statistic}"
        ends = None if row.low is None or row.high is None else (row.low - 1e-9, row.high + 1e-9)
        if row.value is not None and ends is not None and not ends[0] <= row.value <= ends[1]:
            yield f"{where}: the value lies outside of its interval"
        if row.status == LEAK and row.statistic == "auc" and (row.low is None or row.low <= 0.5):
            yield f"{where}: a leak is stated that the interval does not show"


def status_of(text: str) -> str:
    """The status that a verdict's text states."""
    return next(status for status, head in _ORDERS if text.startswith(head))
