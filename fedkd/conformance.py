"""Trace conformance: what noisy steps measured of themselves, against what the ledger says was spent. Exact, no statistics.

Batches come from counters under a key, so that whoever holds the sender's secret can draw them again at the *charged* rate
and compare sample by sample; steps, bounded norms, noise and divisor are compared too. ``replay`` trains the round once more
with the slow readable loop of batch 1, which shows what a trace could hide. Traces and secrets stay with the client: so does
this check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd import noisy_sgd
from fedkd.epsilon import Event
from fedkd.train import Job, NoisySteps


def violations(charged: Event, steps: NoisySteps, rows: int, trace: Sequence[Mapping[str, Any]]) -> list[str]:
    """What does not fit between one participation's charge and its trace; [] where all does.

    Args:
        charged: the event in the ledger.
        steps: clip, divisor and key of the participation; its own steps, rate and noise are not trusted.
        rows: samples of the client.
    """
    said: list[str] = []
    if len(trace) != charged.times:
        said.append(f"{len(trace)} steps were taken, {charged.times} are charged")
    claimed = replace(steps, steps=charged.times, rate=charged.rate, noise_multiplier=charged.noise_multiplier)
    for number, step in enumerate(trace):
        expected = noisy_sgd.batch(claimed, number, rows).tolist()
        if step["rows"] != expected:
            drawn_at = f"the {len(expected)} that rate {charged.rate:g} draws"
            said.append(f"step {number}: a batch of {len(step['rows'])} instead of {drawn_at}")
        if step["clipped"] != len(step["rows"]):
            said.append(f"step {number}: {step['clipped']} norms were bounded in a batch of {len(step['rows'])}")
        if step["largest"] > steps.clip:
            said.append(f"step {number}: a norm of {step['largest']:g} is above clip = {steps.clip:g}")
        drawn = float(np.square(noisy_sgd.noise(claimed, number, step["numbers"])).sum())
        if step["noise_square"] != drawn:
            said.append(f"step {number}: the noise is not that of multiplier {charged.noise_multiplier:g}")
        if step["divisor"] != steps.divisor:
            said.append(f"step {number}: divided by {step['divisor']:g} instead of the constant {steps.divisor:g}")
    return said


def replay(job: Job, steps: NoisySteps) -> dict[str, Tensor]:
    """The trained parameters of a round by a loop of batch 1 in plain steps: the oracle of ``noisy_sgd.train``."""
    params = {n: v.clone() for n, v in job.params.items()}
    velocity = {n: torch.zeros_like(params[n]) for n in job.trainable}
    for step in range(steps.steps):
        total = {n: torch.zeros(params[n].shape, dtype=torch.float64) for n in job.trainable}
        for i in noisy_sgd.batch(steps, step, len(job.y)):
            gradient = one_gradient(job, params, int(i))
            norm = float(torch.cat([g.double().flatten() for g in gradient.values()]).norm())
            for n, g in gradient.items():
                total[n] += g.double() * min(1.0, steps.clip / norm if norm else 1.0)
        drawn, start = noisy_sgd.noise(steps, step, sum(v.numel() for v in total.values())), 0
        for n, value in total.items():
            part = torch.from_numpy(drawn[start : start + value.numel()]).view(value.shape)
            start += value.numel()
            g = ((value + part) / steps.divisor).float() + job.weight_decay * params[n]
            velocity[n] = job.momentum * velocity[n] + g
            params[n] = params[n] - job.learning_rate * velocity[n]
    return params


def one_gradient(job: Job, params: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """The gradient of one sample's loss by plain autograd on a batch of one."""
    leaves = {n: params[n].detach().clone().requires_grad_(True) for n in job.trainable}
    targets = {n: t[i : i + 1] for n, t in job.targets.items()}
    loss = job.loss({**params, **leaves}, job.x[i : i + 1], job.y[i : i + 1], targets).sum()
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(leaves.items(), found, strict=True)}
