"""The tables of a run's audit page; every number comes from the audit's file, every rate stands with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkd.report.audit_channels import Point
from fedkd.report.tables import Table
from fedkd.report.wording import MISSING, size
from fedkd.run_audit import RunAudit
from fedkd.verdict import NOT_TESTED, Row, show

MEMBERSHIP = ("auc", "tpr_at_fpr_", "realised_fpr_")
"""Statistics that the shared evaluation core gives for membership, by how their names begin."""
_SPECIAL = ("epsilon_lower", "claimed_epsilon")


def span(value: Any, low: Any, high: Any) -> str:
    """A number with its interval, three digits each; the table of all statistics has four."""
    if value is None:
        return MISSING
    ends = "" if low is None or high is None else f" [{low:.3g},\N{NO-BREAK SPACE}{high:.3g}]"
    return f"{value:.3g}{ends}"


def of_membership(row: Row) -> bool:
    """Whether a row is the evaluation core's."""
    return row.statistic.startswith(MEMBERSHIP)


def channel_table(audit: RunAudit) -> Table:
    """Who sees what, by which mechanism, covered or not, at how many bytes."""
    head = ("channel", "holds", "who sees it", "mechanism", "covered", "bytes per client, round", "rounds", "attacks")
    rows = []
    for one in audit.list("channels"):
        sent = one["direction"] in ("up", "down") and one["bytes_per_client_round"] is not None
        rounds = "–".join(str(t + 1) for t in dict.fromkeys(one["rounds"] or ())) or MISSING
        names = (one["channel"], ", ".join(one["kinds"]), one["who_sees"], one["mechanism"] or "none")
        weight = size(float(one["bytes_per_client_round"])) if sent else "not sent"
        when = rounds if one["direction"] in ("up", "down") else "at the end"
        rows.append([*names, "yes" if one["covered"] else "no", weight, when, ", ".join(one["attacks"]) or "none"])
    return Table("What leaves, and who sees it", head, ("s", "", "note", "", "", "r", "r", "note"), rows)


def threat_table(audit: RunAudit) -> Table:
    """Adversary, access, unit and targets of each threat model."""
    groups: dict[str, list[Row]] = {}
    for row in audit.rows:
        groups.setdefault(row.threat_model, []).append(row)
    rows = []
    for threat, own in groups.items():
        names = list(dict.fromkeys(row.target_group for row in own))
        targets = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        joined = (", ".join(dict.fromkeys(getattr(row, key) for row in own)) for key in ("view", "attack", "unit"))
        rows.append([threat, *joined, targets])
    head = ("adversary", "reads", "attacks", "unit", "target groups")
    return Table("Who attacks, with what, on whom", head, ("lead", "note", "note", "", ""), rows)


def power_table(audit: RunAudit) -> Table:
    """Sizes, thresholds and what would have been found."""
    rows = []
    for row in audit.rows:
        if row.status in ("leak shown", "no leak shown") and (row.detectable is not None or of_membership(row)):
            names = (row.view, row.attack, row.target_group, row.statistic)
            sizes = (f"{row.n_members:,}", f"{row.n_non_members:,}")
            rows.append([*names, *sizes, show(row.detectable), row.calibration, str(row.attacks_tried)])
    head = (
        "channel",
        "attack",
        "group",
        "statistic",
        "members",
        "others",
        "found with 80 % power",
        "chosen on other data",
        "attacks tried",
    )
    return Table("Sizes, power and thresholds", head, ("s", "", "s", "", "n", "n", "n", "wide", "n"), rows)


def control_table(audit: RunAudit) -> Table:
    """Outcomes of the controls."""
    rows = [[str(c["name"]).replace("_", " "), c["status"], c["detail"]] for c in audit.list("controls")]
    return Table(f"Controls ({len(rows)})", ("control", "outcome", "detail"), ("", "", "wide"), rows)


def membership_tables(audit: RunAudit) -> tuple[Table | None, Table | None]:
    """(all candidates of a channel, single groups), one line per channel and attack; None where there is none."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in audit.rows:
        if of_membership(row):
            groups.setdefault((row.threat_model, row.view, row.attack, row.target_group), {})[row.statistic] = row
    whole = [_membership(key, own) for key, own in groups.items() if key[3] == "all"]
    parts = [_membership(key, own) for key, own in groups.items() if key[3] != "all"]
    head = ("channel", "attack", "group", "members / others", "AUC", "TPR at 10 %", "TPR at 1 %", "TPR at 0.1 %", "outcome")
    kinds = ("s", "", "s", "r", "r", "r", "r", "r", "note")
    title = "Membership: value [interval]; each TPR with a threshold from other non-members"
    folded = f"Single groups of candidates ({len(parts)})"
    return Table(title, head, kinds, whole) if whole else None, Table(folded, head, kinds, parts) if parts else None


def _membership(key: tuple[str, ...], own: dict[str, Row]) -> list[str]:
    main = own.get("auc") or next(iter(own.values()))
    cells = [_rate(own.get(name)) for name in ("auc", "tpr_at_fpr_0.1", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")]
    shown = [row.statistic for row in own.values() if row.status == "leak shown"]
    refused = [row for row in own.values() if row.status == NOT_TESTED]
    outcome = "leak shown by " + ", ".join(shown) if shown else main.status
    if refused and main.status == NOT_TESTED:
        outcome = f"not tested: {main.reason}"
    return [key[1], key[2], key[3], f"{main.n_members:,} / {main.n_non_members:,}", *cells, outcome]


def _rate(row: Row | None) -> str:
    if row is None:
        return MISSING
    return "too few" if row.value is None and "too few" in row.reason else span(row.value, row.low, row.high)


def other_table(audit: RunAudit) -> Table | None:
    """What is neither membership nor a rebuilt image nor an epsilon: label disclosure, linkage and the like."""
    shown = [name for name, records in (("ssim", "inversion"), ("exposure", "exposure")) if audit.list(records)]
    elsewhere = {row.attack for row in audit.rows if row.statistic.startswith(tuple(shown))}
    rows = []
    for row in audit.rows:
        if of_membership(row) or row.statistic in _SPECIAL or row.attack in elsewhere:
            continue
        named = (row.view, f"{row.attack}: {row.statistic}", row.target_group, span(row.value, row.low, row.high))
        rows.append([*named, f"{row.n_members:,}", f"{row.status}: {row.reason}" if row.reason else row.status])
    head = ("channel", "attack: statistic", "group", "value [interval]", "cases", "outcome")
    title = "Label disclosure, linkage and whatever else was measured"
    return Table(title, head, ("", "", "s", "r", "r", "wide"), rows) if rows else None


def inversion_table(audit: RunAudit) -> Table | None:
    """SSIM and rank per cut."""
    rows = []
    for r in audit.list("inversion"):
        rank = span(r.get("rank_median"), r.get("rank_low"), r.get("rank_high"))
        top = span(r.get("top1"), r.get("top1_low"), r.get("top1_high"))
        of = f" of {r['pool']:,}" if r.get("pool") and r.get("rank_median") is not None else ""
        rows.append(
            [
                f"cut {r['cut']}",
                r["mechanism"] or "none",
                r["attacker"],
                f"{r['n']:,}",
                span(r["ssim"], r["ssim_low"], r["ssim_high"]),
                span(r["chance_ssim"], r.get("chance_low"), r.get("chance_high")),
                span(r["gain"], r["gain_low"], r["gain_high"]),
                rank + of,
                top,
                show(r.get("shuffled_ssim")),
            ]
        )
    head = (
        "layer",
        "mechanism",
        "attacker",
        "images",
        "SSIM",
        "SSIM of chance",
        "gain",
        "median rank of the true image",
        "true image first",
        "SSIM, shuffled pairs",
    )
    return Table("Rebuilt inputs per cut", head, ("s", "", "", *["r"] * 7), rows) if rows else None


def exposure_table(audit: RunAudit) -> Table | None:
    """Bits per observer."""
    rows = []
    for r in audit.list("exposure"):
        sent = "none sent" if r["labels_sent"] is None else f"{100 * r['labels_sent']:.0f} %"
        rows.append(
            [
                r["view"],
                f"{r['strings']:,}",
                span(r["median_bits"], r["low"], r["high"]),
                show(r["null_bits"]),
                show(r["p"]),
                sent,
            ]
        )
    head = (
        "observer",
        "label strings",
        "median bits",
        "mean bits of chance",
        "p",
        "planted labels that travelled beside the rows",
    )
    return Table("Exposure of planted label strings", head, ("", "r", "r", "r", "r", "r"), rows) if rows else None


def bracket_table(audit: RunAudit) -> Table | None:
    """Both ends with adversary and unit."""
    rows = []
    for r in audit.list("brackets"):
        low = r["lower"]
        rows.append(
            [
                r["mechanism"],
                f"{r['unit']}, {r['adjacency']}",
                f"at least {show(low['epsilon'])}",
                r["reads"],
                show(low["ceiling"]),
                f"at most {show(r['claimed'])}",
                r["adversary"],
                f"{low['delta']:g}",
            ]
        )
    head = ("mechanism", "unit, adjacency", "attack", "for who sees", "most it could show", "accountant", "against", "delta")
    return Table("Epsilon from both sides", head, ("", "", "r", "", "r", "r", "", "r"), rows) if rows else None


def conformance_table(audit: RunAudit) -> Table | None:
    """Measured steps against the ledger."""
    rows = [[r["what"], r["status"], r["detail"]] for r in audit.list("conformance")]
    return Table("What ran against what was charged", ("what", "outcome", "detail"), ("", "", "wide"), rows) if rows else None


def frontier_table(points: Sequence[Point]) -> Table:
    """One line per run."""

    def three(values: tuple[float, float, float], scale: float = 1.0) -> str:
        return span(*(scale * v for v in values)) if values[0] == values[0] else MISSING

    rows = []
    for p in points:
        state = {True: "alive", False: "dead", None: MISSING}[p.alive]
        auc, gain = (f"{three(v)} ({of})" if v[0] == v[0] else of for v, of in ((p.auc, p.auc_of), (p.gain, p.gain_of)))
        measured = (three(p.accuracy, 100), state, auc, gain)
        rows.append([p.label, *measured, str(p.leaks), f"{p.megabytes:,.1f}"])
    head = ("run", "accuracy, %", "model", "highest membership AUC", "SSIM over chance", "leaks", "MB")
    title = "Alive: more accurate than always naming a client's most frequent label. Leaks: statistics that show one"
    return Table(title, head, ("", "r", "", "", "", "r", "r"), rows)


def guarantee_table(points: Sequence[Point]) -> Table:
    """The line of each run's accountant."""
    return Table("What an accountant states", ("run", "guarantee"), ("", "wide"), [[p.label, p.guarantee] for p in points])


def all_rows(audit: RunAudit) -> Table:
    """Every statistic of the file."""
    rows = []
    for row in audit.rows:
        interval = f"[{show(row.low)}, {show(row.high)}] at {100 * row.level:g} %" if row.low is not None else MISSING
        names = (row.view, row.attack, row.target_group, row.statistic, show(row.value), interval)
        sizes = (f"{row.n_members:,}", f"{row.n_non_members:,}", show(row.detectable))
        rows.append([*names, *sizes, f"{row.status}: {row.reason}" if row.reason else row.status])
    head = ("channel", "attack", "group", "statistic", "value", "interval", "members", "others", "detectable", "outcome")
    return Table(f"All statistics ({len(rows)})", head, ("", "", "", "", "n", "n", "n", "n", "n", "wide"), rows)
