"""Kullback-Leibler divergence between softened teacher and student, per sample.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2 (temperature,
and the T^2 factor that keeps the gradient's size); the reverse direction as in MiniLLM, 2023, arXiv 2306.08543.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedkd.logits import check_temperature, log_soft, teacher_of

USES = frozenset({"teacher"})


@dataclass(frozen=True)
class Config:
    """Choices of the divergence; temperature 1, forward and unsquared is the plain KL divergence."""

    temperature: float = 3.0
    """T > 0; both sides are softmax(logits / T)"""
    direction: Literal["forward", "reverse"] = "forward"
    """forward = sum p_T (log p_T - log q_S), covers the teacher's modes; reverse = sum q_S (log q_S - log p_T)"""
    squared: bool = True
    """multiply by T^2"""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)


def loss(
    config: Config,
    student_logits: Tensor,  # [B, C] logits
    teacher_logits: Tensor | None,  # [B, C] logits, no gradient flows into them
    labels: Tensor | None,  # unused
) -> Tensor:  # [B] float32 (float64 for float64 logits), >= 0 up to rounding
    """Per-sample divergence in nats (times T^2 where ``squared``). Raises: ConfigError where no teacher is given."""
    log_p = log_soft(teacher_of("kl", teacher_logits), config.temperature)
    log_q = log_soft(student_logits, config.temperature)
    if config.direction == "reverse":
        log_p, log_q = log_q, log_p
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return divergence * config.temperature**2 if config.squared else divergence
