"""Mean squared error on logits against its definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedkd.errors import ConfigError
from fedkd.losses import mse


def oracle(config: mse.Config, student: NDArray, teacher: NDArray, labels: NDArray | None = None) -> NDArray:
    """Mean over classes of the squared difference of logits."""
    return ((student - teacher) ** 2).mean(1)


def test_equals_the_oracle() -> None:
    student, teacher = np.random.default_rng(0).standard_normal((2, 9, 4))
    terms = mse.loss(mse.Config(), torch.from_numpy(student), torch.from_numpy(teacher), None)
    np.testing.assert_allclose(terms.numpy(), oracle(mse.Config(), student, teacher), rtol=1e-12)


def test_by_hand() -> None:
    terms = mse.loss(mse.Config(), torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]), None)
    assert terms.tolist() == [5.0]


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ConfigError, match="mse needs teacher logits"):
        mse.loss(mse.Config(), torch.zeros(1, 2), None, None)
