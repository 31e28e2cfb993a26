"""Who is asked about: members, strangers with the same law, no canary; and a baseline without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedkd import metrics
from fedkd.channel_candidates import Candidates, blind_scores, draw
from fedkd.prepare import Prepared, open_data, prepare
from tests.audited_runs import RECORDED
from tests.small_runs import small
from tests.toy import refusal


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("data")
    return open_data(prepare(small(root, **{**RECORDED, "max_samples": 0, "audit_canaries": 40}), root))


def test_members_are_training_rows_and_strangers_are_held_by_nobody(data: Prepared) -> None:
    found = draw(data, 0, 10_000)
    with np.load(data.path / "canaries.npz") as file:
        planted = file["ids"]
    assert not np.isin(found.ids, planted).any()
    held = np.concatenate([np.concatenate([s.ids for s in (c.train, c.val, c.test)]) for c in map(data.client, range(4))])
    assert not np.isin(found.ids[~found.member], held).any()
    assert set(found.ids[~found.member]) == set(np.asarray(data.arrays["holdout"]).tolist()) - set(planted.tolist())
    for n in range(4):
        own = data.client(n).train
        mine = found.ids[found.member & (found.client == n)]
        np.testing.assert_array_equal(mine, np.setdiff1d(own.ids, planted))
        np.testing.assert_array_equal(found.y[found.member & (found.client == n)], own.y[~np.isin(own.ids, planted)])
    assert len(np.unique(found.ids)) == len(found)


def test_a_stranger_goes_to_the_holder_of_the_row_of_its_class_before_it(data: Prepared) -> None:
    found = draw(data, 0, 10_000)
    with np.load(data.path / "canaries.npz") as file:
        planted = set(file["ids"].tolist())
    owner = {int(i): n for n in range(4) for s in ("train", "val", "test") for i in getattr(data.client(n), s).ids}
    labels = np.asarray(data.arrays["y"])
    for i, n in list(zip(found.ids[~found.member], found.client[~found.member], strict=True))[::7]:
        before = [k for k in owner if labels[k] == labels[i] and k < i and k not in planted]
        if before:
            assert owner[max(before)] == n


def test_a_draw_is_capped_on_each_side_and_repeats(data: Prepared) -> None:
    found = draw(data, 3, 50)
    assert (found.member.sum(), (~found.member).sum()) == (50, 50)
    np.testing.assert_array_equal(found.ids, draw(data, 3, 50).ids)
    assert not np.array_equal(found.ids, draw(data, 4, 50).ids)


def test_a_run_without_held_out_rows_is_refused(tmp_path: Path) -> None:
    data = open_data(prepare(small(tmp_path), tmp_path))
    assert "audit.holdout = 0.5" in refusal(lambda: draw(data, 0, 100))
    made = open_data(prepare(small(tmp_path, data_name="synthetic", partition_name="natural", partition_args="",
                                   max_samples=0), tmp_path))  # fmt: skip
    assert "with a table" in refusal(lambda: draw(made, 0, 100))


def test_the_baseline_without_a_model_sees_a_broken_split_and_no_coin(data: Prepared) -> None:
    found = draw(data, 0, 10_000)
    score = blind_scores(found, 0)
    assert metrics.auc_delong(score[found.member], score[~found.member], 0.999).low < 0.5
    broken = Candidates(found.ids, found.x, found.y, found.client, found.y < 5)
    score = blind_scores(broken, 0)
    assert metrics.auc_delong(score[broken.member], score[~broken.member], 0.999).low > 0.9
    few = Candidates(found.ids, found.x, found.y, found.client, np.arange(len(found)) < 5)
    assert blind_scores(few, 0) is None
