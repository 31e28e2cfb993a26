"""Noised rows: the bound of a row, the joint figure of all of them, and no figure without it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fedkd import clipping, guarantees, outgoing
from fedkd.mechanisms import clip_noise
from fedkd.vault import Vault
from tests.swing_rows import holder, kinds_of
from tests.toy import refusal, toy_setting

PASS = 'pass_through = ["labels", "weights"]'


def test_rows_never_pass_the_bound_over_ten_thousand_cases_and_reach_it() -> None:
    stream = np.random.default_rng(0)
    rows = (stream.normal(size=(10_000, 6)) * 10 ** stream.uniform(-8, 8, (10_000, 1))).astype(np.float32)
    norms = np.linalg.norm(clipping.clipped_rows(rows, 0.3), axis=1)
    assert norms.max() <= 0.3 and norms.max() == pytest.approx(0.3, rel=1e-5)
    small = np.linalg.norm(rows, axis=1) < 0.29
    np.testing.assert_allclose(clipping.clipped_rows(rows, 0.3)[small], rows[small])
    assert not clipping.clipped_rows(np.array([[np.nan, 1], [0, 0]]), 1.0).any()


def test_all_rows_move_together() -> None:
    """Replacing one record moves each of K clipped rows by up to 2C: 2 C sqrt(K) jointly, reached by opposite rows."""
    k, c = 70, 0.5
    one, other = np.tile([3.0, 0.0], (k, 1)), np.tile([-3.0, 0.0], (k, 1))
    moved = np.linalg.norm(clipping.clipped_rows(one, c) - clipping.clipped_rows(other, c))
    assert moved == pytest.approx(2 * c * math.sqrt(k), rel=1e-5) and moved <= 2 * c * math.sqrt(k)
    (event,) = clip_noise.joint(clip_noise.Config(clip=c), k)
    assert event.noise_multiplier == pytest.approx(10 * c / (2 * c * math.sqrt(k)))
    assert clip_noise.joint(clip_noise.Config(joint=False), k) == ()


def test_noise_is_fresh_per_round_repeats_for_the_same_bytes_and_is_charged_before_it_leaves(tmp_path: Path) -> None:
    setting, data = toy_setting("fedd2s", mechanism_name="clip_noise", mechanism_args=PASS), holder()
    kinds = kinds_of(data)
    vault = Vault(tmp_path)
    first, again, later = (outgoing.upload(setting, t, data, {}, {}, kinds, vault) for t in (0, 0, 1))
    z = [o.kinds["features"]["z"] for o in (first, again, later)]
    assert np.array_equal(z[0], z[1]) and not np.array_equal(z[0], z[2])
    assert [(e["round"], e["charges"]) for e in vault.entries()] == [(0, len(data.train)), (1, len(data.train))]
    assert first.kinds["ids"] is kinds["ids"] and first.kinds["labels"] is kinds["labels"]


def test_without_the_joint_figure_there_is_no_guarantee() -> None:
    method = 'average = false, schedule = "equal", kd_after_drop = "follow", upload_labels = "none", server_ce = false'
    for args, states in (("", True), ("joint = false", False)):
        setting = toy_setting("fedd2s", method, mechanism_name="clip_noise", mechanism_args=args, metrics="home")
        said, found = guarantees.privacy(setting, {0: []}, [])
        assert (found is not None) == states
        assert said.startswith("No guarantee") != states


def test_bad_values_are_refused() -> None:
    assert "valid: one or both of" in refusal(lambda: clip_noise.Config(kinds=("labels",)))
    assert "clip_noise cannot bound" in refusal(lambda: toy_setting("fedd2s", mechanism_name="clip_noise"))
