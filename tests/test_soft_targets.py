"""Soft targets against NumPy oracles; letters in the names are those of specs, swing, section 12."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd import keyed_noise, spans
from fedkd.logits import log_soft
from fedkd.soft_targets import (
    Protection,
    as_logits,
    delta_1,
    delta_2,
    noised,
    protect,
    sampled,
    sampled_epsilon,
    temperature,
    type_retention,
)

NEUTRAL = Protection(temperature_high=1.0, noise="none")


def case(rows: int = 40, vocabulary: int = 12, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [rows, V], likelihoods [rows] of which half are private, unit Laplace draws [rows, V]."""
    source = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, vocabulary, generator=source)
    likelihood = torch.rand(rows, generator=source)
    keys = np.arange(rows, dtype=np.uint64) + np.uint64(1000 * seed)
    return logits, likelihood, torch.from_numpy(keyed_noise.unit_noise("laplace", keys, vocabulary))


def oracle(config: Protection, logits: Tensor, likelihood: Tensor, noise: Tensor) -> np.ndarray:
    """The pseudo-code of specs, swing, section 2, row by row in float64; probabilities, Laplace, worst-case bound."""
    out = []
    for z, p, xi in zip(logits.double().numpy(), likelihood.double().numpy(), noise.double().numpy(), strict=True):
        hot = config.temperature_low + (config.temperature_high - config.temperature_low) * p**config.gamma
        if config.logit_range:
            z = np.maximum(z, z.max() - config.logit_range)
        q = np.exp((z - z.max()) / hot)
        q /= q.sum()
        kept = np.ones(len(q), dtype=bool)
        if config.top_k and not (config.top_k_scope == "public" and p >= config.theta):
            kept = np.argsort(np.argsort(-q, kind="stable"), kind="stable") < config.top_k
            q = np.where(kept, q, 0) / q[kept].sum()
        hidden = p >= config.theta
        level = config.epsilon if hidden or config.noise_scope == "all" else config.epsilon_elsewhere
        if level is not None and level < math.inf:
            q = np.maximum(q + np.where(kept, 2 / level * xi, 0), 0)
            q = q / q.sum() if q.sum() > 0 else np.full(len(q), 1 / len(q))
        out.append(q)
    return np.array(out)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"gamma": 2.0, "temperature_low": 2.0},
    {"noise_scope": "all", "epsilon_per_position": 3.0},
    {"epsilon_elsewhere": 1000.0},
    {"top_k": 4},
    {"top_k": 4, "top_k_scope": "public"},
    {"logit_range": 2.0, "epsilon_per_position": 50.0},
    {"epsilon_per_position": math.inf},
]


@pytest.mark.parametrize("fields_changed", VARIANTS, ids=str)
def test_equals_the_pseudo_code(fields_changed: dict[str, Any]) -> None:
    config = Protection(**fields_changed)
    logits, likelihood, noise = case()
    expected = oracle(config, logits, likelihood, noise)
    np.testing.assert_allclose(protect(config, logits, likelihood, noise).numpy(), expected, rtol=2e-5, atol=1e-6)


# ----- (a), (b): neutral, schedules -------------------------------------------------------------------------------------
@pytest.mark.parametrize("changed", [{}, {"gamma": 3.0}, {"schedule": "log"}, {"schedule": "step"}, {"theta": 0.1}])
def test_a_neutral_targets_are_the_plain_softmax_bit_for_bit(changed: dict[str, Any]) -> None:
    logits, likelihood, _ = case()
    assert torch.equal(protect(replace(NEUTRAL, **changed), logits, likelihood), log_soft(logits, 1.0).exp())


@pytest.mark.parametrize("schedule", ["linear", "log", "step"])
@pytest.mark.parametrize("low", [0.7, 1.0, 3.3])
def test_a_likelihood_zero_gives_the_low_temperature(schedule: Literal["linear", "log", "step"], low: float) -> None:
    config = Protection(schedule=schedule, temperature_low=low, gamma=0.5)
    assert torch.equal(temperature(config, torch.zeros(3)), torch.full((3,), low))


TABLE = {
    "linear": ([0.0, 0.5, 0.9, 1.0], [1.0, 10.5, 18.1, 20.0]),
    "log": ([0.0, 0.5, 1.0], [1.0, math.sqrt(20), 20.0]),
    "step": ([0.0, 0.49, 0.5, 1.0], [1.0, 1.0, 20.0, 20.0]),
}


@pytest.mark.parametrize("schedule", ["linear", "log", "step"])
def test_b_schedules_against_a_table(schedule: Literal["linear", "log", "step"]) -> None:
    """T_lo 1, T_hi 20; 0.9 on the linear schedule gives the 18.1 of specs, swing, section 4."""
    given_p, expected = TABLE[schedule]
    torch.testing.assert_close(temperature(Protection(schedule=schedule), torch.tensor(given_p)), torch.tensor(expected))
    squared = temperature(Protection(gamma=2.0), torch.tensor([0.5]))
    torch.testing.assert_close(squared, torch.tensor([1 + 19 * 0.25]))


@pytest.mark.parametrize("schedule", ["linear", "log", "step"])
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8), st.floats(0.2, 5))
@settings(max_examples=30, deadline=None)
def test_b_schedules_are_monotone(schedule: Literal["linear", "log", "step"], values: list[float], gamma: float) -> None:
    hot = temperature(Protection(schedule=schedule, gamma=gamma), torch.tensor(sorted(values)))
    assert (hot.diff() >= 0).all()
    assert (hot >= 1.0).all() and (hot <= 20.0 + 1e-5).all()


def test_theta_is_compared_in_the_dtype_of_the_likelihood() -> None:
    """float32(0.9) < 0.9 in float64: a confidence equal to theta must not fall below it."""
    likelihood = torch.tensor([0.9])
    assert temperature(Protection(schedule="step", theta=0.9), likelihood).item() == 20.0
    assert noised(Protection(theta=0.9), likelihood).item()


# ----- (c), (d): alignment, distributions -------------------------------------------------------------------------------
def test_c_only_the_logits_that_predict_the_flagged_token_change() -> None:
    """Token 3 is private: the target at input position 2 changes, those at 1 and 3 keep their bits."""
    logits, _, noise = case(rows=5)
    of_tokens = spans.to_tokens([spans.Span(3, 4, "digits", 1.0)], [(i, i + 1) for i in range(6)])
    likelihood = torch.from_numpy(spans.for_labels(of_tokens))
    assert likelihood.tolist() == [0, 0, 1, 0, 0]
    changed = (protect(Protection(), logits, likelihood, noise) != log_soft(logits, 1.0).exp()).any(-1)
    assert changed.tolist() == [False, False, True, False, False]


@given(
    st.integers(0, 2**31),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([0.0, 1.0, 1e4]),
    st.sampled_from(["probabilities", "logits"]),
    st.sampled_from([0.0, 0.2, 50.0]),
    st.sampled_from([0, 1, 3, 99]),
    st.integers(1, 9),
)
@settings(max_examples=80, deadline=None)
def test_d_targets_are_distributions(
    seed: int, low: float, scale: float, on: Literal["probabilities", "logits"], b: float, top_k: int, vocabulary: int
) -> None:
    """q >= 0, sum 1, no NaN, for T = 1e-3 and 1e3 too."""
    config = Protection(low, 1e3, noise_scale=b, noise_on=on, logit_range=20.0, top_k=top_k, noise_scope="all")
    logits, likelihood, noise = case(6, vocabulary, seed % 1000, scale)
    for clipped in (config, replace(config, logit_range=0.0, noise_on="probabilities")):
        q = protect(clipped, logits, likelihood, noise)
        assert (q >= 0).all()
        torch.testing.assert_close(q.sum(-1), torch.ones(6), rtol=0, atol=1e-5)


def test_d_uniform_when_all_mass_is_clipped() -> None:
    logits, _, noise = case(rows=4)
    q = protect(Protection(noise_scale=100.0), logits, torch.ones(4), -noise.abs() - 1)
    assert torch.equal(q, torch.full_like(q, 1 / 12))


def test_d_noise_on_logits_is_added_after_clipping() -> None:
    config = Protection(temperature_high=1.0, noise_on="logits", noise_scale=0.5, logit_range=2.0)
    logits, _, noise = case(rows=3)
    clipped = torch.maximum(logits, logits.amax(-1, keepdim=True) - 2.0)
    torch.testing.assert_close(protect(config, logits, torch.ones(3), noise), (clipped + 0.5 * noise).softmax(-1))


# ----- (e): releases ---------------------------------------------------------------------------------------------------
def test_e_a_release_does_not_depend_on_batch_size_or_order() -> None:
    """Every function of the target is row by row: one position alone has the bits that it has among forty."""
    logits, likelihood, noise = case()
    for config in (Protection(), Protection(top_k=5, noise_scope="all"), NEUTRAL):
        whole = protect(config, logits, likelihood, noise)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
        assert torch.equal(protect(config, logits[order], likelihood[order], noise[order]), whole[order])
        assert all(torch.equal(protect(config, logits[i], likelihood[i], noise[i]), whole[i]) for i in range(40))
        assert torch.equal(
            protect(config, logits.view(4, 10, 12), likelihood.view(4, 10), noise.view(4, 10, 12)).view(40, 12), whole
        )


def test_e_equal_records_get_one_release() -> None:
    """Two copies and a third record that parts from them at its second token: one release for copies, new keys after it."""
    tokens = np.array([[0, 5, 6, 7], [0, 5, 6, 7], [0, 4, 6, 7]])
    keys = keyed_noise.content_keys(tokens, secret=3, teacher="t")
    noise = torch.from_numpy(keyed_noise.unit_noise("laplace", keys, 8))
    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))[torch.from_numpy(tokens[:, :3])]
    q = protect(Protection(), logits, torch.ones(3, 3), noise)
    assert torch.equal(q[0], q[1])
    assert torch.equal(q[0, 0], q[2, 0])
    assert not torch.equal(q[0, 2], q[2, 2])
    assert keyed_noise.charges(keys, noised(Protection(), torch.ones(3, 3)).numpy()) == 5


# ----- (f): gradients --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [Protection(), NEUTRAL, Protection(top_k=3)])
def test_f_no_gradient_to_teacher_likelihood_or_temperature(config: Protection) -> None:
    logits, likelihood, noise = (value.requires_grad_() for value in case())
    assert not protect(config, logits, likelihood, noise).requires_grad
    assert not temperature(config, likelihood).requires_grad


# ----- (h): noise scale ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("law", "epsilon", "scale"), [("laplace", 10.0, 0.2), ("laplace", 100.0, 0.02), ("gaussian", None, 0.05)]
)
def test_h_noise_scale(law: Literal["laplace", "gaussian"], epsilon: float | None, scale: float) -> None:
    """Logits that make q = (1/2, 1/2); where nothing is clipped, before renormalising q~_0 / q~_1 = (1/2 + x0) / (1/2 + x1).

    So the scale is read from what ``protect`` multiplies the draws by: with one draw d at entry 0 and 0 at entry 1 the ratio
    gives b d = ratio / 2 - 1/2. Mean |b d| of Laplace is b, standard error b / sqrt(n); mean square of Gaussian is sigma^2,
    standard error sigma^2 sqrt(2 / n). Draws below the clipping point are taken positive by symmetry.
    """
    n = 20_000
    draws = torch.from_numpy(keyed_noise.unit_noise(law, np.arange(n, dtype=np.uint64), 1)).abs()
    noise = torch.cat([draws, torch.zeros_like(draws)], dim=1).double()
    config = Protection(noise=law, epsilon_per_position=epsilon, noise_scale=None if epsilon else scale)
    q = protect(config, torch.zeros(n, 2).double(), torch.ones(n), noise)
    added = q[:, 0] / q[:, 1] / 2 - 0.5
    if law == "laplace":
        assert abs(added.mean() - scale) < 3 * scale / math.sqrt(n)
    else:
        assert abs(added.square().mean() - scale**2) < 3 * scale**2 * math.sqrt(2 / n)


def test_h_public_targets_are_untouched_bit_for_bit() -> None:
    logits, likelihood, noise = case()
    config = Protection()
    hidden = likelihood >= 0.5
    quiet = protect(replace(config, noise="none"), logits, likelihood)
    q = protect(config, logits, likelihood, noise)
    assert torch.equal(q[~hidden], quiet[~hidden])
    assert (q[hidden] != quiet[hidden]).any(-1).all()
    assert torch.equal(noised(config, likelihood), hidden)
    assert noised(replace(config, noise_scope="all"), likelihood).all()
    assert noised(replace(config, epsilon_elsewhere=1e3), likelihood).all()
    assert not noised(replace(config, epsilon_per_position=math.inf), likelihood).any()


def test_h_clipped_bound_rescales_the_noise() -> None:
    """b = Delta_1(R, T_t) / eps_n: at T_hi = 20 and R = 20 a factor 0.46 of the worst case (0.92 / 2)."""
    worst = Protection(logit_range=20.0, epsilon_per_position=50.0)
    clipped = replace(worst, sensitivity_bound="clipped")
    logits, _, noise = case(rows=5)
    smaller = protect(clipped, logits, torch.ones(5), noise)
    torch.testing.assert_close(smaller, protect(worst, logits, torch.ones(5), noise * math.tanh(0.5)))


# ----- (j): sensitivity ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("hot", "expected"), [(1, 2.00), (4, 1.97), (10, 1.52), (20, 0.92), (100, 0.20)])
def test_j_delta_1_of_the_specification(hot: float, expected: float) -> None:
    assert delta_1(20.0, hot) == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize(("hot", "expected"), [(1, 1.41), (4, 0.0762), (10, 0.0148), (20, 0.0066), (100, 0.0013)])
def test_j_delta_2_of_the_specification(hot: float, expected: float) -> None:
    assert delta_2(20.0, hot, 50257) == pytest.approx(expected, abs=6e-5 if hot > 1 else 6e-3)


@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(0.1, 30), st.floats(0.5, 50))
@settings(max_examples=60, deadline=None)
def test_j_delta_is_never_exceeded(seed: int, vocabulary: int, reach: float, hot: float) -> None:
    rng = np.random.default_rng(seed)
    corners = reach * rng.integers(0, 2, (40, vocabulary))
    z = np.concatenate([corners, rng.uniform(0, reach, (40, vocabulary))]) / hot
    q = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    apart = q[:, None] - q[None]
    assert np.abs(apart).sum(-1).max() <= delta_1(reach, hot) + 1e-12
    assert np.sqrt((apart**2).sum(-1)).max() <= delta_2(reach, hot, vocabulary) + 1e-12


@pytest.mark.parametrize("vocabulary", [2, 4, 10])
def test_j_delta_1_is_reached_by_two_levels(vocabulary: int) -> None:
    """High on one half against high on the other half, V even; the clipping itself makes the two levels."""
    reach, hot = 6.0, 4.0
    high = torch.zeros(vocabulary).double()
    high[: vocabulary // 2] = 100.0
    config = Protection(hot, hot, noise="none", logit_range=reach)
    p, q = (protect(config, z, torch.tensor(0.0)) for z in (high, high.flip(0)))
    assert float((p - q).abs().sum()) == pytest.approx(delta_1(reach, hot), rel=1e-12)


# ----- (p), (r): top-k, type -------------------------------------------------------------------------------------------
def test_p_public_scope_leaves_private_targets_whole() -> None:
    logits, likelihood, _ = case()
    config = Protection(noise="none", top_k=3)
    hidden = likelihood >= 0.5
    whole = protect(replace(config, top_k=0), logits, likelihood)
    q = protect(replace(config, top_k_scope="public"), logits, likelihood)
    assert torch.equal(q[hidden], whole[hidden])
    assert ((q[~hidden] > 0).sum(-1) == 3).all()
    assert ((protect(config, logits, likelihood) > 0).sum(-1) == 3).all()


def test_p_ties_keep_the_lower_index_and_noise_falls_on_kept_entries_alone() -> None:
    q = protect(Protection(top_k=2), torch.zeros(1, 4), torch.ones(1), torch.ones(1, 4))
    assert q.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_r_type_retention_of_a_uniform_model() -> None:
    """Ten digits of 83 tokens: 10 / 83 = 0.12 (specs: swing, section 6)."""
    vocabulary = [chr(ord("0") + i) for i in range(83)]
    digits = torch.from_numpy(spans.class_ids("digits", 3, vocabulary))
    assert digits.tolist() == list(range(10))
    assert type_retention(torch.full((5, 83), 1 / 83), digits) == pytest.approx(10 / 83)


# ----- carriers --------------------------------------------------------------------------------------------------------
def test_logits_on_the_wire_give_the_target_back() -> None:
    logits, likelihood, noise = case()
    q = protect(Protection(noise_scope="all"), logits, likelihood, noise)
    floored = q.clamp_min(1e-6)
    torch.testing.assert_close(log_soft(as_logits(q), 1.0).exp(), floored / floored.sum(-1, keepdim=True), rtol=1e-5, atol=1e-9)
    assert torch.isfinite(as_logits(q)).all()


def test_sampled_tokens_follow_the_target() -> None:
    """Uniform draws on a grid of 1,000: counts equal the target to within one; probability 0 is never drawn."""
    target = torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0])
    drawn = sampled(target.expand(1000, 5), (torch.arange(1000) + 0.5) / 1000)
    np.testing.assert_allclose(torch.bincount(drawn, minlength=5).numpy(), 1000 * target.numpy(), atol=1.01)
    assert sampled(target, torch.tensor(1 - 2**-24)).item() == 3
    assert sampled_epsilon(20.0, 10.0) == 4.0


def test_sampled_tokens_keep_their_budget() -> None:
    """ln(p / q) of one token never exceeds 2R / T for clipped logits (specs: swing, section 10.5)."""
    config = Protection(5.0, 5.0, noise="none", logit_range=6.0)
    logits, likelihood, _ = case(rows=60, scale=20.0)
    log_q = protect(config, logits.double(), likelihood).log()
    assert (log_q[:, None] - log_q[None]).abs().max() <= sampled_epsilon(6.0, 5.0) + 1e-9
