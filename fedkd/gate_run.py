"""What the gate asks of a run's audit beside its rows: brackets, exposure of planted labels, channels without an attack.

Specs: audit, section 8; guarantees, "How bounds from attacks are read". A bracket whose ceiling does not exceed the claim
could not have shown a violation, and too few label strings could not have shown exposure: neither passes, both warn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedkd.gate import FAIL, NOT_FAILED, NOT_RUN, WARN, Check, Config
from fedkd.inference import holm
from fedkd.verdict import LEAK, MEASURED, NO_LEAK, NOT_TESTED, Row, show

Records = Sequence[Mapping[str, Any]]


def attacks(result: Mapping[str, Any]) -> set[str]:
    """Every attack that the audit names, run or not."""
    named = {str(record["attack"]) for record in (*result.get("rows", []), *result.get("not_run", []))}
    return named | {str(attack) for channel in result.get("channels", []) for attack in channel.get("attacks", [])}


def by_rule(result: Mapping[str, Any], rows: Sequence[Row], config: Config) -> dict[str, list[Check]]:
    """Checks of rules (d) and (b) from what a run's audit holds beside its rows."""
    found = {"epsilon": [_bracket(record) for record in result.get("brackets", [])]}
    if not any(row.statistic == "exposure_p_r1" for row in rows):
        found["exposure_r1"] = _exposure(result.get("exposure", []), config)
    return found


def _bracket(record: Mapping[str, Any]) -> Check:
    lower, claimed = record["lower"], record["claimed"]
    unit = f"{record['unit']}, {record['adjacency']}, delta = {lower['delta']:g}"
    where = f"{record['mechanism']} | {record['reads']}"
    if claimed is None or lower["epsilon"] is None:
        return Check("epsilon", where, WARN, f"no finite epsilon is claimed ({unit})")
    detail = f"at least {show(lower['epsilon'])}, claimed {show(claimed)} ({unit})"
    if lower["epsilon"] > claimed:
        return Check("epsilon", where, FAIL, detail)
    if lower["ceiling"] is None or lower["ceiling"] <= claimed:
        return Check("epsilon", where, WARN, f"{detail}; it could have shown {show(lower['ceiling'])} at most")
    return Check("epsilon", where, NOT_FAILED, f"{detail}; it could have shown {show(lower['ceiling'])}")


def _exposure(records: Records, config: Config) -> list[Check]:
    tested = [record for record in records if record["p"] is not None]
    corrected = dict(zip((record["view"] for record in tested), holm([r["p"] for r in tested]) if tested else [], strict=True))
    checks = []
    for record in records:
        where, p = f"{record['view']} | label strings", corrected.get(record["view"])
        if p is None:
            checks.append(Check("exposure_r1", where, WARN, f"{record['strings']} label strings, no test"))
            continue
        detail = f"Holm p = {show(float(p))}, {record['strings']} label strings, median {show(record['median_bits'])} bits"
        few = record["strings"] < config.minimum_strings
        status = FAIL if p < config.exposure_alpha else WARN if few else NOT_FAILED
        ceiling = f"; fewer than {config.minimum_strings} strings" if status == WARN else ""
        checks.append(Check("exposure_r1", where, status, detail + ceiling))
    return checks


def attacked(result: Mapping[str, Any], rows: Sequence[Row], mandatory: Collection[str]) -> list[Check]:
    """One check per channel and per mandatory attack: whether anything with a number speaks about it."""
    reasons = {str(record["attack"]): str(record["reason"]) for record in result.get("not_run", [])}
    tested = [row for row in rows if row.status in (LEAK, NO_LEAK) or (row.status == MEASURED and row.value is not None)]
    for channel in result.get("channels", []):
        reasons.update(_untested(str(channel["channel"]), result, rows))
    checks = [_channel(channel, tested, reasons) for channel in result.get("channels", [])]
    for name in sorted(mandatory):
        ran = any(row.attack == name for row in tested)
        checks.append(
            Check(f"attack {name}", "run", NOT_FAILED if ran else WARN, "ran" if ran else reasons.get(name, "not run"))
        )
    lacking = [row for row in rows if row.status == NO_LEAK and row.detectable is None]
    sizes = "; ".join(f"{row.view} | {row.attack} | {row.target_group}: {row.statistic}" for row in lacking[:5])
    if lacking:
        checks.append(Check("power", "run", WARN, f"{len(lacking)} rows name no detectable size: {sizes}"))
    return checks


def _untested(channel: str, result: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """{channel: why no attack ran on it}, where a row or a verdict line says so."""
    said = [row.reason for row in rows if row.view == channel and row.status == NOT_TESTED]
    lines = [line for line in result.get("verdicts", []) if str(line["threat_model"]).endswith(f"({channel})")]
    said += [line["text"].removeprefix("not tested: ") for line in lines if line["text"].startswith("not tested: ")]
    return {channel: said[0]} if said else {}


def _channel(channel: Mapping[str, Any], tested: Sequence[Row], reasons: Mapping[str, str]) -> Check:
    name = str(channel["channel"])
    ran = sorted({row.attack for row in tested if row.view == name})
    if ran:
        return Check("attacked", name, NOT_FAILED, ", ".join(ran))
    said = "; ".join(dict.fromkeys(reasons[a] for a in (*map(str, channel.get("attacks", [])), name) if a in reasons))
    if channel.get("covered"):
        return Check("attacked", name, NOT_RUN, said or "covered by the accounted mechanism; no attack ran on it")
    if said and not channel.get("attacks"):
        return Check("attacked", name, NOT_RUN, said)
    return Check("attacked", name, WARN, said or "no attack ran on this channel")
