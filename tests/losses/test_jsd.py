"""Generalised Jensen-Shannon divergence against its definition in NumPy, its bound and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedkd.errors import ConfigError
from fedkd.losses import jsd, kl

STREAM = np.random.default_rng(1)
STUDENT, TEACHER = (3 * STREAM.standard_normal((11, 5)) for _ in range(2))


def oracle(config: jsd.Config, student: NDArray, teacher: NDArray, labels: NDArray | None = None) -> NDArray:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q."""
    q, p = (np.exp(v / config.temperature) for v in (student, teacher))
    q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
    m = config.beta * p + (1 - config.beta) * q
    return (config.beta * p * np.log(p / m) + (1 - config.beta) * q * np.log(q / m)).sum(1)


def loss(config: jsd.Config, student: NDArray = STUDENT, teacher: NDArray = TEACHER) -> NDArray:
    return jsd.loss(config, torch.from_numpy(student), torch.from_numpy(teacher), None).numpy()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_equals_the_oracle(beta: float, temperature: float) -> None:
    config = jsd.Config(beta, temperature)
    np.testing.assert_allclose(loss(config), oracle(config, STUDENT, TEACHER), rtol=1e-10, atol=1e-13)


def test_limit_of_temperature_one() -> None:
    plain = oracle(jsd.Config(temperature=1.0), STUDENT, TEACHER)
    near, far = (np.abs(loss(jsd.Config(temperature=t)) - plain).max() for t in (1 + 1e-6, 1 + 1e-2))
    assert near < 1e-5
    assert near < far / 1000


def test_symmetric_and_bounded_at_one_half() -> None:
    config = jsd.Config()
    np.testing.assert_allclose(loss(config), loss(config, TEACHER, STUDENT), rtol=1e-10)
    apart = loss(config, np.array([[1e4, 0.0]]), np.array([[0.0, 1e4]]))
    assert apart[0] == pytest.approx(math.log(2))
    assert (loss(config) <= math.log(2)).all()


def test_small_beta_is_the_forward_divergence() -> None:
    """JSD_beta / beta -> KL(p || q) for beta -> 0 (GKD, section 2)."""
    beta = 1e-6
    expected = kl.loss(kl.Config(temperature=1.0), torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), None).numpy()
    np.testing.assert_allclose(loss(jsd.Config(beta=beta)) / beta, expected, rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, float("nan")])
def test_bad_beta_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match="beta"):
        jsd.Config(beta=beta)


def test_bad_temperature_and_missing_teacher_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        jsd.Config(temperature=0.0)
    with pytest.raises(ConfigError, match="jsd needs teacher logits"):
        jsd.loss(jsd.Config(), torch.zeros(1, 2), None, None)
