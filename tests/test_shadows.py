"""Shadow models: independent subsets, the same bits for any sharing of the work, resumable, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedkd import shadows
from fedkd.config import Experiment
from fedkd.errors import ConfigError, RunError
from fedkd.shadows import Plan

EXPERIMENT = Experiment(
    method_name="local", data_name="digits", model_name="mlp", model_args="hidden = [16]", num_server_rounds=3, batch_size=32
)
PLAN = Plan("small", EXPERIMENT, pool=200, members=60, models=3, test=100)
DISTILLED = replace(PLAN, pipeline="distilled", transfer=150, models=2)


def test_models_are_the_same_for_any_sharing_of_the_work(tmp_path: Path) -> None:
    assert list(shadows.train_missing(PLAN, tmp_path / "one")) == [0, 1, 2]
    assert list(shadows.train_missing(PLAN, tmp_path / "two", (1, 2))) == [1]
    with pytest.raises(RunError, match="2 of 3 models are not trained yet; the first is 0"):
        shadows.load(PLAN, tmp_path / "two")
    assert list(shadows.train_missing(PLAN, tmp_path / "two", (0, 2))) == [0, 2]
    assert list(shadows.train_missing(PLAN, tmp_path / "two")) == []
    one, two = (shadows.load(PLAN, tmp_path / n) for n in ("one", "two"))
    assert np.array_equal(one.inside, two.inside)
    assert all(np.array_equal(one.signals[n], two.signals[n]) for n in one.signals)
    assert one.inside.sum(axis=1).tolist() == [60, 60, 60]
    assert not np.array_equal(one.inside[0], one.inside[1])
    assert one.signals["phi"].shape == (3, 200)
    own, others, inside = one.target(1)
    assert np.array_equal(own["phi"], one.signals["phi"][1])
    assert np.array_equal(others["phi"], one.signals["phi"][[0, 2]])
    assert np.array_equal(inside, one.inside[[0, 2]])


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    list(shadows.train_missing(PLAN, tmp_path))
    path = shadows.folder_of(PLAN, tmp_path) / "1.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=r"1\.npz is damaged .*; remove it and start again"):
        shadows.load(PLAN, tmp_path)


def test_a_model_that_diverges_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    plan = replace(PLAN, experiment=replace(EXPERIMENT, learning_rate=1e6))
    with pytest.raises(RunError, match=r"shadow 0: the teacher diverged .* lower experiment\.learning-rate"):
        list(shadows.train_missing(plan, tmp_path))
    assert shadows.missing(plan, tmp_path) == [0, 1, 2]


def test_a_distilled_shadow_is_the_whole_pipeline(tmp_path: Path) -> None:
    list(shadows.train_missing(DISTILLED, tmp_path))
    found = shadows.load(DISTILLED, tmp_path)
    assert found.signals["transfer_phi"].shape == (2, 150)
    assert found.signals["teacher_embedding"].shape == (2, 350, 16)
    assert not np.array_equal(found.signals["phi"], found.signals["teacher_phi"])
    direct = shadows.Trainer(replace(PLAN, test=100)).train(0)
    assert direct["phi"].shape == (200,)


def test_members_are_drawn_per_model_and_everything_that_matters_is_in_the_hash() -> None:
    rows = [PLAN.member_rows(i) for i in range(40)]
    assert all(len(set(r.tolist())) == 60 for r in rows)
    share = np.concatenate(rows)
    assert abs(np.bincount(share, minlength=200).mean() - 12) < 1e-9
    assert PLAN.hash == replace(PLAN, name="other", models=9).hash
    others = [
        replace(PLAN, pool=201),
        replace(PLAN, members=61),
        replace(PLAN, test=99),
        DISTILLED,
        replace(PLAN, experiment=replace(EXPERIMENT, seed=1)),
        replace(PLAN, experiment=replace(EXPERIMENT, learning_rate=0.1)),
    ]
    assert len({PLAN.hash, *(p.hash for p in others)}) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool = 10", "experiment must be given"),
        ("pool = 10\nmembers = 10\nmodels = 2\n[experiment]", "members = 10; valid"),
        ("pool = 10\nmembers = 5\nmodels = 1\n[experiment]", "a target and a shadow"),
        ("pool = 10\nmembers = 5\nmodels = 2\ntransfer = 3\n[experiment]", "transfer is for pipeline"),
        ("pool = 10\nmembers = 5\nmodels = 2\nshadows = 3\n[experiment]", "unknown field 'shadows'; valid fields"),
        ('pool = "10"\nmembers = 5\nmodels = 2\n[experiment]', "expected int"),
        ("pool = 10\nmembers = 5\nmodels = 2\n[experiment]\nrounds = 3", "unknown key 'rounds'"),
        ("pool =", "is not valid TOML"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        shadows.read_plan(path)


def test_too_few_rows_and_generating_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="but digits has 1797 rows"):
        shadows.Trainer(replace(PLAN, pool=5000))
    with pytest.raises(ConfigError, match="shadows need one table of rows"):
        shadows.Trainer(replace(PLAN, experiment=replace(EXPERIMENT, data_name="synthetic")))


def test_the_committed_plans_are_valid() -> None:
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    assert [shadows.read_plan(folder / f"{n}.toml").models for n in ("lira", "distill_lira")] == [33, 33]
