"""Methods by seeds from run folders: what may be compared, and the paired arithmetic over seeds.

Runs of one seed share partition, initial weights, client sampling and batch order, so differences are paired by seed
(and, for clients, by client). An interval is Student's over the seeds' differences; one seed has none. Intervals are
not corrected for the number of comparisons, and the page says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedkd.config import determining, digest8
from fedkd.errors import ConfigError
from fedkd.intervals import paired_t
from fedkd.report.run_folder import RunFolder, number, read_run
from fedkd.report.wording import partition_text

_HALF_POINT = 0.5
"""An interval inside +- half a point may be called equal; any other that holds zero is undecided (specs, protocol)."""


@dataclass(frozen=True)
class Difference:
    """Minuend minus subtrahend in points of mean client accuracy, over the seeds that both have."""

    minuend: str
    subtrahend: str
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]
    mean: float
    low: float
    """lower end of the paired t interval; NaN with one seed"""
    high: float
    sd: float
    """standard deviation of the seeds' differences; NaN with one seed"""

    @property
    def reading(self) -> str:
        """``above``, ``below``, ``equal within half a point``, ``undecided``, or ``one seed``."""
        if not math.isfinite(self.low):
            return "one seed"
        if self.low > 0 or self.high < 0:
            return "above" if self.low > 0 else "below"
        small = max(abs(self.low), abs(self.high)) < _HALF_POINT
        return "equal within half a point" if small else "undecided"


@dataclass(frozen=True)
class MethodRow:
    """One method: its runs in seed order, and their means. Accuracies are 0..1."""

    label: str
    config_hash: str
    runs: tuple[RunFolder, ...]
    seeds: tuple[int, ...]
    accuracy_by_seed: tuple[float, ...]
    accuracy_mean: float
    accuracy_worst_decile: float
    kb_up: float
    """kB per client and round, from the clients' own records"""
    kb_down: float
    seconds: float
    failures: int
    not_below_baseline: tuple[int, int] | None = None
    """clients (over all common seeds) that score at least the baseline's, of how many; None for the baseline"""
    difference: Difference | None = None
    """against the baseline; None for the baseline, or without one"""

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.runs[0].name

    @property
    def method(self) -> str:
        """The file of ``fedkd/methods``."""
        return self.runs[0].method


@dataclass(frozen=True)
class Comparison:
    """Rows in the order in which the methods were first given, all on the same data, clients and rounds."""

    methods: tuple[MethodRow, ...]
    baseline: str | None
    pairs: tuple[Difference, ...]
    """differences asked for beside those against the baseline"""
    dataset: str
    partition: str
    model: str
    rounds: int
    clients: int
    seeds: tuple[int, ...]
    level: float
    differing: tuple[str, ...]
    """settings besides the method that are not the same in all rows"""

    def row(self, wanted: str) -> MethodRow:
        """The row with this label, configuration name or method.

        Raises: ConfigError where none or several match.
        """
        for key in _ROW_KEYS:
            found = [row for row in self.methods if key(row) == wanted]
            if len(found) == 1:
                return found[0]
        raise ConfigError(f"no single method {wanted!r}; compared are: {', '.join(row.label for row in self.methods)}")

    def difference(self, minuend: str, subtrahend: str) -> Difference:
        """The paired difference of two rows. Raises: ConfigError for an unknown row or no common seed."""
        return _difference(self.row(minuend), self.row(subtrahend), self.level)


_ROW_KEYS: tuple[Callable[[MethodRow], str], ...] = (lambda r: r.label, lambda r: r.name, lambda r: r.method)


def compare(
    folders: Sequence[Path],
    baseline: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    level: float = 0.95,
) -> Comparison:
    """Group finished runs by configuration and seed; ``baseline`` and ``pairs`` name rows (default: ``local``, if any).

    Raises: ConfigError for no folder, an unfinished run, a duplicate, unequal rounds or clients, unequal partitions
    within a seed, or a baseline or pair that names no row.
    """
    runs = _comparable([read_run(path) for path in folders])
    rows = _rows(runs)
    first = runs[0]
    bare = Comparison(
        methods=tuple(rows),
        baseline=None,
        pairs=(),
        dataset=str(first.summary.get("dataset") or "unknown data"),
        partition=partition_text(first.config),
        model=str(first.summary.get("model") or "unknown model"),
        rounds=first.num_rounds or 0,
        clients=first.num_clients or 0,
        seeds=tuple(sorted({_seed(run) for run in runs})),
        level=level,
        differing=_differing(rows),
    )
    against = bare.row(baseline) if baseline else _local_row(rows)
    return replace(
        bare,
        baseline=against.label if against else None,
        methods=tuple(_against(row, against, level) for row in rows),
        pairs=tuple(bare.difference(a, b) for a, b in pairs),
    )


def client_gains(row: MethodRow, baseline: MethodRow) -> list[float]:
    """Points by which each client of each common seed differs from the same client under the baseline."""
    gains = []
    for seed in row.seeds:
        if seed in baseline.seeds:
            own = row.runs[row.seeds.index(seed)].final_scores()
            other = baseline.runs[baseline.seeds.index(seed)].final_scores()
            gains += [100 * (own[c] - other[c]) for c in own if c in other]
    return gains


def _comparable(runs: list[RunFolder]) -> list[RunFolder]:
    if not runs:
        raise ConfigError("nothing to compare: give at least one run folder")
    for run in runs:
        where = f"{run.path.parent.name}/{run.path.name}"
        if run.status != "completed":
            raise ConfigError(f"{where} is {run.status}; finish it or leave it out")
        if run.seed is None or not run.data_hash or not math.isfinite(number(run.summary.get("accuracy_mean"))):
            raise ConfigError(f"{where} lacks a seed, a partition hash or an accuracy; it cannot be compared")
    for what, key in (("rounds", "num_rounds"), ("clients", "num_clients")):
        values = sorted({str(getattr(run, key)) for run in runs})
        if len(values) > 1:
            raise ConfigError(f"the runs differ in {what} ({', '.join(values)}); compare equal ones only")
    seen: dict[int, RunFolder] = {}
    for run in runs:
        other = seen.setdefault(_seed(run), run)
        if other.data_hash != run.data_hash:
            raise ConfigError(
                f"{run.path.parent.name} and {other.path.parent.name} hold different partitions for seed {run.seed}; "
                "compare runs on the same data only"
            )
    return runs


def _seed(run: RunFolder) -> int:
    return -1 if run.seed is None else run.seed


def _rows(runs: Sequence[RunFolder]) -> list[MethodRow]:
    groups: dict[str, dict[int, RunFolder]] = {}
    for run in runs:
        group = groups.setdefault(_config_hash(run), {})
        if _seed(run) in group:
            twin = group[_seed(run)]
            raise ConfigError(f"{run.path} and {twin.path} are the same configuration and seed; give one of them")
        group[_seed(run)] = run
    titles = [next(iter(group.values())).title for group in groups.values()]
    rows = []
    for title, (digest, group) in zip(titles, groups.items(), strict=True):
        label = title if titles.count(title) == 1 else f"{title} [{next(iter(group.values())).name} {digest}]"
        rows.append(_row(label, digest, [group[seed] for seed in sorted(group)]))
    return rows


def _row(label: str, digest: str, runs: Sequence[RunFolder]) -> MethodRow:
    def mean(key: str) -> float:
        values = [value for value in (number(run.summary.get(key)) for run in runs) if math.isfinite(value)]
        return statistics.fmean(values) if values else math.nan

    scores = tuple(number(run.summary.get("accuracy_mean")) for run in runs)
    return MethodRow(
        label=label,
        config_hash=digest,
        runs=tuple(runs),
        seeds=tuple(_seed(run) for run in runs),
        accuracy_by_seed=scores,
        accuracy_mean=statistics.fmean(scores),
        accuracy_worst_decile=mean("accuracy_worst_decile"),
        kb_up=mean("bytes_up_client_round") / 1e3,
        kb_down=mean("bytes_down_client_round") / 1e3,
        seconds=mean("seconds"),
        failures=sum(len(run.failures) for run in runs),
    )


def _config_hash(run: RunFolder) -> str:
    """Eight hex digits over what determines the result; without a config, over what the summary names."""
    return digest8(determining(run.config) or {"name": run.name, "method": run.method, "label": run.title})


def _local_row(rows: Sequence[MethodRow]) -> MethodRow | None:
    found = [row for row in rows if row.method == "local"]
    return found[0] if len(found) == 1 else next((row for row in rows if row.label.lower() == "local"), None)


def _difference(a: MethodRow, b: MethodRow, level: float) -> Difference:
    seeds = tuple(seed for seed in a.seeds if seed in b.seeds)
    if not seeds:
        raise ConfigError(f"{a.label} and {b.label} have no seed in common")
    own = [100 * a.accuracy_by_seed[a.seeds.index(seed)] for seed in seeds]
    other = [100 * b.accuracy_by_seed[b.seeds.index(seed)] for seed in seeds]
    each = tuple(x - y for x, y in zip(own, other, strict=True))
    return Difference(a.label, b.label, seeds, each, *paired_t(own, other, level))


def _against(row: MethodRow, baseline: MethodRow | None, level: float) -> MethodRow:
    if baseline is None or row is baseline:
        return row
    gains = client_gains(row, baseline)
    kept = (sum(gain >= -1e-9 for gain in gains), len(gains)) if gains else None
    return replace(row, difference=_difference(row, baseline, level), not_below_baseline=kept)


def _differing(rows: Sequence[MethodRow]) -> tuple[str, ...]:
    """Result-determining keys outside the method's own that are not equal in all rows that have a config."""
    configs = [determining(row.runs[0].config) for row in rows if row.runs[0].config]
    keys = sorted({key for config in configs for key in config})
    own = ("method.", "loss.")
    return tuple(k for k in keys if not k.startswith(own) and len({repr(c.get(k)) for c in configs}) > 1)
