"""Where a mechanism meets what leaves: states are kept apart, and without hooks nothing changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedkd import outgoing
from fedkd.types import Kinds
from fedkd.vault import Vault
from tests.swing_rows import holder, kinds_of, using
from tests.toy import refusal, same, toy_setting


def test_a_state_is_split_and_joined() -> None:
    state = {"w": np.ones(2), "mechanism/i": np.zeros(3), "mechanism/k": np.array(1)}
    own, held = outgoing.split(state)
    assert set(own) == {"w"} and set(held) == {"i", "k"}
    assert same(outgoing.joined(own, held), state)
    assert outgoing.joined(own, {}) is own


def test_without_a_mechanism_everything_is_the_same_object(tmp_path: Path) -> None:
    setting, data = toy_setting("fedd2s"), holder()
    kinds, vault = kinds_of(data), Vault(tmp_path / "v")
    out = outgoing.upload(setting, 0, data, {}, {}, kinds, vault)
    down: Kinds = {"soft_labels": {"q": kinds["soft_labels"]["p"], "i": data.train.ids}}
    back = outgoing.broadcast(setting, 0, 0, {}, down, vault)
    assert out.kinds is kinds and back.kinds is down
    assert out.charges == back.charges == 0
    assert outgoing.notes(setting) == {}
    assert not (tmp_path / "v").exists()


def test_a_release_is_in_the_ledger_when_it_is_returned(tmp_path: Path) -> None:
    vault, data = Vault(tmp_path), holder()
    outgoing.upload(using(), 2, data, {}, {}, kinds_of(data), vault)
    (entry,) = vault.entries()
    assert (entry["channel"], entry["round"], entry["charges"]) == ("up", 2, len(data.train))


def test_a_likelihood_that_nobody_reads_is_refused() -> None:
    said = refusal(lambda: toy_setting("fedd2s", sensitivity_name="gap"))
    assert 'mechanism.name = "none" reads no likelihood; valid: sensitivity.name = "constant"' in said
