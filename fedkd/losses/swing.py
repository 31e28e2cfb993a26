"""Swing distillation: cross-entropy and forward KL from a soft target with its own temperature and noise per position.

Li, Wu, Dong, Wu, Bian, Xiong, 2022, arXiv 2212.08349: a reconstruction from the abstract (specs: swing, sections 1-3).
    (1 - w) CE(y, softmax(z_S)) + w c KL(q || softmax(z_S / T_S)),  q = ``soft_targets.protect``,  c = T^2 or 1
Likelihood and keyed noise come in as tensors; the loss sees neither a recogniser nor a generator. Neutral (T_lo = T_hi,
no noise, no mask) it is ``kl`` of the same T, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.logits import teacher_of, widened
from fedkd.losses import ce
from fedkd.soft_targets import Protection, formal_gaps, private, protected, temperature

USES = frozenset({"teacher", "labels"})


@dataclass(frozen=True)
class Config(Protection):
    """The target's protection, and what the hard labels may still say."""

    kd_weight: float = 0.5
    """weight of the soft loss, in [0, 1]; 1 reads no labels"""
    mask_hard_private: bool = True
    """no cross-entropy at private positions: they get the soft loss with weight 1. False trains on the secrets' labels"""
    formal: bool = False
    """refuse what a formal statement cannot hold for (specs: swing, section 10)"""

    def __post_init__(self) -> None:
        Protection.__post_init__(self)
        if not 0 <= self.kd_weight <= 1:
            raise ConfigError(f"loss.args: kd_weight = {self.kd_weight}; valid: 0 to 1")
        gaps = formal_gaps(self)
        if self.kd_weight < 1:
            gaps.append("kd_weight = 1 (no hard labels)")
        if self.formal and gaps:
            raise ConfigError(f"formal = true needs {'; '.join(gaps)}")


def loss(
    config: Config,
    student_logits: Tensor,  # [.., V] logits that predict the labels
    teacher_logits: Tensor | None,  # [.., V] logits, no gradient flows into them
    labels: Tensor | None,  # [..] integers in [0, V); read where kd_weight < 1
    likelihood: Tensor | None = None,  # [..] in [0, 1] that the label is private; absent = 0 everywhere
    noise: Tensor | None = None,  # [.., V] unit draws (fedkd.keyed_noise.unit_noise)
) -> Tensor:  # [..] float32 (float64 for float64 logits), >= 0 up to rounding
    """Loss of each position in nats; the mean over tokens that are not padding is the caller's.

    Raises: ConfigError where teacher, labels (kd_weight < 1) or the noise of noised positions is missing.
    """
    teacher, student = teacher_of("swing", teacher_logits), widened(student_logits)
    if likelihood is None:
        likelihood = torch.zeros(student.shape[:-1], device=student.device)
        if noise is None and config.noise_scope == "private":  # nothing is private: no position draws but the public ones
            config = _without_private_noise(config)
    soft = _soft(config, student, teacher, likelihood, noise)
    if config.kd_weight == 1:
        return soft
    if labels is None:
        raise ConfigError("loss swing needs labels; the method gave none (kd_weight = 1 reads none)")
    hard = ce.loss(ce.Config(), student, None, labels)
    mixed = (1 - config.kd_weight) * hard + config.kd_weight * soft  # Python numbers: as a KD loop weighs its two terms
    return torch.where(private(config, likelihood), soft, mixed) if config.mask_hard_private else mixed


def unmasked_private(config: Config, likelihood: Tensor) -> int:  # [..] -> count
    """Private positions whose hard labels are trained on; above 0 the soft targets' defence is void for them."""
    if config.mask_hard_private or config.kd_weight == 1:
        return 0
    return int(private(config, likelihood).sum())


def _soft(config: Config, student: Tensor, teacher: Tensor, likelihood: Tensor, noise: Tensor | None) -> Tensor:
    q, log_q = protected(config, teacher, likelihood, noise)
    hot = temperature(config, likelihood.double())
    scaled = student / hot.to(student.dtype).unsqueeze(-1) if config.temperature_side == "both" else student
    divergence = (q * (log_q - torch.log_softmax(scaled, dim=-1))).sum(-1)
    return divergence * hot.square().to(divergence.dtype) if config.temperature_squared else divergence


def _without_private_noise(config: Config) -> Config:
    return config if config.epsilon_elsewhere != float("inf") else replace(config, noise="none")
