"""Plackett-Luce distillation: how unlikely the student finds the teacher's ranking of the classes, per sample.

Source: Bassam, Zhu, Bian, "PLD: A Choice-Theoretic List-Wise Knowledge Distillation", 2025, arXiv 2506.12542 (teacher
logits as worths, one ranking, each choice weighted by the teacher's confidence). Form chosen here, from its abstract:
    sum_k p_r(k) [logsumexp_{j >= k} s_r(j) - s_r(k)],  r = ranking, p = softmax(teacher / T), s = student logits
The paper puts the true label first; the default here takes the teacher's own order, so that no label is needed. A ranking
loss is not a divergence: it is lowest where the student's gaps are wide, not where student = teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.logits import check_temperature, log_soft, teacher_of, widened

USES = frozenset({"teacher", "labels"})


@dataclass(frozen=True)
class Config:
    """Choices of the ranking and of its weights."""

    order: Literal["teacher", "label_first"] = "teacher"
    """teacher = by falling teacher probability; label_first = the true label, then the rest so (the paper's ranking)"""
    temperature: float = 1.0
    """T > 0 of the weights softmax(teacher / T); it divides no student logit"""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)


def loss(
    config: Config,
    student_logits: Tensor,  # [B, C] logits
    teacher_logits: Tensor | None,  # [B, C] logits, no gradient flows into them
    labels: Tensor | None,  # [B] integers in [0, C); read with order = "label_first"
) -> Tensor:  # [B] float32 (float64 for float64 logits), >= 0
    """Per-sample weighted negative log-likelihood in nats; equal teacher logits rank by class index.

    Raises: ConfigError where no teacher is given, or no labels with ``label_first``.
    """
    teacher = widened(teacher_of("pld", teacher_logits))
    worth = teacher
    if config.order == "label_first":
        if labels is None:
            raise ConfigError('loss pld with order = "label_first" needs labels; the method gave none (valid: "teacher")')
        first = torch.arange(teacher.shape[-1], device=teacher.device) == labels.unsqueeze(-1)
        worth = torch.where(first, torch.full_like(teacher, float("inf")), teacher)
    ranking = worth.argsort(dim=-1, descending=True, stable=True)
    weights = log_soft(teacher, config.temperature).exp().gather(-1, ranking)
    ranked = widened(student_logits).gather(-1, ranking)
    remaining = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    return (weights * (remaining - ranked)).sum(-1)
