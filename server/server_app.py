"""The ServerApp: resolve the experiment, meet the nodes, run every seed, leave a run folder that says how it ended."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from clients.cohort import one_thread
from fedkd import guarantees, outgoing, plugins
from fedkd import setting as settings
from fedkd.config import Experiment, experiment_from, parse_args
from fedkd.errors import ConfigError, RunError, WaitExpired
from fedkd.prepare import Prepared, data_hash, open_data, prepare
from fedkd.setting import Setting
from fedkd.store import Commit, Lines, read_commit
from fedkd.types import Array
from fedkd.vault import Vault
from server.nodes import Hello, greet, place, wait_for_nodes
from server.run_folder import JSONL, open_folder, run_id, state_root_of, write_json, write_start
from server.strategy import MethodStrategy, OnRound
from server.summary import charges, summarize

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry: the run config is the experiment; a failure is raised so that Flower marks the run as failed."""
    run_all(grid, experiment_from(context.run_config), on_round=print_round)


def run_all(grid: Grid, experiment: Experiment, on_round: OnRound | None = None) -> list[Path]:
    """Run each variant and seed in order and return the run folders.

    Raises: ConfigError before anything starts; RunError, WaitExpired or OSError after writing ``status.json``.
    """
    one_thread()
    folders: list[Path] = []
    runs = experiment.runs()
    for run in runs:
        check_before_start(run)
    for index, run in enumerate(runs):
        folder = open_folder(run)
        folders.append(folder)
        _guarded(folder, partial(_run, grid, run, index, folder, on_round))
    return folders


def check_before_start(experiment: Experiment) -> Setting:
    """Build the setting from the data set's declared shape alone. Raises: ConfigError."""
    module = plugins.find("data", experiment.data_name)
    spec = module.spec(parse_args(experiment.data_args, module.Config, "data.args"))
    data_hash(experiment)
    return settings.build(experiment, spec.shape, spec.classes)


def _guarded(folder: Path, work: Callable[[], None]) -> None:
    """Run, and leave ``status.json`` with the exit code whatever happens."""
    try:
        work()
    except ConfigError as error:
        _status(folder, 2, "refused", error)
        raise
    except WaitExpired as error:
        _status(folder, 4, "failed", error)
        raise
    except (RunError, OSError) as error:
        _status(folder, 1, "failed", error)
        raise
    except KeyboardInterrupt:
        _status(folder, 130, "interrupted", RunError("interrupted"))
        raise
    except Exception as error:
        _status(folder, 1, "failed", error)
        raise


def _status(folder: Path, code: int, status: str, error: BaseException | None) -> None:
    reason = "" if error is None else f"{type(error).__name__}: {error}"
    try:
        write_json(folder / "status.json", {"schema": 1, "exit_code": code, "status": status, "reason": reason})
    except OSError:
        print(f"cannot write {folder / 'status.json'}: {reason}", file=sys.stderr, flush=True)


def _run(grid: Grid, experiment: Experiment, index: int, folder: Path, on_round: OnRound | None) -> None:
    started = time.perf_counter()
    (folder / "status.json").unlink(missing_ok=True)
    nodes = wait_for_nodes(grid, experiment.num_nodes, experiment.node_wait_s)
    hellos = greet(grid, nodes, index, experiment.node_wait_s)
    data, sizes = _data(experiment, hellos)
    setting = check_before_start(experiment)
    home = place(hellos, experiment.num_clients, sizes)
    commit = read_commit(folder / "checkpoints") if experiment.resume else None
    resumed_at = commit.round + 1 if commit is not None else 0
    commit = commit or Commit.empty(experiment.num_clients, setting.module.init(setting))
    lines = Lines(folder, JSONL, commit.offsets)
    if not experiment.resume or not (folder / "environment.json").exists():
        write_start(folder, experiment, data, _facts(grid, hellos, data))
    run = run_id(experiment)
    vault = Vault(state_root_of(experiment) / run / "server")
    strategy = MethodStrategy(
        setting,
        [h.node for h in hellos],
        home,
        sizes,
        run,
        index,
        commit,
        lines,
        folder,
        vault,
        on_round,
        movable=not any(h.clients for h in hellos),
    )
    strategy.start(grid)
    _finish(experiment, setting, strategy, folder, time.perf_counter() - started, resumed_at)


def _data(experiment: Experiment, hellos: list[Hello]) -> tuple[Prepared | None, Array | None]:
    """Prepared data in simulation; on real devices only the sizes that the nodes reported.

    Raises: RunError where nodes disagree about data or, in simulation, about the state root.
    """
    if any(h.clients for h in hellos):
        sizes = np.zeros(experiment.num_clients, np.int64)
        for hello in hellos:
            for client, size in zip(hello.clients, hello.sizes, strict=True):
                if 0 <= client < experiment.num_clients:
                    sizes[client] = size
        return None, sizes
    roots, hashes = {h.state_root for h in hellos}, {h.data_hash for h in hellos}
    own = (str(state_root_of(experiment)), data_hash(experiment))
    if roots != {own[0]} or hashes != {own[1]}:
        raise RunError(f"nodes use state roots {sorted(roots)} and data {sorted(hashes)}; the server uses {own}")
    data = open_data(prepare(experiment, state_root_of(experiment)))
    return data, data.sizes


def _facts(grid: Grid, hellos: list[Hello], data: Prepared | None) -> dict[str, Any]:
    """What ``environment.json`` says about grid and data."""
    pins = data.meta["spec"]["sha256"] if data is not None else {}
    return {"grid": getattr(grid, "name", "flower"), "data_hash": hellos[0].data_hash, "data_sha256": dict(pins)}


def _finish(
    experiment: Experiment, setting: Setting, strategy: MethodStrategy, folder: Path, seconds: float, resumed_at: int
) -> None:
    """``summary.json``, the report, ``status.json``; a report error is logged and fails nothing."""
    failures = int(strategy.commit.counters.get("failures", 0))
    blocks = [f"block{i}" for i in range(1, setting.model.blocks + 1)] + ["classifier"]
    summary = summarize(experiment, folder, strategy.commit.final_sha256(), failures, seconds, resumed_at, blocks)
    said = outgoing.notes(setting)
    if said:
        summary["mechanism"] = {**said, **charges(folder)}
    summary["guarantee"], summary["privacy"] = guarantees.privacy(setting, *strategy.ledgers())
    write_json(folder / "summary.json", summary)
    try:
        if experiment.report:
            from fedkd.report import build

            build(folder)
    except Exception as error:  # the report is a view of what is already on disk
        print(f"report not written: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    over = failures > experiment.max_failures
    _status(folder, 3 if over else 0, "completed", RunError(f"{failures} client-rounds failed") if over else None)


def print_round(row: dict[str, Any]) -> None:
    """One plain line a round, for ``flwr run --stream``."""
    shown = {
        k: row.get(k) for k in ("accuracy_mean", "accuracy_worst_decile", "clients_trained", "clients_failed", "level", "cut")
    }
    print(f"round {row['round'] + 1}: " + json.dumps(shown), flush=True)
