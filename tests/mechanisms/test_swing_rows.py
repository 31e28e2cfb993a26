"""What federated swing makes of one row, and what it refuses; what is promised for rows over rounds is in test_swing.py."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fedkd.errors import ConfigError, UploadError
from tests.swing_rows import SEEDED, C, K, holder, kinds_of, p_of, send, using
from tests.toy import refusal, toy_setting


# ----- the protected row ----------------------------------------------------------------------------------------------
def test_a_row_leaves_as_the_logarithm_of_its_softened_floored_target() -> None:
    """q = softmax(z / T), T = 1 + 19 p; on the wire log(max(q, floor)), renormalised (NumPy, float64)."""
    setting = using('noise_scale = 0.0, round_policy = "fresh", prob_floor = 0.01', sensitivity_args="likelihood = 0.25")
    data = holder()
    kinds = kinds_of(data)
    z = kinds["soft_labels"]["p"].astype(np.float64) / (1 + 19 * 0.25)
    q = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    q = np.maximum(q, 0.01)
    expected = np.log(q / q.sum(1, keepdims=True))
    got = p_of(send(setting, 0, data, kinds))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_noise_has_its_scale() -> None:
    """Before clipping, xi ~ Laplace(0, b): at a target far from 0 and 1 nothing is clipped and E|xi| = b."""
    data = holder(4000)
    kinds = kinds_of(data)
    kinds["soft_labels"]["p"] = np.zeros((4000, 2), np.float32)
    got = np.exp(p_of(send(using("noise_scale = 0.01"), 0, data, kinds)).astype(np.float64))
    # q~_0 = (.5 + x) / (1 + x + y), so q~_0 - .5 = (x - y) / 2 to first order; E|x - y| = 1.5 b
    assert np.abs(got[:, 0] - 0.5).mean() == pytest.approx(0.75 * 0.01, rel=0.06)


def test_the_sampled_carrier_sends_one_class() -> None:
    setting = using('carrier = "sampled", noise_scale = 0.0, round_policy = "fresh"')
    data = holder(3000)
    kinds = kinds_of(data)
    kinds["soft_labels"]["p"] = np.tile(np.log(np.array([0.5, 0.2, 0.1, 0.1, 0.1], np.float32)), (3000, 1))
    out = send(setting, 0, data, kinds)
    q = np.exp(p_of(out))
    assert ((q > 0.99).sum(1) == 1).all()
    shares = np.bincount(q.argmax(1), minlength=5) / 3000
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.1, 0.1, 0.1], atol=3 * math.sqrt(0.25 / 3000))
    assert out.charges == 3000


def test_labels_are_redrawn_from_the_release_and_stay_inside_an_epoch() -> None:
    args = f"pass_through = ['features', 'ids', 'weights'], redraw_labels = true, noise_scale = 0.0, {SEEDED}"
    setting = toy_setting("fedd2s", mechanism_name="swing", mechanism_args=args)
    data = holder(500)
    kinds = kinds_of(data)
    kinds["soft_labels"]["p"][:] = np.eye(C, dtype=np.float32)[(data.train.y + 1) % C] * 30
    first = send(setting, 0, data, kinds)
    np.testing.assert_array_equal(first.kinds["labels"]["y"], (data.train.y + 1) % C)  # the raw label does not leave
    assert first.kinds["labels"]["y"].dtype == np.int32
    second = send(setting, 1, data, kinds_of(data, 1), first.held)
    np.testing.assert_array_equal(second.kinds["labels"]["y"], first.kinds["labels"]["y"])


def test_no_row_leaves_in_the_warm_up() -> None:
    setting = using('round_policy = "once", warmup_rounds = 2')
    data = holder()
    out = send(setting, 1, data, kinds_of(data))
    assert {k: len(v) for k, a in out.kinds.items() for v in a.values()} == {
        "weights": 2, "features": 0, "soft_labels": 0, "ids": 0, "labels": 0,
    }  # fmt: skip
    assert out.charges == 0 and not out.held
    assert send(setting, 2, data, kinds_of(data)).charges == K


def test_rare_labels_get_flatter_rows() -> None:
    setting = using(
        'noise_scale = 0.0, round_policy = "fresh"', sensitivity_name="frequency", sensitivity_args="rare = 1, common = 8"
    )
    data = holder()
    y = np.array([0] + [1] * (K - 1), np.int32)
    data = replace(data, train=replace(data.train, y=y))
    kinds = kinds_of(data)
    kinds["soft_labels"]["p"] = np.tile(np.array([4, 0, 0, 0, 0], np.float32), (K, 1))
    top = np.exp(p_of(send(setting, 0, data, kinds)))[:, 0]
    assert top[0] == pytest.approx(math.exp(0.2) / (math.exp(0.2) + 4), abs=1e-5)  # T = 20
    np.testing.assert_allclose(top[1:], math.exp(4) / (math.exp(4) + 4), atol=1e-5)  # T = 1


def test_the_gap_compares_with_what_the_federation_last_said() -> None:
    """p = clip((loss_reference - loss_own) / 3): a row that the federation expects as much as the client is public."""
    setting = using('noise_scale = 0.0, round_policy = "fresh"', sensitivity_name="gap")
    data = holder()
    kinds = kinds_of(data)
    sure = np.eye(C, dtype=np.float32)[data.train.y] * 8
    kinds["soft_labels"]["p"] = sure
    told = np.where(np.arange(K) < 6, 0, -1).astype(np.int32)
    top = np.exp(p_of(send(setting, 0, data, kinds, state={"q": sure, "q_round": told}))).max(1)
    assert (top[:6] > 0.99).all(), "T = 1 where both agree"
    assert (top[6:] < 0.5).all(), "hot where the federation has said nothing yet"


# ----- refusals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("noise_scale = -0.1", "noise_scale = -0.1; valid: 0 or more"),
        ("return_noise_scale = inf", "return_noise_scale = inf; valid: 0 or more"),
        ("refresh_every = 0", "refresh_every = 0; it must be at least 1"),
        ("warmup_rounds = -1", "warmup_rounds = -1; it must be at least 0"),
        ("return_likelihood = 1.5", "return_likelihood = 1.5; valid: 0 to 1"),
        ("prob_floor = 0.0", "prob_floor = 0.0; valid: above 0"),
        ("temperature_high = 0.5", "temperature_high = 0.5; valid: at least temperature_low"),
        ('temperature_side = "both"', "unknown field 'temperature_side'; valid fields: temperature_low"),
    ],
)
def test_bad_values_are_refused(args: str, said: str) -> None:
    assert said in refusal(lambda: using(args))


def test_impossible_combinations_are_refused_before_the_start() -> None:
    assert "reads text; mechanism swing has labels alone: valid are constant" in refusal(
        lambda: using(sensitivity_name="regex")
    )
    assert "send nothing" in refusal(lambda: toy_setting("local", mechanism_name="swing"))
    assert "send weights; valid: mechanism.name" in refusal(lambda: toy_setting("fedavg", mechanism_name="swing"))
    no_labels = 'upload_labels = "none", server_ce = false'
    args = "redraw_labels = true, pass_through = ['features', 'ids', 'weights']"
    assert "no labels are sent" in refusal(
        lambda: toy_setting("fedd2s", no_labels, mechanism_name="swing", mechanism_args=args)
    )
    part = "upload_fraction = 0.5"
    assert "ids that last" in refusal(lambda: using("return_noise_scale = 0.1", part))
    using('return_noise_scale = 0.1, round_policy = "fresh"', part)
    with pytest.raises(UploadError, match="does not hold"):
        send(using(), 0, holder(), {**kinds_of(holder()), "ids": {"i": np.arange(K, dtype=np.int32)}})
    with pytest.raises(ConfigError):
        toy_setting("fedd2s", mechanism_name="swing")
