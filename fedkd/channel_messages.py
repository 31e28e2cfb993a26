"""The messages of a finished run in the order in which they travelled, and the models that a receiver makes of them.

Where a mechanism lets differences leave (``user_clip_noise``), what they are differences to is public: they are added back.
Threat model: an honest-but-curious receiver of single messages, who keeps all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedkd import outgoing, public
from fedkd.errors import ConfigError
from fedkd.finished import Finished
from fedkd.types import Arrays, Kinds
from fedkd.uploads import nbytes

MODEL = ("weights", "heads")
"""Kinds whose arrays are parameters."""


@dataclass(frozen=True)
class Sent:
    """What one client sent in one round."""

    params: Arrays
    """parameters that the receiver now holds of it, differences added back; {} where none travelled"""
    base: Arrays
    """the same parameters before its training, as far as the receiver knows them"""
    kinds: Kinds
    """the message"""


@dataclass(frozen=True)
class Round:
    """One round on the wire."""

    number: int
    level: int
    """blocks 1..level were averaged at its end"""
    cut: int
    """where knowledge was taken, 0 = nowhere"""
    up: dict[int, Sent]
    """by client, ascending"""
    down: dict[int, Kinds]
    average: Arrays
    """what came down in this round and before: the newest average of each parameter, {} before the first"""


@dataclass
class Traffic:
    """How often a kind travelled in one direction, and how much of it."""

    messages: int = 0
    bytes: int = 0
    first: int = -1
    last: int = -1

    def add(self, round: int, size: int) -> None:
        """One more message."""
        self.messages, self.bytes = self.messages + 1, self.bytes + size
        self.first, self.last = round if self.first < 0 else self.first, round


def replay(run: Finished) -> Iterator[Round]:
    """Every round of a run. Raises: ConfigError for a missing or damaged message, or values that are not finite."""
    setting = run.setting
    differences = {k for s in outgoing.each(setting) if (of := outgoing.hook(s, "deltas")) is not None for k in of(s)}
    held: dict[int, Arrays] = {}
    average: Arrays = {}
    for number in range(setting.rounds):
        folder = run.folder / "transcript" / str(number)
        if not folder.is_dir():
            raise ConfigError(f"{folder} is missing: the run's messages are not complete")
        down = {c: _read(folder, "down", c) for c in clients_of(folder, "down")}
        up: dict[int, Sent] = {}
        for kinds in down.values():
            for kind in MODEL:
                average = {**average, **kinds.get(kind, {})}
        for client in clients_of(folder, "up"):
            kinds, came = _read(folder, "up", client), down.get(client, {})
            known = {**setting.initial(), **held.get(client, {}), **came.get("weights", {})}
            sent: Arrays = {}
            reference = public.initial(setting, number, differences & set(kinds))
            for kind in MODEL:
                for name, value in kinds.get(kind, {}).items():
                    if kind in differences:
                        value = came.get(kind, {}).get(name, reference[kind][name]) + value
                    sent[name] = value
            base = {n: known[n] for n in sent if n in known}
            held[client] = {**held.get(client, {}), **came.get("weights", {}), **sent}
            up[client] = Sent(sent, base, kinds)
        trace = setting.module.trace(setting, number)
        yield Round(number, trace.get("level", 0), trace.get("cut", 0), up, down, average)


def clients_of(folder: Path, direction: str) -> list[int]:
    """Clients with a message of that direction in a round's folder, ascending."""
    names = [p.stem.removeprefix(f"{direction}-") for p in folder.glob(f"{direction}-*.safetensors")]
    return sorted(int(n) for n in names)


def _read(folder: Path, direction: str, client: int) -> Kinds:
    path = folder / f"{direction}-{client}.safetensors"
    try:
        flat = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    kinds: Kinds = {}
    for name, value in flat.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ConfigError(f"{path}: {name} holds values that are not finite; the run cannot be audited")
        kind, _, short = name.partition("/")
        kinds.setdefault(kind, {})[short] = value
    return kinds


def last_average(run: Finished, average: Arrays) -> Arrays:
    """The newest averages after the last round, which no recorded message carries any more."""
    state = outgoing.split(run.commit.state)[0]
    shared, own = run.setting.module.broadcast(run.setting, state, run.setting.rounds, 0, -1)
    found = dict(average)
    for source in (own, shared):
        for kind in MODEL:
            found.update(source.get(kind, {}))
    return found


def count(found: dict[tuple[str, str], Traffic], r: Round) -> None:
    """Add a round's messages to (direction, kind) -> what travelled."""
    up = [("up", s.kinds) for s in r.up.values()]
    for direction, kinds in [*up, *(("down", k) for k in r.down.values())]:
        for kind, arrays in kinds.items():
            found.setdefault((direction, kind), Traffic()).add(r.number, nbytes({kind: arrays}))
