"""One client's job by each way of training: what is compared, and the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.speed import page, steps, workloads
from fedkd import plugins


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[steps.Setting, list[steps.Job]]:
    return steps.jobs(workloads.W3, Path(tmp_path_factory.mktemp("steps")))


def test_every_way_trains_the_workloads_own_jobs(cohort: tuple[steps.Setting, list[steps.Job]]) -> None:
    setting, jobs = cohort
    assert [(len(job.y), job.batch_size, job.epochs) for job in jobs] == [(50, 10, 1)] * steps.COHORT
    named = dict(steps.ways(setting))
    assert (
        {"loop, all layers by autograd", "loop", "stacked"}
        <= set(named)
        <= {*plugins.available("executors"), next(iter(named))}
    )
    first, *_ = (outcome for _, outcome in named["loop"](jobs))
    assert any(not torch.equal(first[n], jobs[0].params[n]) for n in first)


def test_each_way_has_its_row_and_ends_where_the_tape_ends() -> None:
    rows = steps.measure([workloads.W3], turns=2, seconds=0.0)
    assert [r["way"] for r in rows][:2] == ["loop, all layers by autograd", "loop"]
    assert all(0 < r["ms_min"] <= r["ms"] <= r["ms_max"] for r in rows)
    assert [r["gap"] for r in rows][:2] == [0.0, 0.0]
    assert all(r["counts"] for r in rows)


def test_a_way_that_ends_elsewhere_does_not_count(
    cohort: tuple[steps.Setting, list[steps.Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: an executor that trains nothing, and one whose jobs fail."""

    def lazy(jobs: list[steps.Job]) -> list[object]:
        return [(job, job.params) for job in jobs]

    monkeypatch.setattr(
        steps, "ways", lambda setting: [("lazy", lazy), ("broken", lambda jobs: [(j, OSError()) for j in jobs])]
    )
    lazy_row, broken = steps.measure([workloads.W3], turns=1, seconds=0.0)
    assert lazy_row["gap"] > 1e-3
    assert broken["gap"] == float("inf")
    assert not lazy_row["counts"] and not broken["counts"]


@pytest.mark.parametrize("workload", [workloads.W1, workloads.W4], ids=lambda w: w.key)
def test_where_stacked_ends_elsewhere_float32_rounding_decided(workload: workloads.Workload, tmp_path: Path) -> None:
    """In float32 one of these clients parts from ``loop`` by more than the tolerance; in float64 none does."""
    _, jobs = steps.jobs(workload, tmp_path)
    wide = [replace(j, params={n: v.double() for n, v in j.params.items()}, x=j.x.double()) for j in jobs]
    stacked, loop = (plugins.find("executors", name) for name in ("stacked", "loop"))
    assert max(steps.apart(list(stacked.run(wide)), list(loop.run(jobs)))) < 1e-6


def test_the_table_compares_with_the_first_way_of_each_workload() -> None:
    def row(workload: str, way: str, ms: float, gap: float = 0.0) -> dict[str, object]:
        spent = {"ms": ms, "ms_min": ms / 2, "ms_max": ms * 2}
        return {"workload": workload, "way": way, **spent, "gap": gap, "counts": gap < 1e-5}

    text = page.step_table([row("W1", "a", 10.0), row("W1", "b", 4.0, 3e-7), row("W1", "c", 1.0, 0.5), row("W3", "a", 1.0)])
    assert text.splitlines()[2:] == [
        "| W1 | a | 10 (5 to 20) | 1.00 | 0e+00 |", "| W1 | b | 4 (2 to 8) | 2.50 | 3e-07 |",
        "| W1 | c | does not count | - | 5e-01 |", "| W3 | a | 1 (0.5 to 2) | 1.00 | 0e+00 |",
    ]  # fmt: skip
