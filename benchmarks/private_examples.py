"""What example-level noise costs: DP-SGD in every local step, with 70 and with 6,000 training images a client.

The second part of ``benchmarks/private.py``, on the in-process grid; it also audits both mechanisms at the study's own
parameters. The noise multiplier follows from epsilon, delta, the Poisson rate and the steps of all rounds. Learning rate and
clip bound of each method are chosen on the pooled validation rows of seed 100 at epsilon 4 (with 6,000 images: of two
clients). ``python -m benchmarks.private_examples`` runs what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated_swing import finished
from clients.cohort import one_thread
from fedkd import dp_audit, epsilon
from fedkd import setting as settings
from fedkd.config import Experiment, digest8
from fedkd.jobs import local_job
from fedkd.mechanisms import dpsgd
from fedkd.prepare import Prepared, open_data, prepare
from fedkd.report.run_folder import read_run
from fedkd.setting import Setting
from server.run_folder import folder_of, state_root_of, write_json
from simulations.run import load, provenance

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/fedd2s-fashion_mnist-dpsgd.toml"
CHOOSING, DELTA, AT = 100, 1e-5, 4.0
EPSILONS = (1.0, 4.0, 8.0)
RATES = (0.01, 0.05)
TRIED = tuple((clip, rate) for clip in (0.3, 1.0) for rate in RATES)
"""Clip bounds and rates of noisy steps."""
METHODS = {
    "FedD2S-avg, heads (ours)": ("fedd2s", 'knowledge = "heads"'),
    "FedAvg": ("fedavg", ""),
    "local": ("local", ""),
}
NO_NOISE = "no mechanism"


@dataclass(frozen=True)
class Task:
    """How many images a client has, and how they are used."""

    keys: tuple[str, ...]
    rate: float
    """Poisson rate, the same for every client, so that nothing follows from K_n"""
    seeds: tuple[int, ...]
    choosing: tuple[str, ...] = ()
    """what differs on seed 100"""
    more: tuple[float, ...] = ()
    """larger rates that are tried too, at the larger clip bound"""


TASKS = {
    "70 images": Task(("num-server-rounds=10", "batch-size=16"), 16 / 70, (0, 1, 2)),
    "6,000 images": Task(
        ("num-server-rounds=4", "batch-size=240", "num-clients=4", "max-samples=34284", "extra-test=0"), 0.04, (0,),
        ("num-clients=2", "max-samples=17142"), (0.15, 0.5),
    ),
}  # fmt: skip


def experiment_of(
    task: str, method: str, seed: int, protection: str, clip: float, rate: float, output: Path
) -> tuple[Experiment, float]:
    """A run, and its noise multiplier (0 without)."""
    t = TASKS[task]
    name, args = METHODS[method]
    keys = [*t.keys, *(t.choosing if seed == CHOOSING else ()), f"learning-rate={rate}", "workers=1"]
    base = load(ROOT / CONFIG, keys, output=str(output), seed=seed, method_name=name, method_args=args, report=False)
    if protection == NO_NOISE:
        return replace(base, mechanism_name="none", mechanism_args=""), 0.0
    noise = _noise(float(protection), t.rate, steps_of(base, t.rate))
    given = (
        f"clip = {clip}, noise_multiplier = {noise}, sampling_rate = {t.rate}, delta = {DELTA}, insecure_seeded_noise = true"
    )
    return replace(base, mechanism_args=given), noise


def steps_of(experiment: Experiment, rate: float) -> int:
    """Noisy steps of a client over the run (every client takes part in every round)."""
    return experiment.num_server_rounds * experiment.local_epochs * math.ceil(1 / rate - 1e-9)


@lru_cache(maxsize=32)
def _noise(wanted: float, rate: float, steps: int) -> float:
    return epsilon.noise_for(wanted, DELTA, rate, steps)


def is_finished(task: str, method: str, seed: int, protection: str, clip: float, rate: float, output: Path) -> bool:
    """Whether this federation has run."""
    return (folder_of(experiment_of(task, method, seed, protection, clip, rate, output)[0]) / "summary.json").exists()


def run(task: str, method: str, seed: int, protection: str, clip: float, rate: float, output: Path) -> dict[str, Any]:
    """Run one federation, or read it."""
    experiment, noise = experiment_of(task, method, seed, protection, clip, rate, output)
    folder = finished(experiment, f"{task}, {method}, {protection}, seed {seed}")
    said = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    (statement,) = said["privacy"]["statements"] if said["privacy"] else (None,)
    return {
        "task": task, "method": method, "seed": seed, "protection": protection, "clip": clip, "rate": rate,
        "accuracy": said["accuracy_mean"], "worst_decile": said["accuracy_worst_decile"],
        "validation": said["accuracy_val_mean"], "noise_multiplier": noise, "guarantee": said["guarantee"],
        "epsilon": statement["epsilon"] if statement else None, "seconds": said["seconds"],
        "final_state_sha256": said["final_state_sha256"], "provenance": read_run(folder).config["provenance"],
    }  # fmt: skip


def choose(task: str, method: str, output: Path) -> dict[str, Any]:
    """Rate without noise, and clip bound with rate at epsilon 4, by mean validation accuracy of seed 100."""
    more = TASKS[task].more
    bare = [run(task, method, CHOOSING, NO_NOISE, 0.0, rate, output) for rate in (*RATES, *more[:1])]
    tried = () if method == "local" else (*TRIED, *((TRIED[-1][0], rate) for rate in more))
    noisy = [run(task, method, CHOOSING, str(AT), clip, rate, output) for clip, rate in tried]
    best = max(noisy, key=_validation) if noisy else {"clip": 0.0, "rate": None}
    shown = [{k: r[k] for k in ("protection", "clip", "rate", "validation")} for r in (*bare, *noisy)]
    return {"rate_without": max(bare, key=_validation)["rate"], "clip": best["clip"], "rate": best["rate"], "candidates": shown}


def _validation(result: dict[str, Any]) -> float:
    return float(result["validation"])


def study(output: Path, only_finished: bool = False) -> dict[str, Any]:
    """Everything that the page's example-level part is drawn from; ``only_finished`` leaves out what has not run yet."""
    chosen: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for seed in sorted({s for t in TASKS.values() for s in t.seeds}):
        for task in (name for name, t in TASKS.items() if seed in t.seeds):
            chosen.setdefault(task, {m: choose(task, m, output) for m in METHODS})
            for method, c in chosen[task].items():
                wanted = [(NO_NOISE, 0.0, c["rate_without"])]
                wanted += [] if method == "local" else [(str(e), c["clip"], c["rate"]) for e in EPSILONS]
                for one in wanted:
                    if not only_finished or is_finished(task, method, seed, *one, output):
                        found.append(run(task, method, seed, *one, output))
                print(f"{task}, seed {seed}, {method}", flush=True)
    floors = {task: [majority(task, seed, output) for seed in t.seeds] for task, t in TASKS.items()}
    return {"chosen": chosen, "runs": found, "majority": floors, "steps": {t: _steps(t) for t in TASKS}}


def _steps(task: str) -> dict[str, float]:
    t = TASKS[task]
    experiment, _ = experiment_of(task, "FedAvg", t.seeds[0], NO_NOISE, 0.0, RATES[0], ROOT)
    return {"steps": steps_of(experiment, t.rate), "rate": t.rate, "expected_batch": experiment.batch_size}


def majority(task: str, seed: int, output: Path) -> float:
    """Mean test accuracy of clients that always answer the most frequent label of their training images."""
    experiment, _ = experiment_of(task, "FedAvg", seed, NO_NOISE, 0.0, RATES[0], output)
    return majority_of(open_data(prepare(experiment, state_root_of(experiment))))


def majority_of(data: Prepared) -> float:
    """The accuracy of the clients' own most frequent labels, a mean over clients with test rows."""
    clients = (data.client(n) for n in range(data.num_clients))
    return float(np.mean([np.mean(c.test.y == np.bincount(c.train.y).argmax()) for c in clients if len(c.test)]))


# ----- audits at the study's parameters ----------------------------------------------------------------------------------
def brackets(cells: Sequence[dict[str, Any]], examples: dict[str, Any], output: Path) -> list[dict[str, Any]]:
    """One audit per task of the flagship and epsilon, and of DP-SGD: at least and at most, each with its adversary."""
    users = [c for c in cells if c["seed"] == 0 and c["method"] == next(iter(METHODS)) and c["epsilon"]]
    steps = [r for r in examples["runs"] if r["seed"] == 0 and r["method"] == "FedAvg" and r["epsilon"]]
    return [_kept(c, partial(_users, c), output) for c in users] + [
        _kept(r, partial(_steps_audit, r, output), output) for r in steps
    ]


def _kept(run: dict[str, Any], audit: Callable[[], dp_audit.Bracket], output: Path) -> dict[str, Any]:
    """The audit of a run, made once."""
    path = output / "brackets" / f"{digest8({k: run[k] for k in ('task', 'method', 'protection', 'clip', 'rate')})}.json"
    if not path.exists():
        b = audit()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {
            "task": run["task"], "mechanism": b.mechanism, "unit": b.unit, "adjacency": b.adjacency, "reads": b.reads,
            "adversary": b.adversary, "at_least": b.lower.epsilon, "ceiling": b.lower.ceiling, "at_most": b.claimed,
            "canaries": b.lower.canaries, "guesses": b.lower.guesses, "line": b.line,
        })  # fmt: skip
        print(f"{run['task']}: {b.line}", flush=True)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _users(cell: dict[str, Any]) -> dp_audit.Bracket:
    """Canary users in as many rounds as the client that takes part most often, through the mechanism's own hooks."""
    args = f"clip = {cell['clip']}, noise_multiplier = {cell['noise_multiplier']}, delta = {DELTA}"
    experiment = Experiment(
        method_name="fedavg", model_name="mlp", model_args="hidden = [32, 16]", metrics="home",
        mechanism_name="user_clip_noise", mechanism_args=args,
    )  # fmt: skip
    setting = settings.build(experiment, (1, 8, 8), 10)
    return dp_audit.noisy_means(
        dp_audit.Config(seed=0), setting, _someone(setting), cell["participations"], cell["epsilon"], DELTA
    )


def _someone(setting: Setting) -> Any:
    from fedkd.types import ClientData, Split

    one = Split(np.zeros((1, *setting.model.shape), np.float32), np.zeros(1, np.int32), np.zeros(1, np.int32))
    return ClientData(0, one, one, one)


def _steps_audit(found: dict[str, Any], output: Path) -> dp_audit.Bracket:
    """Dirac canaries among one client's own images, over the steps of all rounds."""
    seed, task = found["seed"], found["task"]
    experiment, _ = experiment_of(task, "FedAvg", seed, found["protection"], found["clip"], found["rate"], output)
    data = open_data(prepare(experiment, state_root_of(experiment)))
    setting = settings.build(experiment, data.shape, data.classes)
    client = data.client(0)
    job = local_job(setting, 0, client, setting.initial())
    noisy = dpsgd.local(setting, 0, client, job, lambda: int.from_bytes(os.urandom(16), "little")).noisy
    assert noisy is not None
    fresh = replace(noisy, steps=steps_of(experiment, TASKS[task].rate), key=int.from_bytes(os.urandom(16), "little"))
    return dp_audit.noisy_steps(dp_audit.Config(seed=0), job, fresh, found["epsilon"], DELTA)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "private")
    given = parser.parse_args()
    one_thread()
    print(json.dumps({"provenance": provenance(), **study(given.output.resolve())}, indent=1))


if __name__ == "__main__":
    main()
