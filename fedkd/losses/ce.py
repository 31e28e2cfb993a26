"""Cross-entropy on labels: -log softmax(student)_y, per sample."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import ConfigError
from fedkd.logits import widened

USES = frozenset({"labels"})


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


def loss(
    config: Config,
    student_logits: Tensor,  # [B, C] logits
    teacher_logits: Tensor | None,  # unused
    labels: Tensor | None,  # [B] integer labels in [0, C)
) -> Tensor:  # [B] float32 (float64 for float64 logits), >= 0
    """Per-sample cross-entropy. Raises: ConfigError where no labels are given."""
    if labels is None:
        raise ConfigError("loss ce needs labels; the method gave none")
    log_q = F.log_softmax(widened(student_logits), dim=-1)
    if log_q.dim() == 2:  # the same numbers in one operation
        return F.nll_loss(log_q, labels.long(), reduction="none")
    return -log_q.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
