"""Federated swing: the soft labels of a client's rows leave with a temperature by privacy likelihood and with keyed noise.

Swing distillation (Li et al., 2022, arXiv 2212.08349) says nothing of federations: all of this is decided here (specs: swing,
section 11). Each row's logits are protected by ``fedkd.soft_targets`` and travel as log-probabilities, so that no method
changes; likelihood, temperature and flags stay at home. The temperature is relative: it divides before the method's own.

Threat model: an honest-but-curious receiver who keeps every message. A row's noise is keyed by (the sender's secret,
direction, client, sample id, epoch, the value that it hides), and its *release* is cached and re-sent inside an epoch, so
that neither averaging nor differences cancel it; "fresh" and "noise_only" show how they would. The value is in the key since a
round that was sent but never committed leaves no cache: the next release must not carry the same noise on a moved value.
No epsilon is computed: one record moves all rows of its client. Features, labels and the final models are not protected, and
raw labels beside a row nearly void its protection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from fedkd import rng
from fedkd.errors import ConfigError, UploadError
from fedkd.keyed_noise import content_keys, unit_noise, unit_uniform
from fedkd.knowledge import sample_ids
from fedkd.outgoing import EVERYONE, Outgoing, Secret
from fedkd.sensitivity import constant
from fedkd.setting import Setting
from fedkd.soft_targets import Protection, as_logits, protect, sampled
from fedkd.types import ROW_KINDS, Array, Arrays, ClientData, Kinds

PROTECTED = "soft_labels"
ARRAYS = frozenset({"labels", "counts", "teacher_loss", "reference_loss"})
"""What a likelihood can read here: labels are the tokens, one per row."""


@dataclass(frozen=True)
class Config:
    """Defaults are those of the specification; the neutral values together change no object."""

    temperature_low: float = 1.0
    """T_lo > 0 at likelihood 0; neutral: 1"""
    temperature_high: float = 20.0
    """T_hi >= T_lo at likelihood 1; neutral: 1, or sensitivity.name = "constant" with 0"""
    schedule: Literal["linear", "log", "step"] = "linear"
    """from likelihood to temperature, as in fedkd/losses/swing.py"""
    gamma: float = 1.0
    """exponent of the linear schedule, > 0"""
    theta: float = 0.5
    """likelihood from which a row counts as private, in (0, 1]"""
    logit_range: float = 0.0
    """R: logits below max - R are raised to it; neutral: 0 = no clipping"""
    noise: Literal["laplace", "gaussian"] = "laplace"
    """law of the noise on probabilities"""
    noise_scale: float = 0.1
    """b of Laplace or sigma of Gaussian noise, for some ten classes; neutral: 0"""
    noise_scope: Literal["private", "all"] = "all"
    """which rows get noise; "private" protects no row whose likelihood was missed"""
    round_policy: Literal["refresh", "once", "fresh", "noise_only"] = "refresh"
    """release kept for refresh_every rounds or until the cut changes, for the whole run, for one round, or the noise kept
    while the value moves (differences of two releases then cancel the noise); neutral: "fresh" """
    refresh_every: int = 10
    """rounds of one release, at least 1; neutral: 1"""
    warmup_rounds: int = 0
    """rounds in which no row leaves at all, so that "once" does not freeze a first guess; neutral: 0"""
    return_likelihood: float = 0.0
    """likelihood of each row that the server returns, in [0, 1]; neutral: 0 with temperature_low = 1"""
    return_noise_scale: float = 0.0
    """scale of the noise on rows that the server returns; neutral: 0, which costs nothing where uploads are noised"""
    carrier: Literal["vector", "sampled"] = "vector"
    """the protected vector, or one class drawn from it as one-hot; neutral: "vector" """
    prob_floor: float = 1e-6
    """probabilities below are raised to it before the logarithm, above 0, at most 0.1"""
    redraw_labels: bool = False
    """replace the labels that travel beside the rows by draws from the release (no further charge)"""
    pass_through: tuple[str, ...] = ()
    """every other kind that is sent, by name: none of them is protected"""
    insecure_seeded_noise: bool = False
    """simulations and tests: derive the secret from the experiment's seed, so that a run repeats; whoever knows the seed
    can subtract the noise"""

    def __post_init__(self) -> None:
        for name in ("noise_scale", "return_noise_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"mechanism.args: {name} = {getattr(self, name)}; valid: 0 or more and finite")
        for name, low in (("refresh_every", 1), ("warmup_rounds", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"mechanism.args: {name} = {getattr(self, name)}; it must be at least {low}")
        if not 0 <= self.return_likelihood <= 1:
            raise ConfigError(f"mechanism.args: return_likelihood = {self.return_likelihood}; valid: 0 to 1")
        if not 0 < self.prob_floor <= 0.1:
            raise ConfigError(f"mechanism.args: prob_floor = {self.prob_floor}; valid: above 0, at most 0.1")
        _ = self.returned  # the checks of Protection name the field and what is valid

    @property
    def protection(self) -> Protection:
        """How an uploaded row is protected."""
        return Protection(
            self.temperature_low, self.temperature_high, self.schedule, self.gamma, self.theta, noise=self.noise,
            noise_scale=self.noise_scale, noise_scope=self.noise_scope, logit_range=self.logit_range,
        )  # fmt: skip

    @property
    def returned(self) -> Protection:
        """How a row that the server returns is protected: one likelihood and one noise level for all."""
        return replace(self.protection, noise_scale=self.return_noise_scale, noise_scope="all")

    @property
    def keeps(self) -> bool:
        """Whether a release is cached and re-sent."""
        return self.round_policy in ("refresh", "once")

    @property
    def moves(self) -> bool:
        """Whether each round sends the round's own value."""
        return not self.keeps or (self.round_policy == "refresh" and self.refresh_every == 1)


# ----- what is refused and said ---------------------------------------------------------------------------------------
def check(setting: Setting) -> None:
    """Raises: ConfigError for a likelihood that labels cannot give, or kinds that are neither protected nor named."""
    c, reads = setting.mechanism.config, setting.sensitivity.module.READS
    if not reads <= ARRAYS:
        raise ConfigError(f'sensitivity.name = "{setting.experiment.sensitivity_name}" reads {", ".join(sorted(reads))}; '
                          "mechanism swing has labels alone: valid are constant, frequency, gap")  # fmt: skip
    if neutral(setting) and return_neutral(setting):
        return
    sent = {kind for t in range(setting.rounds) for kind in setting.module.schema(setting, t)}
    if not {PROTECTED, "ids"} <= sent:
        raise ConfigError(f"mechanism swing protects {PROTECTED} by sample id, but this method and its args send "
                          f'{", ".join(sorted(sent)) or "nothing"}; valid: mechanism.name = "none"')  # fmt: skip
    others = sorted(sent - {PROTECTED} - ({"labels"} if c.redraw_labels else set()))
    if sorted(set(c.pass_through)) != others:
        raise ConfigError(f"mechanism.args: pass_through = {list(c.pass_through)}, but swing cannot bound what else is sent; "
                          f"valid: pass_through = {others} (not protected), or method.args that send less")  # fmt: skip
    if c.redraw_labels and "labels" not in sent:
        raise ConfigError("mechanism.args: redraw_labels = true, but no labels are sent; valid: false")
    if not return_neutral(setting) and c.round_policy != "fresh" and getattr(setting.method, "upload_fraction", 1.0) < 1:
        raise ConfigError('mechanism.args: protection of returned rows needs ids that last: upload_fraction = 1, or '
                          'round_policy = "fresh"')  # fmt: skip


def neutral(setting: Setting) -> bool:
    """Whether an upload leaves as the same object."""
    c = setting.mechanism.config
    public = setting.sensitivity.module is constant and setting.sensitivity.config.likelihood == 0
    plain = c.temperature_low == 1 and (c.temperature_high == 1 or public) and c.logit_range == 0 and c.carrier == "vector"
    quiet = c.noise_scale == 0 or (public and c.noise_scope == "private")
    return bool(plain and quiet and c.moves and c.warmup_rounds == 0 and not c.redraw_labels)


def return_neutral(setting: Setting) -> bool:
    """Whether what the server returns leaves as the same object."""
    c = setting.mechanism.config
    hot = c.temperature_low != 1 or (c.temperature_high != 1 and c.return_likelihood > 0)
    return not (hot or c.return_noise_scale or c.logit_range)


def notes(setting: Setting) -> dict[str, Any]:
    """Name, statement and what is not protected, for summary.json and the report; {} where nothing is changed."""
    c, e = setting.mechanism.config, setting.experiment
    if neutral(setting) and return_neutral(setting):
        return {}
    charged = f"{c.noise} noise of scale {c.noise_scale:g} on {c.noise_scope} rows" if c.noise_scale else "no noise"
    said = (
        f"Soft labels of single rows leave with temperature {c.temperature_low:g} to {c.temperature_high:g} by the likelihood "
        f"{e.sensitivity_name}, {charged}, round policy {c.round_policy}, carrier {c.carrier}. No end-to-end guarantee of "
        "differential privacy is stated."
    )
    if c.round_policy == "noise_only":
        said += " The noise is kept while the value moves: differences of two releases cancel it."
    if c.insecure_seeded_noise:
        said += " Simulation: the noise seed is known."
    return {"name": e.mechanism_name, "statement": said, "not_protected": sorted(c.pass_through)}


# ----- hooks ----------------------------------------------------------------------------------------------------------
def upload(
    setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, secret: Secret
) -> Outgoing:
    """A client's rows as they leave; ``held`` keeps the releases of the present epoch (C floats per row).

    Raises: UploadError for a kind that pass_through does not name, or a sample that the client does not hold.
    """
    c = setting.mechanism.config
    if neutral(setting) or PROTECTED not in kinds:
        return Outgoing(kinds, held)
    unnamed = sorted(set(kinds) - {PROTECTED, *c.pass_through} - ({"labels"} if c.redraw_labels else set()))
    if unnamed:
        raise UploadError(f"swing cannot bound {', '.join(unnamed)}, and pass_through does not name it")
    if round < c.warmup_rounds:
        empty = {kind: {n: v[:0] for n, v in arrays.items()} for kind, arrays in kinds.items() if kind in ROW_KINDS}
        return Outgoing({**kinds, **empty}, held)
    ids, (name, logits) = sample_ids(state, kinds["ids"]["i"]), _rows_of(kinds[PROTECTED])
    likelihood = _likelihood(setting, data, state, ids, logits)
    number, k = _secret(c, setting.seed, data.client, secret), epoch(setting, round)
    keys = _keys(c, number, f"up|{data.client}|{k}", ids, logits, likelihood)
    made = _protected(c, c.protection, logits, likelihood, keys, c.carrier)
    rows, kept, new = _released(c, held, k, ids, made)
    out = {**kinds, PROTECTED: {**kinds[PROTECTED], name: rows}}
    if c.redraw_labels:
        places = _keys(c, number, f"labels|{data.client}|{k}", ids, rows)
        drawn = sampled(torch.from_numpy(rows).double().exp(), torch.from_numpy(unit_uniform(places)))
        out["labels"] = {n: drawn.numpy().astype(v.dtype) for n, v in kinds["labels"].items()}
    charged = bool(c.noise_scale) or c.carrier == "sampled"
    return Outgoing(out, kept, int(new.sum()) if charged else 0, ids[new].tobytes() + rows[new].tobytes())


def broadcast(setting: Setting, round: int, client: int, held: Arrays, kinds: Kinds, secret: Secret) -> Outgoing:
    """The rows that the server returns, as they leave; what is shared has one release for all recipients."""
    c = setting.mechanism.config
    if return_neutral(setting) or PROTECTED not in kinds:
        return Outgoing(kinds, held)
    ids, (name, logits) = kinds[PROTECTED]["i"], _rows_of(kinds[PROTECTED])
    whom, k = "all" if client == EVERYONE else str(client), epoch(setting, round)
    likelihood = np.full(len(ids), c.return_likelihood, np.float32)
    keys = _keys(c, _secret(c, setting.seed, EVERYONE, secret), f"down|{whom}|{k}", ids, logits, likelihood)
    made = _protected(c, c.returned, logits, likelihood, keys, "vector")
    prefix = f"{client}/"
    own = {n.removeprefix(prefix): v for n, v in held.items() if n.startswith(prefix)}
    rows, kept, new = _released(c, own, k, ids, made)
    others = {n: v for n, v in held.items() if not n.startswith(prefix)}
    charges = int(new.sum()) if c.return_noise_scale else 0
    out: Kinds = {**kinds, PROTECTED: {**kinds[PROTECTED], name: rows}}
    return Outgoing(
        out, {**others, **{prefix + n: v for n, v in kept.items()}}, charges, ids[new].tobytes() + rows[new].tobytes()
    )


# ----- epochs and releases --------------------------------------------------------------------------------------------
def epoch(setting: Setting, round: int) -> int:
    """k of a round: it counts up where a release is made anew. ``round`` = R is the last scoring."""
    return _epochs(setting)[round]


@lru_cache(maxsize=32)
def _epochs(setting: Setting) -> tuple[int, ...]:  # [R + 1]
    c, rounds = setting.mechanism.config, range(setting.rounds + 1)
    if c.round_policy == "fresh":
        return tuple(rounds)
    if c.round_policy != "refresh":
        return (0,) * len(rounds)
    cuts = [setting.module.trace(setting, t).get("cut", 0) for t in rounds]
    starts = [t > 0 and (t % c.refresh_every == 0 or cuts[t] != cuts[t - 1]) for t in rounds]
    return tuple(int(k) for k in np.cumsum(starts))  # never a number twice: an old key with a new value would cancel


def _secret(c: Config, seed: int, sender: int, secret: Secret) -> int:
    """The sender's own number; from the experiment's seed only where the configuration says so."""
    return rng.key(seed, "insecure mechanism noise", client=sender) if c.insecure_seeded_noise else secret()


def _keys(c: Config, secret: int, purpose: str, ids: Array, *values: Array) -> Array:  # [m], float32 [m, ..] -> [m] uint64
    """One key per row from (secret, purpose with direction, client and epoch, true sample id, the values)."""
    hidden = () if c.round_policy == "noise_only" else values
    bits = [np.ascontiguousarray(v, np.float32).view(np.int32).reshape(len(ids), -1) for v in hidden]
    return content_keys(np.column_stack([ids, *bits, np.zeros_like(ids)]), secret, purpose)[:, -1]


def _protected(
    c: Config,
    protection: Protection,
    logits: Array,  # [m, C]
    likelihood: Array,  # [m] in [0, 1]
    keys: Array,  # [m]
    carrier: str,
) -> Array:  # [m, C] float32 log-probabilities
    """Rows as they leave. In float64, rounded once: a row's bits do not depend on the rows beside it."""
    z = torch.from_numpy(np.asarray(logits, np.float64))
    noise = torch.from_numpy(unit_noise(c.noise, keys, z.shape[1])) if protection.noisy else None
    q = protect(protection, z, torch.from_numpy(np.array(likelihood)), noise)
    if carrier == "sampled":
        drawn = sampled(q, torch.from_numpy(unit_uniform(keys, draw=1)))
        q = torch.nn.functional.one_hot(drawn, q.shape[1]).double()
    rows: Array = as_logits(q, c.prob_floor).numpy().astype(np.float32)
    return rows


def _released(c: Config, cache: Arrays, k: int, ids: Array, made: Array) -> tuple[Array, Arrays, Array]:
    """(rows that leave [m, C], the cache from now on, which of them are new [m]).

    Args:
        cache: "i" [n] ids ascending, "q" [n, C] their releases, "k" [] the epoch of all of them; or {}.
        made: what would leave if nothing had left before.
    """
    if not c.keeps:
        return made, {}, np.ones(len(ids), bool)
    old = cache if cache and int(cache["k"]) == k else {"i": ids[:0], "q": made[:0]}
    at = np.searchsorted(old["i"], ids)
    known = np.zeros(len(ids), bool)
    inside = at < len(old["i"])
    known[inside] = old["i"][at[inside]] == ids[inside]
    rows = made.copy()
    rows[known] = old["q"][at[known]]
    names, values = np.concatenate([old["i"], ids[~known]]), np.concatenate([old["q"], made[~known]])
    order = np.argsort(names, kind="stable")
    return rows, {"i": names[order], "q": values[order], "k": np.array(k, np.int32)}, ~known


# ----- likelihood -----------------------------------------------------------------------------------------------------
def _likelihood(setting: Setting, data: ClientData, state: Arrays, ids: Array, logits: Array) -> Array:  # [m] in [0, 1]
    """How likely each row's label is private, from what this client alone knows."""
    module = setting.sensitivity.module
    for rows in (data.train, data.public):  # a method uploads its own samples' rows, or those of the public transfer set
        at = np.minimum(np.searchsorted(rows.ids, ids), len(rows) - 1) if rows else np.zeros(len(ids), np.int64)
        if rows and np.array_equal(np.asarray(rows.ids)[at], ids):
            break
    else:
        raise UploadError("an upload names samples that this client does not hold")
    y = np.asarray(rows.y)[at]
    counts = np.bincount(np.asarray(data.train.y), minlength=setting.classes)
    arrays: dict[str, Array] = {"labels": y, "counts": counts}
    if "teacher_loss" in module.READS:  # the reference is what the federation last said; before that, it knows nothing
        told = state["q_round"][at] >= 0 if "q_round" in state else np.zeros(len(at), bool)
        reference = np.where(told[:, None], state["q"][at] if "q" in state else 0.0, 0.0)
        arrays.update(teacher_loss=_loss(logits, y), reference_loss=_loss(reference, y))
    found: Array = module.likelihood(setting.sensitivity.config, **{n: arrays[n] for n in module.READS})
    return found


def _loss(logits: Array, y: Array) -> Array:  # [m, C], [m] -> [m] nats
    z = logits.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    loss: Array = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
    return loss


def _rows_of(arrays: Arrays) -> tuple[str, Array]:
    """Name and value of the one array with a row of classes per sample."""
    ((name, value),) = [(n, v) for n, v in arrays.items() if v.ndim == 2]
    return name, value
