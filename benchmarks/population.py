"""A federation of thousands of small clients as one batch of models, for studies that need hundreds of such runs.

The method's own loss, schedule and aggregation, the mechanism's own noise and ledger, the product's batch orders, client
sampling and scores; what is done here instead is the client's loop: all clients of a round train at once by ``torch.func``
over stacked parameters, and nothing is written but the server's ledger. A run of 1,000 clients takes seconds where messages
and client states take minutes. A test holds weights and scores equal to the in-process grid's within float32 tolerance,
with full and with partial participation. FedD2S and its configurations only (FedAvg, FedPer and local training are among
them, bit for bit on the grid), with knowledge = "heads" or "none".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from fedkd import clipping, heads, outgoing, public
from fedkd.errors import ConfigError, UploadError
from fedkd.fixed_point import SCALE
from fedkd.jobs import batch_order
from fedkd.methods import fedd2s
from fedkd.prepare import Prepared
from fedkd.public import SUMMED
from fedkd.setting import Setting
from fedkd.train import BatchLoss
from fedkd.types import Arrays, Split
from fedkd.uploads import Uploads
from fedkd.vault import Vault

TOGETHER = 250
"""Clients that train at once: more do not fit the caches of a processor."""
LAST = 3
"""A score is the mean over the last three rounds, as in a run's summary."""


@dataclass(frozen=True)
class Part:
    """One split of all clients, filled up to the largest."""

    x: Tensor
    """[N, K, *shape]"""
    y: Tensor
    """[N, K] int64"""
    real: Tensor
    """[N, K] float32: 1 for a row, 0 for filling"""


@dataclass(frozen=True)
class Population:
    """What all clients hold."""

    train: Part
    val: Part
    test: Part
    sizes: list[int]
    """K_n"""


@dataclass
class Outcome:
    """What a run leaves."""

    test: Tensor
    """[N] test accuracy of each client that has test rows and took part, else NaN"""
    val_right: float
    """right answers on the clients' pooled validation rows"""
    val_rows: float
    norms: list[float]
    """median norm of a client's difference before clipping, by round"""
    clipped: list[float]
    """share of clients whose difference was clipped, by round"""
    heads: list[float]
    """median share of the squared norm that the heads take, by round in which heads are sent"""
    lost: list[float]
    """share of clients whose weights were not finite, which add zeros, by round"""
    state: Arrays
    """of the server, after the last round"""

    @property
    def accuracy(self) -> float:
        """Mean over clients."""
        return float(torch.nanmean(self.test))

    @property
    def validation(self) -> float:
        """Pooled over clients."""
        return self.val_right / self.val_rows


def load(data: Prepared) -> Population:
    """Every client's rows in memory."""
    clients = [data.client(n) for n in range(data.num_clients)]
    parts = [_part([getattr(c, name) for c in clients]) for name in ("train", "val", "test")]
    return Population(*parts, [c.num_examples for c in clients])


def _part(splits: Sequence[Split]) -> Part:
    most = max(1, *map(len, splits))
    x = np.zeros((len(splits), most, *splits[0].x.shape[1:]), np.float32)
    y, real = np.zeros((len(splits), most), np.int64), np.zeros((len(splits), most), np.float32)
    for n, split in enumerate(splits):
        x[n, : len(split)], y[n, : len(split)], real[n, : len(split)] = split.x, split.y, 1.0
    return Part(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(real))


def federate(setting: Setting, people: Population, vault: Vault) -> Outcome:
    """Run all rounds; the server's releases are charged in ``vault`` as a run charges them.

    Raises: ConfigError for a method or a kind of knowledge that this engine does not carry.
    """
    if setting.module is not fedd2s or fedd2s.knowledge(setting) not in ("heads", "none"):
        raise ConfigError('the stacked population carries fedd2s with knowledge = "heads" or "none" and its configurations')
    if setting.experiment.score != "after_local" or setting.experiment.metrics != "home":
        raise ConfigError('the stacked population scores after local training, with metrics = "home"')
    clients = len(people.sizes)
    start = {**setting.initial(), **_first_heads(setting)}
    own = {n: torch.tensor(v).expand(clients, *v.shape).clone() for n, v in start.items()}
    state, last = fedd2s.init(setting), np.full(clients, -1)
    history: list[dict[str, Tensor]] = []
    out = Outcome(torch.full((clients,), torch.nan), 0.0, 0.0, [], [], [], [], state)
    for round in range(setting.rounds):
        cohort, totals = setting.sample(round), _Totals(setting, round, state)
        for start_at in range(0, len(cohort), TOGETHER):
            group = sorted(cohort[start_at : start_at + TOGETHER], key=lambda c: -people.sizes[c])
            params = {n: v[group] for n, v in own.items()}
            _receive(setting, state, params, last[group])
            trained = _train(setting, state, round, people, group, params)
            for n, v in trained.items():
                own[n][group] = v
            totals.add(trained)
        uploads = totals.uploads(cohort)
        if uploads.schema:
            state = fedd2s.aggregate(setting, state, round, outgoing.combined(setting, round, state, uploads, vault))[0]
        last[cohort] = round
        totals.describe(out)
        if round >= setting.rounds - LAST:
            history.append(_scores(setting, people, own, last))
    out.test, out.state = _mean_of_last(history, "test"), state
    val, rows = _mean_of_last(history, "val"), people.val.real.sum(1)
    scored = ~val.isnan() & (rows > 0)
    out.val_right, out.val_rows = float((val * rows)[scored].sum()), float(rows[scored].sum())
    return out


def _scores(setting: Setting, people: Population, own: Mapping[str, Tensor], last: np.ndarray) -> dict[str, Tensor]:
    """[N] accuracies of what each client has held since it last took part; NaN for one that never did."""
    found = {}
    for name, part in (("test", people.test), ("val", people.val)):
        groups = torch.arange(len(last)).split(TOGETHER)
        every = torch.cat([_accuracy(setting, {n: v[g] for n, v in own.items()}, part, g) for g in groups])
        found[name] = torch.where(torch.from_numpy(last >= 0), every, torch.nan)
    return found


def _mean_of_last(history: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """[N] the mean of a client's scores after the last rounds; before it took part, its first score counts (as in a run)."""
    latest = history[-1][name]
    return torch.stack([torch.where(h[name].isnan(), latest, h[name]) for h in history]).mean(0)


def _first_heads(setting: Setting) -> Arrays:
    return {n: v for k in fedd2s.cuts(setting) for n, v in heads.initial(setting, k).items()}


def _receive(setting: Setting, state: Arrays, params: dict[str, Tensor], previous: np.ndarray) -> None:
    """Each block that was averaged in or after a client's previous participation overwrites the client's own."""
    for position, at in enumerate(state.get("last", ())):
        gets = torch.from_numpy((at >= 0) & (at >= previous))
        for n in setting.model.names_of_block[position] if bool(gets.any()) else ():
            params[n][gets] = torch.tensor(state[f"avg/{n}"])


def _train(
    setting: Setting, state: Arrays, round: int, people: Population, group: Sequence[int], params: dict[str, Tensor]
) -> dict[str, Tensor]:
    """SGD with momentum of all clients at once, in place; the group comes with the most examples first, so that those who
    have a batch left are its head."""
    now, e = fedd2s.cut(setting, round), setting.experiment
    x, y = people.train.x[group], people.train.y[group]
    taught = bool(now) and fedd2s.knowledge(setting) == "heads" and heads.names(now)[0] in state
    q = _teachers(setting, state, now, params, x) if taught else torch.zeros(*y.shape, setting.classes)
    used = {*setting.model.parameter_names, *(n for k in fedd2s.trained_heads(setting, round) for n in heads.names(k))}
    gradients = vmap(grad(_mean_over(fedd2s.client_loss(setting, round, taught))))
    values = {n: v for n, v in params.items() if n in used}
    rate, velocity = setting.learning_rate(round), {n: torch.zeros_like(v) for n, v in values.items()}
    for rows in _batches(setting, round, people, group):  # [active, B], -1 = no row
        pick, kept, active = rows.clamp_min(0), (rows >= 0).float(), len(rows)
        own = {n: v[:active] for n, v in values.items()}
        g = gradients(own, _take(x, pick), y[:active].gather(1, pick), kept, _take(q, pick))
        for n, v in own.items():
            step = velocity[n][:active].mul_(e.momentum).add_(g[n]).add_(v, alpha=e.weight_decay)
            v.add_(step, alpha=-rate)
    return params


def _mean_over(loss: BatchLoss):  # type: ignore[no-untyped-def]
    """One client's mean of the per-sample terms over the real rows of a batch."""

    def mean(params: Mapping[str, Tensor], x: Tensor, y: Tensor, kept: Tensor, q: Tensor) -> Tensor:
        terms = loss(params, x, y, {"q": q, "has": torch.ones_like(kept)})
        return (terms * kept).sum() / kept.sum().clamp_min(1.0)

    return mean


def _teachers(setting: Setting, state: Arrays, now: int, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """[n, K, C] logits of the averaged head on every client's own features, as they came down."""
    head = {n: torch.tensor(state[n]) for n in heads.names(now)}

    def of_one(own: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        z = setting.model.forward(own, rows, (now,))[0][now]
        return heads.apply(head, now, z, setting.method.head_pool)

    with torch.no_grad():
        return vmap(of_one)({n: params[n] for n in setting.model.names}, x)


def _batches(setting: Setting, round: int, people: Population, group: Sequence[int]) -> list[Tensor]:
    """The product's batches of every client that has one left, step by step."""
    e = setting.experiment
    lists: list[list[np.ndarray]] = []
    for client in group:
        order = batch_order(setting, round, client, people.sizes[client], e.local_epochs)
        lists.append([rows[i : i + e.batch_size] for rows in order for i in range(0, len(rows), e.batch_size)])
    found = []
    for step in range(len(lists[0])):
        active = [own[step] for own in lists if len(own) > step]
        rows = np.full((len(active), e.batch_size), -1, np.int64)
        for n, own in enumerate(active):
            rows[n, : len(own)] = own
        found.append(torch.from_numpy(rows))
    return found


def _take(values: Tensor, rows: Tensor) -> Tensor:  # [n, K, ...], [n, B] -> [n, B, ...]
    return values[torch.arange(len(rows))[:, None], rows]


@torch.no_grad()
def _accuracy(setting: Setting, params: Mapping[str, Tensor], part: Part, group: Sequence[int] | Tensor) -> Tensor:  # [n]
    real = part.real[group]
    forward = vmap(lambda own, x: setting.model.forward(own, x)[1])
    right = forward({n: params[n] for n in setting.model.names}, part.x[group]).argmax(2) == part.y[group]
    return (right * real).sum(1) / real.sum(1)  # NaN where a client has no such row


class _Totals:
    """A round's sums of clipped differences, as the workers of a run form them."""

    def __init__(self, setting: Setting, round: int, state: Arrays) -> None:
        self.setting, self.round = setting, round
        self.schema = setting.module.schema(setting, round)
        self.known = public.initial(setting, round, SUMMED)
        for source in fedd2s.broadcast(setting, state, round, -1, -1):
            for kind, values in self.known.items():
                values.update({n: v for n, v in source.get(kind, {}).items() if n in values})
        self.summed = {k: {n: np.zeros(v.shape) for n, v in a.items()} for k, a in self.known.items()}
        self.norms: list[Tensor] = []
        self.shares: list[Tensor] = []
        self.bound: float = getattr(setting.mechanism.config, "clip", float("inf"))
        self.differences = bool(outgoing._deltas(setting))

    def add(self, trained: Mapping[str, Tensor]) -> None:
        moved = {k: {n: (trained[n] - torch.tensor(v)).double() for n, v in a.items()} for k, a in self.known.items()}
        if not moved:
            return
        squares = {k: torch.stack([v.flatten(1).square().sum(1) for v in a.values()]).sum(0) for k, a in moved.items()}
        norm = torch.stack(list(squares.values())).sum(0).sqrt()
        self.norms.append(norm)
        self.shares.append(squares.get("heads", torch.zeros(len(norm))) / norm.square().clamp_min(1e-30))
        limit = self.bound * clipping.BELOW
        factor = torch.where(norm > limit, limit / norm, 1.0).nan_to_num(0.0) if self.differences else torch.ones_like(norm)
        lost = ~norm.isfinite()
        if bool(lost.any()) and not self.differences:
            raise UploadError(f"the weights of {int(lost.sum())} clients are not finite")
        for k, a in moved.items():
            for n, v in a.items():
                v[lost] = 0.0  # as fedkd.clipping has it
                whole = v if self.differences else v + torch.tensor(self.known[k][n]).double()
                self.summed[k][n] += torch.einsum("n,n...->...", factor, whole).numpy()

    def uploads(self, cohort: Sequence[int]) -> Uploads:
        """As the server holds them: int64 fixed point, weight 1 each."""
        uploads = Uploads(self.round, len(cohort), self.schema)
        sums = {k: {n: np.rint(v * SCALE).astype(np.int64) for n, v in a.items()} for k, a in self.summed.items()}
        if sums:
            uploads.add_sums(sums, len(cohort), list(cohort))
        return uploads

    def describe(self, out: Outcome) -> None:
        """Norms of the round into the outcome."""
        if self.norms:
            norms, shares = torch.cat(self.norms), torch.cat(self.shares)
            finite = norms.isfinite()
            out.norms.append(float(norms[finite].median()) if bool(finite.any()) else 0.0)
            out.clipped.append(float(((norms > self.bound) | ~finite).double().mean()))
            out.lost.append(float((~finite).double().mean()))
            if "heads" in self.known and bool(finite.any()):
                out.heads.append(float(shares[finite].median()))
