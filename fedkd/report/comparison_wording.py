"""One honest sentence about a comparison, and the notes below it: what the table shows, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.report.comparison import Comparison, Difference, MethodRow
from fedkd.report.wording import count, interval, signed


def sentence(comparison: Comparison) -> str:
    """Which differences have an interval that excludes zero, the best opponent, and how little that rests on."""
    seeds = len(comparison.seeds)
    lead = f"On {comparison.dataset} with {count(comparison.clients, 'client')} and {count(seeds, 'seed')}, "
    parts = [*_against_baseline(comparison), *_best_opponent(comparison)]
    parts = parts or ["the table lists one method, compared with none"]
    return lead + "; ".join([*parts, _caveat(comparison)]) + "."


def privacy_sentence(comparison: Comparison) -> str:
    """Whether anything in the runs speaks about privacy; a comparison itself never does."""
    runs = [run for row in comparison.methods for run in row.runs]
    if any(run.summary.get("privacy") or run.summary.get("audits") for run in runs):
        return "Guarantees and audits are in the reports of the single runs, not here."
    return "No privacy guarantee is computed for these runs; nothing here was attacked."


def comparison_notes(comparison: Comparison) -> list[str]:
    """How the numbers were made, and everything that keeps rows from being like for like."""
    rows = comparison.methods
    notes = [
        "Accuracy: mean of the last 3 scored rounds of each client on its own test examples, unweighted over clients, "
        "then the mean over seeds. Worst tenth: the mean of each method's own lowest tenth of clients.",
        f"Intervals: Student's t over the seeds' paired differences, {100 * comparison.level:g} %, not corrected for "
        "the number of comparisons; with one seed there is none. Within a seed all rows share the partition.",
        "Bytes: the clients' own records, kB = 1,000 bytes. Seconds: wall time of a run, a guide only.",
    ]
    if comparison.clients < 50:
        tenth = count(-(-comparison.clients // 10), "client")
        notes.append(f"With {count(comparison.clients, 'client')} the worst tenth is {tenth}: a coarse figure.")
    if len({row.seeds for row in rows}) > 1:
        listed = "; ".join(f"{row.label}: {', '.join(map(str, row.seeds))}" for row in rows)
        notes.append(f"Not every row has the same seeds ({listed}); differences use the seeds that both rows have.")
    if comparison.differing:
        notes.append(f"Besides the method, these settings differ between rows: {', '.join(comparison.differing)}.")
    grids = sorted({str(run.environment["grid"]) for row in rows for run in row.runs if run.environment.get("grid")})
    if len(grids) > 1:
        notes.append(f"The rows ran on different grids ({', '.join(grids)}), so their seconds cannot be compared.")
    notes += [f"{row.label}: {count(row.failures, 'client-round')} failed." for row in rows if row.failures]
    return notes


def _against_baseline(comparison: Comparison) -> list[str]:
    """One part per reading that occurs, in the order above, below, equal, undecided, one seed."""
    found: dict[str, list[Difference]] = {}
    for row in comparison.methods:
        if row.difference:
            found.setdefault(row.difference.reading, []).append(row.difference)
    base = comparison.baseline
    level = f"{100 * comparison.level:g} %"
    parts = []
    if "above" in found:
        names = _names(found["above"])
        parts.append(f"{names} {_be(found['above'])} above {base} ({level} interval above zero)")
    if "below" in found:
        names = _names(found["below"])
        parts.append(f"{names} {_be(found['below'])} below {base} ({level} interval below zero)")
    if "equal within half a point" in found:
        parts.append(f"{_names(found['equal within half a point'])} stays within half a point of {base}")
    if "undecided" in found:
        names = _names(found["undecided"])
        parts.append(f"the interval includes zero, so nothing is decided, for {names} against {base}")
    if "one seed" in found:
        parts.append(f"the differences to {base} come from one seed and have no interval")
    return parts


def _best_opponent(comparison: Comparison) -> list[str]:
    """The best FedD2S row against the best other row; without FedD2S the two highest rows."""
    ranked = sorted(comparison.methods, key=lambda row: -row.accuracy_mean)
    own = [row for row in ranked if row.label.startswith("FedD2S")]
    others = [row for row in ranked if row not in own]
    pair: Sequence[MethodRow] = (own[0], others[0]) if own and others else ranked[:2]
    if len(pair) < 2 or not set(pair[0].seeds) & set(pair[1].seeds):
        return []
    d = comparison.difference(pair[0].label, pair[1].label)
    said = {
        "above": "which excludes zero",
        "below": "which excludes zero",
        "equal within half a point": "which lies within half a point of zero",
        "undecided": "which includes zero, so the two are not ordered",
        "one seed": "with no interval from one seed",
    }[d.reading]
    ends = f" {interval(d.low, d.high)}" if d.reading != "one seed" else ""
    return [f"{d.minuend} minus its best opponent, {d.subtrahend}, is {signed(d.mean)} points{ends}, {said}"]


def _caveat(comparison: Comparison) -> str:
    seeds = len(comparison.seeds)
    few = f"{count(seeds, 'seed')} {'is' if seeds == 1 else 'are'} few and " if seeds < 10 else ""
    return f"{few}one data set with one model says nothing about others"


def _be(differences: Sequence[Difference]) -> str:
    return "is" if len(differences) == 1 else "are"


def _names(differences: Sequence[Difference]) -> str:
    named = [f"{d.minuend} ({signed(d.mean)})" for d in differences]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
