"""Total variation against its definition in NumPy, its bound and its variational form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.losses import kl, tv

STREAM = np.random.default_rng(4)
STUDENT, TEACHER = (3 * STREAM.standard_normal((11, 5)) for _ in range(2))


def loss(config: tv.Config) -> np.ndarray:
    return tv.loss(config, torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), None).numpy()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_the_largest_gap_of_any_event(temperature: float) -> None:
    """TV = max over events A of |P(A) - Q(A)|, by all 2^5 events."""
    p, q = (torch.from_numpy(v / temperature).softmax(-1).numpy() for v in (TEACHER, STUDENT))
    events = np.array(list(itertools.product([0, 1], repeat=5)))
    np.testing.assert_allclose(loss(tv.Config(temperature)), np.abs((p - q) @ events.T).max(1), rtol=1e-10)


def test_bounded_by_one_and_by_pinsker() -> None:
    """TV <= sqrt(KL / 2)."""
    divergence = kl.loss(kl.Config(1.0), torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), None).numpy()
    assert (loss(tv.Config()) <= np.sqrt(divergence / 2)).all()
    apart = tv.loss(tv.Config(), torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]), None)
    assert apart.item() == 1.0


def test_bad_temperature_and_missing_teacher_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        tv.Config(temperature=0.0)
    with pytest.raises(ConfigError, match="tv needs teacher logits"):
        tv.loss(tv.Config(), torch.zeros(1, 2), None, None)
