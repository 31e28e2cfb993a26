"""Rows without names: a client's rows leave in a secret order under fresh ids, and the map to its samples stays at home.

Decided here (specs: guarantees). It breaks the link of a sample's rows over rounds, not what a single row tells, and rows
can be re-linked by their content: no guarantee, measured by attacks only. What the server returns for a row is given back
its own id here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd import guarantees, rng
from fedkd.errors import ConfigError, UploadError
from fedkd.outgoing import Outgoing, Secret
from fedkd.setting import Setting
from fedkd.types import ROW_KINDS, Array, Arrays, ClientData, Kinds


@dataclass(frozen=True)
class Config:
    """Neutral: every = 0."""

    every: int = 1
    """rounds that keep one order, >= 1; 0 = ids and order as they are (neutral)"""
    insecure_seeded_noise: bool = False
    """simulations and tests: the order from the experiment's seed, so that a run repeats"""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigError(f"permute: every = {self.every}; it must be at least 0")


def check(setting: Setting) -> None:
    """Raises: ConfigError where no rows with ids are sent, or the method renames them itself."""
    if not setting.mechanism.config.every:
        return
    if "ids" not in guarantees.sent(setting):
        raise ConfigError('permute renames rows, but none are sent; valid: method.args with knowledge = "features"')
    if getattr(setting.method, "upload_fraction", 1.0) < 1:
        raise ConfigError("permute: upload_fraction below 1 already sends fresh ids; valid: upload_fraction = 1")


def upload(
    setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, secret: Secret
) -> Outgoing:
    """Every kind with rows in the new order, ids 0, 1, ...; ``held`` keeps which sample each of them is."""
    c = setting.mechanism.config
    if not c.every or "ids" not in kinds:
        return Outgoing(kinds, held)
    ids = kinds["ids"]["i"]
    number = rng.key(setting.seed, "insecure mechanism noise", client=data.client) if c.insecure_seeded_noise else secret()
    rows = order(c, number, round, data.client, len(ids))
    out = {k: {n: v[rows] for n, v in a.items()} if k in ROW_KINDS else a for k, a in kinds.items()}
    out["ids"] = {"i": np.arange(len(ids), dtype=ids.dtype)}
    return Outgoing(out, {**held, "ids": ids[rows]})


def order(config: Config, number: int, round: int, client: int, rows: int) -> Array:  # -> [rows] int64
    """The secret order of a round under the sender's number."""
    return rng.experiment(number, "order of rows", round // config.every, client).permutation(rows)


def download(setting: Setting, round: int, held: Arrays, kinds: Kinds) -> Kinds:
    """Soft labels that come back, under the samples' own ids. Raises: UploadError for an id that was not sent."""
    rows = kinds.get("soft_labels", {})
    if not setting.mechanism.config.every or "i" not in rows:
        return kinds
    sent, back = held.get("ids", np.zeros(0, np.int32)), rows["i"]
    if len(back) and not 0 <= back.min() <= back.max() < len(sent):
        raise UploadError("soft labels came for rows that this client did not send")
    return {**kinds, "soft_labels": {**rows, "i": sent[back]}}


def notes(setting: Setting) -> dict[str, Any]:
    """Name, statement and what is not protected; {} where nothing is changed."""
    every = setting.mechanism.config.every
    if not every:
        return {}
    said = f"Rows leave in a secret order under fresh ids, a new one every {every} round(s). No guarantee is stated."
    return {"name": "permute", "statement": said, "not_protected": sorted(guarantees.sent(setting))}
