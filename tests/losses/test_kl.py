"""KL divergence against its definition in NumPy, its neutral temperature, its gradient's size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import entropy

from fedkd.errors import ConfigError
from fedkd.losses import kl

STREAM = np.random.default_rng(0)
STUDENT, TEACHER = (3 * STREAM.standard_normal((11, 5)) for _ in range(2))


def oracle(config: kl.Config, student: NDArray, teacher: NDArray, labels: NDArray | None = None) -> NDArray:
    """sum a (log a - log b) with a, b = softened teacher and student, swapped where reverse; times T^2."""
    q, p = (np.exp(v / config.temperature) for v in (student, teacher))
    q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
    a, b = (p, q) if config.direction == "forward" else (q, p)
    return (a * (np.log(a) - np.log(b))).sum(1) * (config.temperature**2 if config.squared else 1)


def loss(config: kl.Config, student: NDArray = STUDENT) -> NDArray:
    return kl.loss(config, torch.from_numpy(student), torch.from_numpy(TEACHER), None).numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("squared", [True, False])
def test_equals_the_oracle(temperature: float, direction: Literal["forward", "reverse"], squared: bool) -> None:
    config = kl.Config(temperature, direction, squared)
    np.testing.assert_allclose(loss(config), oracle(config, STUDENT, TEACHER), rtol=1e-10, atol=1e-13)


def test_equals_torch_at_temperature_one() -> None:
    log_q, log_p = (torch.from_numpy(v).log_softmax(-1) for v in (STUDENT, TEACHER))
    expected = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    np.testing.assert_allclose(loss(kl.Config(1.0)), expected.numpy(), rtol=1e-10)


def test_limit_of_temperature_one_is_the_plain_divergence() -> None:
    """T -> 1: scipy's relative entropy of the unsoftened distributions; the distance shrinks with T - 1."""
    p, q = (torch.from_numpy(v).softmax(-1).numpy() for v in (TEACHER, STUDENT))
    plain = entropy(p, q, axis=1)
    for squared in (True, False):
        assert np.abs(loss(kl.Config(1.0, squared=squared)) - plain).max() < 1e-10
        near, far = (np.abs(loss(kl.Config(t, squared=squared)) - plain).max() for t in (1 + 1e-6, 1 + 1e-2))
        assert near < 1e-4
        assert near < far / 1000


def test_squared_keeps_the_size_of_the_gradient() -> None:
    """For large T the gradient of T^2 KL tends to (z_S - z_T) / C for centred logits (Hinton et al., section 2.1)."""
    student = torch.from_numpy(STUDENT - STUDENT.mean(1, keepdims=True)).requires_grad_()
    teacher = torch.from_numpy(TEACHER - TEACHER.mean(1, keepdims=True))
    kl.loss(kl.Config(1e4), student, teacher, None).sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 5, rtol=1e-2, atol=1e-3)


def test_directions_differ() -> None:
    assert not np.allclose(loss(kl.Config()), loss(kl.Config(direction="reverse")))


def test_defaults_are_the_specification() -> None:
    assert kl.Config() == kl.Config(temperature=3.0, direction="forward", squared=True)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        kl.Config(temperature=temperature)


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ConfigError, match="kl needs teacher logits"):
        kl.loss(kl.Config(), torch.zeros(1, 2), None, None)
