"""Exposure of label canaries in a finished run: what its rows and models tell about labels that were planted at random.

Canaries come from ``audit.canaries`` (a wrong label each, in or out by a fair coin); six of one client form one secret, a label
string, ranked exactly among all strings of wrong labels (specs: swing, sections 9 and 11), so that without a leak the mean is
1.44 bits. Threat model, per view: who keeps every uploaded row ("released"; maximal by definition where raw labels travel
beside the rows, which ``labels_sent`` says), every returned row ("returned"), or holds a final model ("own model", "other
models"). Rows of several rounds are averaged as probabilities, which is what an honest-but-curious receiver would do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from fedkd import outgoing
from fedkd import setting as settings
from fedkd.attacks import exposure
from fedkd.config import experiment_from
from fedkd.errors import ConfigError
from fedkd.prepare import Prepared, data_hash, open_data
from fedkd.setting import Setting
from fedkd.signals import Rank, rank_of_labels
from fedkd.store import ClientStore, Commit, read_commit
from fedkd.types import Array, Arrays, Broadcast

VIEWS = ("released", "returned", "own model", "other models")


@dataclass(frozen=True)
class LabelString:
    """Canaries of one client that form one secret."""

    client: int
    ids: Array
    """[k] sample ids, ascending"""
    true_labels: Array
    """[k]"""
    given_labels: Array
    """[k] what the client trained on; never the true ones"""


@dataclass(frozen=True)
class View:
    """What one observer's data says."""

    name: str
    """one of ``VIEWS``"""
    strings: int
    """label strings of which this observer saw every row"""
    report: exposure.Report | None
    """exact exposure; None where no string was seen"""
    labels_sent: float | None
    """"released" only: share of the canary rows beside which the planted label itself travelled; None without labels"""


def audit(folder: Path, states: Path, length: int = 6) -> tuple[View, ...]:
    """The four views of a finished run.

    Args:
        folder: the run folder, with ``transcript/`` (record = "messages").
        states: ``<state-root>/<run>``, where the clients' versions lie beside ``../data``.
        length: canaries of one secret, at least 1.

    Raises: ConfigError where the run recorded no messages, planted too few canaries or renamed its rows; StateMissing.
    """
    values = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    experiment = experiment_from(values)
    if experiment.record != "messages" or not (folder / "transcript").is_dir():
        raise ConfigError(f'{folder} holds no messages; run it with record = "messages"')
    data = open_data(states.parent / "data" / data_hash(experiment))
    setting = settings.build(experiment, data.shape, data.classes)
    if getattr(setting.method, "upload_fraction", 1.0) < 1:
        raise ConfigError("upload_fraction below 1 renames rows on the wire; exposure of rows needs upload_fraction = 1")
    commit = read_commit(folder / "checkpoints")
    if commit is None:
        raise ConfigError(f"{folder} holds no committed round")
    strings = label_strings(data, length)
    if not strings:
        raise ConfigError(
            f"audit.canaries = {experiment.audit_canaries} gives no client {length} canaries that are in; plant more"
        )
    up, labels = _rows(folder, "up", "p", strings)
    down, _ = _rows(folder, "down", "q", strings)
    own, others = _models(setting, data, commit, ClientStore(states.parent, states.name), strings)
    seen = dict(zip(VIEWS, (up, down, own, others), strict=True))
    return tuple(_view(n, tables, strings, labels if n == "released" else None) for n, tables in seen.items())


def label_strings(data: Prepared, length: int = 6) -> tuple[LabelString, ...]:
    """The canaries that are in, by client and sample id, ``length`` to a string; what is left over belongs to none."""
    with np.load(data.path / "canaries.npz", allow_pickle=False) as file:
        planted = {n: file[n] for n in ("ids", "true_labels", "given_labels", "member", "client")}
    found = []
    for client in np.unique(planted["client"][planted["member"]]):
        rows = np.flatnonzero(planted["member"] & (planted["client"] == client))
        rows = rows[np.argsort(planted["ids"][rows])]
        for start in range(0, len(rows) - length + 1, length):
            part = rows[start : start + length]
            found.append(LabelString(int(client), *(planted[n][part] for n in ("ids", "true_labels", "given_labels"))))
    return tuple(found)


def rank(log_q: Array, string: LabelString) -> Rank:  # [k, C] log-probabilities
    """Rank of the planted labels among the (C - 1)**k strings of wrong labels: a canary never has its true label."""
    classes = np.arange(log_q.shape[1])
    wrong = np.stack([np.delete(classes, y) for y in string.true_labels])
    planted = (wrong == string.given_labels[:, None]).argmax(axis=1)
    return rank_of_labels(np.take_along_axis(log_q, wrong, axis=1), planted)


def _view(name: str, tables: Sequence[Array | None], strings: Sequence[LabelString], labels: float | None) -> View:
    ranks = [rank(table, string) for table, string in zip(tables, strings, strict=True) if table is not None]
    if not ranks:
        return View(name, 0, None, labels)
    report = exposure.audit_exact(
        exposure.Config(),
        rank=[r.better + 1 for r in ranks],
        tied=[r.tied for r in ranks],
        space=ranks[0].candidates,
        repetitions=np.ones(len(ranks), np.int64),
    )
    return View(name, len(ranks), report, labels)


def _rows(folder: Path, direction: str, name: str, strings: Sequence[LabelString]) -> tuple[list[Array | None], float | None]:
    """(per string log of the mean released probability [k, C], or None; share of planted labels that travelled too)."""
    sums: list[Array | None] = [None] * len(strings)
    times, sent = [0] * len(strings), list[bool]()
    for round_folder in sorted((folder / "transcript").iterdir(), key=lambda p: int(p.name)):
        for place, string in enumerate(strings):
            path = round_folder / f"{direction}-{string.client}.safetensors"
            record = load_file(path) if path.is_file() else {}
            ids = record.get("ids/i" if direction == "up" else "soft_labels/i")
            if ids is None or f"soft_labels/{name}" not in record or not np.isin(string.ids, ids).all():
                continue
            at = np.argsort(ids)[np.searchsorted(np.sort(ids), string.ids)]
            q = np.exp(_log_softmax(record[f"soft_labels/{name}"][at]))
            before = sums[place]
            sums[place] = q if before is None else before + q
            times[place] += 1
            if "labels/y" in record:
                sent += (record["labels/y"][at] == string.given_labels).tolist()
    means = [None if total is None else np.log(total / n) for total, n in zip(sums, times, strict=True)]
    return means, float(np.mean(sent)) if sent else None


@torch.no_grad()
def _models(
    setting: Setting, data: Prepared, commit: Commit, store: ClientStore, strings: Sequence[LabelString]
) -> tuple[list[Array | None], list[Array | None]]:
    """Per string [k, C]: what its client's final model says, and the mean of all other clients' final models."""
    state: Arrays = outgoing.split(commit.state)[0]
    totals = [np.zeros((len(s.ids), setting.classes)) for s in strings]
    own: list[Array | None] = [None] * len(strings)
    for client in range(data.num_clients):
        shared, mine = setting.module.broadcast(setting, state, setting.rounds, client, int(commit.last[client]))
        held = outgoing.split(store.read(client, int(commit.versions[client])))[0]
        last = Broadcast(setting.rounds, client, shared, mine)
        params = setting.module.evaluate_with(setting, held, last, data.client(client)).params
        for place, string in enumerate(strings):
            x = torch.tensor(np.asarray(data.arrays["x"][string.ids]), device=setting.device)
            log_q = _log_softmax(setting.model.forward(params, x)[1].cpu().numpy())
            if client == string.client:
                own[place] = log_q
            else:
                totals[place] += np.exp(log_q)
    alone = data.num_clients == 1
    return own, [None if alone else np.log(total / (data.num_clients - 1)) for total in totals]


def _log_softmax(logits: Array) -> Array:  # [k, C] -> [k, C] float64
    z = logits.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    out: Array = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return out
