"""Methods x seeds: run what is missing, then one table, one page, one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedkd.config import Experiment, together
from fedkd.errors import ConfigError, RunError
from simulations.run import DONE, INTERRUPTED, USAGE, WITH_FAILURES, execute, folders_of, load


@dataclass(frozen=True)
class Result:
    """What ``compare`` prints."""

    code: int
    table: str
    sentence: str
    page: Path
    json: dict[str, Any]


def compare_configs(
    configs: Sequence[Path],
    seeds: str,
    grid: str,
    settings: Sequence[str],
    output: str | None,
    baseline: str | None,
    workers: int | None,
    ray_address: str = "",
) -> Result:
    """Run each configuration for each seed that has no finished folder yet, and compare.

    Raises: ConfigError for a wrong configuration, or runs that may not be compared.
    """
    experiments = [load(p, settings, output=output, seeds=seeds, workers=workers, report=False) for p in configs]
    root = Path(experiments[0].output)
    missing: list[tuple[Path, Experiment]] = []
    for path, experiment in zip(configs, experiments, strict=True):
        for run, folder in zip(experiment.runs(), folders_of(experiment), strict=True):
            if not (folder / "summary.json").exists():
                missing.append((path, replace(run, resume=(folder / "config.toml").exists())))
    code = DONE
    for path, experiment in _starts(missing, grid):
        outcome = execute(experiment, grid, ray_address=ray_address)
        if outcome.code == USAGE:
            raise ConfigError(f"{path.name}: {outcome.reason}")
        if outcome.code == INTERRUPTED:
            raise KeyboardInterrupt(outcome.reason)
        if outcome.code not in (DONE, WITH_FAILURES):
            raise RunError(f"{path.name}, seed {experiment.seed}: {outcome.reason}")
        code = max(code, outcome.code)
    folders = [folder for experiment in experiments for folder in folders_of(experiment)]
    return report_on(folders, root / "comparison", baseline, code)


def _starts(runs: Sequence[tuple[Path, Experiment]], grid: str) -> list[tuple[Path, Experiment]]:
    """What is started: each run by itself in process; on other grids all in one, as a start takes longer than most runs.

    Raises: ConfigError where configurations differ in what one start fixes.
    """
    if grid == "inprocess" or not runs:
        return list(runs)
    return [(runs[0][0], together([run for _, run in runs]))]


def report_on(
    folders: Sequence[Path], target: Path, baseline: str | None = None, code: int = DONE, pairs: Sequence[tuple[str, str]] = ()
) -> Result:
    """Table, page and sentence of finished runs. Raises: ConfigError where they may not be compared."""
    from fedkd.report.comparison import compare
    from fedkd.report.comparison_page import comparison_json, markdown_table, write_comparison
    from fedkd.report.comparison_wording import sentence

    comparison = compare(folders, baseline=baseline, pairs=pairs)
    page = write_comparison(comparison, target)
    return Result(code, markdown_table(comparison), sentence(comparison), page, comparison_json(comparison))
