"""One client's job on one thread, by each way of training that fedkd has: what is left of a client without its messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch

from benchmarks.speed import page, workloads
from benchmarks.speed.reference import TOLERANCE
from benchmarks.speed.workloads import Workload
from fedkd import plugins, train
from fedkd.errors import ConfigError
from fedkd.prepare import open_data, prepare
from fedkd.setting import Setting
from fedkd.train import Job
from fedkd.types import Broadcast
from server.server_app import check_before_start

TURNS, SECONDS = 9, 0.25
"""Each way has so many turns, interleaved, of at least so many seconds."""
COHORT = 4
"""Jobs that are trained together: what ``stacked`` takes at once on a CPU."""


def jobs(workload: Workload, folder: Path) -> tuple[Setting, list[Job]]:
    """The jobs of the first clients of a workload's first round."""
    run = workloads.experiment(workload, 1, folder, folder, 1)
    setting, data = check_before_start(run), open_data(prepare(run, folder))
    own = [Broadcast(0, n, {}, {}) for n in range(COHORT)]
    return setting, [setting.module.prepare(setting, {}, b, data.client(b.client)) for b in own]


def ways(setting: Setting) -> list[tuple[str, Callable[[list[Job]], list[Any]]]]:
    """(name, how it trains a cohort): ``loop`` with autograd's tape, then every executor that can run the setting here."""
    found: list[tuple[str, Callable[[list[Job]], list[Any]]]] = [("loop, all layers by autograd", _taped)]
    for name in plugins.available("executors"):
        executor = plugins.find("executors", name)
        try:
            getattr(executor, "check", lambda setting: None)(setting)
        except ConfigError:
            continue
        found.append((name, lambda cohort, run=executor.run: list(run(cohort))))
    return found


def _taped(cohort: list[Job]) -> list[Any]:
    with mock.patch.object(train, "chain_of", return_value=None):
        return list(plugins.find("executors", "loop").run(cohort))


def measure(chosen: list[Workload], turns: int = TURNS, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """One row per workload and way: milliseconds per client, the median of the turns with the least and the largest.

    A row counts where every client ends within ``TOLERANCE`` of what autograd's tape gives.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for workload in chosen:
        with TemporaryDirectory() as place:
            setting, cohort = jobs(workload, Path(place))
            taken: dict[str, list[float]] = {}
            gaps = {name: apart(_taped(cohort), work(cohort)) for name, work in ways(setting)}
            for turn in range(turns + 1):
                for name, work in ways(setting):
                    took = _one(work, cohort, seconds if turn else 0.0)
                    taken.setdefault(name, []).extend([took] if turn else [])  # the first turn warms up
        for name, values in taken.items():
            each = [1e3 * v for v in values]
            spent = {"ms": median(each), "ms_min": min(each), "ms_max": max(each)}
            said = {"gap": max(gaps[name]), "gaps": gaps[name], "counts": max(gaps[name]) <= TOLERANCE}
            rows.append({"workload": workload.key, "way": name, **spent, **said})
    return rows


def apart(left: list[Any], right: list[Any]) -> list[float]:
    """Largest absolute difference of any trained parameter, by client; infinite where one failed."""
    return [
        float("inf")
        if isinstance(one, Exception) or isinstance(other, Exception)
        else max(float((one[n] - other[n]).abs().max()) for n in one)
        for (_, one), (_, other) in zip(left, right, strict=True)
    ]


def _one(work: Callable[[list[Job]], list[Any]], cohort: list[Job], seconds: float) -> float:
    """Seconds per client over repetitions that last at least ``seconds``."""
    started, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - started < seconds:
        work(cohort)
        count += len(cohort)
    return (time.perf_counter() - started) / count


CHOSEN = [workloads.W1, workloads.W3, workloads.W4]
"""One workload per net."""

if __name__ == "__main__":
    measured = measure(CHOSEN)
    print(page.step_table(measured))
    for row in measured:
        print(f"{row['workload']} {row['way']}: gap of each client {', '.join(f'{g:.0e}' for g in row['gaps'])}")
