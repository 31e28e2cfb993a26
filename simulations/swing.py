"""Run a swing study: teachers first, then students, in parallel processes; what is finished is never trained again."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights
from transformers import PreTrainedModel

from clients.cohort import one_thread
from fedkd.errors import ConfigError, RunError
from fedkd.store import write_atomic
from fedkd.swing import Bench
from fedkd.swing_arms import ARMS
from fedkd.swing_plan import Plan, Task, read_plan
from fedkd.swing_results import summarise, table
from fedkd.verdict import check_words
from server.run_folder import write_json
from simulations.inputs import bind, inputs_of
from simulations.pool import worker
from simulations.run import provenance

Said = Callable[[str], None]


def folder_of(plan: Plan, root: Path) -> Path:
    """Where a study's files lie."""
    return root / plan.name / plan.hash


def run(path: Path, root: Path, workers: int = 2, said: Said = lambda line: None, seeds: Iterable[int] | None = None) -> Path:
    """Train what is missing of a study, then write ``summary.json``, ``results.md`` and the page. Returns the folder.

    Raises: ConfigError for a wrong plan or text; RunError where a worker failed.
    """
    plan = read_plan(path)
    folder = folder_of(plan, root)
    chosen = tuple(seeds) if seeds is not None else plan.seeds
    unknown = sorted(set(chosen) - set(plan.seeds))
    if unknown:
        raise ConfigError(f"{path.name} has no seed {unknown[0]}; its seeds: {', '.join(map(str, plan.seeds))}")
    read = [Bench(plan, seed).texts_sha256 for seed in chosen]  # what is wrong with them is said before anything is written
    bind(folder, inputs_of({"teacher": plan.teacher.folder, "student": plan.student.folder}, read[0]), said)
    tasks = [t for t in plan.tasks() if t.seed in chosen]
    students = [t for t in tasks if not (folder / f"{t.stem}.json").exists()]
    teachers = sorted({(t.seed, kind) for t in students for kind in needed(t)})
    missing = [(s, k) for s, k in teachers if not (folder / f"s{s}-{k}.safetensors").exists()]
    said(f"{len(missing)} teachers and {len(students)} students to train, {workers} processes")
    all_of(_teacher, [(str(path), str(folder), s, k) for s, k in missing], workers, said)
    for line in _flat_enough(plan, folder):
        said(line)
    all_of(_student, [(str(path), str(folder), t) for t in students], workers, said)
    results = [json.loads((folder / f"{t.stem}.json").read_text(encoding="utf-8")) for t in tasks]
    write_results(plan, path, folder, results)
    return folder


def _flat_enough(plan: Plan, folder: Path) -> list[str]:
    """A warning for each teacher whose largest logit gap is above half of T_hi (specs: swing, section 1)."""
    found = []
    for file in sorted(folder.glob("*-private-teacher.json")):
        gaps = json.loads(file.read_text(encoding="utf-8")).get("logit_gaps") or {}
        if gaps and plan.protection.temperature_high < 2 * max(gaps.values()):
            found.append(
                f"warning: temperature_high = {plan.protection.temperature_high:g} is below twice the teacher's logit gap of "
                f"{max(gaps.values()):.1f} nats at secrets"
            )
    return found


def read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json`` of a finished study. Raises: OSError."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def needed(task: Task) -> tuple[str, ...]:
    """The teachers that a student's lesson reads."""
    arm = ARMS[task.arm]
    if arm.source == "none":
        return ()
    if arm.source == "control":
        return ("control",)
    return ("private", "public") if arm.source == "public" else ("private",)


def write_results(plan: Plan, path: Path, folder: Path, results: list[dict[str, Any]]) -> None:
    """``summary.json``, ``results.md`` and ``report.html`` of a study."""
    from fedkd.report.swing import page

    teachers = {}
    for file in sorted(folder.glob("*-teacher.json")):
        teachers[file.stem.removesuffix("-teacher")] = json.loads(file.read_text(encoding="utf-8"))
    summary = {
        **summarise(results),
        "name": plan.name,
        "hash": plan.hash,
        "command": f"python -m simulations run configs/{path.name}",
        "provenance": sorted({str(r.get("provenance", "")) for r in results}),
        "teachers": teachers,
        "token_map": next((r["token_map"] for r in results if r.get("token_map")), []),
    }
    write_json(folder / "summary.json", strict(summary))
    write_atomic(folder / "results.md", check_words(table(summary)).encode())
    write_atomic(folder / "report.html", check_words(page(plan, summary)).encode())


def strict(value: Any) -> Any:
    """NaN (an interval of one seed) as null."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def all_of(function: Callable[..., str], jobs: list[Any], workers: int, said: Said) -> None:
    """Run jobs in that many processes of one thread, in this one where one is enough. Raises: RunError where one failed."""
    if not jobs:
        return
    if workers == 1:
        one_thread()
        for done, job in enumerate(jobs, 1):
            try:
                said(f"{done} of {len(jobs)}: {function(*job)}")
            except Exception as error:
                raise _failed(error) from error
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"), initializer=worker) as pool:
        waiting = [pool.submit(function, *job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                said(f"{done} of {len(jobs)}: {future.result()}")
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Exception):
                raise _failed(error) from error
            raise


def _failed(error: Exception) -> RunError:
    return RunError(f"{type(error).__name__}: {error}; the same command goes on with what is missing")


@cache
def _bench(path: str, folder: str, seed: int) -> Bench:
    plan = read_plan(Path(path))
    if plan.hash != Path(folder).name:
        raise RunError(f"{path} was changed while the study ran; start it again")
    return Bench(plan, seed)


@cache
def _loaded(path: str, folder: str, seed: int, kind: str) -> PreTrainedModel:
    bench = _bench(path, folder, seed)
    model = bench.fresh_model(bench.plan.teacher, "teacher")
    weights = load_weights((Path(folder) / f"s{seed}-{kind}.safetensors").read_bytes())
    model.load_state_dict(weights)
    return model


def _teacher(path: str, folder: str, seed: int, kind: str) -> str:
    bench = _bench(path, folder, seed)
    model = bench.train_teacher(kind)
    facts = bench.audit(model) if kind != "public" else {"perplexity": bench.audit(model)["perplexity"]}
    if kind == "private":
        facts["logit_gaps"] = bench.logit_gaps(model)
    write_json(Path(folder) / f"s{seed}-{kind}-teacher.json", {"schema": 1, "seed": seed, "kind": kind, **facts})
    tensors = {n: v.clone().contiguous() for n, v in model.state_dict().items()}
    write_atomic(Path(folder) / f"s{seed}-{kind}.safetensors", save_weights(tensors))
    return f"teacher {kind} of seed {seed}, perplexity {facts['perplexity']:.2f}"


def _student(path: str, folder: str, task: Task) -> str:
    bench = _bench(path, folder, task.seed)
    with torch.random.fork_rng():
        result = bench.student(task, lambda kind: _loaded(path, folder, task.seed, kind))
    write_json(Path(folder) / f"{task.stem}.json", strict({**result, "provenance": provenance()}))
    planted = [c["bits"] for c in result["canaries"] if c["copies"] > 0]
    mean = sum(planted) / max(1, len(planted))
    return f"{task.stem}: {mean:.2f} bits, perplexity {result['perplexity']:.2f}"
