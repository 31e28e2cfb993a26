"""The audit of a finished run: every channel that carried something, every attack on it, one JSON.

Adversaries are passive: they read a channel, keep all of it and ask about given examples, labels or senders. Rows come from
the shared evaluator (``fedkd.evaluate``); all decisions of one audit share its error probability, so that the number of
attacks cannot make a leak. Where several attacks hit one channel, the headline is the one with the best AUC on the
calibration half. Specs: audit, sections 2, 7 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedkd import channel_signals, evaluate, outgoing, rng
from fedkd.channel_attacks import Scored, scored
from fedkd.channel_candidates import Candidates, blind_scores, draw
from fedkd.channel_dp import Conformance, bracket_records, bracket_rows, brackets
from fedkd.channel_extras import Family, Found, exposure_rows, exposures, label_rows, link_rows, link_series, reconstructions
from fedkd.channel_links import Evidence
from fedkd.channel_messages import Traffic, count, last_average, replay
from fedkd.channel_series import client_rows, curve_band, other_client, series
from fedkd.channel_shadows import LEAST, shadow_attack
from fedkd.channel_table import THREATS, channels, not_run, unread
from fedkd.errors import ConfigError
from fedkd.evaluate import plain
from fedkd.finished import Finished, final_models, open_finished
from fedkd.intervals import t_interval
from fedkd.metrics import TooFew, auc, halves
from fedkd.scores import Table
from fedkd.store import read_json
from fedkd.types import Arrays
from fedkd.verdict import LEAK

SCHEMA = 1
"""Version of ``schemas/run_audit.json``."""


@dataclass(frozen=True)
class Config:
    """Options of an audit."""

    candidates: int = 4000
    """most members, and most non-members, asked about; at least 2"""
    references: int = 5
    """other clients whose messages show what a non-member looks like, at least 2 (fewer where there are fewer clients)"""
    level: float = 0.95
    """level of the printed intervals; decisions share 1 - level"""
    permutations: int = 1000
    """label permutations of the null"""
    exposure_length: int = 3
    """label canaries of one secret"""
    canaries: int = 500
    """canaries of the lower bound on epsilon, where a mechanism claims one"""
    guesses: int = 200
    """guesses of that bound, fixed before scores are seen"""
    shadows: int = 0
    """shadow federations (other seeds of the configuration) for distillation-aware LiRA; 0 = other clients alone"""
    seed: int = 0
    """of halves, assignments, draws and permutations"""

    def __post_init__(self) -> None:
        for name, low in (("candidates", 2), ("references", 2), ("permutations", 1), ("exposure_length", 1), ("canaries", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"audit: {name} = {getattr(self, name)}; it must be at least {low}")
        if self.shadows and self.shadows < LEAST:
            raise ConfigError(f"audit: shadows = {self.shadows}; valid: 0, or at least {LEAST}")
        if not 0.0 < self.level < 1.0:
            raise ConfigError(f"audit: level = {self.level}; valid: above 0, below 1")


FPRS = evaluate.Config().fprs


def audit(folder: Path, states: Path, config: Config | None = None) -> dict[str, Any]:
    """The content of ``audit.json``, plain types; see ``with_pairs``."""
    return with_pairs(folder, states, config)[0]


def with_pairs(
    folder: Path, states: Path, config: Config | None = None, shadows: Sequence[tuple[Path, Path]] = ()
) -> tuple[dict[str, Any], Arrays]:
    """(the content of ``audit.json``, pictures of rebuilt inputs); the same for the same run and options.

    Args:
        folder: the run folder, with ``transcript/`` (record = "messages") and held-out rows (audit.holdout).
        states: ``<state-root>/<run>``, where the clients' versions lie beside ``../data``.
        config: options; None = the defaults.
        shadows: (run folder, states) of other seeds of the same configuration, ``config.shadows`` of them.

    Raises: ConfigError where the run cannot be audited, saying what to set; StateMissing.
    """
    c = config or Config()
    run = open_finished(folder, states)
    candidates = draw(run.data, c.seed, c.candidates)
    reader = channel_signals.Reader(run.setting, candidates, c.references)
    evidence, conformance, moved = Evidence(run.setting, run), Conformance(run), dict[tuple[str, str], Traffic]()
    for r in replay(run):
        reader.read(r)
        evidence.read(r)
        conformance.read(r)
        count(moved, r)
        if r.number == run.setting.rounds - 1 and r.level == run.setting.model.blocks + 1:
            reader.average(run.setting.rounds, last_average(run, r.average))
    channel_signals.personal(reader, final_models(run), run.setting.rounds)
    attacks = scored(reader.values, candidates.client)
    if c.shadows:
        others = [open_finished(*place) for place in shadows[: c.shadows]]
        attacks.append(shadow_attack(run, candidates, others, reader.values[channel_signals.PERSONAL, "phi"].own[0]))
    comparisons = len(attacks) * (1 + len(FPRS)) + len(evidence.mass) + len({x.channel for x in evidence.links})
    family = Family(c.level, max(1, comparisons + bool(evidence.row_links)), c.seed, len(attacks))
    found, curves = _membership(run, c, candidates, attacks, family)
    for more in (label_rows(evidence, family), link_rows(evidence, family)):
        found.add(more)
    inversion, pairs = reconstructions(run, states, c.seed, family.comparisons)
    found.add(inversion)
    bounds, unbounded = brackets(run, c.canaries, c.guesses, c.seed)
    found.rows += bracket_rows(bounds, run.setting.experiment.label)
    exposure, why = exposures(run, states, c.exposure_length)
    found.add(exposure_rows(exposure, run.setting.experiment.label))
    table = channels(run.setting, moved, attacks, evidence)
    found.verdicts += [line for channel in table if (line := unread(channel, attacks)) is not None]
    found.not_run += unbounded + not_run(run.setting, attacks, moved, why)
    body = {
        "schema": SCHEMA, "kind": "run_audit", "run": _run(run), "config": asdict(c), "comparisons": family.comparisons,
        "channels": table, "rows": [asdict(r) for r in found.rows], "verdicts": found.verdicts, "controls": found.controls,
        "series": [*series(attacks, candidates, c.level), *link_series(evidence)], "curves": curves, "exposure": exposure,
        "brackets": bracket_records(bounds), "inversion": found.records, "conformance": conformance.records(),
        "utility": _utility(run.folder), "not_run": found.not_run,
    }  # fmt: skip
    plain_body: dict[str, Any] = plain(body)
    return plain_body, pairs


def _membership(
    run: Finished, config: Config, candidates: Candidates, attacks: list[Scored], family: Family
) -> tuple[Found, dict[str, Any]]:
    """Rows of every attack on every channel; verdict, clients and controls of each channel's headline."""
    found, curves = Found(), dict[str, Any]()
    blind = blind_scores(candidates, config.seed)
    for channel in dict.fromkeys(a.attack.channel for a in attacks):
        of = [a for a in attacks if a.attack.channel == channel]
        best, texts = headline(of, candidates, config.seed), dict[str, str]()
        for one in of:
            seen = np.isfinite(one.total)
            if min(candidates.member[seen].sum(), (~candidates.member[seen]).sum()) < 2:
                continue
            options = evaluate.Config(
                fprs=FPRS, level=config.level, permutations=config.permutations, seed=config.seed,
                shared_comparisons=family.comparisons - 1 - len(FPRS), attacks_tried=family.attacks,
                threat_model=THREATS[channel], attack=one.attack.name, model=run.setting.experiment.label, view=channel,
            )  # fmt: skip
            table = Table(candidates.member[seen], one.total[seen], blind=None if blind is None else blind[seen])
            result = evaluate.evaluate(table, options)
            found.rows += result.rows
            curves[f"{channel} | {one.attack.name}"] = curve_band(result.curves["all"], int(table.member.sum()))
            texts[one.attack.name] = result.verdicts[0].text
            if one is not best:
                continue
            found.rows += client_rows(one, candidates, options)
            found.controls += [
                {"name": o.name, "status": o.status, "detail": f"{channel} | {one.attack.name}: {o.detail}"}
                for o in result.controls
            ]
            found.controls += other_client(one, candidates, config.level)
        if texts:
            found.verdicts.append({"threat_model": THREATS[channel], "target_group": "all", "text": _said(texts, best)})
    return found, curves


def _said(texts: dict[str, str], best: Scored) -> str:
    """The headline's sentence; where it shows no leak, that of the first attack that does: all decide at one shared level."""
    leaks = [text for text in texts.values() if text.startswith(LEAK)]
    first = texts.get(best.attack.name, next(iter(texts.values())))
    return first if first.startswith(LEAK) or not leaks else leaks[0]


def headline(attacks: list[Scored], candidates: Candidates, seed: int) -> Scored:
    """The attack with the best AUC on the calibration half (that of the evaluator); the first of equals."""
    best, top = attacks[0], -1.0
    for one in attacks:
        seen = np.isfinite(one.total)
        member, score = candidates.member[seen], one.total[seen]
        half = halves(member, rng.experiment(seed, "audit halves all")).calibration
        try:
            value = auc(score[half & member], score[half & ~member])
        except TooFew:
            continue
        if value > top:
            best, top = one, value
    return best


def _run(run: Finished) -> dict[str, Any]:
    summary, e = read_json(run.folder / "summary.json"), run.setting.experiment
    environment = read_json(run.folder / "environment.json")
    notes = outgoing.notes(run.setting)
    return {
        "name": e.name, "label": e.label, "method": e.method_name, "dataset": e.data_name, "model": e.model_name,
        "seed": e.seed, "rounds": run.setting.rounds, "clients": run.data.num_clients,
        "command": environment.get("command", ""),
        "final_state_sha256": summary.get("final_state_sha256", run.commit.final_sha256()),
        "mechanism": notes.get("name", "none"), "guarantee": summary.get("guarantee", ""), "privacy": summary.get("privacy"),
    }  # fmt: skip


def _utility(folder: Path) -> dict[str, Any]:
    """Accuracy with its interval over clients, and bytes, as the run's summary has them.

    "guess": what always naming a client's own most frequent training label would score, mean over clients.
    """
    summary = read_json(folder / "summary.json")
    own = [v for v in (summary.get("accuracy_clients") or {}).values() if v is not None]
    low, high = (None, None) if len(own) < 2 else t_interval(own)[1:3]
    held = [h for h in read_json(folder / "partition.json").get("histogram") or [] if sum(h)]
    return {
        "guess": sum(max(h) / sum(h) for h in held) / len(held) if held else None,
        "accuracy_mean": summary.get("accuracy_mean"), "accuracy_low": low, "accuracy_high": high,
        "worst_decile": summary.get("accuracy_worst_decile"), "bytes_up": summary.get("bytes_up"),
        "bytes_down": summary.get("bytes_down"),
    }  # fmt: skip
