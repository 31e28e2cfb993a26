"""FedMD: clients teach each other through soft labels on a public transfer set; no weights and no features travel.

Li, Wang, 2019, arXiv 1910.03581, algorithm 1: transfer learning on the public set, then rounds of *communicate* (class scores
on the public rows go up), *aggregate* (their mean, the consensus, comes down), *digest* (learn the consensus on the public
rows) and *revisit* (a few epochs on own rows). All of that is from the paper; every default is *decided here*. The paper's
clients have different models and its own loss; here all have the run's model, and digesting uses the run's distillation loss.

Threat model: the server sees each client's soft labels on public rows, the other clients see their mean. Own samples, labels
and weights never leave; what the rows tell about them is what ``mechanism.name = "swing"`` weakens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedkd import rng
from fedkd.errors import ConfigError, UploadError
from fedkd.jobs import as_arrays, cross_entropy, local_job
from fedkd.layers import Params
from fedkd.setting import Setting
from fedkd.train import BatchLoss, Job, logits, stage
from fedkd.types import Array, Arrays, Broadcast, ClientData, Field, Kinds, Schema, Split
from fedkd.uploads import Uploads


@dataclass(frozen=True)
class Config:
    """Neutral values give local training alone, bit for bit (what clients upload is then unused)."""

    digest_epochs: int = 1
    """passes over the public rows towards the consensus, before the own rows; neutral: 0"""
    pretrain_epochs: int = 0
    """passes over the public rows with their labels in a client's first round (the paper trains there to convergence first);
    neutral: 0"""
    consensus: Literal["logits", "probabilities"] = "logits"
    """what is averaged: class scores, as in the paper, or their softmax (log-probabilities then come down); with noised rows
    the logarithm of a floored probability would rule a mean of logits"""
    digest_weight: float = 1.0
    """weight of the distillation term on public rows, >= 0"""
    temperature: float = 1.0
    """temperature of the distillation term"""
    temperature_squared: bool = True
    """multiply the distillation term by T^2"""


def check(setting: Setting) -> None:
    """Raises: ConfigError for a run without public rows, or a value out of range."""
    c = setting.method
    if setting.experiment.public_samples < 1:
        raise ConfigError("fedmd: public-samples = 0; it must be at least 1, the rows on which clients exchange soft labels")
    if setting.model.has_batch_norm:
        raise ConfigError('fedmd: BatchNorm would mix statistics of public and own rows; use norm = "group" or "none"')
    for name in ("digest_epochs", "pretrain_epochs", "digest_weight"):
        if not 0 <= getattr(c, name) < math.inf:
            raise ConfigError(f"fedmd: {name} = {getattr(c, name)}; it must be at least 0 and finite")
    if not 0 < c.temperature < math.inf:
        raise ConfigError(f"fedmd: temperature = {c.temperature}; it must be above 0 and finite")


# ----- server half ------------------------------------------------------------------------------------------------------
def init(setting: Setting) -> Arrays:
    """There is no consensus yet."""
    return {}


def broadcast(setting: Setting, state: Arrays, round: int, client: int, previous: int) -> tuple[Kinds, Kinds]:
    """The last consensus, the same for all: "q" [M, C] and "i" [M] ids of public rows."""
    return ({"soft_labels": {"q": state["q"], "i": state["i"]}}, {}) if state and setting.method.digest_epochs else ({}, {})


def reduction(setting: Setting, round: int) -> str:
    """Rows: what a client says of a public row is protected and audited row by row."""
    return "rows"


def schema(setting: Setting, round: int) -> Schema:
    """Soft labels of public rows and their ids."""
    most = setting.experiment.public_samples
    return {
        "soft_labels": {"p": Field("float32", (None, setting.classes), most=most)},
        "ids": {"i": Field("int32", (None,), low=0, most=most)},
    }


def aggregate(setting: Setting, state: Arrays, round: int, uploads: Uploads) -> tuple[Arrays, dict[str, float | None]]:
    """Per public row the unweighted mean over the clients that sent it; without rows the last consensus stays."""
    parts = [u.kinds for u in uploads.sorted().rows if len(u.kinds.get("ids", {}).get("i", ()))]
    if not parts:
        return state, {}
    ids = np.unique(np.concatenate([p["ids"]["i"] for p in parts]))
    total, count = np.zeros((len(ids), setting.classes)), np.zeros(len(ids))
    for part in parts:
        own, first = np.unique(part["ids"]["i"], return_index=True)  # a row named twice counts once
        at, z = np.searchsorted(ids, own), part["soft_labels"]["p"][first].astype(np.float64)
        total[at] += z if setting.method.consensus == "logits" else np.exp(_log_softmax(z))
        count[at] += 1
    mean = total / count[:, None]
    return {"q": (mean if setting.method.consensus == "logits" else np.log(mean)).astype(np.float32), "i": ids}, {}


# ----- client half ------------------------------------------------------------------------------------------------------
def prepare(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """Digest the consensus on public rows (or, at first, learn their labels), then revisit the own rows."""
    held = {n: v for n, v in client_state.items() if n in setting.model.names} or setting.initial()
    job = local_job(setting, broadcast.round, data, held)
    told, public, c = _told(setting, broadcast, data), _public(data), setting.method
    taught = told is not None and bool(client_state or not c.pretrain_epochs)
    rows: Array = np.arange(len(public))
    if taught and told is not None:
        rows = rows[told["q_round"] >= 0]
    passes = c.digest_epochs if taught else 0 if client_state else c.pretrain_epochs
    if not passes or not len(rows):
        return job
    x, y = stage(public, setting.device)
    stream = rng.experiment(setting.seed, "public order", broadcast.round, data.client)
    first = [rows[stream.permutation(len(rows))] + len(job.y) for _ in range(passes)]
    order = np.full((passes + job.epochs, max(len(rows), len(job.y))), -1, np.int64)
    for position, indices in enumerate([*first, *job.order]):
        order[position, : len(indices)] = indices
    targets: dict[str, Tensor] = {}
    if taught and told is not None:
        own = torch.zeros(len(job.y), setting.classes, device=setting.device)
        targets["q"] = torch.cat([own, torch.tensor(told["q"], device=setting.device)])
        targets["public"] = torch.cat([torch.zeros(len(job.y)), torch.ones(len(y))]).to(setting.device)
    loss = client_loss(setting) if taught else cross_entropy(setting)
    return replace(job, x=torch.cat([job.x, x]), y=torch.cat([job.y, y]), order=order, targets=targets, loss=loss)


def client_loss(setting: Setting) -> BatchLoss:
    """Per sample: the distillation term on a public row, cross-entropy on an own one."""

    def loss(params: Params, x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        out = setting.model.forward(params, x, train=True)[1]
        soft = setting.method.digest_weight * setting.distillation(out, targets["q"], None)
        return torch.where(targets["public"] > 0, soft, setting.supervised(out, None, y))

    return loss


def finish(
    setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData, job: Job, params: Mapping[str, Tensor]
) -> tuple[Arrays, Kinds]:
    """Keep the model and what the federation last said; upload the model's class scores on the public rows."""
    public = _public(data)
    new = as_arrays(params, setting.model.names)
    told = _told(setting, broadcast, data)
    new.update(told or {n: v for n, v in client_state.items() if n in ("q", "q_round")})
    scores = logits(setting.model, params, stage(public, setting.device)[0]).cpu().numpy()
    return new, {"soft_labels": {"p": scores}, "ids": {"i": np.asarray(public.ids, np.int32)}}


def evaluate_with(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """The client's own model."""
    held = {n: v for n, v in client_state.items() if n in setting.model.names} or setting.initial()
    return local_job(setting, broadcast.round, data, held, epochs=0)


def trace(setting: Setting, round: int) -> dict[str, int]:
    """Nothing to add to ``rounds.jsonl``."""
    return {}


def _public(data: ClientData) -> Split:
    if data.public is None:
        raise ConfigError("fedmd needs public rows, and this client's prepared data has none; prepare it with public-samples")
    return data.public


def _told(setting: Setting, broadcast: Broadcast, data: ClientData) -> Arrays | None:
    """What came down by public row: "q" [M, C], "q_round" [M] (-1 = not told), as mechanisms read it; None for nothing.

    Rows that are not of the public set are left out: another client may have named them. Raises: UploadError for shapes that
    do not fit, or repeated ids.
    """
    received, public = broadcast.shared.get("soft_labels"), _public(data)
    if received is None:
        return None
    ids = received["i"]
    at = np.minimum(np.searchsorted(public.ids, ids), len(public) - 1)
    if received["q"].shape != (len(ids), setting.classes) or len(np.unique(ids)) != len(ids):
        raise UploadError("the consensus does not fit its row ids")
    known = np.asarray(public.ids)[at] == ids
    q, when = np.zeros((len(public), setting.classes), np.float32), np.full(len(public), -1, np.int32)
    q[at[known]], when[at[known]] = received["q"][known], broadcast.round
    return {"q": q, "q_round": when}


def _log_softmax(z: Array) -> Array:  # [m, C] float64
    z = z - z.max(axis=1, keepdims=True)
    out: Array = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return out
