"""The model card of an audited run, as Markdown: intended use, data, training, metrics with intervals, privacy, limits.

Headings after Mitchell et al., 2019 (arXiv 1810.03993). Written from the audit's file alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from fedkd.bundle import HASH_MARK
from fedkd.gate import Outcome
from fedkd.report import audit_tables as tables
from fedkd.report.audit_sections import LIMITS
from fedkd.report.tables import Table
from fedkd.report.verdict_cards import summary_line
from fedkd.report.wording import percent, size
from fedkd.run_audit import RunAudit
from fedkd.verdict import check_words

_USE = (
    "Research on federated distillation and on what it leaks. The models are personal: each fits one client's data, and is "
    "scored on "
    "that client's own test examples.",
    "Not for decisions about people. A release of models, messages or logs needs an audit of that release: this one speaks "
    "about the "
    "run below, at its size.",
)


def model_card(audit: RunAudit, outcome: Outcome) -> str:
    """The card as Markdown. Raises: ConfigError where a name contains a word that no report may use."""
    run, use = audit.run, audit.content["utility"]
    facts = [
        ("method", run["method"]),
        ("model", run["model"]),
        ("data set", run["dataset"]),
        ("clients", f"{run['clients']:,}"),
        ("rounds", f"{run['rounds']:,}"),
        ("seed", str(run["seed"])),
        ("mechanism", _mechanism(audit)),
        ("final state", f"sha256 {run['final_state_sha256'] or 'not recorded'}"),
        ("command", f"`{run['command']}`"),
    ]
    accuracy = tables.span(
        *(None if use.get(k) is None else 100 * use[k] for k in ("accuracy_mean", "accuracy_low", "accuracy_high"))
    )
    metrics = [
        ("mean accuracy over clients, % [interval]", accuracy),
        ("worst tenth of clients, %", percent(_float(use.get("worst_decile")))),
        ("bytes up, whole run", size(_float(use["bytes_up"]))),
        ("bytes down, whole run", size(_float(use["bytes_down"]))),
    ]
    verdicts = [(v["threat_model"], v.get("view") or "", v["target_group"], v["text"]) for v in audit.list("verdicts")]
    whole, _ = tables.membership_tables(audit)
    parts = [
        f"# Model card: {_cell(str(run['label'] or run['name']))}",
        f"{HASH_MARK}: {audit.sha256}",
        "## Intended use",
        *_USE,
        "## Data and training",
        _grid(("item", "value"), facts),
        "## Metrics",
        _grid(("metric", "value"), metrics),
        "## Privacy",
        str(run["guarantee"] or "No guarantee was computed for this run."),
        summary_line(audit),
        _grid(("adversary", "reads", "target group", "verdict"), verdicts),
        f"Gate with its preset rules: {outcome.status} (exit code {outcome.exit_code}).",
        "### What leaves, and who sees it",
        _of(tables.channel_table(audit)),
        *(["### Membership", _of(whole)] if whole else []),
        *_optional("### Rebuilt inputs", tables.inversion_table(audit)),
        *_optional("### Exposure of planted labels", tables.exposure_table(audit)),
        *_optional("### Empirical epsilon", tables.bracket_table(audit)),
        "## Limits",
        "\n".join(
            f"- {_cell(line)}" for line in (*(f"Not run: {r['attack']}: {r['reason']}" for r in audit.list("not_run")), *LIMITS)
        ),
    ]
    return check_words("\n\n".join(parts) + "\n")


def _mechanism(audit: RunAudit) -> str:
    said = audit.run.get("mechanism")
    return str(said.get("statement", "")) if isinstance(said, dict) else str(said or "none")


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _optional(title: str, table: Table | None) -> list[str]:
    return [title, _of(table)] if table is not None else []


def _of(table: Table) -> str:
    return _grid(table.head, table.rows)


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text of others on one line of Markdown: no cell, tag or link that they did not have."""
    flat = re.sub(r"\s+", " ", text).replace("\\", "\\\\").replace("|", "\\|")
    return flat.replace("<", "&lt;").replace("[", "\\[") if re.search(r"[<]|\]\(", flat) else flat
