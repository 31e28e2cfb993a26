"""Rows for tests of mechanisms: a client, what FedD2S would send for it, and a setting that protects it with swing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.config import Experiment
from fedkd.mechanisms import swing
from fedkd.outgoing import Outgoing
from fedkd.setting import Setting
from fedkd.types import Array, Arrays, ClientData, Kinds, Split
from tests.small_runs import small
from tests.toy import toy_setting

OTHERS = ["features", "ids", "labels", "weights"]
PASS = f"pass_through = {OTHERS}"
SEEDED = "insecure_seeded_noise = true"
NEUTRAL = 'noise_scale = 0.0, round_policy = "fresh"'
K, C = 12, 5


def using(args: str = "", method: str = "", **keys: Any) -> Setting:
    """FedD2S with features on toy images, and swing with everything else named."""
    joined = ", ".join(a for a in (PASS, SEEDED, args) if a)
    return toy_setting("fedd2s", method, **{"mechanism_name": "swing", "mechanism_args": joined, **keys})


def holder(rows: int = K, client: int = 0, classes: int = C) -> ClientData:
    """A client whose sample ids are no row numbers."""
    y = (np.arange(rows) % classes).astype(np.int32)
    split = Split(np.zeros((rows, 1, 8, 8), np.float32), y, np.arange(rows, dtype=np.int32) * 3 + 100)
    return ClientData(client, split, split, split)


def kinds_of(data: ClientData, seed: int = 0, classes: int = C) -> Kinds:
    """What FedD2S would send: random logits, features, labels, ids and a weight."""
    stream, n = np.random.default_rng(seed), len(data.train)
    return {
        "weights": {"w": np.ones(2, np.float32)},
        "features": {"z": stream.normal(size=(n, 3)).astype(np.float32)},
        "soft_labels": {"p": stream.normal(size=(n, classes)).astype(np.float32) * 3},
        "ids": {"i": data.train.ids.copy()},
        "labels": {"y": data.train.y.copy()},
    }


def taking(kinds: Kinds, order: Any) -> Kinds:
    """The same upload with its rows in another order, or fewer of them."""
    return {k: a if k == "weights" else {n: v[order] for n, v in a.items()} for k, a in kinds.items()}


def send(setting: Setting, round: int, data: ClientData, kinds: Kinds, held: Arrays | None = None, **how: Any) -> Outgoing:
    secret: Callable[[], int] = how.get("secret", lambda: 7)
    return swing.upload(setting, round, data, how.get("state", {}), held or {}, kinds, secret)


def p_of(out: Outgoing) -> Array:
    return out.kinds["soft_labels"]["p"]


def federation(output: Path, args: str, **changes: Any) -> Experiment:
    keys = {"method_name": "fedd2s", "mechanism_name": "swing", "mechanism_args": args, "name": "swing", **changes}
    return small(output, **keys)
