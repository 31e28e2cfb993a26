"""Audit runs: a configuration is run first, its messages recorded; a run folder is opened; then JSON and page are written."""

from __future__ import annotations

import importlib
import importlib.util
import io
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clients.cohort import one_thread
from fedkd.config import Experiment, experiment_from, parse_args, read_config
from fedkd.errors import ConfigError, RunError
from fedkd.store import write_atomic
from server.run_folder import run_id, state_root_of, write_json
from simulations import run as runs_of

HOLDOUT = 0.5
"""``audit.holdout`` where a configuration has none: a fair coin, as the attacks assume."""
CANARIES_PER_CLIENT = 4
"""``audit.canaries`` per client where a configuration has none."""
Said = Callable[[str], None]
Execute = Callable[[Experiment], runs_of.Outcome]


def audit_paths(
    paths: Sequence[Path], settings: Sequence[str], options: str, said: Said, execute: Execute, **overrides: Any
) -> list[Path]:
    """Audit every path and return the pages (or JSON files), in order; each page shows the other runs beside its own.

    Args:
        paths: configurations (.toml) or run folders.
        settings: ``key=value`` of the configurations.
        options: fields of ``fedkd.channel_audit.Config``, as the inside of a TOML table.
        execute: runs an experiment on a grid.
        overrides: as ``simulations.run.load``.

    Raises: ConfigError for what cannot be audited; RunError for a run that failed.
    """
    from fedkd.channel_audit import Config

    config = parse_args(options, Config, "--options")
    if any(p.is_dir() for p in paths) and settings:
        raise ConfigError("--set changes a configuration; a run folder is audited as it is")
    folders: list[Path] = []
    for path in paths:
        folders += [path.resolve()] if path.is_dir() else recorded(path, settings, said, execute, **overrides)
        if config.shadows and not path.is_dir():
            said(f"{config.shadows} shadow federations: the same configuration with other seeds")
            first = 1 + max(_seed(f) for f in folders)
            more = {**overrides, "seed": None, "seeds": ",".join(str(first + k) for k in range(config.shadows))}
            recorded(path, settings, said, execute, **more)
    for folder in folders:
        write(folder, config, said)
    return [page(folder, [f for f in folders if f != folder], said) for folder in folders]


def recorded(path: Path, settings: Sequence[str], said: Said, execute: Execute, **overrides: Any) -> list[Path]:
    """Folders of a configuration's runs (one per seed) with messages; what is finished so is not run again.

    Raises: as ``audit_paths``.
    """
    flat = read_config(path)
    added = _added(flat, settings)
    for text in added:
        said(f"added for the audit: {text}")
    experiment = runs_of.load(path, [*added, *settings], **overrides)
    folders = runs_of.folders_of(experiment)
    if all((f / "summary.json").is_file() and (f / "transcript").is_dir() for f in folders) and not experiment.overwrite:
        return folders
    again = any((f / "config.toml").is_file() for f in folders)
    outcome = execute(replace(experiment, overwrite=experiment.overwrite or again))
    if outcome.code == runs_of.USAGE:
        raise ConfigError(outcome.reason)
    if outcome.code == runs_of.INTERRUPTED:
        raise KeyboardInterrupt(outcome.reason)
    if outcome.code:
        raise RunError(outcome.reason)
    return folders


def _added(flat: dict[str, Any], settings: Sequence[str]) -> list[str]:
    """Keys that an audit needs and neither the configuration nor ``--set`` gives."""
    given = set(flat) | {text.partition("=")[0].strip() for text in settings}
    experiment = experiment_from(flat)
    wanted = {
        "record": '"messages"',
        "audit.holdout": str(HOLDOUT),
        "audit.canaries": str(CANARIES_PER_CLIENT * experiment.num_clients),
    }
    return [f"{key}={value}" for key, value in wanted.items() if key not in given]


def write(folder: Path, config: Any, said: Said) -> Path:
    """``audit/audit.json`` and, where inputs were rebuilt, ``audit/pairs.npz``. Raises: ConfigError; OSError."""
    from fedkd.channel_audit import with_pairs

    one_thread()
    result, pairs = with_pairs(folder, states_of(folder), config, shadows_of(folder, config.shadows))
    target = folder / "audit"
    target.mkdir(exist_ok=True)
    write_json(target / "audit.json", result)
    if pairs:
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **pairs)
        write_atomic(target / "pairs.npz", content.getvalue())
    for line in result["verdicts"]:
        said(f"{line['threat_model']}, {line['target_group']}: {line['text']}")
    return target / "audit.json"


def shadows_of(folder: Path, wanted: int) -> list[tuple[Path, Path]]:
    """Finished runs of the same configuration with other seeds beside a run. Raises: ConfigError for fewer than wanted."""
    name = folder.name.rpartition("-s")[0]
    others = [f for f in folder.parent.glob(f"{name}-s*") if f != folder and (f / "summary.json").is_file()]
    others = sorted((f for f in others if (f / "transcript").is_dir()), key=_seed)
    if len(others) < wanted:
        raise ConfigError(f"shadows = {wanted}, but {len(others)} other seeds of {folder.name} are finished beside it; audit "
                          "the configuration, which runs them")  # fmt: skip
    return [(f, states_of(f)) for f in others[:wanted]]


def _seed(folder: Path) -> int:
    return int(folder.name.rpartition("-s")[2])


def states_of(folder: Path) -> Path:
    """Where the versions of a run's clients lie. Raises: ConfigError where the folder is no run."""
    config = folder / "config.toml"
    if not config.is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.toml")
    experiment = experiment_from(tomllib.loads(config.read_text(encoding="utf-8")))
    below = state_root_of(experiment) / run_id(experiment)
    moved = folder.parents[1] / "state" / run_id(experiment)
    return below if below.is_dir() else moved


def page(folder: Path, compared: Sequence[Path], said: Said) -> Path:
    """The page of an audited run, or its JSON where this version has no page."""
    if importlib.util.find_spec("fedkd.report.audit") is None:
        return folder / "audit" / "audit.json"
    built: Path = importlib.import_module("fedkd.report.audit").build(folder, compared)
    return built
