"""Pooled features: means of neighbours, the same shape, nothing else touched."""

from __future__ import annotations

import numpy as np

from fedkd import outgoing
from fedkd.mechanisms import pool
from fedkd.vault import Vault
from tests.swing_rows import holder, kinds_of
from tests.toy import refusal, toy_setting


def test_neighbours_share_their_mean() -> None:
    rows = np.array([[1, 3, 5, 9, 10], [0, 2, 4, 4, -1]], np.float32)
    np.testing.assert_array_equal(pool.coarse(rows, 2), [[2, 2, 7, 7, 10], [1, 1, 4, 4, -1]])
    np.testing.assert_array_equal(pool.coarse(rows, 9), np.repeat(rows.mean(1, keepdims=True), 5, 1))
    np.testing.assert_array_equal(pool.coarse(rows, 1), rows)
    assert pool.coarse(rows[:0], 2).shape == (0, 5)


def test_features_alone_change_and_nothing_is_charged(tmp_path) -> None:
    setting, data = toy_setting("fedd2s", mechanism_name="pool", mechanism_args="group = 3"), holder()
    kinds, vault = kinds_of(data), Vault(tmp_path)
    out = outgoing.upload(setting, 0, data, {}, {}, kinds, vault)
    assert len(np.unique(out.kinds["features"]["z"][0])) == 1 and out.charges == 0 and vault.entries() == []
    assert all(out.kinds[k] is kinds[k] for k in kinds if k != "features")


def test_without_features_it_is_refused() -> None:
    assert "pool averages features" in refusal(lambda: toy_setting("fedavg", mechanism_name="pool"))
    assert "group = 0" in refusal(lambda: pool.Config(group=0))
