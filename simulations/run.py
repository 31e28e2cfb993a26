"""Run one configuration on a grid and return a true exit code (design: exit codes)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fedkd.config import Experiment, experiment_from, read_config, together
from fedkd.errors import ConfigError, RunError, WaitExpired

GRIDS = ("inprocess", "flower", "ray")
RESUMES = 3
"""Times that a run on Flower's grid whose worker died is resumed without a new commit before it counts as failed."""

DONE, FAILED, USAGE, WITH_FAILURES, EXPIRED, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass
class Outcome:
    """How a run ended."""

    code: int
    reason: str = ""
    folders: list[Path] = field(default_factory=list)


def load(path: Path, settings: Sequence[str] = (), **overrides: Any) -> Experiment:
    """A configuration file with ``key=value`` settings and keyword overrides (kebab-case keys with underscores).

    Raises: ConfigError for an unknown key, a wrong type or a value out of range.
    """
    flat = read_config(path)
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text!r}: write key=value, e.g. --set num-server-rounds=5")
        flat[key.strip()] = _value(value.strip())
    experiment = experiment_from(flat)
    changed = {k: v for k, v in overrides.items() if v is not None}
    experiment = replace(experiment, **changed)
    output = experiment.output or os.environ.get("FEDKD_OUTPUT", "") or str(Path.cwd() / "runs")
    if not Path(output).is_absolute():
        raise ConfigError(f"output = {output!r} is not absolute; e.g. --output {Path.cwd() / output}")
    command = " ".join(["python -m simulations run", shlex.quote(_shown(path)), *(f"--set {shlex.quote(t)}" for t in settings)])
    return replace(experiment, output=output, provenance=experiment.provenance or provenance(), command=command)


def _shown(path: Path) -> str:
    """The path as a reader in the checkout would type it."""
    root = Path(__file__).resolve().parents[1]
    return str(path.resolve().relative_to(root)) if path.resolve().is_relative_to(root) else str(path)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def provenance() -> str:
    """Git commit of the sources, with "+dirty" where the tree differs; "" outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+dirty" if changed.stdout.strip() else "")


def folders_of(experiment: Experiment) -> list[Path]:
    """The run folder of each variant and seed."""
    from server.run_folder import folder_of

    return [folder_of(run) for run in experiment.runs()]


def execute(
    experiment: Experiment,
    grid: str = "inprocess",
    port: int = 0,
    watch: Callable[[Path], Any] | None = None,
    ray_address: str = "",
) -> Outcome:
    """Check, run and say how it ended; never raises for a run that failed.

    Args:
        grid: "inprocess", "flower" or "ray".
        port: the SuperLink's port on grid "flower"; 0 = any free one.
        watch: a context manager factory that shows the progress of a run folder.
        ray_address: ``host:port`` of a running Ray cluster for grid "ray"; "" = a private Ray on this machine.
    """
    try:
        _preflight(experiment, grid, ray_address)
    except ConfigError as error:
        return Outcome(USAGE, str(error))
    folders = folders_of(experiment)
    runs = [replace(run, trusted=True, command=_command(run, grid, ray_address)) for run in experiment.runs()]
    try:
        with ExitStack() as stack:
            if watch is not None:
                stack.enter_context(watch(folders[0]))
            if grid == "inprocess":
                _in_process(together(runs))
            elif grid == "ray":
                _on_ray(together(runs), ray_address)
            else:
                _on_flower(runs, folders, port)
    except KeyboardInterrupt:
        return Outcome(INTERRUPTED, f"interrupted; go on with: python -m simulations resume {_unfinished(folders)}", folders)
    except ConfigError as error:
        return Outcome(USAGE, str(error), folders)
    except WaitExpired as error:
        return Outcome(EXPIRED, str(error), folders)
    except Exception as error:
        if not isinstance(error, RunError | OSError):
            traceback.print_exc()  # not foreseen: the one line of the outcome is not enough to mend it
        folder = _unfinished(folders)
        again = f"; go on with: python -m simulations resume {folder}" if (folder / "config.toml").exists() else ""
        return Outcome(FAILED, f"{error or type(error).__name__}{again}", folders)
    codes = [read_status(f) for f in folders]
    worst = max(codes, key=lambda c: c[0])
    return Outcome(worst[0], worst[1], folders)


def _command(run: Experiment, grid: str, ray_address: str) -> str:
    """The command line that repeats this one run."""
    at = f" --ray-address {ray_address}" if ray_address else ""
    return run.command if "--grid" in run.command else f"{run.command} --grid {grid}{at} --seed {run.seed}"


def read_status(folder: Path) -> tuple[int, str]:
    """(exit code, reason) of a run folder; a missing ``status.json`` is itself a failure."""
    try:
        status = json.loads((folder / "status.json").read_text())
        return int(status["exit_code"]), str(status["reason"])
    except (OSError, ValueError, KeyError):
        return FAILED, f"{folder} has no status.json: the run did not end"


def _unfinished(folders: Sequence[Path]) -> Path:
    return next((f for f in folders if not (f / "summary.json").exists()), folders[-1])


def _preflight(experiment: Experiment, grid: str, ray_address: str) -> None:
    """Everything that can be known before the start. Raises: ConfigError."""
    from server.run_folder import check_folder, state_root_of
    from server.server_app import check_before_start

    if grid not in GRIDS:
        raise ConfigError(f"unknown grid {grid!r}; valid grids: {', '.join(GRIDS)}")
    if ray_address and grid != "ray":
        raise ConfigError(f"--ray-address names a cluster for --grid ray; grid {grid} runs on this machine")
    if experiment.workers > experiment.num_nodes:
        raise ConfigError(
            f"workers = {experiment.workers} but num-nodes = {experiment.num_nodes}: a node has one worker; raise num-nodes"
        )
    from fedkd.prepare import prepare

    for run in experiment.runs():
        setting = check_before_start(run)
        if grid == "ray" and setting.device.type == "cuda" and run.gpus_per_worker == 0:
            raise ConfigError(
                "a Ray worker sees the GPUs that it asked for: set gpus-per-worker (0.5 = two share one), or device = cpu"
            )
        check_folder(run)
        prepare(run, state_root_of(run))


def _in_process(experiment: Experiment) -> None:
    from server.server_app import run_all
    from simulations.grids.inprocess import InProcessGrid

    with _closing(InProcessGrid(experiment.to_run_config(), experiment.num_nodes, experiment.workers)) as grid:
        run_all(grid, experiment)


def _on_ray(experiment: Experiment, address: str) -> None:
    from server.server_app import run_all
    from simulations.grids.ray import grid_of

    with grid_of(experiment, address) as grid:
        run_all(grid, experiment)


@contextmanager
def _closing(grid: Any) -> Iterator[Any]:
    try:
        yield grid
    finally:
        grid.close()


def _on_flower(runs: Sequence[Experiment], folders: Sequence[Path], port: int) -> None:
    """Submit to a private SuperLink; where a worker died, go on from the last commit.

    Raises: RunError, WaitExpired; ConfigError for a port in use.
    """
    from simulations.grids.flower import follow, submit, superlink

    left = list(zip(runs, folders, strict=True))
    last = _progress(folders)
    lost = 0
    while True:
        mine = [folder for _, folder in left]
        with superlink(port=port) as link:
            for folder in mine:
                (folder / "status.json").unlink(missing_ok=True)
            flower_run = submit(link, together([run for run, _ in left]))
            budget = sum(run.node_wait_s + run.round_timeout_s * run.num_server_rounds for run, _ in left)
            said = follow(link, flower_run, partial(_ended, mine), budget)
            log = link.log(flower_run) if said else ""
        codes = [read_status(f) for f in mine]
        if all(code in (DONE, WITH_FAILURES) for code, _ in codes):
            return
        worker_lost = any("WorkerLost" in reason for _, reason in codes)
        lost = lost + 1 if _progress(folders) == last else 1
        last = _progress(folders)
        if not worker_lost or lost > RESUMES:
            code, reason = max(codes, key=lambda c: c[0])
            if code == EXPIRED:
                raise WaitExpired(reason)
            raise RunError(f"{reason} {said} {log[-800:]}".strip())
        print(f"a worker died; resuming from the last committed round ({lost} of {RESUMES})", file=sys.stderr, flush=True)
        left = [_again(r, f) for (r, f), (code, _) in zip(left, codes, strict=True) if code not in (DONE, WITH_FAILURES)]


def _ended(folders: Sequence[Path]) -> bool:
    """Whether every run has said how it ended, or one has failed: the runs behind it in the same start do not begin."""
    codes = [read_status(f)[0] if (f / "status.json").exists() else None for f in folders]
    return None not in codes or any(code not in (None, DONE, WITH_FAILURES) for code in codes)


def _again(run: Experiment, folder: Path) -> tuple[Experiment, Path]:
    """The run as it must be submitted again: resumed where it has begun."""
    begun = (folder / "status.json").exists() and (folder / "config.toml").exists()
    return (replace(run, resume=True, overwrite=False) if begun else run), folder


def _progress(folders: Sequence[Path]) -> list[int]:
    from fedkd.store import read_commit

    commits = [read_commit(f / "checkpoints") for f in folders]
    return [c.round if c is not None else -1 for c in commits]
