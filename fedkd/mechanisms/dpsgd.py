"""DP-SGD on the client: Poisson batches, per-example clipping and noise in every local step; what leaves is made of its models.

Abadi et al., 2016, arXiv 1607.00133, algorithm 1; the accountant's event is a Poisson-sampled Gaussian (Mironov et al.,
2019, arXiv 1908.10530). The steps are ``fedkd.noisy_sgd``: they take per-sample gradients of the job's pure loss by
``torch.func``, where Opacus would wrap a module; tests hold gradients, clipped sums and accountant equal to Opacus'.

Threat model: everyone, the server included, sees every model. Unit: one training example, add/remove. Covered are weights
and heads: functions of trained models alone. Features, soft labels, labels and class means read the examples again and void
it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

from fedkd import guarantees, outgoing, rng
from fedkd.epsilon import Event
from fedkd.errors import ConfigError
from fedkd.guarantees import Claim
from fedkd.outgoing import Outgoing, Secret
from fedkd.public import SUMMED
from fedkd.setting import Setting
from fedkd.train import Job, NoisySteps
from fedkd.types import Arrays, ClientData, Kinds


@dataclass(frozen=True)
class Config:
    """Neutral: clip = inf, noise_multiplier = 0, sampling_rate = 0, which trains as without."""

    clip: float = 1.0
    """C: largest L2 norm of one example's gradient, > 0; neutral: inf"""
    noise_multiplier: float = 1.0
    """standard deviation of the noise on a step's sum / C; neutral: 0 (no guarantee)"""
    sampling_rate: float = 0.0
    """q in (0, 1], the same for every client, with ceil(1 / q) steps an epoch; 0 = batch-size / K_n, and then K_n counts
    as public"""
    delta: float = 1e-5
    """delta at which epsilon is stated"""
    budget: float = 0.0
    """largest epsilon (RDP) of a client: it stops before a round that would exceed it; 0 = none"""
    pass_through: tuple[str, ...] = ()
    """every other kind that is sent, by name: then there is no guarantee"""
    insecure_seeded_noise: bool = False
    """simulations and tests: batches and noise from the experiment's seed, so that a run repeats and whoever knows it can
    subtract"""

    def __post_init__(self) -> None:
        accounted = self.noise_multiplier > 0
        guarantees.check_noise("dpsgd", self.clip, self.noise_multiplier, self.delta, self.budget, accounted)
        if not 0 <= self.sampling_rate <= 1:
            raise ConfigError(f"dpsgd: sampling_rate = {self.sampling_rate}; valid: 0 (from K_n), or above 0 and at most 1")


def check(setting: Setting) -> None:
    """Raises: ConfigError for kinds that read the examples again, or a layer that couples them."""
    if neutral(setting):
        return
    guarantees.refuse_unnamed(setting, SUMMED, setting.mechanism.config.pass_through, "dpsgd")
    if setting.model.has_batch_norm:
        raise ConfigError("dpsgd: BatchNorm couples the samples of a batch; valid: a model with GroupNorm or none")


def neutral(setting: Setting) -> bool:
    """Whether a job is trained as without."""
    c = setting.mechanism.config
    return bool(c.clip == math.inf and c.noise_multiplier == 0 and c.sampling_rate == 0)


def plan(setting: Setting, rows: int) -> tuple[int, float]:
    """(local steps of a round, Poisson rate) for a client of ``rows`` samples."""
    e, c = setting.experiment, setting.mechanism.config
    rate = c.sampling_rate or min(1.0, e.batch_size / rows)
    return e.local_epochs * math.ceil(1 / rate - 1e-9), rate


def local(setting: Setting, round: int, data: ClientData, job: Job, secret: Secret) -> Job:
    """The job with noisy steps; they are keyed by the secret and by what they start from."""
    c = setting.mechanism.config
    if neutral(setting) or not job.epochs or not len(job.y):
        return job
    steps, rate = plan(setting, len(job.y))
    h = hashlib.sha256()
    for name, value in sorted({**job.params, **{f"target/{n}": t for n, t in job.targets.items()}}.items()):
        h.update(name.encode() + value.detach().cpu().numpy().tobytes())
    number = rng.key(setting.seed, "insecure mechanism noise", client=data.client) if c.insecure_seeded_noise else secret()
    key = rng.key(number, "dpsgd", round, data.client, h.digest())
    divisor = float(setting.experiment.batch_size)
    return replace(job, noisy=NoisySteps(steps, rate, c.clip, c.noise_multiplier, divisor, key))


def cost(setting: Setting, round: int, data: ClientData) -> tuple[Event, ...]:
    """What a participation spends, whether or not its round sends anything: later uploads are made of its model."""
    c = setting.mechanism.config
    later = any(setting.module.schema(setting, t) for t in range(round, setting.rounds))
    steps, rate = plan(setting, max(1, data.num_examples))
    return (Event(c.noise_multiplier, rate, steps),) if c.noise_multiplier and steps and later else ()


def upload(
    setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, secret: Secret
) -> Outgoing:
    """Kinds leave as the same objects: the noise is in the model; charged are the steps."""
    events = () if neutral(setting) else cost(setting, round, data)
    if not events:
        return Outgoing(kinds, held)
    released = outgoing.fingerprint(round, {**kinds, "state": state})
    return Outgoing(kinds, held, sum(e.times for e in events), released, events)


def claim(setting: Setting) -> Claim | None:
    """What is bounded as configured, or None without noise."""
    c = setting.mechanism.config
    if not c.noise_multiplier:
        return None
    said = guarantees.row("dpsgd")
    rate = f"Poisson, rate {c.sampling_rate:g}" if c.sampling_rate else "Poisson, rate batch-size / K_n"
    covers = SUMMED | ({guarantees.SIZES} if not c.sampling_rate else frozenset())
    outside = ("that a client has data at all",)
    public = () if c.sampling_rate else ("K_n of each client, which counts as public: rate and steps follow from it",)
    return Claim(
        "dpsgd", said.unit, said.adjacency, f"{c.clip:g} per example", said.adversary, covers,
        f"{rate}; drawn from {'the seed' if c.insecure_seeded_noise else 'the secret'}", c.noise_multiplier, c.clip, c.delta,
        (*outside, *public), c.insecure_seeded_noise,
    )  # fmt: skip


def notes(setting: Setting) -> dict[str, Any]:
    """Name, statement and what is not protected; {} where nothing is changed."""
    c = setting.mechanism.config
    if neutral(setting):
        return {}
    said = (
        f"Local steps of DP-SGD: clip {c.clip:g} per example, noise multiplier {c.noise_multiplier:g}, sums divided by "
        f"batch-size = {setting.experiment.batch_size}. Charges are local steps."
    )
    if c.insecure_seeded_noise:
        said += " Simulation: the noise seed is known."
    return {"name": "dpsgd", "statement": said, "not_protected": sorted(guarantees.sent(setting) - SUMMED)}
