"""Several clients at once: ``torch.func`` gradients of the jobs' pure loss, mapped over stacked parameters.

Clients whose jobs differ in values alone (same loss, shapes, steps and step sizes) form a bucket and take each step together.
Batches of unequal rows are filled up with a row of their own client; a mask keeps these out of every mean. For GPUs: all rows
of a bucket lie on the device, and its epochs are one CUDA graph (``fedkd.cuda_graph``). On CPU it is slower than ``loop``
for convolutions. Results are those of ``loop`` up to float32 rounding. A bucket is filled up with copies of its first client:
on CPU the bits of a client depend on how many share a step, not on which (a test), so that law 1 holds here too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from fedkd import outgoing
from fedkd.backward import CrossEntropy
from fedkd.cuda_graph import Graphs
from fedkd.errors import ConfigError
from fedkd.jobs import cross_entropy
from fedkd.layers import Params
from fedkd.setting import Setting
from fedkd.train import ROWS, BatchLoss, Job, to_tensors
from fedkd.types import Array

WIDTH = {"cpu": 4, "cuda": 64}
"""Clients that take a step together. On CPU they share a core's cache, and every step has exactly as many."""
WINDOW = 4
"""Buckets' worth of clients that are staged before they train: sizes differ, and few would have equal steps."""

_graphs = Graphs()
Outcome = dict[str, Tensor] | Exception


def check(setting: Setting) -> None:
    """Raises: ConfigError naming what this executor cannot run, before a run starts."""
    instead = 'use executor.name = "loop"'
    if setting.model.has_batch_norm:
        raise ConfigError(f'executor stacked: BatchNorm updates its statistics in place; {instead}, or norm = "group"')
    if not getattr(setting.module, "PURE_LOSS", True):
        raise ConfigError(f"executor stacked: method {setting.experiment.method_name} has no pure loss; {instead}")
    for s in outgoing.each(setting):
        neutral = outgoing.hook(s, "neutral")
        if outgoing.hook(s, "local") is not None and not (neutral and neutral(s)):
            name = s.mechanism.module.__name__.rpartition(".")[2]
            raise ConfigError(f"executor stacked: mechanism {name} replaces the local steps; {instead}")
    try:
        _try_losses(setting)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        model, loss = setting.experiment.model_name, setting.experiment.loss_name
        raise ConfigError(f"executor stacked cannot map model {model} and loss {loss} ({said}); {instead}") from None


def _try_losses(setting: Setting) -> None:
    """Map model and losses over two clients without data, on the CPU."""
    params = {n: torch.stack([v, v]) for n, v in to_tensors(setting.initial(), torch.device("cpu")).items()}
    supervised, x = cross_entropy(setting), torch.zeros(2, 2, *setting.model.shape)

    def loss(params: Params, x: Tensor) -> Tensor:
        out = setting.model.forward(params, x, train=True)[1]
        labels = torch.zeros(2, dtype=torch.int64)
        return (supervised(params, x, labels, {}) + setting.distillation(out, torch.zeros_like(out), None)).mean()

    trained = {n: v for n, v in params.items() if n in setting.model.parameter_names}
    vmap(grad(loss))(trained, x)


def run(jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Train the jobs and yield each with its trained parameters (detached, on the job's device), in the order given.

    A job that raises is yielded with its exception: one client's failure does not end its cohort.
    """
    stream = iter(jobs)
    while first := next(stream, None):
        width = WIDTH.get(first.x.device.type, 4)
        window = [first, *itertools.islice(stream, WINDOW * width - 1)]
        outcomes: dict[int, Outcome] = {}
        for bucket in buckets(window):
            for start in range(0, len(bucket), width):
                part = bucket[start : start + width]
                outcomes.update(zip(part, _isolated([window[i] for i in part], width), strict=True))
        for position, job in enumerate(window):
            yield job, outcomes.pop(position)


def buckets(jobs: Sequence[Job]) -> list[list[int]]:
    """Positions of jobs that take their steps together."""
    found: dict[Hashable, list[int]] = {}
    for position, job in enumerate(jobs):
        found.setdefault((form(job), job.learning_rate, len(batches(job))), []).append(position)
    return list(found.values())


def batches(job: Job) -> list[Array]:  # [b] each, 1 <= b <= batch_size
    """The rows of every step."""
    passes = [order[order >= 0] for order in job.order] if len(job.y) else []
    return [own[i : i + job.batch_size] for own in passes for i in range(0, len(own), job.batch_size)]


def form(job: Job) -> Hashable:
    """What must agree for the steps of two jobs to be one function of other values."""

    def shapes(tensors: Mapping[str, Tensor], first: int) -> Hashable:
        return tuple((n, v.shape[first:], v.dtype) for n, v in tensors.items())

    steps = (job.momentum, job.weight_decay, job.batch_size, job.noisy is None)
    data = (job.x.shape[1:], job.x.dtype, shapes(job.targets, 1), job.x.device)
    return (_loss_key(job.loss), job.trainable, shapes(job.params, 0), data, steps)


def _loss_key(loss: BatchLoss) -> Hashable:
    """Equal for closures that one line of code made over equal numbers and the same objects (methods make one per client)."""
    if isinstance(loss, CrossEntropy):
        return loss
    code, cells = getattr(loss, "__code__", None), getattr(loss, "__closure__", None) or ()
    if code is None or getattr(loss, "__defaults__", None) or getattr(loss, "__kwdefaults__", None):
        return id(loss)
    return (code, *(_value_key(cell.cell_contents) for cell in cells))


def _value_key(value: Any) -> Hashable:
    if isinstance(value, tuple):
        return tuple(_value_key(v) for v in value)
    return (type(value), value) if isinstance(value, bool | int | float | str | None) else id(value)


def _isolated(jobs: list[Job], width: int) -> list[Outcome]:
    """The outcomes of jobs that share a bucket; where it fails as a whole, each job's alone."""
    exact = jobs[0].x.device.type == "cpu"
    filled = width if exact else min(width, 1 << (len(jobs) - 1).bit_length())  # on a GPU: few shapes, little waste
    try:
        return list(_train([*jobs, *jobs[:1] * (filled - len(jobs))])[: len(jobs)])
    except Exception as error:
        return [error] if len(jobs) == 1 else [outcome for job in jobs for outcome in _isolated([job], width)]


def _train(jobs: list[Job]) -> list[dict[str, Tensor]]:
    first = jobs[0]
    if first.noisy is not None:
        raise ConfigError('executor stacked takes no noisy steps; use executor.name = "loop"')
    stacked = {n: torch.stack([j.params[n] for j in jobs]) for n in first.params}
    trainable = set(first.trainable)
    fixed = {n: v for n, v in stacked.items() if n not in trainable}
    if batches(first):
        rate = torch.full((), -first.learning_rate, device=first.x.device)
        inputs = [rate, *(stacked[n] for n in first.trainable), *fixed.values(), *_data(jobs)]
        trained = _graphs.call(form(first), _steps_of(first, list(fixed)), inputs)
        stacked.update(zip(first.trainable, trained, strict=True))
    return [{n: v[position].clone() for n, v in stacked.items()} for position in range(len(jobs))]


def _data(jobs: list[Job]) -> list[Tensor]:
    """Rows [steps, jobs, B] and mask [steps, jobs, B] of every step, then x, y and targets of all jobs below each other.

    Each job has as many rows as the longest needs steps for, so that shapes repeat from round to round.
    """
    steps, size, device = [batches(j) for j in jobs], jobs[0].batch_size, jobs[0].x.device
    room = -(-max(len(j.y) for j in jobs) // size) * size

    def below(parts: list[Tensor]) -> Tensor:
        whole = parts[0].new_zeros((len(parts), room, *parts[0].shape[1:]))
        for position, part in enumerate(parts):
            whole[position, : len(part)] = part
        return whole.flatten(0, 1)

    rows = np.empty((len(steps[0]), len(jobs), size), np.int64)
    mask = np.zeros(rows.shape, np.float32)
    for position, own in enumerate(steps):
        for step, batch in enumerate(own):
            rows[step, position, : len(batch)] = batch
            rows[step, position, len(batch) :] = batch[0]
            mask[step, position, : len(batch)] = 1
        rows[:, position] += room * position
    tensors = [[j.x for j in jobs], [j.y for j in jobs], *([j.targets[n] for j in jobs] for n in jobs[0].targets)]
    return [torch.from_numpy(rows).to(device), torch.from_numpy(mask).to(device), *map(below, tensors)]


def _steps_of(job: Job, fixed_names: list[str]) -> Callable[..., list[Tensor]]:
    """All steps of a bucket as a function of tensors: (-lr, trained, fixed, rows, mask, x, y, targets) -> trained."""
    loss, momentum, decay, names, target_names = job.loss, job.momentum, job.weight_decay, job.trainable, list(job.targets)

    def mean(trained: Params, fixed: Params, x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        mask = targets[ROWS]
        return (loss({**fixed, **trained}, x, y, targets) * mask).sum() / mask.sum()

    gradients = vmap(grad(mean))

    def steps(rate: Tensor, *tensors: Tensor) -> list[Tensor]:
        given = iter(tensors)
        values = [next(given).clone() for _ in names]
        fixed = {n: next(given) for n in fixed_names}
        rows, mask, *data = given
        velocity: list[Tensor] = []
        for step in range(len(rows)):
            x, y, *targets = (t.index_select(0, rows[step].flatten()).unflatten(0, rows[step].shape) for t in data)
            told = {**dict(zip(target_names, targets, strict=True)), ROWS: mask[step]}
            of = gradients(dict(zip(names, values, strict=True)), fixed, x, y, told)
            change = [of[n] for n in names]
            if decay:
                torch._foreach_add_(change, values, alpha=decay)
            if momentum and velocity:
                torch._foreach_mul_(velocity, momentum)
                torch._foreach_add_(velocity, change)
            else:
                velocity = change
            torch._foreach_add_(values, torch._foreach_mul(velocity, rate))
        return values

    return steps
