"""The ceiling of the host: float32 matrix products per second, on one core and on all of them, measured beside the visits."""

from __future__ import annotations

import multiprocessing as mp
import time

import torch

SIZE = 768
SECONDS = 1.0


def one_core(seconds: float = SECONDS) -> float:
    """GFLOP/s of sgemm on one thread: the best of the products within ``seconds``."""
    torch.set_num_threads(1)
    a, b = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    out, best = torch.empty(SIZE, SIZE), float("inf")
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best / 1e9


def all_cores(cores: int, seconds: float = SECONDS) -> float:
    """GFLOP/s of one process per core, all at the same time."""
    with mp.get_context("spawn").Pool(cores) as pool:
        pool.map(one_core, [0.05] * cores)
        return sum(pool.map(one_core, [seconds] * cores))
