"""Who gets which row: holdout, canaries, unseen test rows; nobody sees what they must not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fedkd.allocation import PARTS, Allocation, allocate, refuse_overlap
from fedkd.config import Experiment
from fedkd.errors import ConfigError, DataError

LABELS = np.random.default_rng(0).integers(0, 5, 1000).astype(np.int32)


def experiment(**fields: Any) -> Experiment:
    return Experiment(**{"num_clients": 6, "min_client_samples": 8, "max_samples": 300, **fields})


def run(**fields: Any) -> Allocation:
    return allocate(experiment(**fields), LABELS, None, 5)


def test_max_samples_are_all_that_clients_hold() -> None:
    allocation = run()
    held = np.concatenate([allocation.held(n) for n in range(6)])
    assert len(held) == len(np.unique(held)) == 300
    assert allocation.used().tolist() == sorted(held.tolist())
    assert np.array_equal(allocation.labels, LABELS)
    assert [len(allocation.parts[p]) for p in PARTS] == [6] * 4
    everything = run(max_samples=0)
    assert len(everything.used()) == 1000


def test_holdout_is_a_coin_per_example_and_no_client_sees_it() -> None:
    allocation = run(audit_holdout=0.3)
    assert 60 < len(allocation.holdout) < 120
    held = np.concatenate([allocation.held(n) for n in range(6)])
    assert len(held) + len(allocation.holdout) == 300
    assert len(np.intersect1d(held, allocation.holdout)) == 0
    whole = run(audit_holdout=0.3, max_samples=0).holdout
    assert set(allocation.holdout.tolist()) <= set(whole.tolist()), "an example's coin does not depend on max-samples"


def test_canaries_have_wrong_labels_and_members_train() -> None:
    allocation = run(audit_canaries=80)
    canaries = allocation.canaries
    assert len(np.unique(canaries.rows)) == 80
    assert (canaries.true_labels != canaries.given_labels).all()
    assert np.array_equal(canaries.true_labels, LABELS[canaries.rows])
    assert np.array_equal(allocation.labels[canaries.rows], canaries.given_labels)
    assert set(canaries.given_labels.tolist()) == {0, 1, 2, 3, 4}
    assert 25 < canaries.member.sum() < 55
    trained = np.concatenate(allocation.parts["train"])
    assert np.array_equal(np.isin(canaries.rows, trained), canaries.member)
    rest = np.concatenate([rows for p in ("val", "test", "extra") for rows in allocation.parts[p]])
    assert len(np.intersect1d(rest, canaries.rows)) == 0


def test_unseen_rows_have_the_label_mix_of_their_client() -> None:
    allocation = run(extra_test=60, audit_holdout=0.1, audit_canaries=20)
    taken = np.concatenate([*(allocation.held(n) for n in range(6)), allocation.holdout, allocation.canaries.rows])
    for n in range(6):
        unseen, own = allocation.parts["extra"][n], np.setdiff1d(allocation.held(n), allocation.canaries.rows)
        assert len(unseen) == len(np.unique(unseen)) == 60
        assert (np.diff(unseen) > 0).all()
        assert len(np.intersect1d(unseen, taken)) == 0
        mix = 60 * np.bincount(LABELS[own], minlength=5) / len(own)
        assert (np.abs(np.bincount(LABELS[unseen], minlength=5) - mix) < 1).all()


def test_fewer_unseen_rows_where_none_are_left() -> None:
    assert [len(rows) for rows in run(max_samples=0, extra_test=60).parts["extra"]] == [0] * 6
    short = [len(rows) for rows in run(max_samples=900, extra_test=200).parts["extra"]]
    assert max(short) < 200
    assert min(short) > 0


def test_same_seed_same_rows_and_another_seed_others() -> None:
    fields = {"audit_holdout": 0.2, "audit_canaries": 10, "extra_test": 10}
    first, again, other = run(seed=1, **fields), run(seed=1, **fields), run(seed=2, **fields)
    for part in PARTS:
        assert all(np.array_equal(a, b) for a, b in zip(first.parts[part], again.parts[part], strict=True))
    assert not np.array_equal(first.used(), other.used())


def test_natural_groups_follow_the_rows() -> None:
    groups = (np.arange(1000) // 100).astype(np.int32)
    allocation = allocate(experiment(partition_name="natural", audit_holdout=0.2), LABELS, groups, 5)
    assert all(len(np.unique(groups[allocation.held(n)])) == 1 for n in range(6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_samples": 1001}, "max-samples = 1001, but the data set has 1000"),
        ({"audit_canaries": 301}, "audit.canaries = 301, but there are 300"),
        ({"audit_holdout": 1.0}, "num-clients = 6, but there are 0 samples"),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**fields)


@pytest.mark.parametrize("where", ["test", "other client", "extra", "holdout", "canary"])
def test_overlap_is_refused(where: str) -> None:
    allocation = run(extra_test=5, audit_holdout=0.1, audit_canaries=20)
    refuse_overlap(allocation)
    row = allocation.parts["train"][0][:1]
    parts = {name: list(lists) for name, lists in allocation.parts.items()}
    broken = dataclasses.replace(allocation, parts=parts)
    if where in ("test", "extra"):
        parts[where][0] = np.append(parts[where][0], row)
    elif where == "other client":
        parts["train"][1] = np.append(parts["train"][1], row)
    elif where == "holdout":
        broken = dataclasses.replace(broken, holdout=np.append(broken.holdout, row))
    else:
        parts["val"][0] = np.append(parts["val"][0], allocation.canaries.rows[~allocation.canaries.member][:1])
    with pytest.raises(DataError, match="train and test overlap"):
        refuse_overlap(broken)
