"""Where a run's mechanisms meet training and what leaves: on the client before and after it, on the server at both ends.

A file of ``fedkd/mechanisms`` has ``Config`` and up to these functions, identity where one is absent:
    check(setting)                                                          raises ConfigError for what it cannot bound
    local(setting, round, data, job, secret) -> Job                         on the client: steps instead of plain SGD
    deltas(setting) -> kinds                                                which leave as a difference to what is public
    upload(setting, round, data, state, held, kinds, secret) -> Outgoing    on the client; ``state`` is the method's
    download(setting, round, held, kinds) -> kinds                          on the client: names of rows as they were
    combine(setting, round, uploads, secret) -> Combined                    on the server: noise on the sum of differences
    broadcast(setting, round, client, held, kinds, secret) -> Outgoing      on the server; EVERYONE for what is shared
    cost(setting, round, data) -> events                                    what a participation spends (fedkd.epsilon)
    claim(setting) -> Claim or None                                         what it guarantees (fedkd.guarantees)
    notes(setting) -> dict                                                  what summary.json says about it
``held`` is the mechanism's own state: it lies in the sender's versioned state under ``PREFIX``, where no method sees it.
``secret()`` is the sender's own number (``fedkd.vault``); each new release is in the ledger before it is returned from here.
Several mechanisms act from left to right; each sees a setting in which ``mechanism`` is itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedkd import epsilon, public
from fedkd.epsilon import Event
from fedkd.errors import BudgetSpent, ConfigError
from fedkd.setting import Setting
from fedkd.train import Job
from fedkd.types import ROW_KINDS, Arrays, Broadcast, ClientData, Kinds
from fedkd.uploads import Uploads
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
    """rows, steps or releases made anew with noise or by sampling"""
    released: bytes = b""
    """these as they leave, for the ledger"""
    events: tuple[Event, ...] = ()
    """what an accountant makes of them; none where nothing is bounded"""


@dataclass(frozen=True)
class Combined:
    """The noised mean of the clients' differences, before what is public is added to it."""

    means: Kinds
    charges: int
    released: bytes
    events: tuple[Event, ...] = ()


def split(state: Arrays) -> tuple[Arrays, Arrays]:
    """(the method's part, the mechanism's part without its prefix) of a versioned state."""
    own = {n: v for n, v in state.items() if not n.startswith(PREFIX)}
    return own, {n.removeprefix(PREFIX): v for n, v in state.items() if n.startswith(PREFIX)}


def joined(state: Arrays, held: Arrays) -> Arrays:
    """The inverse of ``split``."""
    return {**state, **{PREFIX + n: v for n, v in held.items()}} if held else state


def each(setting: Setting) -> Iterator[Setting]:
    """The setting once per mechanism, as that mechanism sees it."""
    for mechanism in setting.mechanisms:
        yield setting if mechanism is setting.mechanism else replace(setting, mechanism=mechanism)


def hook(setting: Setting, name: str) -> Callable[..., Any] | None:
    """A function of the setting's mechanism, or None."""
    found: Callable[..., Any] | None = getattr(setting.mechanism.module, name, None)
    return found


def check(setting: Setting) -> None:
    """Raises: ConfigError for what a mechanism refuses, or two that add noise to one mean."""
    if len([s for s in each(setting) if _deltas(s)]) > 1:
        raise ConfigError("two mechanisms add noise to the mean; only one can")
    for s in each(setting):
        refuse = hook(s, "check")
        if refuse is not None:
            refuse(s)


# ----- on the client --------------------------------------------------------------------------------------------------
def weight(setting: Setting, round: int, data: ClientData) -> int:
    """What the client says that it weighs: K_n, or 1 where that stays at home and no row of this round gives it away."""
    return data.num_examples if setting.experiment.metrics == "sent" or has_rows(setting, round) else min(1, data.num_examples)


def has_rows(setting: Setting, round: int) -> bool:
    """Whether a kind with one row per example is sent in a round."""
    return round < setting.rounds and bool(ROW_KINDS & setting.module.schema(setting, round).keys())


def mean_weight(setting: Setting, said: int) -> int:
    """The weight in a worker's sums: 1 where a mechanism adds noise to the mean, whatever the client said."""
    return 1 if any(_deltas(s) for s in each(setting)) else said


def local(setting: Setting, round: int, data: ClientData, job: Job, vault: Vault) -> Job:
    """The job as it is trained; without such a mechanism the same object."""
    for s in each(setting):
        change = hook(s, "local")
        if change is not None:
            job = change(s, round, data, job, vault.secret)
    return job


def allowed(setting: Setting, round: int, data: ClientData, vault: Vault) -> bool:
    """Whether the client's budgets last for one more participation (a round already charged may be sent again)."""
    return all(
        _within(s, vault, _cost(s, round, data)) or any(e["round"] == round for e in _entries(s, vault)) for s in each(setting)
    )


def upload(
    setting: Setting, round: int, data: ClientData, state: Arrays, held: Arrays, kinds: Kinds, vault: Vault,
    broadcast: Broadcast | None = None,
) -> Outgoing:  # fmt: skip
    """A client's upload as it leaves; without a mechanism the same object.

    Raises: BudgetSpent where the release would exceed a budget; what a mechanism raises; OSError.
    """
    kept, charges = held, 0
    for s in each(setting):
        change, names = hook(s, "upload"), _deltas(s)
        if names:
            kinds = public.differences(s, round, broadcast, kinds, names)
        if change is not None:
            out = change(s, round, data, state, _own(s, kept), kinds, vault.secret)
            _charge(s, out, "up", round, vault)
            kinds, charges, kept = out.kinds, charges + out.charges, _with(s, kept, out.held)
    return Outgoing(kinds, kept, charges)


def download(setting: Setting, round: int, held: Arrays, kinds: Kinds) -> Kinds:
    """What came down for one client, as its method expects it: right to left."""
    for s in reversed(list(each(setting))):
        change = hook(s, "download")
        if change is not None:
            kinds = change(s, round, _own(s, held), kinds)
    return kinds


# ----- on the server --------------------------------------------------------------------------------------------------
def combined(setting: Setting, round: int, state: Arrays, uploads: Uploads, vault: Vault) -> Uploads:
    """A round's uploads with the means that a mechanism formed of them; charged here, before anything is committed."""
    for s in each(setting):
        form = hook(s, "combine")
        if form is None or not _deltas(s):
            continue
        made: Combined = form(s, round, uploads, vault.secret)
        if made.charges:
            vault.charge("mean", round, made.charges, made.released, {**_said(s, made.events), "clients": uploads.clients})
        uploads = replace(uploads, means=public.added(s, round, state, made.means))
    return uploads


def broadcast(setting: Setting, round: int, client: int, held: Arrays, kinds: Kinds, vault: Vault) -> Outgoing:
    """What goes to one client, or to ``EVERYONE``, as it leaves; without a mechanism the same object. Raises: as ``upload``."""
    kept, charges = held, 0
    for s in each(setting):
        change = hook(s, "broadcast")
        if change is not None:
            out = change(s, round, client, _own(s, kept), kinds, vault.secret)
            _charge(s, out, f"down.{client}", round, vault)
            kinds, charges, kept = out.kinds, charges + out.charges, _with(s, kept, out.held)
    return Outgoing(kinds, kept, charges)


def notes(setting: Setting) -> dict[str, Any]:
    """What the summary says about the mechanisms; {} without one, or where all are neutral."""
    said = [n for s in each(setting) if (tell := hook(s, "notes")) is not None and (n := tell(s))]
    if len(said) < 2:
        return said[0] if said else {}
    open_kinds = set.intersection(*(set(n["not_protected"]) for n in said))
    return {
        "name": ", ".join(n["name"] for n in said),
        "statement": " ".join(n["statement"] for n in said),
        "not_protected": sorted(open_kinds),
    }


# ----- the ledger -----------------------------------------------------------------------------------------------------
def fingerprint(round: int, kinds: Kinds) -> bytes:
    """Bytes of a whole record for the ledger; the round is in them: equal bytes in two rounds are two releases."""
    h = hashlib.sha256(f"{round}|".encode())
    for kind in sorted(kinds):
        for name in sorted(kinds[kind]):
            value = kinds[kind][name]
            h.update(f"{kind}|{name}|{value.dtype}|{value.shape}|".encode() + np.ascontiguousarray(value).tobytes())
    return h.digest()


def _charge(setting: Setting, out: Outgoing, channel: str, round: int, vault: Vault) -> None:
    if not out.charges:
        return
    if vault.is_new(channel, out.released) and not _within(setting, vault, out.events):
        raise BudgetSpent(f"the privacy budget does not last for round {round + 1}")
    vault.charge(channel, round, out.charges, out.released, _said(setting, out.events))


def _said(setting: Setting, events: tuple[Event, ...]) -> dict[str, Any]:
    name = setting.mechanism.module.__name__.rpartition(".")[2]
    return {"mechanism": name, "events": [e.to_json() for e in events]} if events else {"mechanism": name}


def _entries(setting: Setting, vault: Vault) -> list[dict[str, Any]]:
    name = setting.mechanism.module.__name__.rpartition(".")[2]
    return [e for e in vault.entries() if e.get("mechanism") == name and e["channel"] == "up"]


def _cost(setting: Setting, round: int, data: ClientData) -> tuple[Event, ...]:
    of = hook(setting, "cost")
    return () if of is None or not getattr(setting.mechanism.config, "budget", 0.0) else of(setting, round, data)


def _within(setting: Setting, vault: Vault, more: tuple[Event, ...]) -> bool:
    """Whether the mechanism's charges and ``more`` stay within its budget, by RDP: a filter, so it may depend on data."""
    budget: float = getattr(setting.mechanism.config, "budget", 0.0)
    if not budget or not more:
        return True
    before = [epsilon.from_json(v) for e in _entries(setting, vault) for v in e.get("events", ())]
    return epsilon.rdp([*before, *more], setting.mechanism.config.delta) <= budget


def _deltas(setting: Setting) -> frozenset[str]:
    of = hook(setting, "deltas")
    return frozenset() if of is None else of(setting)


def _own(setting: Setting, held: Arrays) -> Arrays:
    """One mechanism's part of what is held; a mechanism that is alone holds all of it."""
    if len(setting.mechanisms) < 2:
        return held
    prefix = _said(setting, ())["mechanism"] + "/"
    return {n.removeprefix(prefix): v for n, v in held.items() if n.startswith(prefix)}


def _with(setting: Setting, held: Arrays, own: Arrays) -> Arrays:
    if len(setting.mechanisms) < 2:
        return own
    prefix = _said(setting, ())["mechanism"] + "/"
    return {**{n: v for n, v in held.items() if not n.startswith(prefix)}, **{prefix + n: v for n, v in own.items()}}
