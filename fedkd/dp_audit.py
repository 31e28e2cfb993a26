"""Attacks that a mechanism with an accountant must survive: canaries of known gradients through its own clipping and noise.

Example level: Dirac gradients (Nasr et al., 2023, arXiv 2302.07956; Steinke et al., 2023, arXiv 2305.08846, section 6) join
the samples of a client's own job; each moves one coordinate of its own and nothing else. The adversary knows every other
sample, as the definition allows, and reads the model before and after. User level: canary clients (Andrew et al., 2023, arXiv
2302.03098) send one coordinate each through the mechanism's own upload and combine hooks, and the adversary reads the releases.
Each canary is in or out by a fair coin.

The result is a bracket: *at least* the one-run bound, *at most* what the accountant claims, each with its adversary and unit.
A lower end above the upper one says that the mechanism does not do what is claimed. The two-sample bound beside it is
descriptive: canaries of one run are no independent runs (specs: audit, B13).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedkd import guarantees, noisy_sgd, rng
from fedkd.attacks import one_run, two_sample
from fedkd.errors import ConfigError
from fedkd.intervals import Bools, Floats, Ints
from fedkd.layers import Params
from fedkd.setting import Setting
from fedkd.train import BatchLoss, Job, NoisySteps
from fedkd.types import ClientData, Kinds, Upload
from fedkd.uploads import Uploads

ADJACENCY = "add/remove"
"""A canary is in or out; claims of another adjacency are refused."""
SCALE = 100.0
"""How far above the clip bound a canary's gradient is: without clipping it stands out by that factor."""


@dataclass(frozen=True)
class Config:
    """Size of an audit."""

    canaries: int = 1000
    """m, at most the number of trained values"""
    guesses: int = 200
    """r, fixed before the scores are seen"""
    seed: int = 0
    """of the coins and places"""
    alpha: float = 0.05
    """error probability of the lower end"""


@dataclass(frozen=True)
class Bracket:
    """What an audit found beside what is claimed."""

    mechanism: str
    """a file of fedkd/mechanisms"""
    unit: str
    """what one canary is"""
    adjacency: str
    """of the claim"""
    reads: str
    """what this audit's adversary sees"""
    adversary: str
    """whom the claim holds against"""
    lower: one_run.Bound
    """at least this epsilon, for the audit's adversary"""
    two_sample: two_sample.Bound
    """descriptive"""
    claimed: float
    """at most this epsilon, by the accountant"""

    @property
    def violated(self) -> bool:
        """True where the attack shows more than is claimed, at the lower end's confidence."""
        return self.lower.epsilon > self.claimed

    @property
    def line(self) -> str:
        """One sentence for a report."""
        b = self.lower
        return (
            f"{self.mechanism}: epsilon at least {b.epsilon:.3g} for who sees {self.reads} ({100 * (1 - b.alpha):g} % bound "
            f"from one run, {b.canaries} canaries, {b.guesses} guesses; it could have shown {b.ceiling:.3g} at most); at most "
            f"{self.claimed:.3g} by the accountant, against {self.adversary}. Unit: {self.unit}, {self.adjacency}; delta = "
            f"{b.delta:g}."
            + (" The lower end is above the upper one: the mechanism does not do what is claimed." if self.violated else "")
        )


# ----- example level -----------------------------------------------------------------------------------------------------
def coins(config: Config, values: int) -> tuple[Bools, Ints]:  # -> [m] in or out, [m] place of each among the values
    """Fair coins and different coordinates. Raises: ConfigError for more canaries than values."""
    if config.canaries > values:
        raise ConfigError(f"{config.canaries} canaries need as many trained values; there are {values}")
    if not 1 <= config.guesses <= config.canaries:
        raise ConfigError(f"guesses = {config.guesses}; valid: 1 to the number of canaries, {config.canaries}")
    stream = rng.experiment(config.seed, "dp audit")
    return stream.random(config.canaries) < 0.5, stream.permutation(values)[: config.canaries]


def with_canaries(job: Job, places: Ints, size: float) -> Job:  # [c] coordinates of the canaries that are in
    """The job with one more sample per canary, whose gradient is ``size`` at its coordinate and zero elsewhere."""
    many = len(places)
    joined = {n: torch.cat([t, t[:1].expand(many, *t.shape[1:])]) for n, t in job.targets.items()}
    joined["canary"] = torch.cat([torch.full((len(job.y),), -1), torch.from_numpy(np.asarray(places, np.int64))]).to(
        job.y.device
    )
    return replace(
        job,
        x=torch.cat([job.x, job.x[:1].expand(many, *job.x.shape[1:])]),
        y=torch.cat([job.y, job.y[:1].expand(many)]),
        targets=joined,
        loss=_with_canaries(job.loss, job.trainable, size),
    )


def _with_canaries(own: BatchLoss, trainable: tuple[str, ...], size: float) -> BatchLoss:
    def loss(params: Params, x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        place = targets["canary"]
        flat = torch.cat([params[n].reshape(-1) for n in trainable])
        return torch.where(place >= 0, size * flat[place.clamp(min=0)], own(params, x, y, targets))

    return loss


def noisy_steps(config: Config, job: Job, steps: NoisySteps, claimed: float, delta: float) -> Bracket:
    """Audit DP-SGD steps of a client's own job.

    Args:
        job: its samples, model and loss; momentum and learning rate as in the run.
        steps: all noisy steps that the claim is about, under a fresh key.
        claimed: epsilon of those steps at ``delta`` by the accountant, example level, add/remove.

    Raises: ConfigError for more canaries than trained values, or no sample.
    """
    if not len(job.y):
        raise ConfigError("an audit of noisy steps needs a client with samples")
    inside, places = coins(config, sum(job.params[n].numel() for n in job.trainable))
    known = noisy_sgd.train(job, replace(steps, noise_multiplier=0.0, key=rng.key(config.seed, "dp audit known samples")))
    trained = noisy_sgd.train(with_canaries(job, places[inside], SCALE * steps.clip), steps)
    moved = torch.cat([(known[n] - trained[n]).reshape(-1) for n in job.trainable])
    score = moved.double().cpu().numpy()[places]
    return _bracket(config, "dpsgd", "the model before and after", score, inside, claimed, delta)


# ----- user level --------------------------------------------------------------------------------------------------------
def noisy_means(
    config: Config, setting: Setting, data: ClientData, rounds: int, claimed: float, delta: float, number: int | None = None
) -> Bracket:
    """Audit ``user_clip_noise``: canary clients send through the mechanism's hooks in each of ``rounds`` rounds.

    Args:
        setting: with the mechanism configured, but ``insecure_seeded_noise``: every audit draws fresh noise.
        data: any client of the run, which the hooks ask for.
        rounds: in which each canary that is in takes part.
        claimed: epsilon of that many participations at ``delta`` by the accountant.
        number: stands for the server's secret, so that an audit repeats; None = from the operating system.

    Raises: ConfigError for more canaries than values of the model, noise from the seed, or a claim for replaced users.
    """
    hooks, c = setting.mechanism.module, setting.mechanism.config
    if c.adjacency != ADJACENCY:
        raise ConfigError(f'canaries are in or out: adjacency = "{c.adjacency}" cannot be audited; valid: {ADJACENCY}')
    if c.insecure_seeded_noise:
        raise ConfigError("an audit needs insecure_seeded_noise = false: noise that everyone can repeat hides nothing")
    shapes = {n: v.shape for n, v in setting.initial().items()}
    inside, places = coins(config, sum(math.prod(s) for s in shapes.values()))
    score = np.zeros(config.canaries)
    for round in range(rounds):
        uploads = Uploads(round, config.canaries, setting.module.schema(setting, round))
        secret = partial(int, int.from_bytes(os.urandom(16), "little") if number is None else rng.key(number, "secret", round))
        for place in places[inside]:
            sent = hooks.upload(setting, round, data, {}, {}, _one_place(shapes, int(place), SCALE * c.clip), secret)
            uploads.rows.append(Upload(len(uploads.rows), 1, sent.kinds))
        means = hooks.combine(setting, round, uploads, secret).means["weights"]
        score += np.concatenate([means[n].reshape(-1) for n in shapes])[places]
    reads = f"the releases of {rounds} rounds"
    return _bracket(config, "user_clip_noise", reads, score, inside, claimed, delta)


def _one_place(shapes: Mapping[str, Sequence[int]], place: int, size: float) -> Kinds:
    """A difference that is ``size`` at one place and zero elsewhere."""
    flat = np.zeros(sum(math.prod(s) for s in shapes.values()), np.float32)
    flat[place] = size
    cuts = np.cumsum([math.prod(s) for s in shapes.values()])[:-1]
    return {"weights": {n: part.reshape(s) for (n, s), part in zip(shapes.items(), np.split(flat, cuts), strict=True)}}


def _bracket(config: Config, mechanism: str, reads: str, score: Floats, inside: Bools, claimed: float, delta: float) -> Bracket:
    said = guarantees.row(mechanism)
    one = one_run.audit(one_run.Config(delta, config.guesses, config.alpha, config.seed), score=score, member=inside)
    two = two_sample.audit(two_sample.Config(delta, config.alpha, seed=config.seed), score=score, member=inside)
    return Bracket(mechanism, said.unit, ADJACENCY, reads, said.adversary, one, two, claimed)
