"""The private study: noise for the client that takes part most often, choices on seed 100 alone, pages that name noise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import private, private_examples, private_page
from benchmarks.private import CHOOSING, DELTA, SEEDS, TASKS, Cell
from fedkd import epsilon
from fedkd import setting as settings
from fedkd.epsilon import Event
from fedkd.mechanisms import dpsgd
from fedkd.verdict import banned_in

FLAGSHIP = next(iter(private.METHODS))


def cell(**changes: Any) -> Cell:
    return replace(Cell("synthetic, 5,000", FLAGSHIP, 0, "4.0", 1.0, 0.05), **changes)


def test_noise_is_for_the_client_that_is_drawn_most_often(tmp_path: Path) -> None:
    """Counted again from the setting's own draws; its epsilon is at most what was asked for, and one round more is above."""
    experiment = private.experiment_of(cell(), tmp_path)
    setting = settings.build(experiment, (1, 8, 8), 10)
    counts = Counter(c for t in range(setting.rounds) for c in setting.sample(t))
    most = max(counts.values())
    assert private.participations(experiment) == most > sum(counts.values()) / len(counts)
    noise = setting.mechanism.config.noise_multiplier
    assert epsilon.pld([Event(noise, times=most)], DELTA) == pytest.approx(4.0, rel=2e-3)
    assert epsilon.pld([Event(noise, times=most)], DELTA) <= 4.0 < epsilon.pld([Event(noise, times=most + 1)], DELTA)
    assert setting.experiment.metrics == "home" and 1 / setting.experiment.num_clients > DELTA


def test_arms_differ_in_method_and_protection_alone(tmp_path: Path) -> None:
    base = private.experiment_of(cell(), tmp_path)
    for changes in ({"method": "FedAvg"}, {"protection": "clipped, no noise"}, {"protection": "no mechanism"}):
        other = private.experiment_of(cell(**changes), tmp_path)
        same = {"method_args": base.method_args, "mechanism_name": base.mechanism_name, "mechanism_args": base.mechanism_args}
        assert replace(other, **same) == base
    assert "noise_multiplier = 0.0" in private.experiment_of(cell(protection="clipped, no noise"), tmp_path).mechanism_args


def test_only_validation_rows_of_the_choosing_seed_choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Cell] = []

    def run(one: Cell, output: Path) -> dict[str, Any]:
        seen.append(one)
        return {**one.__dict__, "accuracy": one.rate, "validation": None if one.clip == 3.0 else 1.0 - one.rate + one.clip}

    monkeypatch.setattr(private, "run", run)
    chosen = private.choose("Fashion-MNIST, 1,000", tmp_path)
    assert {c.seed for c in seen} == {CHOOSING} and CHOOSING not in SEEDS
    assert chosen["FedAvg"]["rate"] == 0.05, "by validation, not by accuracy"
    assert chosen["FedAvg"]["clip"] == 1.0, "a run that diverged is never chosen"
    assert len({len([c for c in seen if c.method == m]) for m in TASKS["Fashion-MNIST, 1,000"].methods}) == 1, "same budget"


@pytest.mark.parametrize("task", list(private_examples.TASKS))
def test_example_level_noise_covers_all_steps_of_every_client(task: str, tmp_path: Path) -> None:
    experiment, noise = private_examples.experiment_of(task, "FedAvg", 0, "4.0", 1.0, 0.05, tmp_path)
    setting = settings.build(experiment, (1, 14, 14), 10)
    steps, rate = dpsgd.plan(setting, 12345)
    spent = epsilon.pld([Event(noise, rate, steps * setting.rounds)], DELTA)
    assert spent <= 4.0 and spent == pytest.approx(4.0, rel=5e-3)


def row(**changes: Any) -> dict[str, Any]:
    made = {"task": "t", "method": "FedAvg", "protection": "1.0", "seed": 0, "accuracy": 0.5, "worst_decile": 0.2,
            "clip": 1.0, "rate": 0.1, "epsilon": 0.99, "noise_multiplier": 3.0, "participations": 5,
            "noise_per_number": 0.01}  # fmt: skip
    return {**made, **changes}


def test_a_page_marks_single_seeds_noise_and_divergence() -> None:
    rows = private_page.rows_of([
        row(), row(seed=1, accuracy=0.7), row(protection="4.0", accuracy=None), row(method="local", protection="no mechanism",
        epsilon=None, accuracy=0.6),
    ])  # fmt: skip
    assert [r["seeds"] for r in rows] == [2, 1, 1]
    users = "\n".join(private_page.users_table(rows, {"t": 0.3}))
    assert "60.0 [" in users and "60.0 (one seed)" in users and "diverged" in users and banned_in(users) == []
    floor = {"majority": {"t": [0.65]}, "steps": {"t": {"steps": 5.0, "rate": 0.1, "expected_batch": 16}}}
    examples = private_page.examples_table(rows[:1] + rows[2:], floor)
    assert any("the model is noise" in line for line in examples)
    assert private_page.reading(rows[0], rows, 0.3) == "not below local"
    assert private_page.reading({**rows[0], "accuracy": [0.4]}, rows, 0.3) == "below local"
