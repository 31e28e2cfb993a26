"""One client's training by executors ``loop`` and ``native`` side by side, on one thread (half a minute, needs an idle core).

``python -m benchmarks.native_step``. A client has 50 generated rows, batches of 10 and one epoch; both executors get the same
job in turn, and a time counts only where both end within 1e-5 of each other.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch

from fedkd import rng
from fedkd.config import Experiment
from fedkd.executors import loop, native
from fedkd.jobs import local_job
from fedkd.native import compiler
from fedkd.setting import build
from fedkd.train import Job
from fedkd.types import ClientData, Split

CLASSES, ROWS, CLIENTS, REPEATS = 10, 50, 4, 15
NETS = {
    "LeNet, 3x32x32": ("lenet", "", (3, 32, 32)),
    "MLP 784-200-200-10": ("mlp", "", (1, 28, 28)),
    "FedAvg CNN, 1x28x28": ("fedavg_cnn", "", (1, 28, 28)),
    "FedAvg CNN, padded (1,663,370 parameters)": ("fedavg_cnn", "padding = 2", (1, 28, 28)),
}


def job_of(model: str, args: str, shape: tuple[int, ...]) -> Job:
    """A client's first round on generated rows."""
    experiment = Experiment(
        method_name="fedavg", model_name=model, model_args=args, batch_size=10, learning_rate=0.01, weight_decay=0.0,
        executor_name="native", num_clients=4,
    )  # fmt: skip
    setting, stream = build(experiment, shape, CLASSES), rng.experiment(0, "native step")
    x = stream.standard_normal((ROWS, *shape), dtype=np.float32)
    train = Split(x, stream.integers(0, CLASSES, ROWS), np.arange(ROWS, dtype=np.int32))
    empty = Split(train.x[:0], train.y[:0], train.ids[:0])
    return local_job(setting, 0, ClientData(0, train, empty, empty), setting.initial())


def seconds(job: Job) -> tuple[dict[str, list[float]], float]:
    """(seconds a client of every repetition, by executor; the largest gap between their parameters)."""
    times: dict[str, list[float]] = {"loop": [], "native": []}
    last = {}
    for _ in range(REPEATS):
        for name, executor in (("loop", loop), ("native", native)):
            begin = time.perf_counter()
            outcomes = [outcome for _, outcome in executor.run([job] * CLIENTS)]
            times[name].append((time.perf_counter() - begin) / CLIENTS)
            if isinstance(outcomes[0], Exception):
                raise outcomes[0]
            last[name] = outcomes[0]
    return times, max(float((v - last["native"][n]).abs().max()) for n, v in last["loop"].items())


def main() -> None:
    """Print one line per net."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {' '.join(compiler.find_compiler())}; ms a client: least (median) of {REPEATS}")
    for name, of in NETS.items():
        times, gap = seconds(job_of(*of))
        if gap > 1e-5:
            raise SystemExit(f"{name}: the executors end {gap:.1e} apart, so their times do not count")
        shown = "   ".join(f"{k} {1e3 * min(t):6.2f} ({1e3 * median(t):6.2f})" for k, t in times.items())
        print(f"{name:42s} {shown}   ratio {min(times['loop']) / min(times['native']):.2f}   gap {gap:.0e}")


if __name__ == "__main__":
    main()
