"""Total variation distance between softened teacher and student, per sample: half the L1 distance, at most 1.

Source: Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023, arXiv 2307.15190 (total
variation as one of its divergences); here per position, on the softened distributions (decided here). No T^2 factor: the
bound is the point.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedkd.logits import check_temperature, log_soft, teacher_of

USES = frozenset({"teacher"})


@dataclass(frozen=True)
class Config:
    """The one choice of the distance."""

    temperature: float = 1.0
    """T > 0; both sides are softmax(logits / T)"""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)


def loss(
    config: Config,
    student_logits: Tensor,  # [B, C] logits
    teacher_logits: Tensor | None,  # [B, C] logits, no gradient flows into them
    labels: Tensor | None,  # unused
) -> Tensor:  # [B] float32 (float64 for float64 logits), in [0, 1] up to rounding
    """Per-sample distance. Raises: ConfigError where no teacher is given."""
    p = log_soft(teacher_of("tv", teacher_logits), config.temperature).exp()
    return 0.5 * (p - log_soft(student_logits, config.temperature).exp()).abs().sum(-1)
