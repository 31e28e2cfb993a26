"""The tables of a run's report: key numbers, failures, configuration, environment, guarantees, and how to repeat it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedkd.config import Experiment
from fedkd.report.run_folder import RunFolder, number, whole
from fedkd.report.wording import MISSING, count, duration, percent, size
from fedkd.verdict import quoted

_SHOWN_FAILURES = 50


@dataclass(frozen=True)
class Table:
    """A grid of text for the page; ``kinds`` is the CSS class per column ("" text, "n" number, "code", "wide")."""

    title: str
    head: Sequence[str]
    kinds: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int = -1
    """row set in bold, -1 = none"""


@dataclass(frozen=True)
class KeyNumber:
    """One figure of the key numbers."""

    name: str
    value: str
    unit: str = ""


def key_numbers(run: RunFolder) -> list[KeyNumber]:
    """What a reader wants first; the accuracies are the summary's."""
    s = run.summary
    up, down = number(s.get("bytes_up_client_round")), number(s.get("bytes_down_client_round"))
    total = number(s.get("bytes_up")) + number(s.get("bytes_down"))
    failures = whole(s.get("failures"))
    accuracies = [
        KeyNumber("mean accuracy over clients", percent(number(s.get("accuracy_mean"))), "%"),
        KeyNumber("worst tenth of clients", percent(number(s.get("accuracy_worst_decile"))), "%"),
        KeyNumber("standard deviation over clients", percent(number(s.get("accuracy_std"))), "points"),
    ]
    traffic = [
        KeyNumber("up, per client and round", size(up)),
        KeyNumber("down, per client and round", size(down)),
        KeyNumber("up and down, whole run", size(total)),
    ]
    return [
        *(KeyNumber(a.name, a.value, a.unit if a.value != MISSING else "") for a in accuracies),
        *traffic,
        KeyNumber("wall time", duration(number(s.get("seconds")))),
        KeyNumber("failed client-rounds", f"{len(run.failures) if failures is None else failures:,}"),
    ]


def failure_table(run: RunFolder) -> Table | None:
    """The first failures, one line each; None where none is on record."""
    if not run.failures:
        return None
    rows = [
        [
            _round(f.get("round")),
            _text(f.get("client")),
            _text(f.get("node")),
            _text(f.get("error")),
            _text(f.get("where")),
            _text(f.get("message"))[:600],
        ]
        for f in run.failures[:_SHOWN_FAILURES]
    ]
    head = ("round", "client", "node", "error", "where", "message")
    return Table("Failed client-rounds", head, ("n", "n", "n", "code", "code", "wide"), rows)


def failure_text(run: RunFolder) -> str:
    """How many failed, of what, and whether all are listed."""
    if not run.failures:
        expected = whole(run.summary.get("failures"))
        if expected:
            return f"The summary counts {count(expected, 'failure')}, but failures.jsonl lists none."
        return "No client failed in any round." if run.rounds else "No failure is on record."
    kinds = Counter(_text(f.get("error")) for f in run.failures)
    named = ", ".join(f"{kind} ({n:,})" for kind, n in kinds.most_common(5))
    clients = len({_text(f.get("client")) for f in run.failures})
    text = f"{count(len(run.failures), 'client-round')} failed, over {count(clients, 'client')}: {named}."
    more = len(run.failures) - _SHOWN_FAILURES
    if more > 0:
        text += f" The first {_SHOWN_FAILURES} are listed; the other {more:,} are in failures.jsonl."
    return text


def configuration_tables(run: RunFolder) -> list[Table]:
    """The keys that differ from their defaults, then the others; empty where no config.toml could be read."""
    defaults = Experiment().to_run_config()
    own = {k: v for k, v in run.config.items() if k not in defaults or defaults[k] != v}
    rest = {k: v for k, v in run.config.items() if k not in own}
    titles = ((own, "Keys that this run sets"), (rest, "Keys at their defaults"))
    return [_keys(f"{title} ({len(keys)})", keys) for keys, title in titles if keys]


def environment_table(run: RunFolder) -> Table | None:
    """Versions, machine, commit and data hashes; None where no environment.json could be read."""
    e = run.environment
    if not e:
        return None
    versions, hashes = (v if isinstance(v, dict) else {} for v in (e.get("versions"), e.get("data_sha256")))
    commit = _text(e.get("git_commit")) + (" (with uncommitted changes)" if e.get("dirty") else "")
    named = [("git commit", commit), ("data hash", _text(e.get("data_hash")))]
    plain = [(k, _text(e.get(k))) for k in ("python", "platform", "cpu", "cores", "grid", "workers", "nodes")]
    rows = [*plain, *named, *((f"version of {k}", _text(v)) for k, v in sorted(versions.items()))]
    rows += [(f"sha256 of {k}", _text(v)) for k, v in sorted(hashes.items())]
    return Table("What the run ran on", ("item", "value"), ("", "long"), [list(row) for row in rows])


def statement_tables(run: RunFolder) -> list[Table]:
    """What the summary records as guarantee or audit, field by field and unabridged; usually none."""
    tables = []
    privacy = run.summary.get("privacy")
    if isinstance(privacy, dict) and privacy:
        for one in privacy.get("statements") or [privacy]:
            shown = {str(k).replace("_", " "): _listed(v) for k, v in one.items()}
            tables.append(_fields("Recorded guarantee, with its unit and assumptions", shown))
    mechanism = run.summary.get("mechanism")
    if isinstance(mechanism, dict) and mechanism:
        shown = {str(k).replace("_", " "): _listed(v) for k, v in mechanism.items() if k != "statement"}
        tables.append(_fields("Mechanism on what leaves; charges are rows released anew, per client", shown))
    audits = run.summary.get("audits")
    for index, audit in enumerate(audits if isinstance(audits, list) else []):
        fields = audit if isinstance(audit, dict) else {"result": audit}
        tables.append(_fields(f"Audit {index + 1}", fields))
    return tables


def reproduce_lines(run: RunFolder) -> list[str]:
    """Sentences around the command; the first introduces it."""
    first = (
        "This command, in a checkout of the commit below, repeats the run:"
        if run.environment.get("command")
        else "The command was not recorded; the configuration above determines the result."
    )
    lines = [first]
    commit = run.environment.get("git_commit")
    if commit:
        lines.append(f"Commit: {commit}.")
    if run.environment.get("dirty"):
        lines.append("There were uncommitted changes on top, so the commit alone may not repeat it.")
    state = run.summary.get("final_state_sha256")
    if state:
        lines.append(
            "On the same kind of machine with the same versions, for any number of workers and on any grid, a run "
            f"without privacy noise must end with final_state_sha256 = {state}"
        )
    if run.data_hash:
        lines.append(f"The partition's hash is {run.data_hash}: runs can be compared only where it is equal.")
    return lines


def _keys(title: str, values: Mapping[str, Any]) -> Table:
    rows = [[key, '""' if value == "" else _text(value)] for key, value in sorted(values.items())]
    return Table(title, ("key", "value"), ("code", "long"), rows)


def _fields(title: str, values: Mapping[str, Any]) -> Table:
    return Table(title, ("field", "value"), ("", "long"), [[str(k), _text(v)] for k, v in values.items()])


def _listed(value: Any) -> Any:
    """A list or an object of numbers as one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _round(value: Any) -> str:
    t = whole(value)
    return _text(value) if t is None else str(t + 1)


def _text(value: Any) -> str:
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return MISSING
    return quoted(str(value))
