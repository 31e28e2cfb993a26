"""A run's folder as one frozen object: every file is optional but one, and what cannot be read is named, not fatal.

Values come from files that others may have written or a crash may have cut: numbers go through ``number`` (NaN where
absent), the last line of a ``.jsonl`` may be half, and everything unreadable is listed in ``unreadable``.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError

Record = dict[str, Any]

_LAST_SCORED = 3
"""A run's score is the mean of its last three scored rounds (specs, protocol)."""


@dataclass(frozen=True)
class RunFolder:
    """What one run left behind. Accuracies are 0..1, rounds count from 0, as in the files."""

    path: Path
    config: Record
    """flat dotted keys"""
    environment: Record
    partition: Record
    summary: Record
    rounds: tuple[Record, ...]
    clients: tuple[Record, ...]
    failures: tuple[Record, ...]
    ended: Record
    """``status.json``: how the process ended and why, also where there is no summary"""
    unreadable: tuple[str, ...]
    """one line per file or line that could not be read"""

    @property
    def method(self) -> str:
        """The file of ``fedkd/methods`` that ran."""
        return str(self.summary.get("method") or self.config.get("method.name") or "unknown method")

    @property
    def name(self) -> str:
        """The configuration's name."""
        return str(self.summary.get("name") or self.config.get("name") or self.path.name)

    @property
    def title(self) -> str:
        """The name in figures and tables; a FedD2S that was given no label says which reading it is."""
        given = self.config if "label" in self.config else self.summary
        label = str(given.get("label") or "").strip()
        if label:
            return label
        args = self.method_args
        if self.method == "fedd2s" and args.get("knowledge", "features") != "none":
            return "FedD2S-avg (ours)" if args.get("average", True) else "FedD2S (KD only)"
        return self.name

    @property
    def method_args(self) -> Record:
        """``method.args`` as a table; empty where it is absent or not TOML."""
        return inline_table(str(self.config.get("method.args", "")))

    @property
    def data_hash(self) -> str:
        """The partition's hash, empty where none was recorded."""
        return str(self.partition.get("hash") or self.environment.get("data_hash") or "")

    @property
    def seed(self) -> int | None:
        """The experiment's seed."""
        return whole(self.summary.get("seed", self.config.get("seed")))

    @property
    def num_rounds(self) -> int | None:
        """R, the rounds that were asked for."""
        return whole(self.summary.get("rounds", self.config.get("num-server-rounds")))

    @property
    def num_clients(self) -> int | None:
        """N, the population."""
        return whole(self.summary.get("clients", self.config.get("num-clients")))

    @property
    def status(self) -> str:
        """``completed``, ``failed``, ``interrupted``, or ``unfinished`` where no file says."""
        return str(self.summary.get("status") or self.ended.get("status") or "unfinished")

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Round numbers and values of one key of ``rounds.jsonl``, rounds without a finite value left out."""
        pairs = [(whole(row.get("round")), number(row.get(key))) for row in self.rounds]
        kept = sorted((t, value) for t, value in pairs if t is not None and math.isfinite(value))
        return [t for t, _ in kept], [value for _, value in kept]

    def scores_by_round(self) -> dict[int, list[float]]:
        """The accuracies of the clients that were scored in each round."""
        found: dict[int, list[float]] = {}
        for row in self.clients:
            t, value = whole(row.get("round")), number(row.get("accuracy"))
            if t is not None and math.isfinite(value):
                found.setdefault(t, []).append(value)
        return dict(sorted(found.items()))

    def final_scores(self) -> dict[int, float]:
        """Client -> final accuracy: the summary's, else the mean of the client's last three scores on record."""
        stored = self.summary.get("accuracy_clients")
        if isinstance(stored, dict) and stored:
            values = {whole(client): number(value) for client, value in stored.items()}
            return {c: v for c, v in sorted(values.items(), key=_client_order) if c is not None and math.isfinite(v)}
        history: dict[int, list[float]] = {}
        for row in self.clients:
            client, value = whole(row.get("client")), number(row.get("accuracy"))
            if client is not None and math.isfinite(value):
                history.setdefault(client, []).append(value)
        return {c: sum(v[-_LAST_SCORED:]) / len(v[-_LAST_SCORED:]) for c, v in sorted(history.items())}


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises: ConfigError where ``path`` is no folder, or holds neither ``config.toml``, ``summary.json`` nor
    ``rounds.jsonl``.
    """
    if not path.is_dir():
        raise ConfigError(f"no run folder {path}")
    if not any((path / name).is_file() for name in ("config.toml", "summary.json", "rounds.jsonl")):
        raise ConfigError(f"{path} is no run folder: it holds neither config.toml, summary.json nor rounds.jsonl")
    problems: list[str] = []
    return RunFolder(
        path=path,
        config=_read_toml(path / "config.toml", problems),
        environment=_read_object(path / "environment.json", problems),
        partition=_read_object(path / "partition.json", problems),
        summary=_read_object(path / "summary.json", problems),
        rounds=_read_lines(path / "rounds.jsonl", problems),
        clients=_read_lines(path / "clients.jsonl", problems),
        failures=_read_lines(path / "failures.jsonl", problems),
        ended=_read_object(path / "status.json", problems),
        unreadable=tuple(problems),
    )


def number(value: Any) -> float:
    """A float from a file's value; NaN where it is null, absent or no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def whole(value: Any) -> int | None:
    """An int from a file's value or key; None where it is none."""
    try:
        return int(value) if not isinstance(value, bool) and float(value) == int(float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def inline_table(text: str) -> Record:
    """The inside of a TOML inline table as a dict; empty where it cannot be read."""
    try:
        table: Record = tomllib.loads(f"x = {{ {text} }}")["x"]
    except tomllib.TOMLDecodeError:
        return {}
    return table


def _client_order(item: tuple[int | None, float]) -> int:
    return -1 if item[0] is None else item[0]


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Record:
    flat: Record = {}
    for name, value in table.items():
        flat.update(_flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


_MAY_BE_ABSENT = ("failures.jsonl", "status.json")


def _read_text(path: Path, problems: list[str]) -> str | None:
    if path.name in _MAY_BE_ABSENT and not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror or 'cannot be read'}")
        return None


def _read_toml(path: Path, problems: list[str]) -> Record:
    text = _read_text(path, problems)
    try:
        return _flatten(tomllib.loads(text or ""))
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path.name}: not valid TOML ({error})")
        return {}


def _read_object(path: Path, problems: list[str]) -> Record:
    text = _read_text(path, problems)
    if text is None:
        return {}
    found = list(_objects([text], path.name, problems, last_may_be_cut=False))
    return found[0] if found else {}


def _read_lines(path: Path, problems: list[str]) -> tuple[Record, ...]:
    text = _read_text(path, problems)
    return tuple(_objects((text or "").splitlines(), path.name, problems, last_may_be_cut=True))


def _objects(lines: Iterable[str], where: str, problems: list[str], *, last_may_be_cut: bool) -> Iterable[Record]:
    rows = list(lines)
    for index, line in enumerate(rows):
        if last_may_be_cut and not line.strip():
            continue
        place = f"{where} line {index + 1}" if last_may_be_cut else where
        try:
            value = json.loads(line)
        except ValueError:
            cut = " (cut off while it was written)" if last_may_be_cut and index == len(rows) - 1 else ""
            problems.append(f"{place}: not valid JSON{cut}")
            continue
        if isinstance(value, dict):
            yield value
        else:
            problems.append(f"{place}: not a JSON object")
