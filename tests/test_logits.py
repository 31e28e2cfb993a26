"""Widening, softening and refusals that the losses share."""

from __future__ import annotations

import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.logits import check_temperature, log_soft, teacher_of, widened


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_widened(given: torch.dtype, expected: torch.dtype) -> None:
    assert widened(torch.zeros(2, 3, dtype=given)).dtype == expected


def test_log_soft_by_hand() -> None:
    """softmax([0, 2 ln 3] / 2) = (1/4, 3/4)."""
    value = log_soft(torch.tensor([[0.0, 2 * 1.0986123]]), temperature=2.0).exp()
    torch.testing.assert_close(value, torch.tensor([[0.25, 0.75]]))


def test_teacher_is_detached_and_needed() -> None:
    assert not teacher_of("kl", torch.zeros(1, 2, requires_grad=True)).requires_grad
    with pytest.raises(ConfigError, match="loss swing needs teacher logits"):
        teacher_of("swing", None)


def test_check_temperature() -> None:
    check_temperature(0.1)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="temperature"):
            check_temperature(bad)
