"""What was promised, held against what was measured: stated before the measurement, never bent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.speed import scale
from benchmarks.speed.systems.catalogue import STOCK

Rows = Mapping[str, Mapping[str, Any]]
"""System key -> row of ``visits.summary``."""

OVER_STOCK = {"W1": {"inprocess-2": 3.8, "ray": 3.8, "flower": 2.8}, "W3": {"inprocess-2": 6.0, "ray": 6.0, "flower": 4.0}}
OVER_PFL, OVER_LOOP = 1.0, 0.95
ECHO_SECONDS, HEADS = 0.1, 0.5


def best(rows: Rows, keys: tuple[str, ...], field: str = "clients_per_second") -> float | None:
    """The largest value of a field among the rows that count."""
    found = [float(rows[k][field]) for k in keys if k in rows and rows[k]["counts"]]
    return max(found, default=None)


def ratio(rows: Rows, key: str, over: tuple[str, ...]) -> float | None:
    """Clients per second of a system over the fastest of others, in the same run."""
    own, other = best(rows, (key,)), best(rows, over)
    return None if own is None or other is None else own / other


def verdicts(workloads: Mapping[str, Rows], points: list[dict[str, Any]], heads: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One object per target: what, its bound, what was measured, whether it holds (None = not measured)."""
    out: list[dict[str, Any]] = []

    def say(what: str, bound: float, value: float | None, least: bool = True) -> None:
        holds = None if value is None else (value >= bound if least else value <= bound)
        out.append({"what": what, "bound": bound, "least": least, "value": value, "holds": holds})

    for key, wanted in OVER_STOCK.items():
        for system, bound in wanted.items():
            say(f"{key}: {system} over stock Flower (small models, CPU)", bound, ratio(workloads.get(key, {}), system, STOCK))
        rows = workloads.get(key, {})
        say(f"{key}: inprocess-2 over the better of pfl's one and two processes", OVER_PFL,
            ratio(rows, "inprocess-2", ("pfl-1", "pfl-2")))  # fmt: skip
        say(f"{key}: inprocess-2 over the plain loop with two workers", OVER_LOOP, ratio(rows, "inprocess-2", ("loop-2",)))
    echoes = [r["round_seconds"] for k, r in workloads.get("W1", {}).items() if k.startswith("echo") and r["counts"]]
    say("echo client, 100 a round of 1,000, in process: seconds a round", ECHO_SECONDS, min(echoes, default=None), least=False)
    largest = [r for r in points if r["clients"] == 100_000 and not r["error"]]
    bounds = (("start-up, seconds", "start_up_seconds", scale.START_UP), ("PSS, bytes", "pss_bytes", scale.MEMORY))
    for name, field, bound in bounds:
        say(f"10^5 clients, inprocess, 2 workers: {name}", bound, max((r[field] for r in largest), default=None), least=False)
    say("W5: share of the server's head training in a round", HEADS, heads.get("share"), least=False)
    return out
