"""The evaluator: labels and scores in; rows with intervals, controls and one verdict line per threat model
out.

Specs: audit, sections 2 and 8. One decision rule for data and controls alike (`decide`): AUC with its lower
end above 1/2, or TPR at a preset FPR with its lower end above the upper end of the realised FPR. The decision
divides its error over all comparisons of the file (Bonferroni), while rows print their intervals at the
stated level.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd import controls
from fedkd.controls import Control
from fedkd.errors import ConfigError
from fedkd.intervals import Bools, Floats, clopper_pearson
from fedkd.metrics import (
    Estimate,
    Halves,
    TooFew,
    TprAtFpr,
    auc_moments,
    detectable_auc,
    detectable_rate,
    frontier_tpr,
    halves,
    roc_frontier,
    tpr_at_fpr,
)
from fedkd.rng import experiment
from fedkd.scores import Table
from fedkd.verdict import LEAK, MEASURED, NO_LEAK, NOT_TESTED, Row, show, verdict

SCHEMA = 1
"""Version of ``schemas/audit.json``."""


@dataclass(frozen=True)
class Config:
    """Options of an evaluation of scores."""

    fprs: tuple[float, ...] = (0.1, 0.01, 0.001)
    """Preset false-positive rates, each in (0, 1)."""
    level: float = 0.95
    """Level of the printed intervals; the verdicts correct it for the number of comparisons."""
    permutations: int = 1000
    """Label permutations of the null."""
    seed: int = 0
    """Seed of the halves, controls and permutations."""
    seeds: int = 1
    """Training seeds behind the scores; fewer than 3 is a warning at the gate."""
    shared_comparisons: int = 0
    """Decisions of other tables of the same report that share the error probability with this one's."""
    attacks_tried: int = 1
    """Attacks tried on these candidates before this one was chosen."""
    threat_model: str = "holder of the scores"
    """Who attacks, and with what."""
    attack: str = "score"
    """Name of the attack that gave the scores."""
    model: str = "audited model"
    """Name of the audited model."""
    unit: str = "record"
    """What one candidate is."""
    view: str = "scores"
    """What the attacker sees."""


@dataclass(frozen=True)
class Line:
    """A verdict line."""

    threat_model: str
    """Who attacks, and with what."""
    target_group: str
    """Which candidates."""
    text: str
    """One of the three sentences."""


@dataclass(frozen=True)
class Audit:
    """Everything that the pages are drawn from."""

    source: dict[str, Any]
    """Where the scores come from: file name, sha256, sizes."""
    config: Config
    """The options used."""
    comparisons: int
    """Decisions that share the error probability."""
    rows: tuple[Row, ...]
    """All statistics."""
    verdicts: tuple[Line, ...]
    """One line per target group."""
    controls: tuple[Control, ...]
    """Outcomes of the controls."""
    curves: dict[str, dict[str, list[float]]]
    """ROC frontier and score histogram for each group."""

    def to_json(self) -> dict[str, Any]:
        """The result file: plain types, NaN and infinity as null."""
        body = {name: plain(getattr(self, name)) for name in ("source", "config", "comparisons", "rows")}
        rest = {name: plain(getattr(self, name)) for name in ("verdicts", "controls", "curves")}
        return {"schema": SCHEMA, "kind": "audit", **body, **rest}


def plain(value: Any) -> Any:
    """Dataclasses, tuples and floats as JSON has them: NaN and infinity as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class _Measured:
    statistic: str
    estimate: Estimate | None
    shown: bool
    detectable: float
    rates: TprAtFpr | None
    reason: str


def _measure(member: Bools, score: Floats, split: Halves, config: Config, strict: float) -> list[_Measured]:
    """AUC and the TPRs: estimates at ``config.level``, decisions and detectable sizes at level ``strict``."""
    moments = auc_moments(score[member], score[~member])
    size = detectable_auc(int(member.sum()), int((~member).sum()), level=strict)
    shown = moments.interval(strict).low > 0.5
    measured = [_Measured("auc", moments.interval(config.level), shown, size, None, "")]
    for fpr in config.fprs:
        name = f"tpr_at_fpr_{fpr:g}"
        try:
            rates = tpr_at_fpr(member, score, split, fpr, config.level)
        except TooFew as refusal:
            measured.append(_Measured(name, None, False, math.nan, None, str(refusal)))
            continue
        low, _ = clopper_pearson(rates.hits, rates.members, strict)
        _, bar = clopper_pearson(rates.false_alarms, rates.non_members, strict)
        size = detectable_rate(rates.members, bar, level=strict)[1] if bar < 1.0 else math.nan
        measured.append(_Measured(name, rates.tpr, low > bar, size, rates, ""))
    return measured


def decide(member: Bools, score: Floats, split: Halves, config: Config, strict: float) -> bool:
    """True where any statistic shows a leak at level ``strict``; the same rule for data and controls.

    Raises: TooFew with fewer than two candidates of a class.
    """
    return any(one.shown for one in _measure(member, score, split, config, strict))


def _rows(group: str, measured: list[_Measured], config: Config, sizes: tuple[int, int]) -> list[Row]:
    rows = []
    for one in measured:
        row = Row(
            config.threat_model, config.attack, config.model, group, config.unit, config.view, one.statistic,
            None, None, None, config.level, *sizes, "none", None if math.isnan(one.detectable) else one.detectable,
            config.attacks_tried, LEAK if one.shown else NO_LEAK if one.estimate else NOT_TESTED, one.reason,
        )  # fmt: skip
        if one.rates is None:
            rows.append(_with(row, one.estimate))
            continue
        chosen = f"threshold {show(one.rates.threshold)} from {one.rates.calibration_non_members} other non-members"
        row = dataclasses.replace(row, calibration=chosen, n_members=one.rates.members, n_non_members=one.rates.non_members)
        rows.append(_with(row, one.estimate))
        name = one.statistic.replace("tpr_at", "realised")
        realised = dataclasses.replace(row, statistic=name, detectable=None, status=MEASURED)
        rows.append(_with(realised, one.rates.realised_fpr))
    return rows


def _with(row: Row, estimate: Estimate | None) -> Row:
    if estimate is None:
        return row
    return dataclasses.replace(row, value=estimate.value, low=estimate.low, high=estimate.high)


def _line(rows: list[Row]) -> str:
    """A leak at the smallest FPR speaks first, then the AUC; else every detectable size in one sentence."""
    tested = [row for row in rows if row.status in (LEAK, NO_LEAK)]
    shown = [row for row in reversed(tested) if row.status == LEAK]
    if shown:
        return verdict(shown[0])
    if not tested:
        return f"not tested: {rows[0].reason}"
    sizes = "; ".join(f"{row.statistic} {show(row.detectable)}" for row in tested)
    return f"no leak shown at detectable size {sizes}"


def _curves(member: Bools, score: Floats) -> dict[str, list[float]]:
    fpr, tpr = roc_frontier(score[member], score[~member])
    if fpr.size > 400:
        grid = np.unique(np.concatenate([[0.0], np.geomspace(0.5 / (~member).sum(), 1.0, 300)]))
        fpr, tpr = grid, frontier_tpr((fpr, tpr), grid)
    low, high = np.quantile(score, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1.0, 41)
    bars = [np.histogram(np.clip(score[side], low, high), edges)[0] / side.sum() for side in (member, ~member)]
    series = {"fpr": fpr, "tpr": tpr, "edges": edges, "members": bars[0], "non_members": bars[1]}
    return {name: [float(f"{value:.6g}") for value in values] for name, values in series.items()}


def _groups(table: Table) -> dict[str, Bools]:
    groups = {"all": np.ones(table.member.size, dtype=np.bool_)}
    if table.group is not None:
        for name in np.unique(table.group).tolist():
            groups[f"group {name}" if name == "all" else str(name)] = np.asarray(table.group == name)
    return groups


def evaluate(table: Table, config: Config, leaky: Table | None = None, clean: Table | None = None) -> Audit:
    """Full statistics of one table of scores; ``leaky`` and ``clean`` are scores of trained controls.

    Without them both controls are made from the table itself: a planted leak, and non-members against
    non-members.

    Raises: ConfigError where a class has fewer than two candidates or an option is out of range.
    """
    _check(table, config)
    groups = _groups(table)
    comparisons = len(groups) * (1 + len(config.fprs)) + config.shared_comparisons
    strict = 1.0 - (1.0 - config.level) / comparisons
    outcomes = _controls(table, config, strict, leaky, clean)
    rows: list[Row] = []
    lines, curves = [], {}
    for group, index in groups.items():
        member, score = table.member[index], table.score[index]
        own, caught = _group(group, member, score, config, strict)
        if group == "all" and leaky is None:
            outcomes.insert(0, controls.leaky_control(caught, "leak planted into half of the members"))
        own = _withhold(own, outcomes, caught)
        rows += own
        lines.append(Line(config.threat_model, group, _line(own)))
        if min(member.sum(), (~member).sum()) >= 2:
            curves[group] = _curves(member, score)
    source = {
        "file": table.source, "sha256": table.sha256, "rows": int(table.member.size),
        "members": int(table.member.sum()), "non_members": int((~table.member).sum()), "groups": len(groups) - 1,
    }  # fmt: skip
    return Audit(source, config, comparisons, tuple(rows), tuple(lines), tuple(outcomes), curves)


def _rng(config: Config, purpose: str) -> np.random.Generator:
    return experiment(config.seed, f"audit {purpose}")


def _group(group: str, member: Bools, score: Floats, config: Config, strict: float) -> tuple[list[Row], bool]:
    """Rows of one group, and whether a leak planted at its sizes would be seen."""
    sizes = (int(member.sum()), int((~member).sum()))
    if min(sizes) < 2:
        reason = f"{sizes[0]} members and {sizes[1]} non-members; at least 2 of each are needed"
        return _rows(group, [_Measured("auc", None, False, math.nan, None, reason)], config, sizes), True
    split = halves(member, _rng(config, f"halves {group}"))
    planted = controls.plant_leak(member, score, _rng(config, f"plant {group}"))
    measured = _measure(member, score, split, config, strict)
    return _rows(group, measured, config, sizes), decide(member, planted, split, config, strict)


def _withhold(rows: list[Row], outcomes: list[Control], caught: bool) -> list[Row]:
    """Take back verdicts (missed leak) or whole results (broken split)."""
    broken = next((control for control in outcomes if control.status == "broken"), None)
    if broken:
        reason = f"membership withheld, the split is broken: blind base line {broken.detail}"
        return [
            dataclasses.replace(row, value=None, low=None, high=None, detectable=None, status=NOT_TESTED, reason=reason)
            for row in rows
        ]
    if caught and not any(control.blocks for control in outcomes):
        return rows
    reason = "inconclusive, the known-leaky control was missed"
    return [
        dataclasses.replace(row, status=NOT_TESTED, reason=reason) if row.status in (LEAK, NO_LEAK) else row for row in rows
    ]


def _check(table: Table, config: Config) -> None:
    members, others = int(table.member.sum()), int((~table.member).sum())
    if min(members, others) < 2:
        raise ConfigError(f"{members} members and {others} non-members: an audit needs at least 2 of each")
    if not all(0.0 < fpr < 1.0 for fpr in config.fprs):
        raise ConfigError("every rate in fprs must lie strictly between 0 and 1")
    counts = (config.permutations, config.seeds, config.attacks_tried, config.shared_comparisons + 1)
    if not 0.0 < config.level < 1.0 or min(counts) < 1:
        raise ConfigError("level must lie in (0, 1); permutations, seeds and attacks_tried must be at least 1")


def _controls(table: Table, config: Config, strict: float, leaky: Table | None, clean: Table | None) -> list[Control]:
    outcomes = []
    if leaky is not None:
        _check(leaky, config)
        split = halves(leaky.member, _rng(config, "halves leaky"))
        caught = decide(leaky.member, leaky.score, split, config, strict)
        outcomes.append(controls.leaky_control(caught, f"scores in {leaky.source}"))
    outcomes.append(_clean_control(table, config, clean))
    outcomes.append(controls.blind_baseline(table.member, _blind(table, config)))
    shuffles = _rng(config, "permutation"), config.permutations
    outcomes.append(controls.label_permutation(table.member, table.score, *shuffles))
    return outcomes


def _clean_control(table: Table, config: Config, clean: Table | None) -> Control:
    level = 1.0 - (1.0 - config.level) / (1 + len(config.fprs))
    others = table.score[~table.member]
    if clean is not None:
        _check(clean, config)
        called, score, origin = clean.member, clean.score, f"scores in {clean.source}"
    elif others.size >= 4:
        called = halves(np.zeros(others.size, dtype=np.bool_), _rng(config, "clean")).calibration
        score, origin = others, "non-members against non-members"
    else:
        return Control("known_clean", "not run", "fewer than 4 non-members")
    flagged = decide(called, score, halves(called, _rng(config, "halves clean")), config, level)
    return controls.clean_control(flagged, origin, config.level)


def _blind(table: Table, config: Config) -> Floats | None:
    if table.blind is not None or table.text is None:
        return table.blind
    try:
        return controls.text_baseline(table.text.tolist(), table.member, config.seed)
    except ValueError:
        return None
