"""FedD2S: personalised data-free federated distillation whose layers leave the federation from deep to shallow.

Atapour, Seyedmohammadi, Abouei, Mohammadi, Plataniotis, 2024, arXiv 2402.10846. The paper's body was not at hand: what is
from its abstract or a summary is said in the field's docstring, everything else is *decided here*, and each choice has a
neutral value that gives a plain baseline. ``average = false`` (printed "FedD2S (KD only)") is what is seen of the paper;
``average = true`` ("FedD2S-avg (ours)") adds parameter averaging of the layers still in the federation.

Threat model: the server and whoever reads the wire. With ``knowledge = "features"`` it sees per-sample features and, by
default, raw labels; with "heads" or "none" it sees models only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedkd import heads
from fedkd import knowledge as knowledge_rows
from fedkd import schedule as schedules
from fedkd.errors import ConfigError
from fedkd.jobs import as_arrays, local_job
from fedkd.layers import Params
from fedkd.setting import Setting
from fedkd.train import ROWS, BatchLoss, Job, to_tensors
from fedkd.types import Array, Arrays, Broadcast, ClientData, Field, Kinds, Schema
from fedkd.uploads import Uploads


@dataclass(frozen=True)
class Config:
    """Defaults are FedD2S-avg with features; see each field for its neutral value."""

    average: bool = True
    """average the parameters of the layers in the federation (our reading); neutral: false"""
    knowledge: Literal["features", "heads", "class_means", "none"] = "features"
    """what carries knowledge: per-sample features and logits (summaries), averaged heads, class means; neutral: "none" """
    schedule: str | tuple[Any, ...] = "late"
    """a name ("late", "later", "equal", "none", "fixed", "shallow_to_deep") or [[level, until which fraction], ...];
    neutral: "none" """
    fixed_level: int = 1
    """level of schedule = "fixed", 1..L+1"""
    top_level: int = -1
    """highest level in the federation; -1 = L+1 with averaging (the classifier too), else L"""
    dropping_set: str | tuple[Any, ...] = "auto"
    """what may leave: a slice from the top, e.g. ["L+1", "L"]; "auto" = all but block 1; neutral: []"""
    kd_after_drop: Literal["stop", "follow"] = "stop"
    """does knowledge end when the first block below the classifier leaves, or move down with the level"""
    rounds_per_drop: int = -1
    """"equal" only: rounds between two drops; -1 = equal shares; neutral: 0 (never)"""
    kd_weight_client: float = 1.0
    """weight of the client's distillation term, lambda_c; neutral: 0"""
    kd_weight_server: float = 1.0
    """weight of the server's distillation term, lambda_s; 0 = the server head learns from labels alone"""
    head_ce_weight: float = 1.0
    """mu in [0, 1]: how much of the head's cross-entropy the blocks feel; neutral: 0"""
    warm_heads: bool = True
    """train heads of other cuts on detached features, so that they are ready when the cut moves; neutral: false"""
    kd_target: Literal["head", "both"] = "head"
    """distil into the head at the cut, or into the final output too"""
    temperature: float = 3.0
    """temperature of both distillation terms (prior: FedGKT)"""
    temperature_squared: bool = True
    """multiply the distillation terms by T^2"""
    head_pool: int = 4
    """feature maps are pooled to at most this size before a head; 0 = no pool"""
    server_ce: bool = True
    """the server head also learns from labels; false keeps labels at home"""
    server_epochs: int = 3
    """passes of the server head over the uploaded rows"""
    server_warmup_factor: int = 2
    """times as many passes in the first round at a cut; neutral: 1"""
    server_lr: float = 2e-3
    """Adam learning rate of the server head"""
    server_batch: int = 256
    """rows per server step"""
    target_max_age: int = 0
    """rounds after which a teacher logit is no longer used, from the round in which the server made it; 0 = no limit"""
    client_balanced: bool = False
    """each client weighs the same in the server head's loss, instead of each sample"""
    upload_labels: Literal["raw", "sampled", "none"] = "raw"
    """labels sent with features: as they are, drawn from the soft label that is sent too, or none"""
    upload_fraction: float = 1.0
    """share of the samples whose features are sent, drawn afresh each round under fresh wire ids; the draw follows the run's
    seed, so it saves bytes and hides nothing from a server that knows the seed"""
    min_cut: int = 1
    """no knowledge passes below this block"""
    min_class_count: int = 5
    """class_means only: classes with fewer samples are not sent; neutral: 0"""
    shared_init: bool = True
    """all clients start from the same weights; false shows the failure of averaging without it"""


def check(setting: Setting) -> None:
    """Raises: ConfigError naming the field of an impossible combination."""
    c = setting.method
    if setting.model.has_batch_norm:
        raise ConfigError("fedd2s: BatchNorm statistics differ between clients and between training and upload; use norm = "
                          '"group" or "none" in model.args')  # fmt: skip
    for name in ("kd_weight_client", "kd_weight_server", "min_class_count", "head_pool", "target_max_age"):
        if not 0 <= getattr(c, name) < math.inf:
            raise ConfigError(f"fedd2s: {name} = {getattr(c, name)}; it must be at least 0 and finite")
    for name in ("temperature", "server_lr", "server_batch", "server_epochs", "server_warmup_factor", "min_cut"):
        if not 0 < getattr(c, name) < math.inf:
            raise ConfigError(f"fedd2s: {name} = {getattr(c, name)}; it must be above 0 and finite")
    if not 0 <= c.head_ce_weight <= 1:
        raise ConfigError(f"fedd2s: head_ce_weight = {c.head_ce_weight}; valid: 0 to 1")
    if not 0 < c.upload_fraction <= 1:
        raise ConfigError(f"fedd2s: upload_fraction = {c.upload_fraction}; valid: above 0, at most 1")
    if c.min_cut > setting.model.blocks:
        raise ConfigError(f"fedd2s: min_cut = {c.min_cut} is above the model's L = {setting.model.blocks} blocks")
    if c.knowledge == "heads" and not c.average:
        raise ConfigError('fedd2s: knowledge = "heads" needs average = true: averaged heads on un-averaged features mislead')
    if c.knowledge == "features":
        if not c.server_ce and not c.kd_weight_server:
            raise ConfigError("fedd2s: server_ce = false with kd_weight_server = 0 leaves the server head nothing to learn")
        if c.upload_labels == "none" and c.server_ce:
            raise ConfigError('fedd2s: upload_labels = "none" needs server_ce = false')
    table(setting)


@lru_cache(maxsize=32)
def table(setting: Setting) -> schedules.Schedule:
    """Levels and cuts of this run. Raises: ConfigError naming the field."""
    c = setting.method
    return schedules.build(
        c.schedule,
        blocks=setting.model.blocks,
        rounds=setting.rounds,
        average=c.average,
        fixed_level=c.fixed_level,
        top_level=c.top_level,
        dropping_set=c.dropping_set,
        kd_after_drop=c.kd_after_drop,
        rounds_per_drop=c.rounds_per_drop,
        min_cut=c.min_cut,
    )


def knowledge(setting: Setting) -> str:
    """The kind of knowledge that moves; a client weight of 0 means that none does, in weights and in bytes."""
    return setting.method.knowledge if setting.method.kd_weight_client else "none"


def cuts(setting: Setting) -> tuple[int, ...]:
    """Cuts that have a head on the client."""
    wanted = knowledge(setting) != "none" or setting.method.head_ce_weight > 0
    return table(setting).heads if wanted else ()


def level(setting: Setting, round: int) -> int:
    """s(t): blocks 1..s are averaged at the end of round t (0 without averaging)."""
    return table(setting).levels[round] if setting.method.average and round < setting.rounds else 0


def cut(setting: Setting, round: int) -> int:
    """l(t) where a head exists, else 0."""
    return table(setting).cuts[round] if cuts(setting) and round < setting.rounds else 0


# ----- server half ------------------------------------------------------------------------------------------------------
def init(setting: Setting) -> Arrays:
    """Nothing is averaged yet: ``last`` [L+1] is -1 (never) for each block."""
    return {"last": np.full(setting.model.blocks + 1, -1, dtype=np.int64)} if setting.method.average else {}


def broadcast(setting: Setting, state: Arrays, round: int, client: int, previous: int) -> tuple[Kinds, Kinds]:
    """Every block averaged in or after the client's previous participation, and what waits for it as a teacher."""
    shared: Kinds = {}
    own: Kinds = {}
    for position, last in enumerate(state.get("last", ())):
        if last < 0 or last < previous:
            continue
        target = shared if last == round - 1 else own
        block = {n: state[f"avg/{n}"] for n in setting.model.names_of_block[position]}
        target.setdefault("weights", {}).update(block)
    now = cut(setting, round)
    if knowledge(setting) == "features" and f"q/{client}" in state and now:
        own["soft_labels"] = {"q": state[f"q/{client}"], "i": state[f"qi/{client}"]}
    if knowledge(setting) == "heads" and now and heads.names(now)[0] in state:
        shared["heads"] = {n: state[n] for n in heads.names(now)}
    if knowledge(setting) == "class_means" and now and "table" in state:
        shared["class_means"] = {"table": state["table"], "mask": state["mask"]}
    return shared, own


def reduction(setting: Setting, round: int) -> str:
    """Workers may sum where only weighted means are needed."""
    return "mean" if knowledge(setting) in ("none", "heads") or not cut(setting, round) else "rows"


def schema(setting: Setting, round: int) -> Schema:
    """Blocks 1..s(t), and the knowledge of the cut l(t); nothing else may leave a client."""
    out: Schema = {}
    now, kind, classes = cut(setting, round), knowledge(setting), setting.classes
    if level(setting, round):
        like = setting.initial()
        out["weights"] = {n: Field(str(like[n].dtype), like[n].shape) for n in setting.model.names_upto(level(setting, round))}
    if not now or kind == "none":
        return out
    width = heads.width(setting, now)
    if kind == "features":
        out["features"] = {"z": Field("float32", (None, width))}
        out["soft_labels"] = {"p": Field("float32", (None, classes))}
        out["ids"] = {"i": Field("int32", (None,), low=0)}
        if setting.method.upload_labels != "none":
            out["labels"] = {"y": Field("int32", (None,), low=0, high=classes)}
    elif kind == "heads":
        weight, bias = heads.names(now)
        out["heads"] = {weight: Field("float32", (classes, width)), bias: Field("float32", (classes,))}
    else:
        out["class_means"] = {"p": Field("float32", (classes, classes)), "n": Field("int32", (classes,), low=0)}
    return out


def aggregate(setting: Setting, state: Arrays, round: int, uploads: Uploads) -> tuple[Arrays, dict[str, float | None]]:
    """Average blocks 1..s(t); turn the knowledge of this round into the teachers of the next."""
    state = dict(state)
    mean = uploads.mean("weights")
    if mean is not None:
        state.update({f"avg/{n}": v for n, v in mean.items()})
        state["last"] = state["last"].copy()
        state["last"][: level(setting, round)] = round
    now, kind, loss = cut(setting, round), knowledge(setting), None
    for client in uploads.clients if now else ():  # delivered with this round's broadcast
        state.pop(f"q/{client}", None)
        state.pop(f"qi/{client}", None)
    if now and kind == "features":
        loss = _learn_from_features(setting, state, round, now, uploads)
    elif now and kind == "heads":
        state.update(uploads.mean("heads") or {})
    elif now and kind == "class_means":
        parts = [u.kinds["class_means"] for u in uploads.sorted().rows if "class_means" in u.kinds]
        state.update(knowledge_rows.mean_of_class_means(parts) if parts else {})
    _forget(setting, state, round)
    return state, {"server_head_loss": loss}


def _learn_from_features(setting: Setting, state: Arrays, round: int, now: int, uploads: Uploads) -> float | None:
    """Train the server's head on the pooled rows; its logits wait for each client. Returns the head's CE over clients."""
    c = setting.method
    parts = [u for u in uploads.sorted().rows if "features" in u.kinds and len(u.kinds["ids"]["i"])]
    if not parts:
        return None
    pooled = knowledge_rows.pool_rows(parts, c.client_balanced, setting.device)
    epochs = c.server_epochs * (1 if heads.names(now)[0] in state else c.server_warmup_factor)
    head, new = heads.train_server_head(setting, round, now, state, pooled, epochs)
    state.update(new)
    losses: list[float] = []
    for u in parts:
        state[f"q/{u.client}"], state[f"qi/{u.client}"], loss = heads.teach(setting, head, now, u)
        losses += [] if loss is None else [loss]
    return float(np.mean(losses)) if losses else None


def _forget(setting: Setting, state: Arrays, round: int) -> None:
    """Delete what no client will be sent any more: teachers after knowledge has ended, heads of cuts that are over."""
    later = {cut(setting, t) for t in range(round + 1, setting.rounds)} - {0}
    for name in list(state):
        if (name.startswith(("q/", "qi/", "table", "mask")) and not later) or (
            name.startswith(("head", "adam")) and not any(name.startswith((f"head{k}.", f"adam{k}.")) for k in later)
        ):
            del state[name]


# ----- client half ------------------------------------------------------------------------------------------------------
def prepare(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """Load what came down, then train on CE plus the head's CE and the distillation term at the cut."""
    state = _load(setting, client_state, broadcast, data)
    targets = _targets(setting, state, broadcast, data)
    held = {n for k in cuts(setting) for n in heads.names(k)}
    trained = tuple(n for k in trained_heads(setting, broadcast.round) for n in heads.names(k))
    params = {n: v for n, v in state.items() if n in held or n in setting.model.names}
    loss = client_loss(setting, broadcast.round, bool(targets))
    return local_job(setting, broadcast.round, data, params, loss=loss, extra_trainable=trained, targets=targets)


def trained_heads(setting: Setting, round: int) -> tuple[int, ...]:
    """Cuts whose heads are in the loss of a round; a head that is not rests (no weight decay either)."""
    now = cut(setting, round)
    return tuple(k for k in cuts(setting) if now and (k == now or setting.method.warm_heads))


def client_loss(setting: Setting, round: int, distil: bool) -> BatchLoss:
    """L_n of a round as per-sample terms; a term whose weight is 0 is not built at all."""
    c, now, used = setting.method, cut(setting, round), trained_heads(setting, round)

    def loss(params: Params, x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        outputs, out = setting.model.forward(params, x, used, train=True)
        total = setting.supervised(out, None, y)
        if not now:
            return total
        z = outputs[now]
        attached = heads.apply(params, now, z, c.head_pool) if c.head_ce_weight > 0 or distil else None
        if c.head_ce_weight > 0 and attached is not None:
            total = total + c.head_ce_weight * setting.supervised(attached, None, y)
        if c.head_ce_weight < 1:
            detached = heads.apply(params, now, z.detach(), c.head_pool)
            total = total + (1 - c.head_ce_weight) * setting.supervised(detached, None, y)
        if distil and attached is not None:
            has = targets["has"]  # a batch's mean is over the samples that have a teacher
            share = has.mean() if ROWS not in targets else (has * targets[ROWS]).sum() / targets[ROWS].sum()
            weight = c.kd_weight_client * has / share.clamp_min(1e-9)
            total = total + weight * setting.distillation(attached, targets["q"], None)
            if c.kd_target == "both":
                total = total + weight * setting.distillation(out, targets["q"], None)
        for k in used:
            if k != now:
                total = total + setting.supervised(heads.apply(params, k, outputs[k].detach(), c.head_pool), None, y)
        return total

    return loss


def finish(
    setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData, job: Job, params: Mapping[str, Tensor]
) -> tuple[Arrays, Kinds]:
    """Keep the personal model; upload blocks 1..s(t) and the knowledge of the cut, from the model as trained."""
    c, now, kind = setting.method, cut(setting, broadcast.round), knowledge(setting)
    new = as_arrays(params, list(params))
    out: Kinds = {}
    if level(setting, broadcast.round):
        out["weights"] = {n: new[n] for n in setting.model.names_upto(level(setting, broadcast.round))}
    if now and kind == "features":
        new.update(_teachers(setting, client_state, broadcast, data), asked=np.array(broadcast.round, np.int32))
        ids = np.asarray(data.train.ids, dtype=np.int32)
        rows, wire = knowledge_rows.choose_rows(setting.seed, broadcast.round, data.client, ids, c.upload_fraction)
        z, p = (t.cpu().numpy() for t in heads.features(setting, params, now, job.x))
        y = knowledge_rows.labels_to_send(c.upload_labels, setting.seed, broadcast.round, data, p)
        out.update(knowledge_rows.feature_kinds(z[rows], p[rows], wire, None if y is None else y[rows]))
        if c.upload_fraction < 1:
            new["pending"] = ids[rows]
    elif kind == "features" and any(cut(setting, t) for t in range(broadcast.round + 1, setting.rounds)):
        kept = ("q", "q_round", "asked", "pending")  # knowledge pauses
        new.update({n: v for n, v in client_state.items() if n in kept})
    elif now and kind == "heads":
        out["heads"] = {n: new[n] for n in heads.names(now)}
    elif now and kind == "class_means":
        p = heads.features(setting, params, now, job.x)[1].cpu().numpy()
        out["class_means"] = knowledge_rows.class_means(p, np.asarray(data.train.y), setting.classes, c.min_class_count)
    return new, out


def evaluate_with(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Job:
    """The personal model after loading what came down."""
    state = _load(setting, client_state, broadcast, data)
    return local_job(setting, broadcast.round, data, {n: state[n] for n in setting.model.names}, epochs=0)


def trace(setting: Setting, round: int) -> dict[str, int]:
    """Level and cut of the round, for the layer-drop trace."""
    return {"level": level(setting, round), "cut": cut(setting, round)}


def _load(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Arrays:
    owner = -1 if setting.method.shared_init else data.client
    state = dict(client_state)
    if not state:
        state.update(setting.initial(owner))
        for k in cuts(setting):
            state.update(heads.initial(setting, k, owner))
    for source in (broadcast.own, broadcast.shared):
        state.update(source.get("weights", {}))
    return state


def _teachers(setting: Setting, client_state: Arrays, broadcast: Broadcast, data: ClientData) -> Arrays:
    received = broadcast.own.get("soft_labels")
    return knowledge_rows.teachers(client_state, data.train, setting.classes, received)


def _targets(setting: Setting, state: Arrays, broadcast: Broadcast, data: ClientData) -> dict[str, Tensor]:
    """``q`` [K, C] and ``has`` [K] (1 where a sample has a teacher), or {} where no sample has one."""
    c, now, kind = setting.method, cut(setting, broadcast.round), knowledge(setting)
    has: Array = np.ones(len(data.train), bool)
    if not now or kind == "none" or (kind != "features" and kind not in broadcast.shared):
        return {}
    if kind == "features":
        held = _teachers(setting, state, broadcast, data)
        age = broadcast.round - held["q_round"]
        has = (held["q_round"] >= 0) & ((age <= c.target_max_age) if c.target_max_age else True)
        q = torch.tensor(held["q"], device=setting.device)
    elif kind == "heads":
        params = {**{n: state[n] for n in setting.model.names}, **broadcast.shared["heads"]}
        x = torch.tensor(np.asarray(data.train.x), device=setting.device)
        q = heads.features(setting, to_tensors(params, setting.device), now, x)[1]
    else:
        means = broadcast.shared["class_means"]
        q = torch.tensor(means["table"][data.train.y], device=setting.device)
        has = means["mask"][data.train.y] > 0
    if not has.any():
        return {}
    return {"q": q, "has": torch.tensor(has.astype(np.float32), device=setting.device)}
