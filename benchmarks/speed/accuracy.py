"""How many rounds a workload needs to a held-out accuracy: the same for all systems, whose averages are equal."""

from __future__ import annotations

import torch

from benchmarks.speed import nets
from benchmarks.speed.inputs import Array, Inputs, Weights
from benchmarks.speed.systems import loop


def accuracy(inputs: Inputs, weights: Weights, x: Array, y: Array) -> float:
    """Share of rows that the net with these weights gets right."""
    module = nets.build(inputs.meta["net"], inputs.meta["shape"], inputs.meta["classes"])
    nets.load(module, weights)
    with torch.no_grad():
        return float((module(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


def rounds_to(inputs: Inputs, target: float, x: Array, y: Array, limit: int, workers: int) -> tuple[int | None, list[float]]:
    """(rounds until the held-out accuracy is at least ``target``, None where ``limit`` is not enough; the accuracies)."""
    seen: list[float] = []

    def each(round: int, weights: Weights) -> bool:
        seen.append(accuracy(inputs, weights, x, y))
        return seen[-1] < target

    loop.run(inputs, limit, workers, each)
    return (len(seen) if seen and seen[-1] >= target else None), seen
