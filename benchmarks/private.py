"""What user-level noise costs: FedD2S with averaged heads and personal layers that never leave, at 1,000 and 5,000 users.

``python -m benchmarks.private`` (or ``make private``) runs what is missing of the study, then writes
``docs/results/private.json``, ``private.md`` and figures (``benchmarks/private_page.py``); the example-level part is
``benchmarks/private_examples.py``. One file per run: a stopped study goes on where it was, and ``--seeds 2`` may run beside it
on another core. The noise multiplier follows from epsilon, delta and the largest number of participations of a client. The
learning rate (without noise) and then the clip bound (at epsilon 4) of each method are chosen on the pooled validation rows of
seed 100, whose clients, data and partition are none of the reported ones; the reported seeds' test rows choose nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks import population
from benchmarks.federated_swing import finished
from clients.cohort import one_thread
from fedkd import epsilon, guarantees
from fedkd import setting as settings
from fedkd.config import Experiment, digest8
from fedkd.errors import UploadError
from fedkd.prepare import open_data, prepare
from fedkd.setting import Setting
from fedkd.spread import worst_decile
from fedkd.vault import Vault
from server.run_folder import folder_of, state_root_of, write_json
from simulations.run import load, provenance

ROOT = Path(__file__).resolve().parents[1]
SYNTHETIC, FASHION = (f"configs/fedd2s-{name}-user_noise.toml" for name in ("synthetic", "fashion_mnist"))
SEEDS = (0, 1, 2)
CHOOSING = 100
DELTA = 1e-5
"""Below 1 / number of users in every task."""
EPSILONS = (1.0, 2.0, 4.0, 8.0)
AT = 4.0
"""The epsilon at which clip bounds are chosen."""
CLIPS, RATES = (0.3, 1.0, 3.0), (0.05, 0.15)
METHODS = {
    "FedD2S-avg, heads (ours)": 'knowledge = "heads"',
    "FedAvg": 'knowledge = "none", schedule = "none", head_ce_weight = 0.0',
    "share-late": 'knowledge = "none", head_ce_weight = 0.0',
}
"""All are configurations of fedd2s (on the grid FedAvg's is fedavg bit for bit); share-late has the flagship's personal layers
and no knowledge."""
LOCAL = 'average = false, knowledge = "none", head_ce_weight = 0.0'
NOISELESS = ("clipped, no noise", "no mechanism")


@dataclass(frozen=True)
class Task:
    """A population and its data."""

    config: str
    keys: tuple[str, ...]
    methods: dict[str, tuple[float, ...]]
    """method -> epsilons at which it runs, beside no noise"""
    local: str = ""
    """the task whose local training is this one's too, because each client's data are drawn alike; "" = its own"""


FULL = ("num-server-rounds=12",)
FIFTH = ("num-server-rounds=20", "num-clients=5000", "fraction-train=0.2")
PAIR = dict.fromkeys(tuple(METHODS)[:2], EPSILONS)
FEW = dict.fromkeys(PAIR, (1.0, 4.0, 8.0))
ALONE = ("num-server-rounds=12", "fraction-train=1.0", "local-epochs=5")
"""Local training sends nothing, so it may train on as it likes: 60 epochs."""
TASKS = {
    "synthetic, 1,000": Task(SYNTHETIC, (*FULL, "local-epochs=2"), {**PAIR, "share-late": (AT,)}),
    "Fashion-MNIST, 1,000": Task(FASHION, (*FULL, "local-epochs=3"), PAIR),
    "synthetic, 5,000": Task(SYNTHETIC, (*FIFTH, "local-epochs=2"), FEW, "synthetic, 1,000"),
    "Fashion-MNIST, 5,000": Task(FASHION, (*FIFTH, "local-epochs=3", "min-client-samples=1"), FEW),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run."""

    task: str
    method: str
    """a name of ``METHODS``, or "local" """
    seed: int
    protection: str
    """an epsilon as text, or one of ``NOISELESS`` """
    clip: float
    rate: float


def experiment_of(cell: Cell, output: Path) -> Experiment:
    """The cell's run; what a noise multiplier needs is counted in ``noise_of``."""
    task = TASKS[cell.task]
    local = cell.method == "local"
    keys = [*task.keys, f"learning-rate={cell.rate}", *(ALONE if local else ())]
    args = LOCAL if local else METHODS[cell.method]
    base = load(ROOT / task.config, keys, output=str(output), seed=cell.seed, method_args=args, report=False)
    plain = replace(base, mechanism_name="none", mechanism_args="")
    if cell.protection == NOISELESS[1]:
        return plain
    noise = 0.0 if cell.protection == NOISELESS[0] else noise_of(plain, float(cell.protection))
    given = f"clip = {cell.clip}, noise_multiplier = {noise}, delta = {DELTA}, insecure_seeded_noise = true"
    return replace(base, mechanism_args=given)


def participations(experiment: Experiment) -> int:
    """The most rounds that any client takes part in: drawn from the seed, so known beforehand."""
    setting = _bare(experiment.num_clients, experiment.fraction_train, experiment.num_server_rounds, experiment.seed)
    return max(Counter(c for t in range(setting.rounds) for c in setting.sample(t)).values())


@lru_cache(maxsize=64)
def _bare(clients: int, fraction: float, rounds: int, seed: int) -> Setting:
    keys = {"num_clients": clients, "fraction_train": fraction, "num_server_rounds": rounds, "seed": seed}
    return settings.build(Experiment(method_name="fedavg", model_name="mlp", **keys), (1, 8, 8), 10)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _noise(wanted: float, times: int) -> float:
    return epsilon.noise_for(wanted, DELTA, 1.0, times)


def noise_of(experiment: Experiment, wanted: float) -> float:
    """The noise multiplier at which the client that takes part most often spends ``wanted``."""
    return _noise(wanted, participations(experiment))


@lru_cache(maxsize=1)
def _people(folder: Path) -> population.Population:
    return population.load(open_data(folder))


def path_of(cell: Cell, output: Path) -> Path:
    """The file of a cell's result."""
    return output / "cells" / f"{experiment_of(cell, output).hash8()}-{digest8({'cell': repr(cell)})}.json"


def run(cell: Cell, output: Path) -> dict[str, Any]:
    """Train the cell's federation, or read what it gave."""
    experiment, path = experiment_of(cell, output), path_of(cell, output)
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    began = time.process_time()
    folder = prepare(experiment, state_root_of(experiment))
    data = open_data(folder)
    setting = settings.build(experiment, data.shape, data.classes)
    with tempfile.TemporaryDirectory() as ledgers:
        vault = Vault(Path(ledgers))
        try:
            out = population.federate(setting, _people(folder), vault)
        except UploadError as error:  # a run that diverged has no score; the grid would stop here too
            out = None
            said = str(error)
        entries = vault.entries()
    result: dict[str, Any] = {**cell.__dict__, "participations": participations(experiment)}
    if out is None:
        result.update(accuracy=None, validation=None, diverged=said)
    else:
        scores = out.test[~out.test.isnan()].tolist()
        result.update(
            accuracy=out.accuracy, worst_decile=float(worst_decile(scores)), validation=out.validation,
            clients_scored=len(scores), median_norm=_mean(out.norms), clipped=_mean(out.clipped),
            head_share=_mean(out.heads), lost=_mean(out.lost),
        )  # fmt: skip
    noise = getattr(setting.mechanism.config, "noise_multiplier", 0.0)
    result.update(noise_multiplier=noise, cohort=setting.cohort_size, epsilon=None, numbers=_numbers(setting))
    if noise:
        every = {c for e in entries for c in e["clients"]}
        spent = {c: epsilon.pld(guarantees.spent_by(c, [], entries, ["user_clip_noise"]), DELTA) for c in every}
        result["epsilon"] = max(spent.values())
        result["noise_per_number"] = noise * cell.clip / setting.cohort_size
    result.update(cpu_seconds=round(time.process_time() - began, 2), provenance=provenance())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    shown = "diverged" if out is None else f"{100 * out.accuracy:.1f} % (validation {100 * out.validation:.1f} %)"
    print(f"{' | '.join(map(str, cell.__dict__.values()))}: {shown} in {result['cpu_seconds']:.0f} s", flush=True)
    return result


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _numbers(setting: Setting) -> int:
    """How many numbers a client releases in round 0."""
    return sum(
        math.prod(n or 0 for n in f.shape) for fields in setting.module.schema(setting, 0).values() for f in fields.values()
    )


def on_grid_finished(cell: Cell, output: Path) -> bool:
    """Whether the grid has run this cell."""
    return (folder_of(experiment_of(cell, output)) / "summary.json").exists()


def on_grid(cell: Cell, output: Path) -> dict[str, Any]:
    """The same cell over Flower's messages, client states and ledgers on disk: what the stacked population must agree with."""
    folder = finished(replace(experiment_of(cell, output), workers=1, num_nodes=1), f"the grid's run of {cell}")
    said = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {
        **cell.__dict__, "accuracy": said["accuracy_mean"], "worst_decile": said["accuracy_worst_decile"],
        "guarantee": said["guarantee"], "seconds": said["seconds"], "final_state_sha256": said["final_state_sha256"],
    }  # fmt: skip


# ----- choosing ----------------------------------------------------------------------------------------------------------
def choose(task: str, output: Path) -> dict[str, dict[str, Any]]:
    """Per method its rate, chosen without noise, then its clip bound at epsilon 4, and every candidate's validation."""
    chosen = {}
    for method in (*TASKS[task].methods, "local"):
        bare = [run(Cell(task, method, CHOOSING, NOISELESS[1], 0.0, rate), output) for rate in RATES]
        rate = max(bare, key=_by_validation)["rate"]
        tried = () if method == "local" else CLIPS
        noisy = [run(Cell(task, method, CHOOSING, str(AT), clip, rate), output) for clip in tried]
        chosen[method] = {
            "rate": rate,
            "clip": max(noisy, key=_by_validation)["clip"] if noisy else 0.0,
            "candidates": [{k: r[k] for k in ("protection", "clip", "rate", "validation")} for r in (*bare, *noisy)],
        }
    return chosen


def _by_validation(result: dict[str, Any]) -> float:
    return -1.0 if result["validation"] is None else float(result["validation"])


def cells(task: str, seed: int, chosen: dict[str, dict[str, Any]]) -> Iterator[Cell]:
    """Every run of a task and seed."""
    for method, epsilons in TASKS[task].methods.items():
        clip, rate = chosen[method]["clip"], chosen[method]["rate"]
        for protection in (NOISELESS[1], NOISELESS[0], *map(str, epsilons)):
            yield Cell(task, method, seed, protection, 0.0 if protection == NOISELESS[1] else clip, rate)
    if not TASKS[task].local:
        yield Cell(task, "local", seed, NOISELESS[1], 0.0, chosen["local"]["rate"])


def main() -> None:
    """Choose, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "private")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="only these, and no page")
    parser.add_argument("--finished", action="store_true", help="run no reported seed: write the page of what there is")
    given = parser.parse_args()
    one_thread()
    output = given.output.resolve()
    chosen = {task: choose(task, output) for task in TASKS}
    every = [cell for seed in given.seeds for task in TASKS for cell in cells(task, seed, chosen[task])]
    found = [run(cell, output) for cell in every if not given.finished or path_of(cell, output).exists()]
    if sorted(given.seeds) == sorted(SEEDS):
        from benchmarks import private_examples, private_page

        examples = private_examples.study(output, given.finished)
        floors = {task: majority(task, output) for task in TASKS}
        brackets = private_examples.brackets(found, examples, output)
        local_of = {name: task.local for name, task in TASKS.items()}
        flagship = next(c for c in every if c.protection == str(AT))
        grid = None if given.finished and not on_grid_finished(flagship, output) else on_grid(flagship, output)
        grid = grid and {"grid": grid, "stacked": run(flagship, output)}
        private_page.write(given.results, chosen, found, examples, brackets, floors, DELTA, local_of, grid)


def majority(task: str, output: Path) -> float:
    """What a client's most frequent label would score, on seed 0."""
    from benchmarks.private_examples import majority_of

    experiment = experiment_of(Cell(task, "FedAvg", SEEDS[0], NOISELESS[1], 0.0, RATES[0]), output)
    return majority_of(open_data(prepare(experiment, state_root_of(experiment))))


if __name__ == "__main__":
    main()
