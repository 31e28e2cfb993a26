"""Alpha divergence between softened teacher and student, per sample: from reverse KL (0) to forward KL (1).

Source: Minka, "Divergence Measures and Message Passing", 2005, Microsoft Research MSR-TR-2005-173, section 2, for
normalised p (teacher) and q (student): (1 - sum p^a q^(1 - a)) / (a (1 - a)). At a = 1/2 four times the squared Hellinger
distance 1 - sum sqrt(p q). The limits are exact branches: ``kl`` of the same temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.logits import check_temperature, log_soft, teacher_of
from fedkd.losses import kl

USES = frozenset({"teacher"})


@dataclass(frozen=True)
class Config:
    """Choices of the divergence; alpha 1 is forward, alpha 0 reverse KL."""

    alpha: float = 0.5
    """in [0, 1]; near 1 the student covers the teacher's modes, near 0 it seeks one. Outside the divergence is unbounded"""
    temperature: float = 1.0
    """T > 0; both sides are softmax(logits / T)"""
    squared: bool = False
    """multiply by T^2"""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"loss.args: alpha = {self.alpha}; valid: 0 to 1")


def loss(
    config: Config,
    student_logits: Tensor,  # [B, C] logits
    teacher_logits: Tensor | None,  # [B, C] logits, no gradient flows into them
    labels: Tensor | None,  # unused
) -> Tensor:  # [B] float32 (float64 for float64 logits), >= 0 up to rounding
    """Per-sample divergence in nats (times T^2 where ``squared``). Raises: ConfigError where no teacher is given."""
    teacher, a = teacher_of("alpha", teacher_logits), config.alpha
    if a in (0, 1):
        limit = kl.Config(config.temperature, "forward" if a == 1 else "reverse", config.squared)
        return kl.loss(limit, student_logits, teacher, None)
    log_p, log_q = log_soft(teacher, config.temperature), log_soft(student_logits, config.temperature)
    overlap = torch.logsumexp(a * log_p + (1 - a) * log_q, dim=-1)
    divergence = -torch.expm1(overlap) / (a * (1 - a))  # expm1: no cancellation where the two are close
    return divergence * config.temperature**2 if config.squared else divergence
