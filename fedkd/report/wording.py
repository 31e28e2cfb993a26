"""Numbers and sentences of a report, in plain words: what was run, what came out, and what that does not show.

No sentence here may claim a privacy property: a run without an accountant says so, and the words that the audit
specification bans never appear.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from fedkd.report.run_folder import RunFolder, inline_table, number
from fedkd.verdict import quoted

MISSING = "n/a"


def percent(value: float, digits: int = 2) -> str:
    """An accuracy of 0..1 as points: 0.817 -> "81.70"; "n/a" for NaN."""
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else MISSING


def signed(points: float, digits: int = 2) -> str:
    """A difference in points with its sign; "n/a" for NaN."""
    return f"{points:+.{digits}f}" if math.isfinite(points) else MISSING


def interval(low: float, high: float, digits: int = 2) -> str:
    """An interval in points, "[+0.08, +0.64]"; "n/a" where there is none (one seed)."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]" if math.isfinite(low) and math.isfinite(high) else MISSING


def size(value: float) -> str:
    """Bytes with a decimal unit: 133000 -> "133.0 kB"; "n/a" for NaN."""
    if not math.isfinite(value):
        return MISSING
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}" if value < 100 * scale else f"{value / scale:,.0f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8.9 -> "8.9 s", 200 -> "3 min 20 s"."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(value: int, noun: str) -> str:
    """A number and its noun: "1 client", "20 clients"."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def partition_text(config: dict[str, Any]) -> str:
    """How samples were spread, from a run's config: "Dirichlet label skew, alpha = 0.5"."""
    name = str(config.get("partition.name") or "")
    said = {
        "dirichlet": "Dirichlet label skew",
        "iid": "iid",
        "pathological": "a few classes per client",
        "natural": "natural partition",
    }
    args = inline_table(str(config.get("partition.args", "")))
    return ", ".join([said.get(name, name or "partition not recorded"), *(f"{k} = {v}" for k, v in args.items())])


def verdict(run: RunFolder, local: RunFolder | None = None, audited: bool = False) -> list[str]:
    """The sentences of the opening paragraph; what an audit found is said by its own lines."""
    return [_what(run), *_outcome(run), *_against_local(run, local), *_limits(run), *_privacy(run, audited)]


def _what(run: RunFolder) -> str:
    model = run.summary.get("model") or run.config.get("model.name") or "an unknown model"
    data = run.summary.get("dataset") or run.config.get("data.name") or "unknown data"
    rounds = count(run.num_rounds, "round") if run.num_rounds else "an unknown number of rounds"
    clients = count(run.num_clients, "client") if run.num_clients else "an unknown number of clients"
    seed = f"seed {run.seed}" if run.seed is not None else "seed not recorded"
    verb = "trained" if run.status == "completed" else "was to train"
    return (
        f"{run.title}, method {run.method}, {verb} the model {model} for {rounds} on {data}, spread over {clients} "
        f"({partition_text(run.config)}), {seed}."
    )


def _outcome(run: RunFolder) -> list[str]:
    lead = []
    if run.status != "completed":
        done = len({row.get("round") for row in run.rounds})
        lead = [f"The run is {run.status}: {count(done, 'round')} on record, so no number below is a result."]
        reason = quoted(str(run.ended.get("reason") or "").strip())
        lead += [f"The reason given: {reason[:300].rstrip('.')}."] if reason else []
    mean, worst = number(run.summary.get("accuracy_mean")), number(run.summary.get("accuracy_worst_decile"))
    if not math.isfinite(mean):
        return [*lead, "No accuracy was recorded for it."]
    scored = len(run.series("accuracy_mean")[0])
    rounds = "mean of the last 3 scored rounds" if scored > 2 else "all scored rounds"
    when = "At the end" if run.status == "completed" else "Where it stopped,"
    sentence = (
        f"{when} a client's own test examples were classified correctly in {percent(mean)} % of cases on average over "
        f"clients ({rounds})"
    )
    tail = f"; the worst tenth of clients reached {percent(worst)} %." if math.isfinite(worst) else "."
    return [*lead, sentence + tail]


def _against_local(run: RunFolder, local: RunFolder | None) -> list[str]:
    if local is None:
        return []
    own, alone = run.final_scores(), local.final_scores()
    gains = [100 * (own[c] - alone[c]) for c in own if c in alone]
    if not gains:
        return []
    mean = sum(gains) / len(gains)
    kept = sum(gain >= 0 for gain in gains)
    return [
        f"Against training alone on the same data that is {signed(mean)} points on average; "
        f"{kept:,} of {count(len(gains), 'client')} did not lose by taking part."
    ]


def _limits(run: RunFolder) -> list[str]:
    sentence = "This is one run with one seed: another split or start may differ by more than methods do from each other"
    tests = [number(row.get("num_test")) for row in run.clients]
    tests = [value for value in tests if value > 0] or [number(v) for v in run.partition.get("num_test") or []]
    tests = [value for value in tests if value > 0]
    if tests:
        typical = statistics.median(tests)
        sentence += (
            f", and with {typical:.0f} test examples for a typical client, one example more or less moves that "
            f"client by {100 / typical:.1f} points"
        )
    failed = [f"{count(len(run.failures), 'client-round')} failed and did not count."] if run.failures else []
    return [*failed, sentence + "."]


def _privacy(run: RunFolder, audited: bool) -> list[str]:
    guarantee = run.summary.get("privacy")
    audits = run.summary.get("audits")
    said = _mechanism(run)
    default = "A guarantee was computed." if guarantee else "No privacy guarantee is computed for this run."
    line = str(run.summary.get("guarantee") or default)
    first = f"{line} It holds only with the unit and assumptions printed with it."
    if audited:
        return [first if guarantee else line, "The lines under “Privacy audit” say what attacks found.", *said]
    if not guarantee and not audits:
        return [line.removesuffix(".") + "; nothing here was attacked.", *said]
    ran = len(audits) if isinstance(audits, list) else 1
    second = f"{count(ran, 'audit')} ran." if audits else "Nothing here was attacked."
    return [first if guarantee else line, second, *said]


def _mechanism(run: RunFolder) -> list[str]:
    """What was done to what left, and what was not."""
    mechanism = run.summary.get("mechanism")
    if not isinstance(mechanism, dict):
        return []
    open_kinds = ", ".join(str(kind) for kind in mechanism.get("not_protected") or ()) or "nothing that is sent"
    return [str(mechanism.get("statement", "")), f"Not protected: {open_kinds}, the final models."]
