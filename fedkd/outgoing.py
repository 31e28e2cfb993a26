"""Where a run's mechanism meets what leaves: after a method's ``finish`` on the client, before a broadcast on the server.

A file of ``fedkd/mechanisms`` has ``Config`` and up to these functions, identity where one is absent:
    check(setting)                                                          raises ConfigError for what it cannot bound
    upload(setting, round, data, state, held, kinds, secret) -> Outgoing    on the client; ``state`` is the method's
    broadcast(setting, round, client, held, kinds, secret) -> Outgoing      on the server; EVERYONE for what is shared
    notes(setting) -> dict                                                  what summary.json says about it
``held`` is the mechanism's own state: it lies in the sender's versioned state under ``PREFIX``, where no method sees it.
``secret()`` is the sender's own number (``fedkd.vault``); each new release is in the ledger before it is returned from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedkd.setting import Setting
from fedkd.types import Arrays, ClientData, Kinds
from fedkd.vault import Vault

PREFIX = "mechanism/"
EVERYONE = -1
"""The client id of what every client receives."""

Secret = Callable[[], int]


@dataclass(frozen=True)
class Outgoing:
    """What leaves, and what the sender remembers of it."""

    kinds: Kinds
    """kinds of the record, of the shapes that the method declared"""
    held: Arrays
    """the mechanism's state from now on"""
    charges: int = 0
    """rows released anew with noise or by sampling"""
    released: bytes = b""
    """these rows as they leave, for the ledger"""


def split(state: Arrays) -> tuple[Arrays, Arrays]:
    """(the method's part, the mechanism's part without its prefix) of a versioned state."""
    own = {n: v for n, v in state.items() if not n.startswith(PREFIX)}
    return own, {n.removeprefix(PREFIX): v for n, v in state.items() if n.startswith(PREFIX)}


def joined(state: Arrays, held: Arrays) -> Arrays:
    """The inverse of ``split``."""
    return {**state, **{PREFIX + n: v for n, v in held.items()}} if held else state


def upload(setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, vault: Vault) -> Outgoing:
    """A client's upload as it leaves; without a mechanism the same object. Raises: what the mechanism raises; OSError."""
    hook = getattr(setting.mechanism.module, "upload", None)
    if hook is None:
        return Outgoing(kinds, held)
    out: Outgoing = hook(setting, round, data, state, held, kinds, vault.secret)
    return _charged(out, "up", round, vault)


def broadcast(setting: Setting, round: int, client: int, held: Arrays, kinds: Kinds, vault: Vault) -> Outgoing:
    """What goes to one client, or to ``EVERYONE``, as it leaves; without a mechanism the same object. Raises: as ``upload``."""
    hook = getattr(setting.mechanism.module, "broadcast", None)
    if hook is None:
        return Outgoing(kinds, held)
    out: Outgoing = hook(setting, round, client, held, kinds, vault.secret)
    return _charged(out, f"down.{client}", round, vault)


def notes(setting: Setting) -> dict[str, Any]:
    """What the summary says about the mechanism; {} without one, or where it is neutral."""
    hook = getattr(setting.mechanism.module, "notes", None)
    said: dict[str, Any] = {} if hook is None else hook(setting)
    return said


def _charged(out: Outgoing, channel: str, round: int, vault: Vault) -> Outgoing:
    if out.charges:
        vault.charge(channel, round, out.charges, out.released)
    return out
