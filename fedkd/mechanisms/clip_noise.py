"""Clipping and Gaussian noise on rows: each row of features or soft labels is clipped, and all rows of a round are one release.

Decided here (specs: guarantees). One record moves *all* K_n rows, because the model was trained on it: the sensitivity is
the joint 2 C sqrt(K_n), never the 2 C of one row. With 70 rows, 30 rounds and noise of 10 C the two figures are epsilon 80
and 4.9 at delta 1e-5: an accountant that counts one row understates by a factor of 16. ``joint = false`` therefore has no
guarantee at all.

Threat model: everyone who reads the upload, the server included. Unit: one training example, replace; the number and ids of
the rows are then public. Other kinds that are sent void it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd import clipping, guarantees, outgoing, rng
from fedkd.epsilon import Event
from fedkd.errors import ConfigError
from fedkd.guarantees import Claim
from fedkd.outgoing import Outgoing, Secret
from fedkd.setting import Setting
from fedkd.types import Arrays, ClientData, Kinds

ROWS = ("features", "soft_labels")
"""Kinds whose rows are real vectors."""


@dataclass(frozen=True)
class Config:
    """Neutral: clip = inf, noise_scale = 0, which changes no row."""

    clip: float = 1.0
    """C: largest L2 norm of a row, > 0; neutral: inf"""
    noise_scale: float = 10.0
    """standard deviation of the noise on each number of a row / C; neutral: 0 (no guarantee)"""
    kinds: tuple[str, ...] = ROWS
    """which kinds of rows are noised"""
    joint: bool = True
    """account all rows of a round as one release; false: nothing is accounted, no guarantee"""
    delta: float = 1e-5
    """delta at which epsilon is stated"""
    budget: float = 0.0
    """largest epsilon (RDP) of a client: it stops before a round that would exceed it; 0 = none"""
    pass_through: tuple[str, ...] = ()
    """every other kind that is sent, by name: then there is no guarantee"""
    insecure_seeded_noise: bool = False
    """simulations and tests: noise from the experiment's seed, so that a run repeats and whoever knows it can subtract"""

    def __post_init__(self) -> None:
        accounted = self.noise_scale > 0 and self.joint
        guarantees.check_noise("clip_noise", self.clip, self.noise_scale, self.delta, self.budget, accounted)
        if not self.kinds or not set(self.kinds) <= set(ROWS):
            raise ConfigError(f"clip_noise: kinds = {list(self.kinds)}; valid: one or both of {list(ROWS)}")


def check(setting: Setting) -> None:
    """Raises: ConfigError for kinds that are neither noised nor named."""
    if not neutral(setting):
        guarantees.refuse_unnamed(setting, covered(setting), setting.mechanism.config.pass_through, "clip_noise")


def neutral(setting: Setting) -> bool:
    """Whether an upload leaves as the same object."""
    c = setting.mechanism.config
    return bool(c.clip == math.inf and c.noise_scale == 0)


def covered(setting: Setting) -> frozenset[str]:
    """The noised kinds, and the ids: under replace they and their number are public."""
    return frozenset(setting.mechanism.config.kinds) | {"ids"}


def cost(setting: Setting, round: int, data: ClientData) -> tuple[Event, ...]:
    """One joint release per noised kind of the round."""
    c = setting.mechanism.config
    noised = [k for k in c.kinds if k in setting.module.schema(setting, round)]
    return joint(c, data.num_examples, len(noised))


def joint(config: Config, rows: int, kinds: int = 1) -> tuple[Event, ...]:
    """The event of ``rows`` rows that one record moves all of, per kind."""
    if not (config.noise_scale and config.joint and rows and kinds):
        return ()
    return (Event(config.noise_scale / (2 * math.sqrt(rows)), times=kinds),)


def upload(
    setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, secret: Secret
) -> Outgoing:
    """Rows clipped and noised, fresh in each round; everything else as the same objects."""
    c = setting.mechanism.config
    noised = [k for k in c.kinds if k in kinds]
    if neutral(setting) or not noised:
        return Outgoing(kinds, held)
    number = rng.key(setting.seed, "insecure mechanism noise", client=data.client) if c.insecure_seeded_noise else secret()
    digest = hashlib.sha256(outgoing.fingerprint(round, kinds)).digest()
    made: Kinds = {}
    for kind in noised:
        stream = rng.experiment(number, f"noise on {kind}", round, data.client, digest)
        made[kind] = {n: _noised(c, v, stream) if v.ndim == 2 else v for n, v in kinds[kind].items()}
    rows = max(len(v) for a in made.values() for v in a.values())
    charges = rows if c.noise_scale else 0
    return Outgoing({**kinds, **made}, held, charges, outgoing.fingerprint(round, made), cost(setting, round, data))


def _noised(c: Config, rows: Any, stream: np.random.Generator) -> Any:
    bounded = clipping.clipped_rows(rows, c.clip)
    if c.noise_scale:
        bounded = bounded + c.noise_scale * c.clip * stream.standard_normal(rows.shape)
    return bounded.astype(rows.dtype)


def claim(setting: Setting) -> Claim | None:
    """What is bounded as configured, or None without noise or without the joint figure."""
    c = setting.mechanism.config
    if not c.noise_scale or not c.joint:
        return None
    said = guarantees.row("clip_noise")
    return Claim(
        "clip_noise", said.unit, said.adjacency, f"2 x {c.clip:g} x sqrt(K_n), jointly over a round's rows", said.adversary,
        covered(setting) | {guarantees.SIZES}, "none", c.noise_scale, c.clip, c.delta, ("number and ids of a client's rows",),
        c.insecure_seeded_noise,
    )  # fmt: skip


def notes(setting: Setting) -> dict[str, Any]:
    """Name, statement and what is not protected; {} where nothing is changed."""
    c = setting.mechanism.config
    if neutral(setting):
        return {}
    said = (
        f"Rows of {' and '.join(c.kinds)} are clipped to {c.clip:g} and leave with Gaussian noise of "
        f"{c.noise_scale:g} x {c.clip:g}. One record moves all rows of its client: the sensitivity is joint. Charges are rows."
    )
    if not c.joint:
        said += " joint = false: nothing is accounted, so there is no guarantee."
    if c.insecure_seeded_noise:
        said += " Simulation: the noise seed is known."
    return {"name": "clip_noise", "statement": said, "not_protected": sorted(guarantees.sent(setting) - covered(setting))}
