"""Fault points for tests: kill this process, or spoil one client's upload, at a named place of a run.

``FEDKD_FAULT = "<point>:<round>[:<client>]"`` in the environment; with ``FEDKD_FAULT_ONCE = <path>`` a point fires only
once over all processes (the path is created by the one that fires). Without the variable nothing here does anything.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from fedkd.types import Kinds

KILL_POINTS = ("client-written", "client-writing", "server-before-rename", "server-after-rename", "appending")
SPOIL_POINTS = ("raise", "nan", "shape", "dtype", "label", "size")


def armed(point: str, round: int, client: int = -1) -> bool:
    """Whether this point should fire now; a client of -1 in the variable or the call matches any."""
    text = os.environ.get("FEDKD_FAULT", "")
    if not text:
        return False
    name, at, *who = text.split(":")
    if name != point or int(at) != round or (who and client >= 0 and int(who[0]) != client):
        return False
    marker = os.environ.get("FEDKD_FAULT_ONCE", "")
    if marker:
        try:
            Path(marker).touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


def die() -> None:
    """End this process as ``kill -9`` would."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill(point: str, round: int, client: int = -1) -> None:
    """End this process as ``kill -9`` would, where the point is armed."""
    if armed(point, round, client):
        die()


def spoil(kinds: Kinds, round: int, client: int) -> Kinds:
    """The upload as a broken or hostile client would send it. Raises: RuntimeError for the point "raise"."""
    if not os.environ.get("FEDKD_FAULT"):
        return kinds
    if armed("raise", round, client):
        raise RuntimeError("planted client failure")
    kind = next((k for k in ("weights", "features", *kinds) if k in kinds), None)
    if kind is None:
        return kinds
    name, value = next(iter(kinds[kind].items()))
    changed = value.copy()
    if armed("nan", round, client):
        changed.reshape(-1)[0] = np.nan
    elif armed("shape", round, client):
        changed = changed[..., :-1]
    elif armed("dtype", round, client):
        changed = changed.astype(np.float64)
    elif armed("size", round, client):
        changed = np.zeros(2**25, np.float32)
    elif "labels" in kinds and armed("label", round, client):
        kind, name = "labels", "y"
        changed = kinds[kind][name].copy()
        changed[0] = 10_000
    else:
        return kinds
    return {**kinds, kind: {**kinds[kind], name: changed}}
