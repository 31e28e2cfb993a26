"""How start-up, seconds, memory and disk grow with the population and with the sampled clients.

A population must cost its sampled clients, not itself: generated clients, in process, ten rounds and one more in which memory
is looked at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.inputs import Inputs
from benchmarks.speed.visits import System, Visit, visit

TIMED = 9
"""Rounds that count, after the one that warms up: ten rounds."""
START_UP, MEMORY = 20.0, 2 * 2**30
"""What 10^5 clients may take: seconds of start-up, bytes of proportional set size over all processes."""


@dataclass(frozen=True)
class Point:
    """A population and how much of it takes part."""

    clients: int
    sampled: int = 100
    workers: int = 2
    state: bool = False
    """clients keep a state on disk (FedPer)"""

    @property
    def system(self) -> System:
        """How it is started."""
        more = (str(self.clients), str(self.sampled), "state" if self.state else "none")
        return System(f"{self.clients}-{self.sampled}-{self.workers}-{more[2]}", "", "population", self.workers, more)


POINTS = (
    Point(1_000), Point(10_000), Point(100_000), Point(1_000, state=True), Point(100_000, state=True),
    Point(1_000, workers=1), Point(1_000, sampled=10), Point(1_000, sampled=1_000),
)  # fmt: skip


def measure(point: Point, python: str, timed: int = TIMED) -> dict[str, Any]:
    """One line of the table."""
    disk: dict[str, Any] = {}

    def check(place: Path) -> None:
        disk.update(json.loads((place / "disk.json").read_text()))

    fewer = max(2, timed // 3) if point.sampled >= 1_000 else timed
    return line(point, visit(point.system, Inputs(Path("-")), fewer, python, check), disk)


def line(point: Point, made: Visit, disk: dict[str, Any]) -> dict[str, Any]:
    """Facts of a visit."""
    known = {"clients": point.clients, "sampled": point.sampled, "workers": point.workers, "state": point.state}
    if made.error:
        return {**known, "error": made.error}
    return {
        **known, "error": "", "start_up_seconds": made.start_up, "round_seconds": median(made.seconds),
        "round_seconds_min": min(made.seconds), "round_seconds_max": max(made.seconds), "cpu_seconds": median(made.cpu),
        "pss_bytes": made.pss, "load": made.load, "disk": disk,
    }  # fmt: skip


def within(rows: list[dict[str, Any]]) -> bool:
    """Whether the largest population keeps the two bounds."""
    largest = [r for r in rows if r["clients"] == 100_000]
    return bool(largest) and all(
        not r["error"] and r["start_up_seconds"] <= START_UP and r["pss_bytes"] <= MEMORY for r in largest
    )
