"""The sections of a run's audit page, in the specification's order (specs: audit, section 8)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedkd.report import audit_tables as tables
from fedkd.report.audit_channels import PAIRS, Point, frontier, inversion, over_rounds
from fedkd.report.audit_figures import brackets, exposure, membership_pictures
from fedkd.report.style import Picture
from fedkd.report.tables import KeyNumber, Table
from fedkd.report.wording import count, percent, size
from fedkd.run_audit import RunAudit

LIMITS = (
    "These numbers speak about the attacks that ran, at these sizes, on these candidates. A stronger attack, other "
    "candidates or more "
    "rounds may find more; a line without a leak says only what size would have been found with 80 % power.",
    "A leak shown is a lower bound on what can be known. The size of a leak at this scale does not carry over to larger "
    "models.",
    "One run with one seed: decisions on single records change from training to training.",
    "Examples that occur once and examples that repeat differ; where a table does not tell them apart, its rates mix both.",
    "An empirical epsilon is always “at least”: a low one is no evidence that little is lost.",
)
"""Of every audit."""
_HEADINGS = (
    ("Epsilon and unit", ("epsilon", "epsilon_rdp", "delta", "unit", "adjacency")),
    (
        "What can void it: the algorithm",
        ("mechanism", "sensitivity", "clip", "noise_multiplier", "sampling", "noise", "accountant"),
    ),
    ("Trust and data collection", ("adversary", "releases_max")),
    ("Outside of it", ("outside",)),
)
"""Headings after NIST SP 800-226, with the fields of a recorded guarantee."""
_LEFT_OUT = "Pairs of true and rebuilt images are not in this copy: they show clients' data, and evidence holds none."


@dataclass(frozen=True)
class Block:
    """One thing of a section."""

    kind: str
    """text, heading, table, bare (a table without its title), folded, picture, code, list or numbers"""
    value: Any


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    """its anchor"""
    title: str
    blocks: Sequence[Block]


def without_images(parts: Sequence[Section]) -> list[Section]:
    """The sections of a copy that holds no image of a client's data."""
    found = []
    for part in parts:
        shown = [b for b in part.blocks if not (b.kind == "picture" and b.value.name.startswith(PAIRS))]
        left = [Block("text", _LEFT_OUT)] if len(shown) < len(part.blocks) else []
        found.append(Section(part.key, part.title, [*shown, *left]))
    return found


def sections(audit: RunAudit, points: Sequence[Point], drawn: Sequence[Picture]) -> list[Section]:
    """Every section.

    Args:
        points: this run first, then the compared ones.
        drawn: pairs of true and rebuilt images.
    """
    return [
        _system(audit),
        _threats(audit),
        _design(audit),
        _guarantee(audit),
        _memorization(audit),
        _membership(audit),
        _epsilon(audit),
        _channels(audit, drawn),
        _trade_off(points),
        _limits(audit),
        _reproduction(audit),
    ]


def pictures(parts: Sequence[Section]) -> list[Picture]:
    """Every drawing of the page, to be saved as a file too."""
    return [block.value for part in parts for block in part.blocks if block.kind == "picture"]


def _text(*lines: str) -> list[Block]:
    return [Block("text", line) for line in lines if line]


def _tables(*found: Table | None) -> list[Block]:
    return [Block("table", table) for table in found if table is not None]


def _system(audit: RunAudit) -> Section:
    run, use = audit.run, audit.content["utility"]
    low, high = use.get("accuracy_low"), use.get("accuracy_high")
    ends = f"% [{percent(low)}, {percent(high)}]" if low is not None and high is not None else "%"
    worst = use.get("worst_decile")
    numbers = [
        KeyNumber("mean accuracy over clients", percent(_float(use["accuracy_mean"])), ends),
        KeyNumber("worst tenth of clients", percent(_float(worst)), "%" if worst is not None else ""),
        KeyNumber("clients · rounds", f"{run['clients']:,} · {run['rounds']:,}"),
        KeyNumber("up, whole run", size(_float(use["bytes_up"]))),
        KeyNumber("down, whole run", size(_float(use["bytes_down"]))),
    ]
    said = f"Method {run['method']}, model {run['model']}, data {run['dataset']}, seed {run['seed']}."
    mechanism = run.get("mechanism")
    named = mechanism.get("statement", "") if isinstance(mechanism, dict) else f"Mechanism: {mechanism or 'none'}."
    return Section(
        "system",
        "System",
        [
            *_text(said, named),
            Block("numbers", numbers),
            *_tables(tables.channel_table(audit)),
            *_text("“Covered” means that an accountant charges what leaves there; anything else is measured by attacks only."),
        ],
    )


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _threats(audit: RunAudit) -> Section:
    return Section("threats", "Threat models", _tables(tables.threat_table(audit)))


def _design(audit: RunAudit) -> Section:
    tried = max((row.attacks_tried for row in audit.rows), default=1)
    lines = (
        f"{count(audit.content['comparisons'], 'decision')} share one error probability (Bonferroni); largest number of "
        f"attacks "
        f"tried on the same candidates: {tried}. Thresholds come from other non-members than "
        "those on which a rate is measured; membership was drawn by a seeded coin before training."
    )
    config = Table(
        "Options of the audit",
        ("option", "value"),
        ("code", "long"),
        [[str(key), _plain(value)] for key, value in sorted(audit.content["config"].items())],
    )
    power = tables.power_table(audit)
    folded = [Block("folded", power)] if power.rows else []
    return Section("design", "Design", [*_text(lines), *_controls(audit), *folded, Block("folded", config)])


def _controls(audit: RunAudit) -> list[Block]:
    """How many controls said what; those that speak against the audit in full, the others folded."""
    counts = Counter((str(c["name"]).replace("_", " "), c["status"]) for c in audit.list("controls"))
    if not counts:
        return _text("No control was run: read every line above as inconclusive.")
    said = ", ".join(f"{name}: {n} {status}" for (name, status), n in counts.items())
    against = [c for c in audit.list("controls") if c["status"] in ("missed", "broken", "flagged", "not run")]
    alarming = (
        [Block("list", [f"{c['name'].replace('_', ' ')} {c['status']}: {c['detail']}" for c in against])] if against else []
    )
    return [*_text(f"Controls: {said}."), *alarming, Block("folded", tables.control_table(audit))]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _guarantee(audit: RunAudit) -> Section:
    run = audit.run
    blocks = _text(str(run["guarantee"] or "No guarantee was computed for this run."))
    privacy = run.get("privacy")
    for one in (privacy or {}).get("statements") or ([privacy] if privacy else []):
        for title, keys in _HEADINGS:
            rows = [[key.replace("_", " "), _listed(one[key])] for key in keys if one.get(key) not in (None, "", [])]
            if rows:
                blocks += [Block("heading", title), Block("bare", Table(title, ("field", "value"), ("", "long"), rows))]
        blocks += [
            Block("heading", "Bias and utility"),
            *_text(
                "Accuracy stands beside it under “System” and per client in clients.jsonl; a guarantee without it says little."
            ),
        ]
    return Section("guarantee", "Formal guarantee", blocks)


def _listed(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _memorization(audit: RunAudit) -> Section:
    picture, grid = exposure(audit), tables.exposure_table(audit)
    if grid is None:
        reasons = [r["reason"] for r in audit.list("not_run") if "exposure" in r["attack"] or "canar" in r["attack"]]
        why = "; ".join(reasons) or "no canaries were planted (audit.canaries = 0)"
        return Section("memorization", "Memorization", _text(f"Not tested: {why}."))
    line = (
        "Labels were planted at random; those of a few examples of one client form a string, ranked among all strings that "
        "could have been planted, so that without a leak the mean is 1.44 bits. A tie counts as a leak."
    )
    return Section(
        "memorization", "Memorization", [*_text(line), *_tables(grid), *([Block("picture", picture)] if picture else [])]
    )


def _membership(audit: RunAudit) -> Section:
    whole, parts = tables.membership_tables(audit)
    drawn = [Block("picture", picture) for picture in membership_pictures(audit)]
    if whole is None and parts is None:
        return Section("membership", "Membership", _text("Not tested: no membership statistics are in this audit."))
    folded = [Block("folded", parts)] if parts is not None else []
    line = (
        "Was a record trained on? AUC near 1/2 is chance; a TPR counts only beside the false-positive rate at which it holds."
    )
    return Section("membership", "Membership", [*_text(line), *_tables(whole), *folded, *drawn])


def _epsilon(audit: RunAudit) -> Section:
    picture, grid = brackets(audit), tables.bracket_table(audit)
    conformance = tables.conformance_table(audit)
    if grid is None:
        lines = _text("Not tested: no mechanism with an accountant runs here, so there is no claim to hold an attack against.")
        return Section("epsilon", "Empirical epsilon", [*lines, *_tables(conformance)])
    lines = _text(*(record["line"] for record in audit.list("brackets")))
    drawn = [Block("picture", picture)] if picture else []
    return Section("epsilon", "Empirical epsilon", [*lines, *drawn, *_tables(grid, conformance)])


def _channels(audit: RunAudit, drawn: Sequence[Picture]) -> Section:
    blocks: list[Block] = []
    curves = over_rounds(audit)
    if curves:
        blocks += [Block("heading", "Over rounds"), *(Block("picture", picture) for picture in curves)]
    rebuilt = tables.inversion_table(audit)
    if rebuilt is not None:
        picture = inversion(audit)
        blocks += [Block("heading", "Rebuilt inputs"), *_tables(rebuilt), *([Block("picture", picture)] if picture else [])]
        blocks += [Block("picture", one) for one in drawn]
    other = tables.other_table(audit)
    if other is not None:
        blocks += [Block("heading", "Other attacks on what is sent"), *_tables(other)]
    return Section("channels", "Federated channels", blocks or _text("Not tested: no attack on a channel ran."))


def _trade_off(points: Sequence[Point]) -> Section:
    picture = frontier(points)
    line = (
        ""
        if picture
        else "One run alone: give further audited runs to draw the frontier (the first is then the one of this page)."
    )
    shown = [Block("picture", picture)] if picture else []
    return Section(
        "trade-off",
        "Privacy, utility and bytes",
        [*shown, *_tables(tables.frontier_table(points), tables.guarantee_table(points)), *_text(line)],
    )


def _limits(audit: RunAudit) -> Section:
    missing = [f"Not run: {record['attack']}: {record['reason']}" for record in audit.list("not_run")]
    return Section("limits", "Limits", [Block("list", [*missing, *LIMITS])])


def _reproduction(audit: RunAudit) -> Section:
    run = audit.run
    lines = _text(
        f"Final state of the run: sha256 {run['final_state_sha256'] or 'not recorded'}.",
        f"This page shows audit.json with sha256 {audit.sha256}.",
    )
    after = _text(
        "The evidence bundle beside this page holds the numbers, the configuration and their hashes; whoever gets it checks "
        "it with:"
    )
    return Section(
        "reproduction",
        "Reproduction",
        [
            Block("code", run["command"]),
            *lines,
            *after,
            Block("code", "fedkd verify bundle.zip"),
            Block("folded", tables.all_rows(audit)),
        ],
    )
