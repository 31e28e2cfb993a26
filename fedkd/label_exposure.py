"""Exposure of label canaries in a finished run: what its rows and models tell about labels that were planted at random.

Canaries come from ``audit.canaries`` (a wrong label each, in or out by a fair coin); six of one client form one secret, a label
string, ranked exactly among all strings of wrong labels (specs: swing, sections 9 and 11), so that without a leak the mean is
1.44 bits. Threat model, per view: who keeps every uploaded row ("released"; maximal by definition where raw labels travel
beside the rows, which ``labels_sent`` says), every returned row ("returned"), or holds a final model ("own model", "other
models"). Rows of several rounds are averaged as probabilities, which is what an honest-but-curious receiver would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fedkd import transcripts
from fedkd.attacks import exposure
from fedkd.errors import ConfigError
from fedkd.finished import Finished, final_models, open_finished
from fedkd.prepare import Prepared, open_data
from fedkd.signals import Rank, rank_of_labels
from fedkd.transcripts import Direction
from fedkd.types import Array

VIEWS = ("released", "returned", "own model", "other models")
DIRECTIONS: dict[str, Direction] = {"released": "up", "returned": "down"}


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
    """label strings of which this observer saw every row; a diverged model, whose outputs are no numbers, shows none"""
    report: exposure.Report | None
    """exact exposure; None where no string was seen"""
    labels_sent: float | None
    """"released" only: share of the canary rows beside which the planted label itself travelled; None without labels"""


class Reading(NamedTuple):
    """What an observer of the wire knows after a round."""

    round: int
    tables: list[Array | None]
    """per string the log of the mean probability so far [k, C]; None where a row of it has never travelled"""
    labels_sent: float | None
    """share of the planted labels that travelled beside the rows; None without labels"""


def audit(folder: Path, states: Path, length: int = 6) -> tuple[View, ...]:
    """The four views of a finished run.

    Args:
        folder: the run folder, with ``transcript/`` (record = "messages").
        states: ``<state-root>/<run>``, where the clients' versions lie beside ``../data``.
        length: canaries of one secret, at least 1.

    Raises: ConfigError where the run recorded no messages, planted too few canaries or renamed its rows; StateMissing.
    """
    run = open_finished(folder, states)
    data = run.data
    strings = label_strings(data, length)
    if not strings:
        raise ConfigError(
            f"audit.canaries = {run.setting.experiment.audit_canaries} gives no client {length} canaries that are in; "
            "plant more"
        )
    up, down = (_rows(folder, direction, strings) for direction in ("up", "down"))
    nothing: list[Array | None] = [None] * len(strings)
    own, others = _models(run, strings)
    tables = (up[-1].tables if up else nothing, down[-1].tables if down else nothing, own, others)
    labels = (up[-1].labels_sent if up else None, None, None, None)
    return tuple(_view(name, seen, strings, sent) for name, seen, sent in zip(VIEWS, tables, labels, strict=True))


def curves(folder: Path, prepared: Path, length: int = 6) -> dict[str, dict[int, dict[int, float]]]:
    """View -> round -> client -> mean bits of its strings, for who keeps every row up to that round ("released", "returned").

    Args:
        folder: the run folder, with ``transcript/``.
        prepared: the run's prepared data.
        length: canaries of one secret, at least 1.

    Raises: DataError where ``prepared`` is no prepared data; OSError.
    """
    strings = label_strings(open_data(prepared), length)
    found: dict[str, dict[int, dict[int, float]]] = {}
    for name, direction in DIRECTIONS.items():
        for reading in _rows(folder, direction, strings):
            bits: dict[int, list[float]] = {}
            for table, string in zip(reading.tables, strings, strict=True):
                if table is not None:
                    place = rank(table, string)
                    bits.setdefault(string.client, []).append(
                        float(exposure.exposure_exact(place.better + 1, place.candidates))
                    )
            found.setdefault(name, {})[reading.round] = {c: float(np.mean(b)) for c, b in bits.items()}
    return found


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
    said = [(t, s) for t, s in zip(tables, strings, strict=True) if t is not None and not np.isnan(t).any()]
    ranks = [rank(table, string) for table, string in said]
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


def _rows(folder: Path, direction: Direction, strings: Sequence[LabelString]) -> list[Reading]:
    """What an observer of one direction knows after each round; [] where no message holds soft labels."""
    seen: dict[int, list[tuple[int, Array, list[bool]]]] = {}
    for place, string in enumerate(strings):
        for message in transcripts.messages(folder, direction, string.client):
            if not np.isin(string.ids, message.ids).all():
                continue
            at = np.searchsorted(message.ids, string.ids)
            sent = [] if message.labels is None else (message.labels[at] == string.given_labels).tolist()
            seen.setdefault(message.round, []).append((place, message.q[at], sent))
    sums: list[Array | None] = [None] * len(strings)
    times, sent_all, found = [0] * len(strings), list[bool](), list[Reading]()
    for number in sorted(seen):
        for place, q, sent in seen[number]:
            before = sums[place]
            sums[place] = q if before is None else before + q
            times[place] += 1
            sent_all += sent
        means = [None if total is None else np.log(total / n) for total, n in zip(sums, times, strict=True)]
        found.append(Reading(number, means, float(np.mean(sent_all)) if sent_all else None))
    return found


@torch.no_grad()
def _models(run: Finished, strings: Sequence[LabelString]) -> tuple[list[Array | None], list[Array | None]]:
    """Per string [k, C]: what its client's final model says, and the mean of all other clients' final models."""
    setting, data = run.setting, run.data
    totals = [np.zeros((len(s.ids), setting.classes)) for s in strings]
    own: list[Array | None] = [None] * len(strings)
    for client, params in final_models(run):
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
