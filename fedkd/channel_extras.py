"""Rows of an audit that are no ROC: labels, links of rounds and rows, exposure of label canaries, reconstructions."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fedkd import label_exposure, outgoing
from fedkd.attacks import label_histogram, linkage
from fedkd.channel_links import Evidence
from fedkd.errors import ConfigError
from fedkd.finished import Finished
from fedkd.inference import detectable_rate, holm, paired_bootstrap
from fedkd.mechanisms import permute
from fedkd.types import Arrays
from fedkd.verdict import LEAK, MEASURED, NO_LEAK, Row, show, verdict

LABELS = "the server reads one client's messages and asks what labels it holds"
LINKS = "a receiver of messages without client ids matches those of two consecutive rounds"
ROW_LINKS = "a receiver of rows without sample ids matches one client's rows of two consecutive rounds"
VIEWS = {
    "released": ("soft labels up", "label canaries", "a receiver keeps and averages every uploaded soft label"),
    "returned": ("soft labels down", "label canaries", "a receiver keeps and averages every returned soft label"),
    "own model": ("personal models", "label canaries", "who is given the holder's final model"),
    "other models": ("personal models", "label canaries of other clients", "who is given all other clients' final models"),
}
"""View of fedkd.label_exposure -> channel, target group, threat model."""
ALPHA = 0.05
NULL_BITS = 1.4427
"""Mean exposure without a leak, bits: 1 / ln 2."""
LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Family:
    """The decisions that share one error probability."""

    level: float
    comparisons: int
    seed: int
    attacks: int
    """membership attacks tried"""

    @property
    def strict(self) -> float:
        """The level of each single decision (Bonferroni)."""
        return 1.0 - (1.0 - self.level) / self.comparisons

    @property
    def deviations(self) -> float:
        """Standard errors that a decision needs."""
        return float(stats.norm.ppf(0.5 + self.strict / 2.0))


@dataclass
class Found:
    """A part of the result."""

    rows: list[Row] = field(default_factory=list)
    verdicts: list[dict[str, str]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[dict[str, str]] = field(default_factory=list)

    def add(self, more: Found) -> None:
        """Join another part."""
        self.rows += more.rows
        self.verdicts += more.verdicts
        self.controls += more.controls
        self.records += more.records
        self.not_run += more.not_run

    def say(self, row: Row) -> None:
        """Add a row with its verdict."""
        self.rows.append(row)
        self.verdicts.append(
            {"threat_model": f"{row.threat_model} ({row.view})", "target_group": row.target_group, "text": verdict(row)}
        )


def label_rows(evidence: Evidence, family: Family) -> Found:
    """How far each channel's estimate of a client's label histogram is better than the population's."""
    found = Found()
    sizes = {c: np.bincount(np.asarray(evidence.run.data.client(c).train.y), minlength=evidence.setting.classes)
             for c in range(evidence.run.data.num_clients)}  # fmt: skip
    for channel, mass in evidence.mass.items():
        clients = [c for c in sorted(mass) if sizes[c].sum()]
        if len(clients) < 2:
            continue
        counts = np.stack([sizes[c] for c in clients])
        report = label_histogram.audit(
            label_histogram.Config(seed=family.seed), class_mass=np.stack([mass[c] for c in clients]), label_counts=counts
        )
        error = max((report.gain.high - report.gain.low) / (2 * float(stats.norm.ppf(0.975))), 1e-12)
        shown = report.gain.value > family.deviations * error
        detectable = min(1.0, (family.deviations + float(stats.norm.ppf(POWER))) * error)

        def row(statistic: str, value: float, low: float | None, high: float | None, status: str, reason: str,
                channel: str = channel, n: int = len(clients), detectable: float = detectable) -> Row:  # fmt: skip
            size = detectable if status == NO_LEAK else None
            return Row(LABELS, "label_histogram", "messages", "all", "client", channel, statistic, value, low, high, 0.95, n, 0,
                       "none", size, 1, status, reason)  # fmt: skip

        said = (f"total variation to the truth {show(report.total_variation)}, {show(report.blind_total_variation)} without "
                "messages: the gain is the difference, mean over clients")  # fmt: skip
        gain = report.gain
        found.say(row("label_gain", gain.value, gain.low, gain.high, LEAK if shown else NO_LEAK, said))
        top = report.top_class
        found.rows.append(row("top_class", top.value, top.low, top.high, MEASURED, "share of clients whose most frequent class "
                              "is named"))  # fmt: skip
        found.controls.append({
            "name": "swapped_messages", "status": "measured",
            "detail": f"{channel} | label_histogram: another client's message is {show(report.swapped_total_variation)} "
                      f"from the truth, no message {show(report.blind_total_variation)}",
        })  # fmt: skip
    return found


def link_rows(evidence: Evidence, family: Family) -> Found:
    """Linkage of the last two rounds that a channel links, per channel; of rows, where they travel."""
    found = Found()
    for channel in dict.fromkeys(x.channel for x in evidence.links):
        link = [x for x in evidence.links if x.channel == channel][-1]
        report = linkage.audit(linkage.Config(), distance=link.distance)
        strict = linkage.audit(linkage.Config(level=family.strict), distance=link.distance)
        n = len(link.distance)
        size = detectable_rate(n, report.chance, POWER, family.strict)[1]
        why = f"chance {show(report.chance)}; rounds {link.round} and {link.round + 1} of the run, {n} clients"
        found.say(Row(
            LINKS, "linkage", "messages", "all", "client", channel, "linked_top1", report.top1.value, report.top1.low,
            report.top1.high, 0.95, n, 0, "none", None if size != size else size, 1,
            LEAK if strict.leak_shown else NO_LEAK, why,
        ))  # fmt: skip
    if evidence.row_links:
        found.say(_rows_linked(evidence, family))
    return found


def _rows_linked(evidence: Evidence, family: Family) -> Row:
    last = max(x.round for x in evidence.row_links)
    links = [x for x in evidence.row_links if x.round == last]
    gain = np.array([(x.hits - 1.0) / x.rows for x in links])
    rate = np.array([x.hits / x.rows for x in links])
    renamed = any(s.mechanism.module is permute and s.mechanism.config.every for s in outgoing.each(evidence.setting))
    why = f"rounds {last} and {last + 1}; matching by features; chance 1 / rows of a client; interval over {len(links)} clients"
    why += "" if renamed else "; here sample ids travel too, so that rows are linked by name"
    if len(links) < 2:
        return _row_link(rate.mean(), None, None, len(links), None, MEASURED, why)
    stream = np.random.default_rng(family.seed)
    drawn = paired_bootstrap(lambda i: float(rate[i].mean()), len(links), stream)
    error = max(float(gain.std(ddof=1)) / np.sqrt(len(gain)), 1.0 / sum(x.rows for x in links))
    shown = gain.mean() > family.deviations * error
    size = min(1.0, float((rate - gain).mean() + (family.deviations + stats.norm.ppf(POWER)) * error))
    return _row_link(drawn.value, drawn.low, drawn.high, len(links), size, LEAK if shown else NO_LEAK, why)


def _row_link(value: float, low: float | None, high: float | None, n: int, size: float | None, status: str, why: str) -> Row:
    return Row(ROW_LINKS, "linkage", "messages", "all", "record", "features up", "linked_rows_top1", value, low, high, 0.95,
               n, 0, "none", size, 1, status, why)  # fmt: skip


def link_series(evidence: Evidence) -> list[dict[str, Any]]:
    """Top-1 linkage over rounds, per channel."""
    found = []
    for channel in dict.fromkeys(x.channel for x in evidence.links):
        points, chance = [], 0.0
        for link in (x for x in evidence.links if x.channel == channel):
            report = linkage.audit(linkage.Config(), distance=link.distance)
            e, n, chance = report.top1, len(link.distance), report.chance
            points.append({"round": link.round, "value": e.value, "low": e.low, "high": e.high, "n_members": n,
                           "n_non_members": 0})  # fmt: skip
        record = {"channel": channel, "attack": "linkage", "statistic": "linked_top1", "points": points}
        found.append({**record, "chance": chance, "control": []})
    return found


def exposures(run: Finished, states: Path, length: int) -> tuple[list[dict[str, Any]], str]:
    """(exposure of label canaries per view, why there is none): empty without canaries."""
    planted = run.setting.experiment.audit_canaries
    if not planted:
        return [], "no label canaries were planted: set audit.canaries"
    try:
        views = label_exposure.audit(run.folder, states, length)
    except ConfigError as error:
        return [], str(error)
    renamed = any(s.mechanism.module is permute and s.mechanism.config.every for s in outgoing.each(run.setting))
    found = []
    for view in views:
        if view.report is None or (renamed and view.name in label_exposure.DIRECTIONS):
            continue
        (s,) = view.report.strata
        low, high = mean_of_exponentials(s.mean, view.strings)
        found.append({"view": view.name, "strings": view.strings, "median_bits": s.quartiles[1], "mean_bits": s.mean,
                      "low": low, "high": min(high, view.report.ceiling), "ceiling_bits": view.report.ceiling,
                      "null_bits": round(NULL_BITS, 2), "p": s.p_holm, "labels_sent": view.labels_sent})  # fmt: skip
    return found, ""


def mean_of_exponentials(mean: float, n: int) -> tuple[float, float]:
    """Exact 95 % interval of the mean of ``n`` exponential values: what exposures are without a leak, so that the interval and
    Fisher's test of the ranks say the same; above it they spread less, and the interval is wide rather than narrow."""
    low, high = (2 * n * mean / stats.chi2.ppf(0.5 + side * LEVEL / 2, 2 * n) for side in (1, -1))
    return float(low), float(high)


def exposure_rows(records: list[dict[str, Any]], model: str) -> Found:
    """Exposure per view as rows: the mean with its verdict (Holm over the views), and the p value that the gate reads."""
    found = Found()
    adjusted = holm([r["p"] for r in records]).tolist() if records else list[float]()
    for record, p in zip(records, adjusted, strict=True):
        channel, group, who = VIEWS[record["view"]]
        n = record["strings"]
        least = 1 - min((1 - LEVEL) / 2, ALPHA / len(records))
        size = NULL_BITS * stats.chi2.ppf(least, 2 * n) / stats.chi2.ppf(1 - POWER, 2 * n)
        shown = p < ALPHA and record["low"] > NULL_BITS
        why = f"Holm p = {show(p)} over {len(records)} views; {show(NULL_BITS)} bits without a leak; {n} label strings"
        labels = record["labels_sent"]
        why += "" if labels is None else f"; the planted label itself travelled beside {100 * labels:.3g} % of the rows"
        row = Row(who, "exposure", model, group, "label string", channel, "exposure_mean_bits", record["mean_bits"],
                  record["low"], record["high"], 0.95, n, 0, "none", None if shown else float(size), len(records),
                  LEAK if shown else NO_LEAK, why)  # fmt: skip
        found.say(row)
        found.rows.append(replace(row, statistic="exposure_p_r1", value=p, low=None, high=None, detectable=None,
                                  status=MEASURED))  # fmt: skip
    return found


def reconstructions(run: Finished, states: Path, seed: int, comparisons: int) -> tuple[Found, Arrays]:
    """(records and rows of feature inversion, its picture pairs)."""
    found = Found()
    if importlib.util.find_spec("fedkd.reconstruct") is None:
        found.not_run.append({"attack": "feature inversion", "reason": "fedkd.reconstruct is not in this version"})
        return found, {}
    module = importlib.import_module("fedkd.reconstruct")
    try:
        records, rows, pairs = module.audit_features(run.folder, states, module.Config(seed=seed, comparisons=comparisons))
    except ConfigError as error:
        found.not_run.append({"attack": "feature inversion", "reason": str(error)})
        return found, {}
    found.records, found.rows = list(records), list(rows)
    for row in rows:
        if row.status != MEASURED:
            found.verdicts.append({"threat_model": row.threat_model, "target_group": row.target_group, "text": verdict(row)})
    return found, pairs
