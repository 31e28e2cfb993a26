"""Soft targets made less telling before a student reads them: a temperature per position, and noise.

Li, Wu, Dong, Wu, Bian, Xiong, "Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework", 2022, arXiv
2212.08349: a reconstruction from the abstract. From the abstract are the dynamic temperature by the likelihood that a
token is private, and noise in the soft targets; every formula and default below is decided here (specs: swing, sections
1, 2 and 10). One pure function, ``protect``, serves the loss and the federated mechanism; noise comes in as unit draws
(``fedkd.keyed_noise``). Without noise there is no guarantee, and noise at private positions alone has no end-to-end one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.errors import ConfigError
from fedkd.logits import widened

DEFAULT_EPSILON = 10.0
"""Noise budget of a released position where neither ``epsilon_per_position`` nor ``noise_scale`` is given."""


@dataclass(frozen=True)
class Protection:
    """How a teacher's soft target is protected; temperatures of 1, no noise and no top-k leave it as it is."""

    temperature_low: float = 1.0
    """T_lo > 0, the temperature at likelihood 0; 1 is the plain target (decided here)"""
    temperature_high: float = 20.0
    """T_hi >= T_lo, the temperature at likelihood 1; at least twice the teacher's logit gap (decided here)"""
    schedule: Literal["linear", "log", "step"] = "linear"
    """from likelihood p to T: T_lo + (T_hi - T_lo) p^gamma, T_lo (T_hi / T_lo)^p, or T_hi from theta on (decided here)"""
    gamma: float = 1.0
    """exponent of the linear schedule, > 0"""
    theta: float = 0.5
    """likelihood from which a position counts as private, in (0, 1]"""
    temperature_side: Literal["teacher", "both"] = "teacher"
    """whose logits T_t divides; only "teacher" makes a target that is flat in probability"""
    temperature_squared: bool = False
    """multiply the loss of a position by T_t^2 (Hinton's factor)"""
    noise: Literal["laplace", "gaussian", "none"] = "laplace"
    """law of the noise; "gaussian" needs noise_scale"""
    epsilon_per_position: float | None = None
    """eps_n > 0 of one noised position, inf = no noise; unset = 10 unless noise_scale is given"""
    noise_scale: float | None = None
    """b of Laplace or sigma of Gaussian noise, >= 0, in place of epsilon_per_position; 0 = no noise"""
    noise_on: Literal["probabilities", "logits"] = "probabilities"
    """what the noise is added to; "logits" needs logit_range and noise_scale"""
    noise_scope: Literal["private", "all"] = "private"
    """which positions get noise; "all" is what a formal statement needs"""
    epsilon_elsewhere: float = math.inf
    """weaker Laplace noise at positions that are not private, where noise_scope is "private"; inf = none"""
    noise_key: Literal["content", "row", "redraw"] = "content"
    """one draw per prefix that the teacher read, per row and position of the transfer set, or per use"""
    top_k: int = 0
    """keep the K largest entries of a target; 0 = all. The kept set is itself read from the private teacher"""
    top_k_scope: Literal["all", "public"] = "all"
    """where top_k applies; "public" leaves private positions their whole vocabulary"""
    logit_range: float = 0.0
    """R: teacher logits below max - R are raised to it; 0 = no clipping"""
    sensitivity_bound: Literal["worst", "clipped"] = "worst"
    """Delta_1 behind every epsilon: 2, or 2 tanh(R / 2T), which needs logit_range"""

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_noise(self)

    @property
    def epsilon(self) -> float | None:
        """eps_n in effect; None where ``noise_scale`` sets the noise. Inf where there is no noise."""
        if self.noise == "none":
            return math.inf
        if self.noise_scale is not None:
            return None
        return DEFAULT_EPSILON if self.epsilon_per_position is None else self.epsilon_per_position

    @property
    def noisy(self) -> bool:
        """Whether any position can get noise, so that unit draws are needed."""
        return self.noise != "none" and (bool(self.noise_scale) or self.epsilon not in (None, math.inf) or self._two_level)

    @property
    def _two_level(self) -> bool:
        return self.noise != "none" and self.epsilon_elsewhere != math.inf


def temperature(config: Protection, likelihood: Tensor) -> Tensor:  # [..] in [0, 1] -> [..] T_t, dtype of likelihood
    """T_t of each position, monotone in the likelihood that its label token is private; no gradient."""
    return _temperature(config, likelihood).to(likelihood.dtype)


def private(config: Protection, likelihood: Tensor) -> Tensor:  # [..] in [0, 1] -> [..] bool
    """Positions that count as private: likelihood >= theta."""
    return likelihood.detach() >= config.theta


def noised(config: Protection, likelihood: Tensor) -> Tensor:  # [..] in [0, 1] -> [..] bool
    """Positions whose target gets noise; each of their distinct keys is one charge (``keyed_noise.charges``)."""
    hidden = private(config, likelihood)
    if not config.noisy:
        return torch.zeros_like(hidden)
    main = bool(config.noise_scale) or config.epsilon not in (None, math.inf)
    if config.noise_scope == "all":
        return torch.full_like(hidden, main)
    return (hidden & main) | (~hidden & config._two_level)


def delta_1(logit_range: float, temperature: float) -> float:
    """L1 diameter of softmax(z / T) over logits with max - min <= R: 2 tanh(R / 2T) (specs: swing, section 10.2)."""
    return 2.0 * math.tanh(logit_range / (2.0 * temperature))


def delta_2(logit_range: float, temperature: float, vocabulary: int) -> float:
    """A safe bound of the L2 diameter: sqrt(Delta_1 Delta_inf), Delta_inf = e^r/(e^r + V - 1) - 1/(1 + (V - 1) e^r)."""
    shrink = math.exp(-logit_range / temperature)
    delta_inf = 1.0 / (1.0 + (vocabulary - 1) * shrink) - shrink / (shrink + vocabulary - 1)
    return math.sqrt(delta_1(logit_range, temperature) * delta_inf)


def protect(
    config: Protection,
    logits: Tensor,  # [.., V] teacher logits that predict the label tokens
    likelihood: Tensor,  # [..] in [0, 1], of the label tokens
    noise: Tensor | None = None,  # [.., V] unit draws: Laplace(0, 1) or N(0, 1); read at noised positions alone
) -> Tensor:  # [.., V] float32 (float64 for float64 logits): probabilities, no gradient
    """The protected soft target of each position: clipped, softened, cut to top-k, noised, made a distribution again.

    Negative noised entries become 0; where nothing is left, the target is uniform over the vocabulary. Clipping to 0 and
    renormalising are post-processing. Raises: ConfigError where the noise is needed and missing.
    """
    return protected(config, logits, likelihood, noise)[0]


def protected(
    config: Protection,
    logits: Tensor,  # [.., V]
    likelihood: Tensor,  # [..]
    noise: Tensor | None = None,  # [.., V] unit draws
) -> tuple[Tensor, Tensor]:  # [.., V] probabilities, [.., V] their logarithms
    """``protect`` with logarithms for a divergence, finite everywhere (0 where the probability is 0).

    Where no noise is added the logarithm is the log-softmax itself, so that a neutral config changes no bit of a loss.
    Raises: ConfigError where the noise is needed and missing.
    """
    if config.noisy and noise is None:
        raise ConfigError(f'noise = "{config.noise}" needs unit draws [.., V] (fedkd.keyed_noise.unit_noise); none were given')
    z = widened(logits.detach())
    hot = _temperature(config, likelihood).to(z.dtype).unsqueeze(-1)
    if config.logit_range:
        z = torch.maximum(z, z.amax(-1, keepdim=True) - config.logit_range)
    where = noised(config, likelihood).unsqueeze(-1)
    draws = noise.detach().to(z.dtype) * _scale(config, likelihood, hot) if config.noisy and noise is not None else None
    if draws is not None and config.noise_on == "logits":
        z, draws = torch.where(where, z + draws, z), None
    log_q = F.log_softmax(z / hot, dim=-1)
    q = log_q.exp()
    if 0 < config.top_k < z.shape[-1]:
        q, log_q, kept = _cut(config, q, log_q, private(config, likelihood).unsqueeze(-1))
        draws = None if draws is None else draws * kept
    if draws is None:
        return q, log_q
    noisy = _distribution((q + draws).clamp_min(0.0))
    return torch.where(where, noisy, q), torch.where(where, _log_or_zero(noisy), log_q)


def as_logits(probabilities: Tensor, floor: float = 1e-6) -> Tensor:  # [.., V] -> [.., V] log-probabilities
    """Soft targets as the logits that losses and messages carry: log(max(q, floor)), renormalised.

    Read at temperature 1 they give the floored target back up to rounding.
    """
    return F.log_softmax(widened(probabilities).clamp_min(floor).log(), dim=-1)


def sampled(probabilities: Tensor, uniform: Tensor) -> Tensor:  # [.., V], [..] in [0, 1) -> [..] int64
    """One token drawn from each target by its inverse distribution function; an entry of probability 0 is never drawn."""
    steps = probabilities.double().cumsum(-1)
    drawn = torch.searchsorted(steps, (uniform.double() * steps[..., -1]).unsqueeze(-1), right=True).squeeze(-1)
    places = torch.arange(probabilities.shape[-1], device=probabilities.device)
    last = torch.where(probabilities > 0, places, torch.zeros_like(places)).amax(-1)
    return torch.minimum(drawn, last)


def sampled_epsilon(logit_range: float, temperature: float) -> float:
    """Budget of one token sampled from softmax(z / T) with logits of range R: 2R / T (specs: swing, section 10.5)."""
    return 2.0 * logit_range / temperature


def type_retention(probabilities: Tensor, class_ids: Tensor) -> float:  # [N, V], [k] ids of the class
    """Mean probability mass on a class, e.g. the ten digits; a uniform model keeps k / V."""
    return float(probabilities[..., class_ids].sum(-1).mean())


def formal_gaps(config: Protection) -> list[str]:
    """What a target's config lacks for a formal statement (specs: swing, section 10); empty where nothing.

    That the transfer text is public, and the accountant, are the caller's.
    """
    needs = {
        "logit_range above 0": config.logit_range > 0,
        'noise "laplace" or "gaussian" with a positive scale': config.noisy,
        'noise_on = "probabilities"': config.noise_on == "probabilities",
        'noise_scope = "all"': config.noise_scope == "all",
        "epsilon_elsewhere = inf (one noise level)": config.epsilon_elsewhere == math.inf,
        'noise_key = "content"': config.noise_key == "content",
        "top_k = 0": config.top_k == 0,
    }
    return [need for need, met in needs.items() if not met]


def _temperature(config: Protection, likelihood: Tensor) -> Tensor:  # float64: T_t and its square round only once
    p, low, high = likelihood.detach().double(), config.temperature_low, config.temperature_high
    if config.schedule == "step":
        return torch.where(private(config, likelihood), torch.full_like(p, high), torch.full_like(p, low))
    return low * (high / low) ** p if config.schedule == "log" else low + (high - low) * p**config.gamma


def _scale(config: Protection, likelihood: Tensor, hot: Tensor) -> Tensor | float:  # [.., 1] b or sigma
    bound = 2.0 * torch.tanh(config.logit_range / (2.0 * hot)) if config.sensitivity_bound == "clipped" else 2.0
    main = (config.noise_scale or 0.0) if config.epsilon is None else bound / config.epsilon
    if not config._two_level:
        return main
    here, elsewhere = torch.ones_like(hot) * main, torch.ones_like(hot) * (bound / config.epsilon_elsewhere)
    return torch.where(private(config, likelihood).unsqueeze(-1), here, elsewhere)


def _cut(config: Protection, q: Tensor, log_q: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    order = log_q.argsort(dim=-1, descending=True, stable=True)  # ties keep the lower index
    ranks = torch.arange(q.shape[-1], device=q.device).expand_as(order)
    kept = torch.zeros_like(order).scatter(-1, order, ranks) < config.top_k
    if config.top_k_scope == "public":
        kept = kept | hidden
    total = torch.logsumexp(torch.where(kept, log_q, torch.full_like(log_q, -math.inf)), dim=-1, keepdim=True)
    whole = kept.all(-1, keepdim=True)
    log_cut = torch.where(kept, torch.where(whole, log_q, log_q - total), torch.zeros_like(log_q))
    return torch.where(kept, torch.where(whole, q, log_cut.exp()), torch.zeros_like(q)), log_cut, kept


def _distribution(mass: Tensor) -> Tensor:  # [.., V] >= 0 -> [.., V] sums to 1; uniform where there is no mass
    total = mass.sum(-1, keepdim=True)
    empty = total <= 0
    uniform = torch.full_like(mass, 1.0 / mass.shape[-1])
    return torch.where(empty, uniform, mass / torch.where(empty, torch.ones_like(total), total))


def _log_or_zero(q: Tensor) -> Tensor:
    return torch.where(q > 0, q, torch.ones_like(q)).log()


def _check_numbers(c: Protection) -> None:
    def refuse(name: str, valid: str) -> None:
        raise ConfigError(f"{name} = {getattr(c, name)}; valid: {valid}")

    for name in ("temperature_low", "temperature_high", "gamma"):
        if not 0 < getattr(c, name) < math.inf:
            refuse(name, "above 0 and finite")
    if c.temperature_high < c.temperature_low:
        refuse("temperature_high", f"at least temperature_low = {c.temperature_low} (private targets are flatter)")
    if not 0 < c.theta <= 1:
        refuse("theta", "above 0, at most 1")
    if c.epsilon_per_position is not None and not c.epsilon_per_position > 0:
        refuse("epsilon_per_position", "above 0, inf = no noise")
    if c.noise_scale is not None and not 0 <= c.noise_scale < math.inf:
        refuse("noise_scale", "0 or more and finite")
    if not c.epsilon_elsewhere > 0:
        refuse("epsilon_elsewhere", "above 0, inf = no noise")
    if c.top_k < 0:
        refuse("top_k", "0 (off) or more")
    if not 0 <= c.logit_range < math.inf:
        refuse("logit_range", "0 (no clipping) or above, finite")


def _check_noise(c: Protection) -> None:
    if c.noise_scale is not None and c.epsilon_per_position is not None:
        raise ConfigError("noise_scale and epsilon_per_position are both given; valid: one of them")
    if c.noise == "gaussian" and c.noise_scale is None:
        raise ConfigError('noise = "gaussian" needs noise_scale (sigma); epsilon_per_position sets Laplace noise only')
    if c.epsilon_elsewhere != math.inf and (c.noise != "laplace" or c.noise_scope != "private"):
        raise ConfigError('epsilon_elsewhere needs noise = "laplace" and noise_scope = "private"; valid otherwise: inf')
    if c.sensitivity_bound == "clipped" and not c.logit_range:
        raise ConfigError('sensitivity_bound = "clipped" needs logit_range above 0; valid without it: "worst"')
    if c.noise_on == "logits" and c.noise != "none" and (c.noise_scale is None or not c.logit_range):
        raise ConfigError('noise_on = "logits" needs noise_scale and logit_range above 0; valid without: "probabilities"')
    if c.noise_on == "logits" and c.epsilon_elsewhere != math.inf:
        raise ConfigError('noise_on = "logits" has no epsilon; valid: epsilon_elsewhere = inf')
