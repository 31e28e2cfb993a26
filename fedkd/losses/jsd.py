"""Generalised Jensen-Shannon divergence between softened teacher and student, per sample.

Source: Agarwal et al., "On-Policy Distillation of Language Models" (GKD), 2023, arXiv 2306.13649, section 2:
beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q; p is the teacher, q the student. Bounded by
log 2 at beta = 1/2. No T^2 factor: the bound is the point of this loss (decided here).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.logits import check_temperature, log_soft, teacher_of

USES = frozenset({"teacher"})


@dataclass(frozen=True)
class Config:
    """Choices of the divergence; beta 0.5 is the symmetric one."""

    beta: float = 0.5
    """weight of the teacher in the mixture, in (0, 1)"""
    temperature: float = 1.0
    """T > 0; both sides are softmax(logits / T)"""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 < self.beta < 1:
            raise ConfigError(f"loss.args: beta = {self.beta}; valid: above 0 and below 1")


def loss(
    config: Config,
    student_logits: Tensor,  # [B, C] logits
    teacher_logits: Tensor | None,  # [B, C] logits, no gradient flows into them
    labels: Tensor | None,  # unused
) -> Tensor:  # [B] float32 (float64 for float64 logits), >= 0 up to rounding
    """Per-sample divergence in nats. Raises: ConfigError where no teacher is given."""
    log_p = log_soft(teacher_of("jsd", teacher_logits), config.temperature)
    log_q = log_soft(student_logits, config.temperature)
    log_m = torch.logaddexp(log_p + math.log(config.beta), log_q + math.log1p(-config.beta))
    to_teacher = (log_p.exp() * (log_p - log_m)).sum(-1)
    to_student = (log_q.exp() * (log_q - log_m)).sum(-1)
    return config.beta * to_teacher + (1 - config.beta) * to_student
