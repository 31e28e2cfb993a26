"""The workloads W1 to W6 as settings over one configuration, and the folder of inputs that every system reads."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.speed.inputs import Inputs
from fedkd.config import Experiment, parse_args
from fedkd.data import synthetic, synthetic_table
from fedkd.jobs import batch_order
from fedkd.prepare import open_data, prepare
from fedkd.types import Array
from server.server_app import check_before_start
from simulations.run import load

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "fedavg-synthetic_table-lenet.toml"
PEERS = ("loop-2", "inprocess-2", "native-2", "flower", "ray", "stock", "pfl-2", "fedjax")
ALONE = ("loop-1", "inprocess-1", "native-1", "pfl-1")
ECHO = ("echo-1", "echo-2", "stock-echo")


@dataclass(frozen=True)
class Workload:
    """A net, its data, how much of them a round takes, and who runs it."""

    key: str
    title: str
    flops: float
    """floating-point operations of one sample's training step"""
    settings: tuple[str, ...] = ()
    """over the configuration of W1"""
    systems: tuple[str, ...] = (*ALONE, *PEERS)
    target: float = 0.0
    """held-out accuracy whose time is reported; 0 = none"""
    visits: int = 1
    """of each system; a visit has three rounds that count, or six where it is the only one"""


def _data(clients: int, shape: str, more: str = "") -> tuple[str, ...]:
    return (f"num-clients={clients}", f'data.args="clients = {clients}, shape = {shape}, samples_per_client = 50{more}"')


W1 = Workload("W1", "LeNet, batch 10, one epoch", 3.20e6,
              systems=(*ALONE, *PEERS, "stock-quickstart", *ECHO), target=0.8, visits=2)  # fmt: skip
W2 = Workload("W2", "LeNet, batch 32, five epochs", 3.20e6,
              (*_data(200, "[3, 32, 32]"), "local-epochs=5", "batch-size=32"), PEERS)  # fmt: skip
W3 = Workload("W3", "MLP 784-200-200-10, batch 10, one epoch", 0.88e6,
              (*_data(1000, "[1, 28, 28]"), "model.name=mlp"), target=0.8, visits=2)  # fmt: skip
# At the rate of the others, 0.05 with momentum, a client's loss may jump; then a rounding that flips one maximum of a pool
# can grow to 1e-2 in five steps (oneDNN's kernels, one client of eight; not with the native ones), and equality says
# nothing. The rate does not change the speed.
W4 = Workload("W4", "CNN, 1,663,370 parameters, batch 10, one epoch", 72.4e6,
              (*_data(200, "[1, 28, 28]"), "model.name=fedavg_cnn", 'model.args="padding = 2"', "learning-rate=0.01"),
              PEERS)  # fmt: skip
# The rate of W4: over up to 50 steps a client's rounding grows at 0.05, and averages of the plain loop and ours were 6e-3 from
# those in float64.
W6 = Workload("W6", "LeNet, log-normal sizes 10 to 500, batch 10, one epoch", 3.20e6,
              (*_data(1000, "[3, 32, 32]", ", size_skew = 1.0"), "learning-rate=0.01"),
              ("loop-2", "inprocess-2", "native-2", "pfl-2"))  # fmt: skip
WORKLOADS = {w.key: w for w in (W1, W2, W3, W4, W6)}


def experiment(
    workload: Workload, rounds: int, state: Path, output: Path, workers: int, more: tuple[str, ...] = ()
) -> Experiment:
    """The run of our own app for a workload; ``state`` holds the prepared data of all its visits."""
    settings = (*workload.settings, f"num-server-rounds={rounds}", *more)
    return load(CONFIG, settings, output=str(output), state_root=str(state), workers=workers, num_nodes=workers)


def export(workload: Workload, rounds: int, folder: Path) -> Inputs:
    """Write the inputs of a workload, once. The cohorts, orders and initial weights are those that our own app draws."""
    if (folder / "meta.json").exists():
        return Inputs(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = experiment(workload, rounds, folder / "state", folder / "state", 1)
    setting, data = check_before_start(run), open_data(prepare(run, folder / "state"))
    offsets = np.asarray(data.arrays["train_offsets"])
    assert np.array_equal(data.arrays["train"], np.arange(offsets[-1])), "rows lie client after client"
    for name in ("x", "y"):
        (folder / f"{name}.npy").unlink(missing_ok=True)
        (folder / f"{name}.npy").hardlink_to(data.path / f"{name}.npy")
    np.save(folder / "offsets.npy", offsets)
    orders = [
        np.concatenate([batch_order(setting, t, c, int(k), run.local_epochs) for c, k in enumerate(data.sizes)], axis=1)
        for t in range(rounds)
    ]
    np.save(folder / "orders.npy", np.stack(orders).astype(np.int16))
    np.savez(folder / "initial.npz", **setting.initial())
    meta = {
        "workload": workload.key, "net": run.model_name, "shape": list(data.shape), "classes": data.classes,
        "learning_rate": run.learning_rate, "momentum": run.momentum, "batch_size": run.batch_size,
        "epochs": run.local_epochs, "clients": run.num_clients, "cohorts": [setting.sample(t) for t in range(rounds)],
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    return Inputs(folder)


def gflops(workload: Workload, inputs: Inputs, seconds: float) -> float:
    """GFLOP/s of training that a round of that length reaches."""
    sizes = np.diff(np.load(inputs.folder / "offsets.npy"))
    steps = math.fsum(float(sizes[c]) for c in inputs.cohort(1)) * inputs.meta["epochs"]
    return steps * workload.flops / seconds / 1e9


def held_out(inputs: Inputs, run: Experiment, clients: int = 40) -> tuple[Array, Array]:
    """(x, y int64) of generated clients that are not in the population."""
    config = parse_args(run.data_args, synthetic_table.Config, "data.args")
    first = int(inputs.meta["clients"])
    made = [synthetic.generate(config, 0, client) for client in range(first, first + clients)]
    return np.concatenate([t.x for t in made]), np.concatenate([t.y for t in made]).astype(np.int64)
