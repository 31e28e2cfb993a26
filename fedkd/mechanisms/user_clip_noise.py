"""User-level clipping with noise on the mean: each client's difference is clipped, the server adds noise to the sum.

McMahan et al., 2018, arXiv 1710.06963 (clipped updates, fixed denominator); with layers that never leave, a joint guarantee
for the others' views (Kearns et al., 2014, arXiv 1207.4084). Clients weigh the same and the sum is divided by the fixed
expected cohort, so that a client that is skipped adds zeros: with K_n as weights the sensitivity would be larger and the
divisor itself would tell.

Threat model: the server is trusted; the adversary sees what it releases, the other clients included. Unit: one user. No
amplification by sampling is credited: clients are drawn from the experiment's seed. The noise is rounded to the grid of the
fixed-point sums, so that the low bits of a release say nothing about the sum.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedkd import clipping, fixed_point, guarantees, outgoing, rng
from fedkd.epsilon import Event
from fedkd.errors import ConfigError
from fedkd.fixed_point import SCALE, Sums
from fedkd.guarantees import Claim
from fedkd.outgoing import EVERYONE, Combined, Outgoing, Secret
from fedkd.public import SUMMED
from fedkd.setting import Setting
from fedkd.types import Arrays, ClientData, Kinds
from fedkd.uploads import Uploads


@dataclass(frozen=True)
class Config:
    """Neutral: clip = inf, noise_multiplier = 0, which sends and averages as without."""

    clip: float = 1.0
    """C: largest L2 norm of a client's difference, over all kinds together, > 0; neutral: inf"""
    noise_multiplier: float = 1.0
    """standard deviation of the noise on the sum / C; neutral: 0 (no guarantee)"""
    adjacency: Literal["add/remove", "replace"] = "add/remove"
    """neighbours: without one user (sensitivity C), or with another in its place (2C)"""
    delta: float = 1e-5
    """delta at which epsilon is stated; below 1 / number of clients"""
    budget: float = 0.0
    """largest epsilon (RDP) of a client: it stops before a round that would exceed it; 0 = none"""
    pass_through: tuple[str, ...] = ()
    """every other kind that is sent, by name: then there is no guarantee"""
    insecure_seeded_noise: bool = False
    """simulations and tests: noise from the experiment's seed, so that a run repeats and whoever knows it can subtract"""

    def __post_init__(self) -> None:
        accounted = self.noise_multiplier > 0
        guarantees.check_noise("user_clip_noise", self.clip, self.noise_multiplier, self.delta, self.budget, accounted)

    @property
    def event(self) -> tuple[Event, ...]:
        """One participation: the noise against the sensitivity of the adjacency."""
        factor = 1 if self.adjacency == "add/remove" else 2
        return (Event(self.noise_multiplier / factor),) if self.noise_multiplier else ()


def check(setting: Setting) -> None:
    """Raises: ConfigError for kinds of which more than a mean is needed, or numbers that are not summed."""
    if neutral(setting):
        return
    guarantees.refuse_unnamed(setting, SUMMED, setting.mechanism.config.pass_through, "user_clip_noise")
    if setting.model.has_batch_norm:
        raise ConfigError("user_clip_noise: BatchNorm's counters are whole numbers; valid: a model with GroupNorm or none")
    least = 2 * grid(sum(v.size for v in setting.initial().values()))
    if setting.mechanism.config.clip < least:
        raise ConfigError(f"user_clip_noise: clip = {setting.mechanism.config.clip:g} is below the grid of the sums; "
                          f"valid: at least {least:g} for this model")  # fmt: skip


def neutral(setting: Setting) -> bool:
    """Whether everything is sent and averaged as without."""
    c = setting.mechanism.config
    return bool(c.clip == math.inf and c.noise_multiplier == 0)


def deltas(setting: Setting) -> frozenset[str]:
    """Weights and heads leave as differences to the last release."""
    return frozenset() if neutral(setting) else SUMMED


def cost(setting: Setting, round: int, data: ClientData) -> tuple[Event, ...]:
    """What a participation spends: one release, where anything is summed in the round."""
    summed = SUMMED & setting.module.schema(setting, round).keys()
    event: tuple[Event, ...] = setting.mechanism.config.event
    return event if summed else ()


def upload(
    setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, secret: Secret
) -> Outgoing:
    """The differences, clipped together; the server adds the noise, and the ledger here counts on it."""
    c = setting.mechanism.config
    summed = {k: a for k, a in kinds.items() if k in SUMMED}
    if neutral(setting) or not summed:
        return Outgoing(kinds, held)
    bounded = clipping.clipped(summed, c.clip - grid(sum(v.size for a in summed.values() for v in a.values())))
    events = cost(setting, round, data)
    released = outgoing.fingerprint(round, bounded)
    return Outgoing({**kinds, **bounded}, held, 1 if events else 0, released, events)


def grid(numbers: int) -> float:
    """How much the rounding of so many numbers to the grid of the sums can add to a norm, chosen by an adversary."""
    return math.sqrt(numbers) / (2 * SCALE)


def combine(setting: Setting, round: int, uploads: Uploads, secret: Secret) -> Combined:
    """(sum of the clipped differences + noise) / fixed expected cohort, by kind."""
    c = setting.mechanism.config
    sums = summed(uploads)
    number = rng.key(setting.seed, "insecure mechanism noise", client=EVERYONE) if c.insecure_seeded_noise else secret()
    h = hashlib.sha256()
    means: Kinds = {}
    for kind in sorted(sums):
        for name in sorted(sums[kind]):
            h.update(f"{kind}|{name}|".encode() + sums[kind][name].tobytes())
    stream = rng.experiment(number, "noise on the mean", round, extra=h.digest())
    for kind in sorted(sums):
        means[kind] = {}
        for name in sorted(sums[kind]):
            noise = np.rint(stream.standard_normal(sums[kind][name].shape) * (c.noise_multiplier * c.clip * SCALE))
            total = sums[kind][name].astype(np.float64) + noise
            means[kind][name] = total / (SCALE * uploads.cohort)
    return Combined(means, 1 if c.event else 0, outgoing.fingerprint(round, means), c.event)


def summed(uploads: Uploads) -> dict[str, Sums]:
    """Fixed-point sums of the differences with weight 1, from the workers' sums and from single uploads."""
    totals = {k: dict(v) for k, v in uploads.sums.items() if k in SUMMED}
    for u in uploads.rows:
        fixed_point.add_kinds(totals, {k: fixed_point.encode(a, 1) for k, a in u.kinds.items() if k in SUMMED})
    return totals


def claim(setting: Setting) -> Claim | None:
    """What is bounded as configured, or None without noise."""
    c = setting.mechanism.config
    if not c.noise_multiplier:
        return None
    said = guarantees.row("user_clip_noise")
    bound = f"{c.clip:g}, uniform weights" if c.adjacency == "add/remove" else f"2 x {c.clip:g}, uniform weights"
    return Claim(
        "user_clip_noise", said.unit, c.adjacency, f"{bound}; divisor {setting.cohort_size}", said.adversary, SUMMED,
        "no amplification is credited", c.noise_multiplier, c.clip, c.delta,
        ("the server, which sees each client's clipped difference",), c.insecure_seeded_noise,
    )  # fmt: skip


def notes(setting: Setting) -> dict[str, Any]:
    """Name, statement and what is not protected; {} where nothing is changed."""
    c = setting.mechanism.config
    if neutral(setting):
        return {}
    on_mean = c.noise_multiplier * c.clip / setting.cohort_size
    said = (
        f"Each client's difference to the last release is clipped to {c.clip:g}; the server adds Gaussian noise of "
        f"{c.noise_multiplier:g} x {c.clip:g} to the sum and divides by {setting.cohort_size}: {on_mean:.3g} per number. "
        "Charges are releases."
    )
    if c.insecure_seeded_noise:
        said += " Simulation: the noise seed is known."
    return {"name": "user_clip_noise", "statement": said, "not_protected": sorted(guarantees.sent(setting) - SUMMED)}
