"""Run a memorization study: bases and teachers first, then students, in parallel processes; what is finished stays."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights
from torch import Tensor
from transformers import PreTrainedModel

from fedkd import rng
from fedkd.errors import ConfigError, RunError
from fedkd.language import build
from fedkd.memorization import prefilter
from fedkd.memorization_bench import Arrays, Bench, Found
from fedkd.memorization_headline import Teachers
from fedkd.memorization_plan import AFTER, ARMS, Plan, Task, read_plan
from fedkd.memorization_results import features, summarise
from fedkd.memorization_table import table
from fedkd.store import write_atomic
from fedkd.swing_plan import Net
from fedkd.verdict import check_words
from server.run_folder import write_json
from simulations.inputs import bind, inputs_of
from simulations.run import provenance
from simulations.swing import all_of

Said = Callable[[str], None]


def folder_of(plan: Plan, root: Path) -> Path:
    """Where a study's files lie."""
    return root / plan.name / plan.hash


def run(
    path: Path, root: Path, workers: int = 2, said: Said = lambda line: None, teachers: Iterable[int] | None = None
) -> Path:
    """Train what is missing of a study, then write ``memorization.json``, ``examples.csv``, ``results.md`` and the page.

    Raises: ConfigError for a wrong plan or text; RunError where a worker failed.
    """
    plan = read_plan(path)
    folder = folder_of(plan, root)
    if plan.own.teacher:
        from simulations.memorization_own import audit

        return audit(plan, path, folder, said)
    chosen = tuple(teachers) if teachers is not None else plan.teachers
    unknown = sorted(set(chosen) - set(plan.teachers))
    if unknown:
        raise ConfigError(f"{path.name} has no teacher {unknown[0]}; its teachers: {', '.join(map(str, plan.teachers))}")
    texts_sha256 = Bench(plan, chosen[0]).texts_sha256  # what is wrong with the text is said before anything is written
    bind(folder, inputs_of({}, texts_sha256), said)
    missing = [t for t in chosen if not (folder / f"t{t}-teacher.json").exists()]
    tasks = [t for t in plan.tasks() if t.teacher in chosen and not (folder / f"{t.stem}.json").exists()]
    said(f"{len(missing)} teachers and {len(tasks)} students to train, {workers} processes")
    all_of(_teacher, [(str(path), str(folder), t) for t in missing], workers, said)
    for part in ([t for t in tasks if t.arm not in AFTER], [t for t in tasks if t.arm in AFTER]):
        all_of(_student, [(str(path), str(folder), t) for t in part], workers, said)
    write_results(plan, path, folder)
    return folder


def write_results(plan: Plan, path: Path, folder: Path) -> dict[str, Any]:
    """The tables, the page and the examples of all that is finished so far.

    Raises: RunError where no teacher has a baseline and a student yet.
    """
    loaded = {t: load_teacher(plan, folder, t) for t in plan.teachers if (folder / f"t{t}-teacher.json").exists()}
    ready = {t: own for t, own in loaded.items() if {("baseline", plan.seeds[0]), ("student", plan.seeds[0])} <= set(own[1])}
    if not ready:
        raise RunError(f"{folder} has no teacher with a baseline and a student yet")
    done = sum((folder / f"{t.stem}.json").exists() for t in plan.tasks())
    return publish(plan, path, folder, ready, {"finished": [done, len(plan.tasks())]})


def publish(plan: Plan, path: Path, folder: Path, teachers: Teachers, more: dict[str, Any]) -> dict[str, Any]:
    """Write ``memorization.json``, ``results.md``, ``examples.csv`` and ``report.html``; returns the summary."""
    from fedkd.report.memorization import page

    commits = {str(f.facts.get("provenance", "")) for _, models in teachers.values() for f in models.values()}
    summary: dict[str, Any] = plain(
        {
            **summarise(plan, teachers),
            "name": plan.name,
            "hash": plan.hash,
            "command": f"python -m simulations run configs/{path.name}",
            "provenance": sorted(commits - {""}),
            **more,
        }
    )
    write_json(folder / "memorization.json", summary)
    write_atomic(folder / "results.md", check_words(table(summary)).encode())
    write_atomic(folder / "examples.csv", examples(plan, teachers).encode())
    write_atomic(folder / "report.html", check_words(page(summary)).encode())
    return summary


def load_teacher(plan: Plan, folder: Path, teacher: int) -> tuple[Arrays, dict[tuple[str, int], Found]]:
    """What is known of a teacher's passages, and the finished models: (model, seed) -> file."""
    beside = [name for name in ("base", "base_large", "teacher", "teacher_stopped") if _done(folder, f"t{teacher}-{name}")]
    models = {(name, 0): read(folder, f"t{teacher}-{name}") for name in beside}
    for task in plan.tasks():
        if task.teacher == teacher and _done(folder, task.stem):
            models[task.arm, task.seed] = read(folder, task.stem)
    return _arrays(folder / f"t{teacher}-passages.npz"), models


def _done(folder: Path, stem: str) -> bool:
    """Trained to the end (a student that cannot be has no arrays)."""
    return (folder / f"{stem}.npz").exists() and (folder / f"{stem}.json").exists()


def plain(value: Any) -> Any:
    """What strict JSON can hold: NaN as null (there is no such number), an infinite one as "inf" (no copies are enough)."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    return "inf" if value in (float("inf"), float("-inf")) else value


def read(folder: Path, stem: str) -> Found:
    """One model's file. Raises: OSError."""
    return Found(json.loads((folder / f"{stem}.json").read_text(encoding="utf-8")), _arrays(folder / f"{stem}.npz"))


def examples(plan: Plan, teachers: Teachers) -> str:
    """One row per passage: hash, cluster, copies, stratum, the features, rank and log p_z per model; no string of a text."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    models = sorted({key for _, own in teachers.values() for key in own})
    names = [f"{name}-{seed}" for name, seed in models]
    writer.writerow(["teacher", "id", "cluster", "copies", "stratum", "teacher_ppl", "baseline_ppl", "kld", "zlib_entropy",
                     *(f"{n}:{w}" for n in names for w in ("memorized", "rank", "log_pz"))])  # fmt: skip
    for teacher, (about, own) in teachers.items():
        four = features(about, own, plan.seeds[0]) if ("baseline", plan.seeds[0]) in own else None
        for i in range(len(about["copies"])):
            row: list[Any] = [teacher, about["id"][i], about["cluster"][i], about["copies"][i], about["stratum"][i]]
            row += ["", "", "", about["zlib_entropy"][i]] if four is None else [f"{v:.5g}" for v in four[i]]
            for key in models:
                found = own.get(key)
                row += ["", "", ""] if found is None else _cells(found.arrays, i)
            writer.writerow(row)
    return content.getvalue()


def _cells(arrays: Arrays, i: int) -> list[Any]:
    return [int(arrays["hits"][i]), int(arrays["rank"][i]), f"{arrays['log_pz'][i]:.4f}"]


# ----- workers -----------------------------------------------------------------------------------------------------------
def _teacher(path: str, folder: str, teacher: int) -> str:
    """Both bases, the teacher and its chosen epoch."""
    bench, where = _bench(path, folder, teacher), Path(folder)
    plan = bench.plan
    with torch.random.fork_rng():
        _save_arrays(where / f"t{teacher}-passages.npz", bench.described())
        small = bench.base(plan.student, plan.student_pool_rate, "student")
        _keep(where, f"t{teacher}-base", bench.measure(small, {}, {"model": "base"}), dict(small.state_dict()))
        model = bench.base(plan.teacher, plan.teacher_pool_rate, "teacher")
        _keep(where, f"t{teacher}-base_large", bench.measure(model, {}, {"model": "base_large"}), None)
        full, stopped, weights = bench.train_teacher(model)
        if stopped is not None:
            _keep(where, f"t{teacher}-teacher_stopped", stopped, weights)
        if "scout" in plan.arms:
            scout = bench.base(plan.scout, plan.student_pool_rate, "scout")
            write_atomic(where / f"t{teacher}-base_scout.safetensors", _bytes(dict(scout.state_dict())))
        _keep(where, f"t{teacher}-teacher", full, dict(model.state_dict()))
    return f"teacher {teacher}: {full.facts['memorized']} of {len(bench.passages)} memorized, {full.facts['seconds']:.0f} s"


def _student(path: str, folder: str, task: Task) -> str:
    bench, where, arm = _bench(path, folder, task.teacher), Path(folder), ARMS[task.arm]
    if not (where / f"t{task.teacher}-{arm.teacher}.safetensors").exists():
        return _none(where, task, "no epoch of the teacher memorizes enough")
    net, base = (bench.plan.scout, "base_scout") if arm.net == "scout" else (bench.plan.student, "base")
    fresh = _model(bench, net, where / f"t{task.teacher}-{base}.safetensors")
    teacher = _model(bench, bench.plan.teacher, where / f"t{task.teacher}-{arm.teacher}.safetensors")
    kept = _kept(bench, where, task) if arm.transfer in ("filtered", "random") else None
    if kept is not None and kept.all():
        return _none(where, task, "the scout memorizes nothing, so nothing is predicted")
    with torch.random.fork_rng():
        found = bench.student(task, fresh, teacher, kept)
    if kept is not None:
        found.facts["removed"] = int((~kept).sum())
    _keep(where, task.stem, found, None)
    n, seconds = found.facts["memorized"], found.facts["seconds"]
    return f"{task.stem}: {n} memorized, held-out loss {found.facts['held_out_loss']:.3f}, {seconds:.0f} s"


def _none(folder: Path, task: Task, why: str) -> str:
    """A student that cannot be: its file says why, and it is not tried again."""
    write_json(folder / f"{task.stem}.json", {"model": task.arm, "none": why})
    return f"{task.stem}: n/a, {why}"


def _kept(bench: Bench, folder: Path, task: Task) -> Any:
    """[N] the passages that stay: those that the scout's predictor does not call, or as many at random."""
    about, models = load_teacher(bench.plan, folder, task.teacher)
    stream = rng.experiment(task.teacher, "memorization filter")
    scout = models["scout", task.seed].arrays["hits"]
    if not scout.any():
        return ~scout
    called = prefilter(features(about, models, bench.plan.seeds[0]), scout, stream)
    if ARMS[task.arm].transfer == "random":
        called = called[stream.permutation(len(called))]
    return ~called


@cache
def _bench(path: str, folder: str, teacher: int) -> Bench:
    plan = read_plan(Path(path))
    if plan.hash != Path(folder).name:
        raise RunError(f"{path} was changed while the study ran; start it again")
    return Bench(plan, teacher)


def _model(bench: Bench, net: Net, file: Path) -> PreTrainedModel:
    model = build(net.size(bench.tokens.vocabulary, bench.plan.text.width + 1), 0)
    model.load_state_dict(load_weights(file.read_bytes()))
    return model


def _keep(folder: Path, stem: str, found: Found, weights: dict[str, Tensor] | None) -> None:
    """Arrays and weights first: the JSON file says that a model is finished."""
    if weights is not None:
        write_atomic(folder / f"{stem}.safetensors", _bytes(weights))
    _save_arrays(folder / f"{stem}.npz", found.arrays)
    write_json(folder / f"{stem}.json", plain({**found.facts, "provenance": provenance()}))


def _bytes(weights: dict[str, Tensor]) -> bytes:
    return bytes(save_weights({n: v.detach().clone().contiguous() for n, v in weights.items()}))


def _save_arrays(path: Path, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomic(path, content.getvalue())


def _arrays(path: Path) -> Arrays:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
