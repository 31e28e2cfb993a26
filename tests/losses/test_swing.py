"""Swing loss: neutral = KD bit for bit, masks and sides; letters in the names are those of specs, swing, section 12."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fedkd import keyed_noise
from fedkd.errors import ConfigError
from fedkd.losses import ce, kl, swing

NEUTRAL = swing.Config(temperature_high=1.0, noise="none", kd_weight=1.0, mask_hard_private=False)
STREAM = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (3 * torch.randn(40, 12, generator=STREAM) for _ in range(2))
LABELS = torch.randint(0, 12, (40,), generator=STREAM)
LIKELIHOOD = torch.rand(40, generator=STREAM)
HIDDEN = LIKELIHOOD >= 0.5
NOISE = torch.from_numpy(keyed_noise.unit_noise("laplace", np.arange(40, dtype=np.uint64), 12))


def plain(temperature: float = 1.0, squared: bool = False, student: Tensor = STUDENT) -> Tensor:
    return kl.loss(kl.Config(temperature, squared=squared), student, TEACHER, None)


def loss(config: swing.Config, student: Tensor = STUDENT, likelihood: Tensor | None = LIKELIHOOD) -> Tensor:
    return swing.loss(config, student, TEACHER, LABELS, likelihood, NOISE)


# ----- (a) neutral -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hot", [0.7, 1.0, 3.0, 3.3, 20.0])
@pytest.mark.parametrize("squared", [False, True])
def test_a_all_neutral_is_kl_bit_for_bit(hot: float, squared: bool) -> None:
    """Both sides at T_lo = T_hi = T: ``kl`` of that T; the likelihood may be anything."""
    config = replace(NEUTRAL, temperature_low=hot, temperature_high=hot, temperature_side="both", temperature_squared=squared)
    assert torch.equal(loss(config), plain(hot, squared))
    assert torch.equal(loss(replace(config, schedule="log")), plain(hot, squared))


FREE: list[dict[str, Any]] = [
    {"schedule": "log"}, {"schedule": "step"}, {"gamma": 2.0}, {"theta": 0.1}, {"temperature_side": "both"},
    {"temperature_squared": True}, {"noise": "laplace", "epsilon_per_position": math.inf},
    {"noise": "laplace", "noise_scale": 0.0}, {"noise": "gaussian", "noise_scale": 0.0}, {"noise_on": "logits"},
    {"noise_scope": "all"}, {"noise_key": "row"}, {"noise_key": "redraw"}, {"epsilon_per_position": 3.0}, {"top_k": 12},
    {"top_k_scope": "public"}, {"mask_hard_private": True},
]  # fmt: skip


@pytest.mark.parametrize("change", FREE, ids=str)
def test_a_each_field_alone_without_effect_at_neutral(change: dict[str, Any]) -> None:
    """Column "neutral" of the table of specs, swing, section 8 (at T = 1 side and T^2 change nothing)."""
    assert torch.equal(loss(replace(NEUTRAL, **change)), plain())


EFFECT: list[dict[str, Any]] = [
    {"temperature_high": 5.0}, {"noise": "laplace"}, {"noise": "laplace", "noise_scale": 0.1}, {"top_k": 3},
    {"logit_range": 1.0}, {"kd_weight": 0.5}, {"temperature_low": 2.0, "temperature_high": 2.0},
]  # fmt: skip


@pytest.mark.parametrize("change", EFFECT, ids=str)
def test_a_each_field_alone_with_effect(change: dict[str, Any]) -> None:
    assert not torch.equal(loss(replace(NEUTRAL, **change)), plain())


@pytest.mark.parametrize("likelihood", [None, torch.zeros(40)])
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9, 1.0])
def test_a_likelihood_zero_is_kd_bit_for_bit(likelihood: Tensor | None, weight: float) -> None:
    """Every default (T_hi 20, Laplace noise, mask) with nothing private: (1 - w) CE + w KL at T_lo = 1."""
    expected = plain() if weight == 1 else (1 - weight) * ce.loss(ce.Config(), STUDENT, None, LABELS) + weight * plain()
    assert torch.equal(loss(swing.Config(kd_weight=weight), likelihood=likelihood), expected)


def test_a_without_likelihood_no_noise_is_asked_for() -> None:
    assert torch.equal(swing.loss(swing.Config(kd_weight=1.0), STUDENT, TEACHER, None), plain())
    for needs in (swing.Config(noise_scope="all"), swing.Config(epsilon_elsewhere=1e3)):
        with pytest.raises(ConfigError, match="needs unit draws"):
            swing.loss(needs, STUDENT, TEACHER, LABELS)
    with pytest.raises(ConfigError, match="needs unit draws"):
        swing.loss(swing.Config(), STUDENT, TEACHER, LABELS, LIKELIHOOD)


# ----- definition ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", ["teacher", "both"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_equals_the_oracle(side: Literal["teacher", "both"], squared: bool, mask: bool) -> None:
    """The formula of specs, swing, section 3, position by position in NumPy (float64)."""
    config = swing.Config(temperature_side=side, temperature_squared=squared, mask_hard_private=mask, kd_weight=0.3)
    got = swing.loss(config, STUDENT.double(), TEACHER.double(), LABELS, LIKELIHOOD.double(), NOISE.double())
    for i in range(40):
        p, hot = float(LIKELIHOOD[i]), 1 + 19 * float(LIKELIHOOD[i])
        q = TEACHER[i].double().div(hot).softmax(0).numpy()
        if p >= 0.5:
            q = np.maximum(q + 0.2 * NOISE[i].double().numpy(), 0)
            q = q / q.sum()
        log_s = STUDENT[i].double().div(hot if side == "both" else 1.0).log_softmax(0).numpy()
        soft = sum(a * (math.log(a) - b) for a, b in zip(q, log_s, strict=True) if a > 0) * (hot**2 if squared else 1)
        weight = 1.0 if mask and p >= 0.5 else 0.3
        hard = -float(STUDENT[i].double().log_softmax(0)[LABELS[i]])
        assert float(got[i]) == pytest.approx((1 - weight) * hard + weight * soft, rel=1e-9)


def test_shapes_of_language_models_and_of_stacked_clients() -> None:
    config = swing.Config()
    flat = loss(config)
    parts = (
        STUDENT.view(4, 10, 12),
        TEACHER.view(4, 10, 12),
        LABELS.view(4, 10),
        LIKELIHOOD.view(4, 10),
        NOISE.view(4, 10, 12),
    )
    assert torch.equal(swing.loss(config, *parts), flat.view(4, 10))
    stacked = vmap(lambda s, t, y, p, n: swing.loss(config, s, t, y, p, n))(*parts)
    torch.testing.assert_close(stacked, flat.view(4, 10))


# ----- (f), (g): gradients ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", ["teacher", "both"])
def test_f_no_gradient_to_teacher_likelihood_or_temperature(side: Literal["teacher", "both"]) -> None:
    student, teacher, likelihood, noise = (v.clone().requires_grad_() for v in (STUDENT, TEACHER, LIKELIHOOD, NOISE))
    config = swing.Config(temperature_side=side, temperature_squared=True)
    swing.loss(config, student, teacher, LABELS, likelihood, noise).sum().backward()
    assert teacher.grad is None and likelihood.grad is None and noise.grad is None
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_f_gradcheck_with_noise_and_private_positions() -> None:
    config = swing.Config(temperature_side="both")
    inputs = [v[:4].double() for v in (STUDENT, TEACHER, LIKELIHOOD, NOISE)]
    student = inputs[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda s: swing.loss(config, s, inputs[1], LABELS[:4], inputs[2], inputs[3]), (student,))


def gradient(config: swing.Config, labels: Tensor = LABELS) -> Tensor:
    student = STUDENT.clone().requires_grad_()
    (found,) = torch.autograd.grad(swing.loss(config, student, TEACHER, labels, LIKELIHOOD, NOISE).sum(), student)
    return found


def test_g_the_mask_removes_the_label_gradient_at_private_positions_only() -> None:
    other = (LABELS + 1) % 12
    masked = gradient(swing.Config()) != gradient(swing.Config(), other)
    open_ = gradient(swing.Config(mask_hard_private=False)) != gradient(swing.Config(mask_hard_private=False), other)
    assert torch.equal(masked.any(-1), ~HIDDEN)
    assert open_.any(-1).all()
    assert torch.equal(gradient(swing.Config())[HIDDEN], gradient(swing.Config(kd_weight=1.0))[HIDDEN])


def test_g_unmasked_private_positions_are_counted_for_the_warning() -> None:
    count = int(HIDDEN.sum())
    assert swing.unmasked_private(swing.Config(mask_hard_private=False), LIKELIHOOD) == count > 0
    assert swing.unmasked_private(swing.Config(), LIKELIHOOD) == 0
    assert swing.unmasked_private(swing.Config(mask_hard_private=False, kd_weight=1.0), LIKELIHOOD) == 0


# ----- (h), (o) --------------------------------------------------------------------------------------------------------
def test_h_public_terms_are_untouched_by_private_noise() -> None:
    quiet = loss(swing.Config(noise="none"))
    assert torch.equal(loss(swing.Config())[~HIDDEN], quiet[~HIDDEN])
    assert (loss(swing.Config())[HIDDEN] != quiet[HIDDEN]).all()


def test_o_variant_b_scales_the_private_gradient_by_one_over_400() -> None:
    """(softmax(z_S / T) - softmax(z_T / T)) / T is (z_S - z_T) / (T^2 V) to first order in small centred logits."""
    student, teacher = (1e-5 * (v - v.mean(-1, keepdim=True)).double() for v in (STUDENT, TEACHER))
    ones = torch.ones(40).double()
    variant = replace(NEUTRAL, temperature_high=20.0, temperature_side="both")

    def slope(likelihood: Tensor, config: swing.Config) -> Tensor:
        leaf = student.clone().requires_grad_()
        (found,) = torch.autograd.grad(swing.loss(config, leaf, teacher, None, likelihood).sum(), leaf)
        return found

    torch.testing.assert_close(slope(ones, variant), slope(0 * ones, variant) / 400, rtol=1e-3, atol=1e-13)
    squared = replace(variant, temperature_squared=True)  # A: T^2 restores the size
    torch.testing.assert_close(slope(ones, squared), slope(0 * ones, squared), rtol=1e-3, atol=1e-10)


# ----- refusals --------------------------------------------------------------------------------------------------------
def test_l_formal_refuses_each_missing_requirement() -> None:
    whole: dict[str, Any] = {"logit_range": 10.0, "noise_scope": "all", "kd_weight": 1.0, "formal": True}
    assert swing.Config(**whole).formal
    changes: list[dict[str, Any]] = [
        {"logit_range": 0.0}, {"noise_scope": "private"}, {"kd_weight": 0.5}, {"noise": "none"}, {"noise_key": "row"},
        {"top_k": 3},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(ConfigError, match=f"formal = true needs .*{next(iter(change))}"):
            swing.Config(**{**whole, **change})


def test_bad_values_and_missing_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"kd_weight = 1\.5; valid: 0 to 1"):
        swing.Config(kd_weight=1.5)
    with pytest.raises(ConfigError, match="theta"):
        swing.Config(theta=0.0)
    with pytest.raises(ConfigError, match="swing needs teacher logits"):
        swing.loss(swing.Config(), STUDENT, None, LABELS)
    with pytest.raises(ConfigError, match="swing needs labels"):
        swing.loss(swing.Config(), STUDENT, TEACHER, None)
