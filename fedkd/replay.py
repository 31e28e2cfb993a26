"""What an attacker repeats of a finished run's senders: blocks, features, mechanisms on rows of its own, the order of rows.

Specs: audit, section 7 (B16). Threat model: an honest-but-curious server that kept the transcript and knows the run's
configuration, but no client's secret. A mechanism is never re-written here: the sender's own code runs on the attacker's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from fedkd import outgoing, rng
from fedkd.errors import ConfigError
from fedkd.finished import Finished
from fedkd.layers import pool
from fedkd.train import CHUNK, to_tensors
from fedkd.types import Array, Arrays, ClientData, Kinds, Split


class SecretOrder(ConfigError):
    """A mechanism asked for a number that only the client has."""


class Sent(NamedTuple):
    """One client's rows of a round, by ascending sample id."""

    client: int
    z: Array
    labels: Array | None
    """as they travelled"""
    true_labels: Array
    x: Array
    blocks: Arrays
    """as uploaded; {} where none were"""


def rounds_with_features(run: Finished) -> list[tuple[int, int]]:
    """(cut, round) of every recorded round whose uploads hold features."""
    s = run.setting
    rounds = range(min(s.rounds, run.commit.round + 1))
    return [(s.module.trace(s, t)["cut"], t) for t in rounds if "features" in s.module.schema(s, t)]


def features(run: Finished, blocks: Arrays, cut: int, x: Array) -> Array:  # [m, *shape] -> [m, d]
    """What a client with these blocks would send of ``x``, before any mechanism."""
    setting = run.setting
    params = to_tensors({**setting.initial(), **blocks}, torch.device("cpu"))
    size: int = getattr(setting.method, "head_pool", 0)
    with torch.no_grad():
        parts = [setting.model.forward(params, part, (cut,))[0][cut] for part in torch.tensor(np.asarray(x)).split(CHUNK)]
        out: Array = torch.cat([pool(z, size) for z in parts]).numpy()
    return out


def as_sent(run: Finished, round: int, z: Array, seed: int, draw: int) -> Array:  # [m, d] -> [m, d]
    """Features of public rows after the run's mechanisms, with the attacker's randomness: it is client -1 - ``draw``."""
    kinds: Kinds = {"features": {"z": z}}
    attacker = -1 - draw
    nothing = Split(z[:0], np.zeros(0, np.int32), np.zeros(0, np.int32))
    data = ClientData(attacker, Split(z, np.zeros(len(z), np.int32), np.arange(len(z), dtype=np.int32)), nothing, nothing)
    for s in outgoing.each(run.setting):
        change = outgoing.hook(s, "upload")
        if change is not None:
            kinds = change(s, round, data, {}, {}, kinds, lambda: rng.key(seed, "attacker", client=attacker)).kinds
    return kinds["features"]["z"]


def order_sent(run: Finished, round: int, data: ClientData) -> tuple[Array, Array]:
    """(ids on the wire, the true sample id of each) of a client's rows: its own mechanisms, replayed on the ids alone.

    Raises: SecretOrder where the order came from the client's secret.
    """
    ids = np.asarray(data.train.ids)
    kinds: Kinds = {"ids": {"i": ids}, "labels": {"y": ids}}  # whatever has one row per sample moves with the ids
    for s in outgoing.each(run.setting):
        change = outgoing.hook(s, "upload")
        if change is not None:
            kinds = change(s, round, data, {}, {}, kinds, _no_secret).kinds
    return kinds["ids"]["i"], kinds["labels"]["y"]


def uploads(run: Finished, round: int) -> Iterator[Sent]:
    """Every client's rows of a round as the server received them, put back into the order of sample ids."""
    for client in range(run.data.num_clients):
        path = run.folder / "transcript" / str(round) / f"up-{client}.safetensors"
        record: Arrays = load_file(path) if path.is_file() else {}
        if not len(record.get("features/z", ())):
            continue
        data = run.data.client(client)
        wire, true = order_sent(run, round, data)
        order = np.argsort(true, kind="stable")
        if not np.array_equal(wire, record["ids/i"]):
            raise ConfigError(f"client {client}'s rows of round {round} do not carry the ids that it would send")
        labels = record.get("labels/y")
        blocks = {n.removeprefix("weights/"): v for n, v in record.items() if n.startswith("weights/")}
        yield Sent(
            client, record["features/z"][order], None if labels is None else labels[order],
            np.asarray(data.train.y), np.asarray(data.train.x), blocks,
        )  # fmt: skip


def averaged(run: Finished, round: int) -> Arrays:
    """The blocks that a round ended with, as the next round's broadcast (or the last commit) holds them."""
    if round == run.commit.round:
        return {n.removeprefix("avg/"): v for n, v in run.commit.state.items() if n.startswith("avg/")}
    for path in sorted((run.folder / "transcript" / str(round + 1)).glob("down-*.safetensors")):
        found = {n.removeprefix("weights/"): v for n, v in load_file(path).items() if n.startswith("weights/")}
        if found:
            return found
    raise ConfigError(f"{run.folder} holds no averaged blocks of round {round}")


def _no_secret() -> int:
    raise SecretOrder("the order of the rows came from the client's secret")
