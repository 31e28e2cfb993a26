"""Power and size of the audits of DP-SGD and user-level noise: planted bugs, 40 runs each, counted.

``python -m benchmarks.dp_power`` (or ``make dp-power``) writes ``docs/results/dp_power.json`` and ``.md``, from which the table
of ``docs/guarantees.md`` is taken (minutes). The slow tests of ``tests/test_dp_audit.py`` run the same audits and hold the
counts to at least 36 of 40 for each bug and at most 5 of 40 for mechanisms that do what is claimed. Both mechanisms run with
everyone in every step or round, the strongest case for the adversary at a given epsilon; sizes are small, but a perfect
attack can still show more than is claimed (400 canaries, 200 guesses: 4.18 against a claim of 4).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from clients.cohort import one_thread
from fedkd import clipping, dp_audit, epsilon, noisy_sgd
from fedkd import setting as settings
from fedkd.config import Experiment
from fedkd.data import synthetic
from fedkd.dp_audit import Bracket, Config
from fedkd.epsilon import Event
from fedkd.jobs import local_job
from fedkd.setting import Setting
from fedkd.train import Job, NoisySteps
from fedkd.types import ClientData, Kinds, Split
from fedkd.verdict import check_words
from simulations.run import provenance

ROOT = Path(__file__).resolve().parents[1]
DELTA, CLIP, CLAIMED = 1e-5, 0.5, 4.0
RUNS, CAUGHT, TOLERATED = 40, 36, 5
"""of 40: power of at least 90 %; P[Binomial(40, 0.05) > 5] = 1.4 %"""
SIZE, ROUNDS = Config(canaries=400, guesses=200), 4
"""an audit, and the noisy steps or rounds that it covers"""
FEWER, LONG, SPENT = Config(canaries=300, guesses=100), 16, 8.0
"""the same where the accountant forgets all steps but the last, and what all of them spend"""

Audit = Callable[[int, float, float, int, Config], Bracket]
"""(seed, noise multiplier, claimed epsilon, steps or rounds, size)"""


def client() -> ClientData:
    """A client of 19 generated samples."""
    table = synthetic.generate(synthetic.Config(classes=5, samples_per_client=19), 7, 0)
    rows = Split(table.x, table.y, np.arange(len(table.y), dtype=np.int32))
    return ClientData(0, rows, rows, rows)


def setting_of(**keys: Any) -> Setting:
    """A model of 443 values: 400 canaries need a coordinate each."""
    small = {"method_name": "fedavg", "model_name": "mlp", "model_args": "hidden = [6, 4]", "num_clients": 4}
    return settings.build(Experiment(**{**small, "momentum": 0.0, "weight_decay": 0.0, **keys}), (1, 8, 8), 5)


def job() -> Job:
    """The client's local training from the initial weights."""
    setting = setting_of()
    return local_job(setting, 0, client(), setting.initial())


def multiplier(wanted: float, times: int) -> float:
    """The noise multiplier at which so many steps or rounds spend ``wanted``."""
    return epsilon.noise_for(wanted, DELTA, 1.0, times)


def examples(seed: int, noise: float, claimed: float, steps: int = ROUNDS, size: Config = SIZE) -> Bracket:
    """One audit of DP-SGD: all samples in every step."""
    own = NoisySteps(steps, 1.0, CLIP, noise, 8.0, 1000 + seed)
    return dp_audit.noisy_steps(replace(size, seed=seed), job(), own, claimed, DELTA)


def users(seed: int, noise: float, claimed: float, rounds: int = ROUNDS, size: Config = SIZE) -> Bracket:
    """One audit of user-level noise: every canary that is in takes part in every round."""
    args = f"clip = {CLIP}, noise_multiplier = {noise}"
    setting = setting_of(mechanism_name="user_clip_noise", mechanism_args=args)
    return dp_audit.noisy_means(replace(size, seed=seed), setting, client(), rounds, claimed, DELTA)


AUDITS: dict[str, Audit] = {"dpsgd": examples, "user_clip_noise": users}


@contextmanager
def unclipped() -> Iterator[None]:
    """Plant it: neither mechanism clips."""

    def whole(gradients: Mapping[str, Tensor], clip: float) -> tuple[dict[str, Tensor], Tensor]:
        return {n: g.double().sum(0) for n, g in gradients.items()}, torch.zeros(0)

    def same(kinds: Kinds, bound: float) -> Kinds:
        return kinds

    with mock.patch.object(noisy_sgd, "clipped_sum", whole), mock.patch.object(clipping, "clipped", same):
        yield


def as_claimed(mechanism: str, seed: int) -> Bracket:
    """An honest run."""
    return AUDITS[mechanism](seed, multiplier(CLAIMED, ROUNDS), CLAIMED, ROUNDS, SIZE)


def noise_off(mechanism: str, seed: int) -> Bracket:
    """The noise is a millionth of the clip bound, or less."""
    return AUDITS[mechanism](seed, 1e-6, CLAIMED, ROUNDS, SIZE)


def clipping_off(mechanism: str, seed: int) -> Bracket:
    """The noise is there; a canary of a hundred times the bound passes whole."""
    noise = multiplier(CLAIMED, ROUNDS)
    with unclipped():
        return AUDITS[mechanism](seed, noise, CLAIMED, ROUNDS, SIZE)


def accountant_reset(mechanism: str, seed: int) -> Bracket:
    """The mechanism is right; the claim is that of the last step or round alone."""
    noise = multiplier(SPENT, LONG)
    return AUDITS[mechanism](seed, noise, epsilon.pld([Event(noise)], DELTA), LONG, FEWER)


CASES: dict[str, Callable[[str, int], Bracket]] = {
    "as claimed": as_claimed,
    "noise off": noise_off,
    "clipping off": clipping_off,
    "accountant counts the last step or round only": accountant_reset,
}


def accused(case: str, mechanism: str, runs: int = RUNS) -> list[Bracket]:
    """The audits of a case that say that the mechanism does not do what is claimed."""
    made = [CASES[case](mechanism, seed) for seed in range(runs)]
    return [b for b in made if b.violated]


def table(rows: list[dict[str, Any]]) -> str:
    """The counts, as docs/guarantees.md shows them."""
    lines = ["| planted | mechanism | claimed epsilon | accused, of 40 runs | needed |", "| --- | --- | ---: | ---: | ---: |"]
    for r in rows:
        needed = f"at most {TOLERATED}" if r["case"] == "as claimed" else f"at least {CAUGHT}"
        lines.append(f"| {r['case']} | `{r['mechanism']}` | {r['claimed']:.3g} | {r['accused']} | {needed} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    one_thread()
    rows = []
    for case in CASES:
        for mechanism in AUDITS:
            made = [CASES[case](mechanism, seed) for seed in range(RUNS)]
            bounds = [b.lower.epsilon for b in made]
            rows.append({
                "case": case, "mechanism": mechanism, "claimed": made[0].claimed, "accused": sum(b.violated for b in made),
                "runs": RUNS, "canaries": made[0].lower.canaries, "guesses": made[0].lower.guesses,
                "bound_median": float(np.median(bounds)), "bound_least": min(bounds), "bound_most": max(bounds),
            })  # fmt: skip
            print(rows[-1], flush=True)
    result = {"schema": 1, "command": "python -m benchmarks.dp_power", "provenance": provenance(), "delta": DELTA, "rows": rows}
    (given.results / "dp_power.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    head = '# Planted bugs that audits of noise catch\n\nSee `docs/guarantees.md`, "Audits beside the accountant".\n\n'
    page = f"{head}{table(rows)}\nReproduce: `{result['command']}`.\n"
    (given.results / "dp_power.md").write_text(check_words(page), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
