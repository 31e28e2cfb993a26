"""Train the shadow models of a plan in parallel worker processes; what is finished is never trained again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedkd.errors import RunError
from fedkd.shadows import folder_of, missing, read_plan, train_missing
from simulations.grids.dispatch import ONE_THREAD

POLL = 0.5
"""Seconds between two looks at the folder."""


def train(path: Path, root: Path, workers: int, said: Callable[[int, int], None] = lambda done, of: None) -> Path:
    """Train every model of the plan that is missing and return their folder.

    Args:
        path: the plan (``fedkd.shadows.read_plan``).
        workers: processes, each with one thread.
        said: called with (finished, all) whenever a model is finished.

    Raises: ConfigError for a wrong plan; RunError where a worker failed.
    """
    plan = read_plan(path)
    left = len(missing(plan, root))
    said(plan.models - left, plan.models)
    if workers <= 1 or left <= 1:
        for _ in train_missing(plan, root):
            said(plan.models - len(missing(plan, root)), plan.models)
        return folder_of(plan, root)
    count = min(workers, left)
    processes = [_start(path, root, k, count) for k in range(count)]
    try:
        seen = plan.models - left
        while any(p.poll() is None for p in processes):
            time.sleep(POLL)
            done = plan.models - len(missing(plan, root))
            if done > seen:
                said(done, plan.models)
                seen = done
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.wait()
    failed = [p.returncode for p in processes if p.returncode]
    if failed or missing(plan, root):
        raise RunError(f"{len(failed)} of {count} workers failed (see above); the same command goes on with what is missing")
    return folder_of(plan, root)


def _start(path: Path, root: Path, k: int, n: int) -> subprocess.Popen[bytes]:
    checkout = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": checkout}
    command = [sys.executable, "-m", "simulations.shadows", str(path.resolve()), str(root.resolve()), str(k), str(n)]
    return subprocess.Popen(command, env=environment, cwd=checkout)


def _share(path: str, root: str, k: str, n: str) -> None:
    for _ in train_missing(read_plan(Path(path)), Path(root), (int(k), int(n))):
        pass


if __name__ == "__main__":
    _share(*sys.argv[1:])
