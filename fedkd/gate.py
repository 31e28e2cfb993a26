"""The gate: does an audit's result pass preset rules? Fail, warn, inconclusive or not failed, never a promise.

Specs: audit, section 8. Default rules (a) to (d), each with its number from the specification as a `Config` field, and
rules of one's own in a small language without eval:

    rule       := expression ["@" group]                 group = a target group, view, attack or threat model, in full
    expression := clause {("and" | "or") clause}         "and" binds tighter
    clause     := side (">" | ">=" | "<" | "<=") side
    side       := [number "*"] (number | statistic "." field)

for example ``tpr_at_fpr_0.001.low > 0.003``, ``auc.low > 3 * realised_fpr_0.01.high`` or ``ssim.low > 0.5 @ cut 3``. A field is
one of value, low, high, detectable, n_members, n_non_members. A rule is applied to each group of rows (one threat model,
attack, model, target group and view) that has its statistics, and fails where any of them does. The audit of a run
(`fedkd.run_audit`) adds checks of its own: `fedkd.gate_run`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedkd.errors import ConfigError
from fedkd.inference import detectable_rate
from fedkd.verdict import Row, row_from, show

SCHEMA = 1
"""Version of ``schemas/gate.json``."""
FAIL, INCONCLUSIVE, WARN, NOT_FAILED, NOT_RUN = "fail", "inconclusive", "warn", "not_failed", "not_run"
EXIT_CODES = {FAIL: 1, INCONCLUSIVE: 3, WARN: 3, NOT_FAILED: 0}
FIELDS = ("value", "low", "high", "detectable", "n_members", "n_non_members")
RULES = ("epsilon", "tpr_at_fpr_0.001", "exposure_r1", "inheritance")
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][\w.]*)|(?P<op>>=|<=|>|<|\*))")


@dataclass(frozen=True)
class Config:
    """Thresholds of the default rules; every one is printed with the result."""

    fpr_multiple: float = 3.0
    """Rule (a): fails where the lower end of TPR at 0.1 % FPR exceeds this times max(0.1 %, realised FPR)."""
    exposure_alpha: float = 0.05
    """Rule (b): fails where exposure at one repetition is significant after Holm."""
    inheritance: float = 0.01
    """Rule (c): fails where the lower end of the inherited share exceeds this."""
    detectable_ceiling: float = 0.01
    """Warns where rule (a) could only have found a TPR above this with 80 % power."""
    minimum_seeds: int = 3
    """Warns below so many training seeds."""
    claimed_epsilon: float | None = None
    """Rule (d): fails where an audited lower bound exceeds this (same delta and unit); None = no claim."""
    minimum_strings: int = 10
    """Rule (b): fewer secrets of a view than this cannot pass, only fail or warn."""
    mandatory: str = "tpr_at_fpr_0.001"
    """Comma-separated rules (epsilon, tpr_at_fpr_0.001, exposure_r1, inheritance) and, for a run, attacks that must be "
    "there."""


@dataclass(frozen=True)
class Check:
    """One rule on one target group."""

    rule: str
    """Name of the rule, or the expression."""
    target_group: str
    """Candidates it was applied to; "file" for checks of the whole result."""
    status: str
    """"fail", "inconclusive", "warn", "not_failed" or "not_run"."""
    detail: str
    """Numbers behind the status."""


@dataclass(frozen=True)
class Outcome:
    """The gate's result."""

    status: str
    """The worst status of all checks; "not_run" counts for nothing."""
    checks: tuple[Check, ...]
    """Every check, in order."""

    @property
    def exit_code(self) -> int:
        """0 not failed, 1 fail, 3 warn or inconclusive."""
        return EXIT_CODES[self.status]


Clause = tuple[tuple[float, str | None], str, tuple[float, str | None]]


def parse(text: str) -> list[list[Clause]]:
    """An expression as alternatives of conjunctions.

    Raises: ConfigError for anything outside the grammar, quoting the place.
    """
    tokens: list[tuple[str, str]] = []
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConfigError(f"gate expression {text!r}: cannot read {text[position:].strip()[:20]!r}")
        tokens.append((str(match.lastgroup), match.group(str(match.lastgroup))))
        position = match.end()
    alternatives: list[list[Clause]] = [[]]
    while True:
        left = _side(tokens, text)
        kind, symbol = tokens.pop(0) if tokens else ("end", "")
        if kind != "op" or symbol == "*":
            raise ConfigError(f"gate expression {text!r}: expected >, >=, < or <= before {symbol or 'the end'!r}")
        alternatives[-1].append((left, symbol, _side(tokens, text)))
        if not tokens:
            return alternatives
        kind, word = tokens.pop(0)
        if (kind, word) == ("name", "or"):
            alternatives.append([])
        elif (kind, word) != ("name", "and"):
            raise ConfigError(f"gate expression {text!r}: expected and, or, or the end before {word!r}")


def _side(tokens: list[tuple[str, str]], text: str) -> tuple[float, str | None]:
    kind, word = tokens.pop(0) if tokens else ("end", "")
    if kind == "number":
        if not tokens or tokens[0] != ("op", "*"):
            return float(word), None
        tokens.pop(0)
        factor, name = _side(tokens, text)
        return float(word) * factor, name
    if kind != "name" or word in ("and", "or"):
        raise ConfigError(f"gate expression {text!r}: expected a number or statistic.field before {word or 'the end'!r}")
    if word.rpartition(".")[2] not in FIELDS or not word.rpartition(".")[0]:
        raise ConfigError(f"gate expression {text!r}: {word!r} must end in one of .{', .'.join(FIELDS)}")
    return 1.0, word


def _value(side: tuple[float, str | None], rows: Mapping[str, Row]) -> float | None:
    factor, name = side
    if name is None:
        return factor
    statistic, _, field = name.rpartition(".")
    number = getattr(rows[statistic], field) if statistic in rows else None
    return None if number is None else factor * float(number)


def _holds(clause: Clause, rows: Mapping[str, Row]) -> bool | None:
    left, right = _value(clause[0], rows), _value(clause[2], rows)
    if left is None or right is None:
        return None
    return {">": left > right, ">=": left >= right, "<": left < right, "<=": left <= right}[clause[1]]


def matches(alternatives: Sequence[Sequence[Clause]], rows: Mapping[str, Row]) -> bool | None:
    """Does a parsed expression hold for the rows of one group, by statistic? None where a number is missing."""
    results: list[bool | None] = []
    for clauses in alternatives:
        parts = [_holds(clause, rows) for clause in clauses]
        results.append(False if False in parts else None if None in parts else True)
    return True if True in results else None if None in results else False


def apply(result: Mapping[str, Any], config: Config, fail_if: Sequence[str] = ()) -> Outcome:
    """Apply the default rules and the expressions of ``fail_if`` to a result file's content.

    Raises: ConfigError for a malformed result, an unknown mandatory rule, or an expression outside the grammar.
    """
    from fedkd import gate_run

    rows = _rows(result)
    of_a_run = result.get("kind") == "run_audit"
    wanted = {name.strip() for name in config.mandatory.split(",") if name.strip()}
    known = set(RULES) | (gate_run.attacks(result) if of_a_run else set())
    if unknown := sorted(wanted - known):
        raise ConfigError(f"unknown mandatory rule {unknown[0]!r}; rules: {', '.join(sorted(known, key=_rule_order))}")
    beside = gate_run.by_rule(result, rows, config) if of_a_run else {}
    checks: list[Check] = []
    for rule, found in zip(RULES, (_epsilon, _tpr, _exposure, _inheritance), strict=True):
        own = beside.get(rule) or [_placed(check, row, of_a_run) for row in rows for check in found(row, rows, config)]
        if not own:
            status = WARN if rule in wanted else NOT_RUN
            own = [Check(rule, "file", status, "no such result in the file")]
        checks += own
    checks += [check for text in fail_if for check in _custom(text, rows, of_a_run)]
    checks += gate_run.attacked(result, rows, wanted - set(RULES)) if of_a_run else []
    checks += _whole_file(result, config)
    order = (FAIL, INCONCLUSIVE, WARN, NOT_FAILED)
    present = {check.status for check in checks}
    return Outcome(next(status for status in order if status in present), tuple(checks))


def _rule_order(rule: str) -> tuple[int, str]:
    return (RULES.index(rule), "") if rule in RULES else (len(RULES), rule)


def place(row: Row, of_a_run: bool) -> str:
    """How a check names its candidates: a run has many views and attacks with the same target group."""
    return f"{row.view} | {row.attack} | {row.target_group}" if of_a_run else row.target_group


def _placed(check: Check, row: Row, of_a_run: bool) -> Check:
    return replace(check, target_group=place(row, of_a_run))


def _rows(result: Mapping[str, Any]) -> list[Row]:
    records = result.get("rows")
    if not isinstance(records, list) or not records or not all(isinstance(record, Mapping) for record in records):
        raise ConfigError("this is no audit result: it has no list of rows")
    return [row_from(record) for record in records]


def _same(row: Row, other: Row) -> bool:
    names = ("threat_model", "attack", "model", "target_group", "view")
    return all(getattr(row, name) == getattr(other, name) for name in names)


def _tpr(row: Row, rows: Sequence[Row], config: Config) -> list[Check]:
    if row.statistic != "tpr_at_fpr_0.001":
        return []
    name, group = row.statistic, row.target_group
    if row.low is None or row.status == "not tested":
        return [Check(name, group, WARN, row.reason or "not measured")]
    realised = [r.value for r in rows if r.statistic == "realised_fpr_0.001" and _same(r, row) and r.value is not None]
    bar = config.fpr_multiple * max(0.001, *realised) if realised else config.fpr_multiple * 0.001
    detail = f"lower end {show(row.low)}, bar {show(bar)}"
    if row.low > bar:
        return [Check(name, group, FAIL, detail)]
    size = detectable_rate(row.n_members, min(bar, 0.999))[1]
    if math.isnan(size) or size > config.detectable_ceiling:
        ceiling = f"only a TPR of {show(size)} would be found with 80 % power, ceiling {show(config.detectable_ceiling)}"
        return [Check(name, group, WARN, f"{detail}; {ceiling}")]
    return [Check(name, group, NOT_FAILED, f"{detail}; detectable {show(size)}")]


def _exposure(row: Row, rows: Sequence[Row], config: Config) -> list[Check]:
    if row.statistic != "exposure_p_r1":
        return []
    if row.value is None:
        return [Check("exposure_r1", row.target_group, WARN, row.reason or "not measured")]
    few = row.n_members < config.minimum_strings
    status = FAIL if row.value < config.exposure_alpha else WARN if few else NOT_FAILED
    power = f"; {row.n_members} strings, at least {config.minimum_strings} are asked for" if status == WARN else ""
    return [Check("exposure_r1", row.target_group, status, f"Holm p = {show(row.value)}{power}")]


def _inheritance(row: Row, rows: Sequence[Row], config: Config) -> list[Check]:
    if row.statistic != "inheritance":
        return []
    if row.low is None:
        return [Check("inheritance", row.target_group, WARN, row.reason or "not measured")]
    status = FAIL if row.low > config.inheritance else NOT_FAILED
    return [Check("inheritance", row.target_group, status, f"lower end {show(row.low)}, bar {show(config.inheritance)}")]


def _epsilon(row: Row, rows: Sequence[Row], config: Config) -> list[Check]:
    if row.statistic != "epsilon_lower":
        return []
    claims = [r.value for r in rows if r.statistic == "claimed_epsilon" and _same(r, row) and r.unit == row.unit]
    claim = config.claimed_epsilon if config.claimed_epsilon is not None else next(iter(claims), None)
    if row.value is None or claim is None:
        return [Check("epsilon", row.target_group, WARN, "no claimed epsilon" if claim is None else row.reason)]
    status = FAIL if row.value > claim else NOT_FAILED
    return [Check("epsilon", row.target_group, status, f"at least {show(row.value)}, claimed {show(claim)}")]


def _custom(text: str, rows: Sequence[Row], of_a_run: bool) -> list[Check]:
    words, at, only = text.partition("@")
    if at and not only.strip():
        raise ConfigError(f"gate expression {text!r}: expected a target group, view, attack or threat model after @")
    expression = parse(words)
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if not at or only.strip() in (row.target_group, row.view, row.attack, row.threat_model):
            key = (row.threat_model, row.attack, row.model, row.target_group, row.view)
            groups.setdefault(key, {})[row.statistic] = row
    checks = [_own(text, expression, own, of_a_run) for own in groups.values()]
    tested = [check for check in checks if check is not None]
    return tested or [Check(text, "file", WARN, _unknown(expression, {row.statistic for row in rows}))]


def _unknown(expression: Sequence[Sequence[Clause]], known: Set[str]) -> str:
    """Why a rule found nothing to test: a name that no row has (perhaps mistyped), or names that no row has together."""
    sides = [side for clauses in expression for clause in clauses for side in (clause[0], clause[2])]
    absent = sorted({name.rpartition(".")[0] for _, name in sides if name is not None} - known)
    if not absent:
        return "no row has all numbers of this expression"
    return f"no row has the statistic {', '.join(absent)}; rows here have {', '.join(sorted(known)) or 'none'}"


def _own(text: str, expression: Sequence[Sequence[Clause]], rows: Mapping[str, Row], of_a_run: bool) -> Check | None:
    """A rule of one's own on one group; None where the group has none of its statistics."""
    sides = [side for clauses in expression for clause in clauses for side in (clause[0], clause[2])]
    named = [name.rpartition(".")[0] for _, name in sides if name is not None]
    if not any(name in rows for name in named):
        return None
    where = place(next(iter(rows.values())), of_a_run)
    hit = matches(expression, rows)
    if hit is None:
        missing = next((rows[name] for name in named if name in rows and rows[name].value is None), None)
        return Check(text, where, WARN, (missing.reason if missing else "") or "a number of this expression is missing")
    blunt = "" if hit else _blunt(expression, rows)
    return Check(text, where, FAIL if hit else WARN if blunt else NOT_FAILED, blunt or str(hit).lower())


def _blunt(expression: Sequence[Sequence[Clause]], rows: Mapping[str, Row]) -> str:
    """Why a rule that does not hold may not pass either: what it asks about is smaller than what would be found."""
    for left, symbol, right in (clause for clauses in expression for clause in clauses):
        if symbol in ("<", "<="):
            left, right = right, left
        bar = _value(right, rows)
        statistic, _, field = (left[1] or "").rpartition(".")
        size = rows[statistic].detectable if statistic in rows and field in ("low", "value") else None
        if size is not None and bar is not None and left[0] * size > bar:
            return f"only {statistic} of {show(size)} would be found with 80 % power, the rule's bar is {show(bar)}"
    return ""


def _whole_file(result: Mapping[str, Any], config: Config) -> list[Check]:
    checks = []
    for control in result.get("controls", []):
        name, status, detail = (str(control.get(key, "")) for key in ("name", "status", "detail"))
        outcome = {"missed": INCONCLUSIVE, "broken": INCONCLUSIVE, "flagged": WARN, "not run": WARN}.get(status, NOT_FAILED)
        checks.append(Check(f"control {name}", "file", outcome, detail))
    said = dict(result.get("config", {})).get("seeds", 1)
    seeds = len(said) if isinstance(said, list) else int(said)
    status = WARN if seeds < config.minimum_seeds else NOT_FAILED
    checks.append(Check("seeds", "file", status, f"{seeds} training seeds, {config.minimum_seeds} asked for"))
    return checks


def to_json(outcome: Outcome, config: Config) -> dict[str, Any]:
    """The outcome as plain types, with every threshold that was used."""
    checks = [asdict(check) for check in outcome.checks]
    return {
        "schema": SCHEMA, "kind": "gate", "status": outcome.status, "exit_code": outcome.exit_code,
        "config": asdict(config), "checks": checks,
    }  # fmt: skip
