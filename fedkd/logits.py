"""Logits as the losses read them: widened to float32 and softened by a temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import ConfigError


def widened(logits: Tensor) -> Tensor:  # [B, C] any float dtype -> [B, C] float32; float64 stays
    """Half precision is computed in float32; float64 stays, for gradient checks."""
    return logits if logits.dtype == torch.float64 else logits.float()


def log_soft(logits: Tensor, temperature: float) -> Tensor:  # [B, C] -> [B, C] log probabilities
    """log softmax(logits / temperature), widened first.

    The temperature is a tensor because a GPU turns division by a Python number into a product with its reciprocal, which
    would part this path by a bit from one whose temperature differs by position (``fedkd.soft_targets``).
    """
    wide = widened(logits)
    return F.log_softmax(wide / torch.full((), temperature, dtype=wide.dtype, device=wide.device), dim=-1)


def teacher_of(loss: str, teacher_logits: Tensor | None) -> Tensor:  # [B, C] -> [B, C] without gradient
    """The teacher's logits, detached. Raises: ConfigError where ``loss`` needs a teacher and none was given."""
    if teacher_logits is None:
        raise ConfigError(f"loss {loss} needs teacher logits; the method gave none (losses without a teacher: ce)")
    return teacher_logits.detach()


def check_temperature(temperature: float) -> None:
    """Raises: ConfigError for a temperature that is not a positive finite number."""
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"loss.args: temperature = {temperature}; it must be above 0 and finite")
