"""What the averaged weights must be: float64 torch, client after client, with ``torch.optim.SGD``.

Equality comes before speed: a time counts only where the first average of a system is within ``TOLERANCE`` of this.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.speed import nets
from benchmarks.speed.inputs import Inputs, Weights

TOLERANCE = 1e-5
"""Largest difference of any averaged weight from float64."""


def average(inputs: Inputs, round: int, cohort: list[int], start: Weights) -> Weights:
    """The K_n-weighted mean of the clients' weights after one round from ``start``, float64."""
    meta = inputs.meta
    module = nets.build(meta["net"], meta["shape"], meta["classes"]).double()
    total: Weights = {n: np.zeros(v.shape) for n, v in start.items()}
    weight = 0
    for client in cohort:
        nets.load(module, start)
        optimizer = torch.optim.SGD(module.parameters(), lr=meta["learning_rate"], momentum=meta["momentum"])
        x, y = (torch.from_numpy(part) for part in inputs.rows(client))
        for batch in inputs.batches(round, client):
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch].double()), y[batch]).backward()
            optimizer.step()
        for name, parameter in zip(total, module.parameters(), strict=True):
            total[name] += len(y) * parameter.detach().numpy()
        weight += len(y)
    return {n: v / weight for n, v in total.items()}


def gap(left: Weights, right: Weights) -> float:
    """Largest absolute difference of any weight (infinite where names or shapes differ or a value is not finite)."""
    if left.keys() != right.keys() or any(left[n].shape != right[n].shape for n in left):
        return float("inf")
    largest = max(float(np.abs(left[n].astype(np.float64) - right[n].astype(np.float64)).max()) for n in left)
    return largest if np.isfinite(largest) else float("inf")
