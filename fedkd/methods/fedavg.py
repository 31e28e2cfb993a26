"""Federated averaging (McMahan et al., 2017, arXiv 1602.05629), with the two baselines that personalise it simply.

``fine_tune_epochs`` trains a copy of the averaged model on the client's own data before scoring; ``local_share`` lets the
last part of the rounds be local training. Buffers are averaged too. Threat model: the server sees each client's model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.jobs import as_arrays, local_job
from fedkd.schedule import boundary
from fedkd.setting import Setting
from fedkd.train import Job
from fedkd.types import Arrays, Broadcast, ClientData, Field, Kinds, Schema
from fedkd.uploads import Uploads


@dataclass(frozen=True)
class Config:
    """Neutral values give plain FedAvg."""

    fine_tune_epochs: int = 0
    """epochs on a copy of the averaged model at scoring, discarded afterwards (needs score = "after_average")"""
    fine_tune_lr: float = 0.01
    """learning rate of these epochs (decided here: 0.2 of the default client rate)"""
    local_share: float = 0.0
    """share of the rounds at the end in which clients train alone, in [0, 1) (decided here: 0.25 is the strong baseline)"""


def check(setting: Setting) -> None:
    """Raises: ConfigError for values out of range or a fine-tuning that nothing would score."""
    config: Config = setting.method
    valid = config.fine_tune_epochs >= 0 and 0 < config.fine_tune_lr < math.inf and 0 <= config.local_share < 1
    if not valid:
        raise ConfigError("fedavg: fine_tune_epochs >= 0, fine_tune_lr > 0 and local_share in [0, 1) are needed")
    if config.fine_tune_epochs and setting.experiment.score != "after_average":
        raise ConfigError('fedavg: fine_tune_epochs needs score = "after_average": it tunes a copy of the average')


def federated_until(setting: Setting) -> int:
    """The first round of local training alone (R where there is none)."""
    return boundary(1.0 - setting.method.local_share, setting.rounds)


def init(setting: Setting) -> Arrays:
    """Nothing is averaged yet: initial weights come from the seed, not from the wire."""
    return {}


def broadcast(setting: Setting, state: Arrays, round: int, client: int, previous: int) -> tuple[Kinds, Kinds]:
    """The last average, unless this client has already taken part after it was made."""
    last = int(state["last"]) if state else -1
    if last < 0 or last < previous:
        return {}, {}
    weights = {"weights": {n.removeprefix("avg/"): v for n, v in state.items() if n.startswith("avg/")}}
    return (weights, {}) if last == round - 1 else ({}, weights)


def prepare(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """Train from the average (before the first one: from the initial weights)."""
    return local_job(setting, broadcast.round, data, _start(setting, client_state, broadcast))


def finish(
    setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData, job: Job, params: Mapping[str, Tensor]
) -> tuple[Arrays, Kinds]:
    """Upload the model while the federation lasts; afterwards keep it."""
    trained = as_arrays(params, setting.model.names)
    if broadcast.round < federated_until(setting):
        return {}, {"weights": trained}
    return trained, {}


def reduction(setting: Setting, round: int) -> str:
    """Workers may sum."""
    return "mean"


def schema(setting: Setting, round: int) -> Schema:
    """All parameters and buffers while the federation lasts."""
    if round >= federated_until(setting):
        return {}
    return {"weights": {n: Field(str(v.dtype), v.shape) for n, v in setting.initial().items()}}


def aggregate(setting: Setting, state: Arrays, round: int, uploads: Uploads) -> tuple[Arrays, dict[str, float | None]]:
    """The K_n-weighted mean of parameters and buffers."""
    mean = uploads.mean("weights")
    if mean is None:
        return state, {}
    return {**{f"avg/{n}": v for n, v in mean.items()}, "last": np.array(round, dtype=np.int64)}, {}


def evaluate_with(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """The averaged model, or a copy of it fine-tuned on the client's own data."""
    return local_job(
        setting,
        broadcast.round,
        data,
        _start(setting, client_state, broadcast),
        epochs=setting.method.fine_tune_epochs,
        learning_rate=setting.method.fine_tune_lr,
    )


def trace(setting: Setting, round: int) -> dict[str, int]:
    """How many layers are shared: all, then none."""
    return {"level": setting.model.blocks + 1 if round < federated_until(setting) else 0, "cut": 0}


def _start(setting: Setting, client_state: Arrays, broadcast: Broadcast) -> Arrays:
    received = {**broadcast.shared.get("weights", {}), **broadcast.own.get("weights", {})}
    return received or client_state or setting.initial()
