"""Follow a run folder while it fills: a live line in a terminal, plain lines without one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

PAUSE = 0.2
"""Seconds between two looks at the folder."""


@contextmanager
def watch(folder: Path, rounds: int, label: str, console: Console | None = None) -> Iterator[None]:
    """Show round, accuracy, worst decile, clients and seconds left of ``folder`` while the block runs."""
    console = console or Console(stderr=True)
    stop = threading.Event()
    view = _Live(console, rounds, label) if console.is_terminal else _Plain(console, rounds, label)
    thread = threading.Thread(target=_follow, args=(folder / "rounds.jsonl", view, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _follow(path: Path, view: _Plain | _Live, stop: threading.Event) -> None:
    seen = 0
    with view:
        while True:
            last = stop.is_set()
            try:
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            except OSError:
                lines = []
            whole = [line for line in lines if line.endswith("\n")]
            seen = min(seen, len(whole))
            for line in whole[seen:]:
                view.show(json.loads(line))
            seen = len(whole)
            if last:
                return
            time.sleep(PAUSE)


class _Plain:
    """One line per tenth of the rounds, for logs and pipes."""

    def __init__(self, console: Console, rounds: int, label: str) -> None:
        self.console, self.rounds, self.label = console, rounds, label
        self.started = time.monotonic()

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, row: dict[str, Any]) -> None:
        done = int(row["round"]) + 1
        if done % max(1, self.rounds // 10) == 0 or done == self.rounds:
            cells = describe(row, self.rounds, time.monotonic() - self.started)
            text = "  ".join([self.label, *(f"{k} {v}" for k, v in cells.items())])
            self.console.print(text, highlight=False, soft_wrap=True)


class _Live:
    """One table row that is redrawn."""

    def __init__(self, console: Console, rounds: int, label: str) -> None:
        self.rounds, self.label = rounds, label
        self.started = time.monotonic()
        self.live = Live(console=console, transient=True, refresh_per_second=5)

    def __enter__(self) -> _Live:
        self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.__exit__(*error)

    def show(self, row: dict[str, Any]) -> None:
        cells = describe(row, self.rounds, time.monotonic() - self.started)
        table = Table(title=self.label)
        for name in cells:
            table.add_column(name, justify="right")
        table.add_row(*cells.values())
        self.live.update(table)


def describe(row: dict[str, Any], rounds: int, elapsed: float) -> dict[str, str]:
    """What the display shows of one round."""
    done = int(row["round"]) + 1
    failed = int(row["clients_failed"])
    cells = {
        "round": f"{done}/{rounds}",
        "accuracy": _points(row["accuracy_mean"]),
        "worst decile": _points(row["accuracy_worst_decile"]),
        "clients": f"{row['clients_trained']}" + (f" ({failed} failed)" if failed else ""),
        "seconds left": f"{elapsed / done * (rounds - done):.0f}",
    }
    if "level" in row:
        cells["layers shared"] = str(row["level"])
    return cells


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
