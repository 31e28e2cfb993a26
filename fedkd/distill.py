"""Central distillation of causal language models: the one training loop, and the teacher's logits cached once.

A student learns at each predicted position from the text (cross-entropy), from soft targets (any divergence plug-in), from
both or from neither. Which position learns from what is a ``Lesson``: arms of an experiment differ in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from fedkd import rng
from fedkd.errors import ConfigError

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(student logits [M, V], teacher logits [M, V]) -> [M] nats"""


@dataclass(frozen=True)
class Training:
    """AdamW with a linear warm-up and a cosine to a tenth (specs: swing, section 5)."""

    epochs: int = 8
    """passes over the rows"""
    learning_rate: float = 3e-3
    """the largest, after the warm-up"""
    batch_size: int = 32
    """rows per step"""
    weight_decay: float = 0.01
    """AdamW's decoupled decay"""
    warm_up: float = 0.05
    """share of the steps with a rising rate"""
    final: float = 0.1
    """rate of the last step as a share of the largest"""
    clip: float = 1.0
    """largest norm of a step's gradient"""

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf or self.clip <= 0:
            raise ConfigError("training: epochs >= 0, batch_size >= 1, learning_rate > 0 and clip > 0 are needed")
        if not (0 <= self.warm_up < 1 and 0 < self.final <= 1 and self.weight_decay >= 0):
            raise ConfigError("training: warm_up in [0, 1), final in (0, 1] and weight_decay >= 0 are needed")

    def steps(self, rows: int) -> int:
        """Optimizer steps over ``rows`` rows."""
        return self.epochs * math.ceil(rows / self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (0-based)."""
        rising = math.ceil(self.warm_up * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, steps - rising - 1)
        return self.learning_rate * (self.final + (1 - self.final) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


@dataclass(frozen=True)
class Rows:
    """Token rows of one width, the first token included; shorter ones are padded at the end."""

    tokens: Tensor
    """[N, L + 1] int64"""
    lengths: Tensor
    """[N] tokens of each row that are real"""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def real(self) -> Tensor:
        """[N, L] bool: predicted positions that are no padding."""
        return torch.arange(1, self.tokens.shape[1])[None, :] < self.lengths[:, None]


@dataclass(frozen=True)
class Lesson:
    """What a student learns at every predicted position; position t is the one that predicts token t + 1."""

    hard: Tensor
    """[N, L] weight of cross-entropy on the token itself"""
    soft: Tensor
    """[N, L] weight of the divergence"""
    teacher: Tensor | None = None
    """[N, L, V] logits of the (protected) targets; None = nothing soft is learned"""
    temperature: Tensor | None = None
    """[N, L] temperature of the student's side; None = 1"""

    @staticmethod
    def text(rows: Rows) -> Lesson:
        """Cross-entropy everywhere: how a teacher learns."""
        ones = torch.ones(rows.real.shape)
        return Lesson(ones, torch.zeros_like(ones))


def train(
    model: PreTrainedModel,
    rows: Rows,
    lesson: Lesson,
    training: Training,
    seed: int,
    divergence: Divergence | None = None,
    said: Callable[[int, int], None] = lambda step, of: None,
) -> None:
    """Train ``model`` in place; batch order follows the seed, so arms of one seed see the same rows in the same steps.

    The loss of a step is the sum over its real positions of hard * CE + soft * divergence, divided by their number.

    Args:
        said: called after each step with (steps done, of).

    Raises: ConfigError for a lesson with soft targets and no divergence; RuntimeError where the loss is not finite.
    """
    if lesson.teacher is not None and divergence is None:
        raise ConfigError("soft targets need a divergence: a file of fedkd/losses")
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, (0.9, 0.98), weight_decay=training.weight_decay)
    steps, step = training.steps(len(rows)), 0
    real = rows.real
    model.train()
    with rng.torch_scope(rng.key(seed, "distillation dropout")):  # pretrained models may bring dropout: it follows the seed
        for epoch in range(training.epochs):
            order = torch.from_numpy(rng.experiment(seed, "distillation order", round=epoch).permutation(len(rows)))
            for index in order.split(training.batch_size):
                for group in optimizer.param_groups:
                    group["lr"] = training.rate(step, steps)
                optimizer.zero_grad()
                loss = _loss(model, rows.tokens[index], real[index], lesson, index, divergence)
                if not torch.isfinite(loss):
                    raise RuntimeError(f"the loss is {loss.item()} at step {step}; a smaller learning_rate may help")
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
                optimizer.step()
                step += 1
                said(step, steps)
    model.eval()


def _loss(
    model: PreTrainedModel, tokens: Tensor, real: Tensor, lesson: Lesson, index: Tensor, divergence: Divergence | None
) -> Tensor:
    logits: Tensor = model(tokens[:, :-1], use_cache=False).logits[real].float()  # [M, V]
    hard, soft = lesson.hard[index][real], lesson.soft[index][real]
    total: Tensor = logits.new_zeros(())
    if bool(hard.any()):
        total = total + (hard * F.cross_entropy(logits, tokens[:, 1:][real], reduction="none")).sum()
    if lesson.teacher is not None and divergence is not None and bool(soft.any()):
        if lesson.temperature is not None:
            logits = logits / lesson.temperature[index][real][:, None]
        total = total + (soft * divergence(logits, lesson.teacher[index][real])).sum()
    return total / real.sum()


@torch.no_grad()  # not inference mode: protection writes into what this returns
def teacher_logits(model: PreTrainedModel, rows: Rows, path: Path | None = None, chunk: int = 64) -> Tensor:
    """The teacher's logits at every predicted position, [N, L, V] float32: a fixed transfer set is queried once.

    Args:
        path: keep them in this ``.npy`` file, memory-mapped, instead of in memory.

    Raises: OSError where the file cannot be written.
    """
    shape = (len(rows), rows.tokens.shape[1] - 1, int(model.config.vocab_size))
    if path is None:
        kept = np.empty(shape, np.float32)
    else:
        kept = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, len(rows), chunk):
        logits = model(rows.tokens[start : start + chunk, :-1], use_cache=False).logits
        kept[start : start + chunk] = logits.float().numpy()
    return torch.from_numpy(kept)


@torch.inference_mode()
def losses(model: PreTrainedModel, rows: Rows, chunk: int = 64) -> Tensor:
    """Negative log-likelihood of every predicted token, [N, L] nats; 0 where there is padding."""
    parts = []
    for start in range(0, len(rows), chunk):
        tokens = rows.tokens[start : start + chunk]
        logits = model(tokens[:, :-1], use_cache=False).logits.float()
        parts.append(F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none"))
    return torch.where(rows.real, torch.cat(parts), 0.0)


def perplexity(model: PreTrainedModel, rows: Rows) -> float:
    """exp of the mean negative log-likelihood per token."""
    return math.exp(float(losses(model, rows).double().sum() / rows.real.sum()))
