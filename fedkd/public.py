"""What everyone knows of a round before it: the last released averages, or the initial values from the seed.

A mechanism that bounds what one client adds to a mean bounds its difference to these; the server adds them back. A bound holds
whatever the difference is taken to, so nothing here can void one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedkd import heads
from fedkd.errors import ConfigError
from fedkd.setting import Setting
from fedkd.types import Array, Arrays, Broadcast, Kinds

SUMMED = frozenset({"weights", "heads"})
"""Kinds of which only a mean is needed."""


def initial(setting: Setting, round: int, kinds: Iterable[str]) -> Kinds:
    """First values of the kinds that a round's uploads hold. Raises: ConfigError for a kind without one."""
    out: Kinds = {}
    for kind, fields in setting.module.schema(setting, round).items():
        if kind not in kinds:
            continue
        if kind not in SUMMED:
            raise ConfigError(f"no public value of {kind} is known; valid: {', '.join(sorted(SUMMED))}")
        values = setting.initial() if kind == "weights" else heads.initial(setting, setting.module.trace(setting, round)["cut"])
        out[kind] = {n: values[n] for n in fields}
    return out


def differences(setting: Setting, round: int, broadcast: Broadcast | None, kinds: Kinds, names: Iterable[str]) -> Kinds:
    """On the client: the named kinds as float32 differences to what came down or, where nothing did, to the initial values."""
    known = initial(setting, round, names)
    for source in () if broadcast is None else (broadcast.own, broadcast.shared):
        _overlay(known, source)
    out = {k: {n: _minus(v, known[k][n]) for n, v in kinds[k].items()} for k in known if k in kinds}
    return {**kinds, **out}


def added(setting: Setting, round: int, state: Arrays, means: Kinds) -> Kinds:
    """On the server: the mean differences plus what they are differences to."""
    known = initial(setting, round, means)
    for source in setting.module.broadcast(setting, state, round, -1, -1):  # to one who has never taken part: all of it
        _overlay(known, source)
    return {
        k: {n: (known[k][n].astype(np.float64) + v).astype(known[k][n].dtype) for n, v in arrays.items()}
        for k, arrays in means.items()
    }


def _overlay(known: Kinds, source: dict[str, Arrays] | object) -> None:
    assert isinstance(source, dict)
    for kind, values in known.items():
        values.update({n: v for n, v in source.get(kind, {}).items() if n in values})


def _minus(value: Array, reference: Array) -> Array:
    return (value.astype(np.float64) - reference.astype(np.float64)).astype(value.dtype)
