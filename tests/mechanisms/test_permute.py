"""Permuted rows: fresh names in a secret order, and what comes back finds its sample."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd import outgoing
from fedkd.errors import UploadError
from fedkd.mechanisms import permute
from fedkd.vault import Vault
from tests.swing_rows import holder, kinds_of
from tests.toy import refusal, toy_setting


def test_rows_stay_together_under_fresh_ids_and_come_back_to_their_samples(tmp_path) -> None:
    setting, data = toy_setting("fedd2s", mechanism_name="permute"), holder()
    kinds = kinds_of(data)
    out = outgoing.upload(setting, 0, data, {}, {}, kinds, Vault(tmp_path))
    np.testing.assert_array_equal(out.kinds["ids"]["i"], np.arange(len(data.train)))
    at = np.searchsorted(data.train.ids, out.held["ids"])
    assert not np.array_equal(at, np.arange(len(at)))
    for kind, name in (("features", "z"), ("soft_labels", "p"), ("labels", "y")):
        np.testing.assert_array_equal(out.kinds[kind][name], kinds[kind][name][at])
    back = {"soft_labels": {"q": out.kinds["soft_labels"]["p"][2:5], "i": np.array([2, 3, 4], np.int32)}}
    own = outgoing.download(setting, 1, out.held, back)
    np.testing.assert_array_equal(own["soft_labels"]["i"], data.train.ids[at[2:5]])
    with pytest.raises(UploadError, match="did not send"):
        outgoing.download(setting, 1, out.held, {"soft_labels": {"q": back["soft_labels"]["q"], "i": np.array([0, 1, 99])}})


def test_orders_last_as_long_as_they_should(tmp_path) -> None:
    setting, data = toy_setting("fedd2s", mechanism_name="permute", mechanism_args="every = 2"), holder()
    vault = Vault(tmp_path)
    orders = [outgoing.upload(setting, t, data, {}, {}, kinds_of(data), vault).held["ids"].tolist() for t in range(3)]
    assert orders[0] == orders[1] != orders[2]


def test_where_there_is_nothing_to_rename_it_is_refused() -> None:
    assert "permute renames rows" in refusal(lambda: toy_setting("fedavg", mechanism_name="permute"))
    assert "already sends fresh ids" in refusal(
        lambda: toy_setting("fedd2s", "upload_fraction = 0.5", mechanism_name="permute")
    )
    assert "every = -1" in refusal(lambda: permute.Config(every=-1))
