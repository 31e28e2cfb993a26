"""SGD on clipped per-sample gradients with noise: the steps of DP-SGD (Abadi et al., 2016, arXiv 1607.00133, algorithm 1).

A step draws its batch by a coin per sample, clips each sample's gradient to an L2 norm, sums, adds Gaussian noise and
divides by a constant; momentum and weight decay come after the noise. A batch may be empty: such a step is noise alone.
Per-sample gradients are ``torch.func`` derivatives of the job's pure loss on one sample, so that no term couples samples (a
batch mean over those that have a teacher becomes the sample's own term); tests hold them equal to a loop of batch 1 and to
Opacus' ``grad_sample``. They are computed in chunks of a fixed number of rows, and each row is multiplied with weights of its
own (views, nothing is copied): a product of many rows with one matrix rounds a row by its place in the chunk, so that one
sample more or less would change the bits of all others.

Norms, sums and noise are float64. Batches and noise come from counters under the steps' key, which is derived from the
sender's secret and the step's inputs: a repeated round repeats its bytes, another input never meets the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from fedkd import rng
from fedkd.layers import Params
from fedkd.train import FlatVector, Job, NoisySteps, descend
from fedkd.types import Array

ROWS = 16
"""Rows per chunk of per-sample gradients: the last chunk is filled up, because bits depend on the number of rows."""
BELOW = 1 - 1e-12
"""A clipped vector stays this far below its bound, more than float64 rounding can add."""

PerSample = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]
"""(parameters, rows [b] int64) -> the samples' gradients, [b, *shape] each."""


def batch(steps: NoisySteps, step: int, rows: int) -> Array:  # -> [b] int64, ascending
    """The samples of a step: each by its own coin."""
    return np.flatnonzero(_stream(steps.key, "batch", step).random(rows) < steps.rate)


def noise(steps: NoisySteps, step: int, numbers: int) -> Array:  # -> [numbers] float64
    """The noise on a step's sum."""
    drawn: Array = steps.noise_multiplier * steps.clip * _stream(steps.key, "noise", step).standard_normal(numbers)
    return drawn


def per_sample(job: Job) -> PerSample:
    """Gradients of the job's loss for single samples, a fixed number of rows at a time."""

    def loss(trained: Params, fixed: Params, x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return job.loss({**fixed, **trained}, x[None], y[None], {n: t[None] for n, t in targets.items()})[0]

    of_rows = vmap(grad(loss))
    fixed = _per_row({n: v for n, v in job.params.items() if n not in set(job.trainable)})

    def gradients(trained: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        filled = torch.cat([rows, rows[-1:].expand(-len(rows) % ROWS)])
        own = _per_row(trained)
        parts = [of_rows(own, fixed, job.x[r], job.y[r], {n: t[r] for n, t in job.targets.items()}) for r in filled.split(ROWS)]
        return {n: torch.cat([p[n] for p in parts])[: len(rows)] for n in trained}

    return gradients


def _per_row(params: Params) -> dict[str, Tensor]:
    return {n: v.expand(ROWS, *v.shape) for n, v in params.items()}


def clipped_sum(gradients: Mapping[str, Tensor], clip: float) -> tuple[dict[str, Tensor], Tensor]:  # [b, ...] each
    """(the sum of the clipped per-sample gradients, float64, by parameter; their norms after clipping [b]).

    A norm is over all parameters together. A gradient that is not finite counts as zero: nothing bounds it otherwise.
    """
    squares = [g.double().flatten(1).square().sum(1) for g in gradients.values()]
    norms = torch.stack(squares).sum(0).sqrt()
    finite = norms.isfinite()
    factor = torch.where(finite, (clip * BELOW / norms).clamp(max=1.0), 0.0)
    out = {}
    for name, g in gradients.items():
        kept = torch.where(finite.view(-1, *[1] * (g.dim() - 1)), g.double(), 0.0)
        out[name] = torch.einsum("b,b...->...", factor, kept)
    return out, torch.where(finite, factor * norms, 0.0)


def train(job: Job, steps: NoisySteps) -> dict[str, Tensor]:
    """Train a copy of the job's parameters and return it, detached; the trace is left in the job."""
    flat = FlatVector({n: job.params[n] for n in job.trainable}, job.x.device)
    views = {n: v.detach() for n, v in flat.views.items()}
    gradients = per_sample(job)
    for step in range(steps.steps):
        rows = batch(steps, step, len(job.y))
        _write_gradient(flat, views, gradients, torch.from_numpy(rows).to(job.x.device), steps, step, job.trace)
        descend(flat, job, first=step == 0)
    fixed = {n: v.clone() for n, v in job.params.items() if n not in views}
    return {**fixed, **views}


def _write_gradient(
    flat: FlatVector,
    views: Mapping[str, Tensor],
    gradients: PerSample,
    rows: Tensor,
    steps: NoisySteps,
    step: int,
    trace: list[dict[str, Any]],
) -> None:
    """(sum of clipped gradients + noise) / divisor into the vector of gradients, and what was done into the trace."""
    total = {n: torch.zeros(v.shape, dtype=torch.float64, device=v.device) for n, v in views.items()}
    norms = torch.zeros(0, dtype=torch.float64)
    if len(rows):
        total, norms = clipped_sum(gradients(views, rows), steps.clip)
    drawn = noise(steps, step, sum(v.numel() for v in views.values()))
    start = 0
    for name, value in total.items():
        part = torch.from_numpy(drawn[start : start + value.numel()]).to(value.device).view(value.shape)
        start += value.numel()
        flat.slots[name].copy_((value + part) / steps.divisor)
    trace.append(measured(rows, norms, drawn, steps.divisor))


def measured(rows: Tensor, norms: Tensor, drawn: Array, divisor: float) -> dict[str, Any]:
    """What a step looks like from the inside: samples, how many norms were bounded and the largest, the noise, the divisor."""
    return {
        "rows": rows.tolist(),
        "clipped": len(norms),
        "largest": float(norms.max()) if len(norms) else 0.0,
        "noise_square": float(np.square(drawn).sum()),
        "numbers": len(drawn),
        "divisor": divisor,
    }


def _stream(key: int, purpose: str, step: int) -> np.random.Generator:
    return rng.experiment(key, f"noisy sgd {purpose}", step)
