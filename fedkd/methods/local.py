"""Local training alone: nothing is shared. The baseline that says whether taking part is worth it at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedkd.jobs import as_arrays, local_job
from fedkd.setting import Setting
from fedkd.train import Job
from fedkd.types import Arrays, Broadcast, ClientData, Kinds, Schema
from fedkd.uploads import Uploads


@dataclass(frozen=True)
class Config:
    """No options."""


def check(setting: Setting) -> None:
    """Every model and setting works."""


def init(setting: Setting) -> Arrays:
    """The server holds nothing."""
    return {}


def broadcast(setting: Setting, state: Arrays, round: int, client: int, previous: int) -> tuple[Kinds, Kinds]:
    """Nothing goes down."""
    return {}, {}


def prepare(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """Go on from the client's own model (at first: the initial weights)."""
    return local_job(setting, broadcast.round, data, client_state or setting.initial())


def finish(
    setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData, job: Job, params: Mapping[str, Tensor]
) -> tuple[Arrays, Kinds]:
    """The model stays with the client; nothing goes up."""
    return as_arrays(params, setting.model.names), {}


def reduction(setting: Setting, round: int) -> str:
    """Nothing to sum."""
    return "mean"


def schema(setting: Setting, round: int) -> Schema:
    """No kind is declared."""
    return {}


def aggregate(setting: Setting, state: Arrays, round: int, uploads: Uploads) -> tuple[Arrays, dict[str, float | None]]:
    """Nothing changes."""
    return state, {}


def evaluate_with(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """The client's own model."""
    return local_job(setting, broadcast.round, data, client_state or setting.initial(), epochs=0)


def trace(setting: Setting, round: int) -> dict[str, int]:
    """Nothing to add to ``rounds.jsonl``."""
    return {}
