"""Alpha divergence against its definition in NumPy, its exact limits and the Hellinger distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.losses import alpha, kl

STREAM = np.random.default_rng(5)
STUDENT, TEACHER = (torch.from_numpy(3 * STREAM.standard_normal((11, 5))) for _ in range(2))


def loss(config: alpha.Config) -> torch.Tensor:
    return alpha.loss(config, STUDENT, TEACHER, None)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("a", [0.1, 0.5, 0.9])
def test_equals_the_oracle(a: float, temperature: float, squared: bool) -> None:
    """(1 - sum p^a q^(1 - a)) / (a (1 - a)), times T^2."""
    p, q = ((v / temperature).softmax(-1).numpy() for v in (TEACHER, STUDENT))
    expected = (1 - (p**a * q ** (1 - a)).sum(1)) / (a * (1 - a)) * (temperature**2 if squared else 1)
    np.testing.assert_allclose(loss(alpha.Config(a, temperature, squared)).numpy(), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize(("a", "direction"), [(0.0, "reverse"), (1.0, "forward")])
def test_limits_are_kl_bit_for_bit_and_are_approached(a: float, direction: str, squared: bool) -> None:
    limit = kl.loss(kl.Config(3.0, "forward" if direction == "forward" else "reverse", squared), STUDENT, TEACHER, None)
    assert torch.equal(loss(alpha.Config(a, 3.0, squared)), limit)
    near, far = ((loss(alpha.Config(abs(a - step), 3.0, squared)) - limit).abs().max() for step in (1e-6, 1e-2))
    assert near < 1e-4
    assert near < far / 1000


def test_one_half_is_four_times_squared_hellinger_and_symmetric() -> None:
    p, q = (v.softmax(-1) for v in (TEACHER, STUDENT))
    torch.testing.assert_close(loss(alpha.Config()), 2 * (p.sqrt() - q.sqrt()).square().sum(-1))
    torch.testing.assert_close(alpha.loss(alpha.Config(), TEACHER, STUDENT, None), loss(alpha.Config()))


@pytest.mark.parametrize("a", [-0.1, 1.1, float("nan")])
def test_bad_alpha_is_refused(a: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        alpha.Config(a)


def test_bad_temperature_and_missing_teacher_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        alpha.Config(temperature=0.0)
    with pytest.raises(ConfigError, match="alpha needs teacher logits"):
        alpha.loss(alpha.Config(), torch.zeros(1, 2), None, None)
