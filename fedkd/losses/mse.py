"""Mean squared error between the logits of teacher and student, per sample.

Source: Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014, arXiv 1312.6184, section 2.1 (logit regression).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedkd.logits import teacher_of, widened

USES = frozenset({"teacher"})


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


def loss(
    config: Config,
    student_logits: Tensor,  # [B, C] logits
    teacher_logits: Tensor | None,  # [B, C] logits, no gradient flows into them
    labels: Tensor | None,  # unused
) -> Tensor:  # [B] float32 (float64 for float64 logits), >= 0
    """Per-sample mean over classes of the squared difference. Raises: ConfigError where no teacher is given."""
    difference = widened(student_logits) - widened(teacher_of("mse", teacher_logits))
    return difference.square().mean(-1)
