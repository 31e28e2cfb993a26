"""Cross-entropy against its definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedkd.errors import ConfigError
from fedkd.losses import ce


def oracle(config: ce.Config, student: NDArray, teacher: NDArray, labels: NDArray) -> NDArray:
    """-log of the softmax probability of the label."""
    q = np.exp(student - student.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    return -np.log(q[np.arange(len(labels)), labels])


@pytest.mark.parametrize("label_dtype", [torch.int32, torch.int64])
def test_equals_the_oracle(label_dtype: torch.dtype) -> None:
    stream = np.random.default_rng(0)
    student, labels = 2 * stream.standard_normal((9, 4)), stream.integers(0, 4, 9)
    terms = ce.loss(ce.Config(), torch.from_numpy(student), None, torch.from_numpy(labels).to(label_dtype))
    np.testing.assert_allclose(terms.numpy(), oracle(ce.Config(), student, student, labels), rtol=1e-12)


def test_equals_torch() -> None:
    student = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    labels = torch.tensor([1, 2])
    expected = torch.nn.functional.cross_entropy(student, labels, reduction="none")
    torch.testing.assert_close(ce.loss(ce.Config(), student, None, labels), expected)
    assert ce.loss(ce.Config(), student, None, labels)[1].item() == pytest.approx(np.log(3))


def test_labels_are_needed() -> None:
    with pytest.raises(ConfigError, match="ce needs labels"):
        ce.loss(ce.Config(), torch.zeros(1, 2), None, None)
