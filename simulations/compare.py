"""Methods x seeds: run what is missing, then one table, one page, one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError, RunError
from simulations.run import DONE, INTERRUPTED, WITH_FAILURES, execute, folders_of, load


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
) -> Result:
    """Run each configuration for each seed that has no finished folder yet, and compare.

    Raises: ConfigError for a wrong configuration, or runs that may not be compared.
    """
    folders: list[Path] = []
    code = DONE
    root = Path()
    for path in configs:
        experiment = load(path, settings, output=output, seeds=seeds, workers=workers, report=False)
        root = Path(experiment.output)
        for seed, folder in zip(experiment.seed_list(), folders_of(experiment), strict=True):
            if not (folder / "summary.json").exists():
                one = replace(experiment, seed=seed, seeds="", resume=(folder / "config.toml").exists())
                outcome = execute(one, grid)
                if outcome.code == 2:
                    raise ConfigError(f"{path.name}: {outcome.reason}")
                if outcome.code == INTERRUPTED:
                    raise KeyboardInterrupt(outcome.reason)
                if outcome.code not in (DONE, WITH_FAILURES):
                    raise RunError(f"{path.name}, seed {seed}: {outcome.reason}")
                code = max(code, outcome.code)
            folders.append(folder)
    return report_on(folders, root / "comparison", baseline, code)


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
