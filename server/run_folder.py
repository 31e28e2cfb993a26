"""A run's folder: what is written when, so that a crash at any point leaves something that resumes or says why it ended."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.config import Experiment, Scalar
from fedkd.errors import ConfigError
from fedkd.prepare import Prepared, package_version
from fedkd.store import write_atomic

MIN_FREE = 16 * 2**20
"""Bytes that must be free before a run starts."""
JSONL = ("rounds", "clients", "failures")
PACKAGES = ("torch", "numpy", "flwr", "ray", "flwr-datasets", "scikit-learn", "scipy", "safetensors")


def run_id(experiment: Experiment) -> str:
    """Our name for a run, the same after every resume (Flower's own changes)."""
    return f"{experiment.name or experiment.method_name}-{experiment.hash8()}-s{experiment.seed}"


def folder_of(experiment: Experiment) -> Path:
    """``<output>/<config stem>/<hash8>-s<seed>``.

    Raises: ConfigError where no absolute output folder is given (a ServerApp runs from an unpacked bundle).
    """
    output = experiment.output or os.environ.get("FEDKD_OUTPUT", "")
    if not output or not Path(output).is_absolute():
        raise ConfigError(f"output = {output!r} is not an absolute folder; add -c 'output=\"{Path.home()}/fedkd-runs\"'")
    return Path(output) / (experiment.name or experiment.method_name) / f"{experiment.hash8()}-s{experiment.seed}"


def check_folder(experiment: Experiment) -> Path:
    """Say whether this run may use its folder, changing nothing.

    Raises: ConfigError for a finished folder without ``overwrite``, an unfinished one without ``resume``, nothing to
        resume, or a place that cannot be written or is full.
    """
    folder = folder_of(experiment)
    finished, started = (folder / "summary.json").exists(), (folder / "config.toml").exists()
    if experiment.resume and not started:
        raise ConfigError(f"{folder} holds no run to resume")
    if not experiment.resume and not experiment.overwrite and finished:
        raise ConfigError(
            f"{folder} holds a finished run; use --overwrite to replace it, or another --output (grid and workers are not "
            "part of a run's hash: they change no bit)"
        )
    if not experiment.resume and not experiment.overwrite and started:
        raise ConfigError(f"{folder} holds an unfinished run; use: python -m simulations resume {folder}  (or --overwrite)")
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"output folder {folder} cannot be written: {existing} is read-only or no folder")
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"x" * 4096)
    except OSError as error:
        raise ConfigError(f"output folder {folder} cannot be written: {error.strerror}") from None
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE:
        raise ConfigError(f"output folder {folder}: only {free // 2**20} MiB are free, {MIN_FREE // 2**20} are needed")
    return folder


def open_folder(experiment: Experiment) -> Path:
    """Create the folder, or accept an unfinished one for ``resume``. Raises: ConfigError from ``check_folder``."""
    folder = check_folder(experiment)
    if experiment.overwrite and not experiment.resume:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(state_root_of(experiment) / run_id(experiment), ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def state_root_of(experiment: Experiment) -> Path:
    """Where client states and prepared data live: ``state-root`` or ``<output>/state``. Raises: ConfigError."""
    if experiment.state_root:
        root = Path(experiment.state_root)
        if not root.is_absolute():
            raise ConfigError(f"state-root = {experiment.state_root!r} is not absolute; e.g. {Path.cwd() / root}")
        return root
    return Path(experiment.output or os.environ.get("FEDKD_OUTPUT", "")) / "state"


def toml_of(values: dict[str, Scalar]) -> str:
    """Flat keys as TOML; dotted keys are quoted, so that they stay flat."""
    return "".join(f'"{k}" = {json.dumps(v, ensure_ascii=False)}\n' for k, v in values.items())


def write_start(folder: Path, experiment: Experiment, data: Prepared | None, facts: dict[str, Any]) -> None:
    """``config.toml``, ``partition.json`` and, last, ``environment.json``. Raises: OSError."""
    write_atomic(folder / "config.toml", toml_of(experiment.to_run_config()).encode())
    if data is not None:
        write_json(folder / "partition.json", partition_facts(experiment, data))
    environment = {
        "schema": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": {p: package_version(p) for p in PACKAGES},
        "git_commit": experiment.provenance.removesuffix("+dirty"),
        "dirty": experiment.provenance.endswith("+dirty"),
        "workers": experiment.workers,
        "nodes": experiment.num_nodes,
        "command": experiment.command or f"flwr run . -c {folder / 'config.toml'}",
        **facts,
    }
    write_json(folder / "environment.json", environment)


def partition_facts(experiment: Experiment, data: Prepared) -> dict[str, Any]:
    """Sizes and label counts per client (the first 200 clients of a large population)."""
    shown = min(data.num_clients, 200)
    clients = [data.client(c) for c in range(shown)]
    return {
        "schema": 1,
        "data": experiment.data_name,
        "hash": str(data.meta["hash"]),
        "classes": data.classes,
        "sizes": [len(c.train) for c in clients],
        "num_val": [len(c.val) for c in clients],
        "num_test": [len(c.test) for c in clients],
        "histogram": [np.bincount(np.asarray(c.train.y), minlength=data.classes).tolist() for c in clients],
        "notes": list(data.meta.get("notes", [])),
        "truncated": shown < data.num_clients,
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Strict JSON (no NaN), atomic. Raises: OSError."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    except OSError:
        return platform.processor()
