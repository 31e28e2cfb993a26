"""Who gets which row: the draws between a data set's table and the client's own train, val and test rows.

Order (decided here, so that audits know members from non-members): draw ``max-samples`` rows; the public transfer rows leave; a
coin per example moves non-members out (``audit.holdout``); label canaries get a random wrong label and a fair coin in or out;
the rest is partitioned and split. A canary that is in always lands in its client's train part. The unseen test rows of a client
(``extra-test``) have its own label mix and come from rows that no client holds and that no audit set aside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd import rng
from fedkd.config import Experiment
from fedkd.dataset import FREE, PUBLIC, TEST, TRAIN, VAL
from fedkd.errors import ConfigError, DataError
from fedkd.partition import Indices, partition, quotas, split
from fedkd.types import Array

PARTS = ("train", "val", "test", "extra")


@dataclass(frozen=True)
class Canaries:
    """Examples with a random wrong label, each in or out by a fair coin (Carlini et al., 2019, arXiv 1802.08232)."""

    rows: Indices
    """[m] rows of the table, ascending"""
    true_labels: Array
    """[m] int32"""
    given_labels: Array
    """[m] int32, never the true label"""
    member: npt.NDArray[np.bool_]
    """[m] in the train part of a client"""


@dataclass(frozen=True)
class Allocation:
    """Rows of the table per client; every list is ascending."""

    labels: Array
    """[n] int32 labels of the whole table as trained on: given labels at canaries"""
    parts: dict[str, list[Indices]]
    """"train", "val", "test", "extra" -> one list per client"""
    holdout: Indices
    """rows moved out as known non-members"""
    canaries: Canaries
    public: Indices
    """rows of the public transfer set, which no client holds"""

    def held(self, client: int) -> Indices:
        """Rows that the client owns: train, val and test without the unseen ones."""
        return np.concatenate([self.parts[p][client] for p in ("train", "val", "test")])

    def used(self) -> Indices:
        """All rows that some client, the holdout or a canary uses, ascending, each once."""
        lists = [rows for part in self.parts.values() for rows in part]
        return np.unique(np.concatenate([*lists, self.holdout, self.canaries.rows, self.public]))


def allocate(
    experiment: Experiment, labels: Array, groups: Array | None, classes: int, part: Array | None = None
) -> Allocation:
    """Draw everything for a table with these labels [n] (natural groups [n], and what each row is for [n]).

    Raises: ConfigError for more samples, canaries or clients than there are rows, and what ``partition`` refuses.
    """
    e = experiment
    part = np.full(len(labels), FREE, np.int8) if part is None else part
    public, rows = _public(e, _drawn(e, len(labels)), part)
    coin = rng.experiment(e.seed, "holdout").random(len(labels)) < e.audit_holdout
    holdout, rows = rows[coin[rows]], rows[~coin[rows]]
    canaries = _canaries(e, rows[part[rows] == FREE], labels, classes)
    labels = labels.copy()
    labels[canaries.rows] = canaries.given_labels
    rows = np.setdiff1d(rows, canaries.rows[~canaries.member], assume_unique=True)
    lists = partition(
        e.partition_name, e.partition_args, labels[rows], None if groups is None else groups[rows],
        e.num_clients, e.min_client_samples, e.seed,
    )  # fmt: skip
    held = [rows[positions] for positions in lists]
    parts: dict[str, list[Indices]] = {name: [] for name in PARTS}
    planted = np.isin(np.arange(len(labels)), canaries.rows)
    for client, own in enumerate(held):
        free_rows = own[~planted[own] & (part[own] == FREE)]
        drawn = split(labels, free_rows, e.seed, client) if len(free_rows) else (free_rows,) * 3
        for name, rows_of, fixed in zip(PARTS, drawn, (TRAIN, VAL, TEST), strict=False):
            more = own[(planted[own] & (fixed == TRAIN)) | (part[own] == fixed)]
            parts[name].append(np.sort(np.concatenate([rows_of, more])))
    free = np.ones(len(labels), dtype=bool)
    free[np.concatenate([*held, holdout, canaries.rows, public, np.flatnonzero(part != FREE)])] = False
    parts["extra"] = _unseen(e, labels, [own[~planted[own]] for own in held], free, classes)
    allocation = Allocation(labels, parts, holdout, canaries, public)
    refuse_overlap(allocation)
    return allocation


def refuse_overlap(allocation: Allocation) -> None:
    """Raises: DataError where a row is held twice, or is unseen or set aside and yet held by a client."""
    held = np.concatenate([allocation.held(c) for c in range(len(allocation.parts["train"]))])
    rows, times = np.unique(held, return_counts=True)
    if (times > 1).any():
        raise DataError(f"row {rows[times > 1][0]} of the data set is held twice (train and test overlap, or two clients)")
    unseen = np.concatenate([np.zeros(0, dtype=np.int64), *allocation.parts["extra"]])
    outside = allocation.canaries.rows[~allocation.canaries.member]
    for what, other in (
        ("an unseen test row", unseen),
        ("held out", allocation.holdout),
        ("a canary left out", outside),
        ("a public transfer row", allocation.public),
    ):
        both = np.intersect1d(rows, other)
        if len(both):
            raise DataError(f"row {both[0]} of the data set is {what} and yet held by a client (train and test overlap)")


def _drawn(e: Experiment, available: int) -> Indices:
    if e.max_samples > available:
        raise ConfigError(f"max-samples = {e.max_samples}, but the data set has {available} samples; 0 takes all")
    if e.max_samples == 0:
        return np.arange(available)
    return np.sort(rng.experiment(e.seed, "max samples").choice(available, e.max_samples, replace=False))


def _public(e: Experiment, rows: Indices, part: Array) -> tuple[Indices, Indices]:
    """(public transfer rows, what is left for clients): a draw, or the first that the data set itself marks as public."""
    marked = rows[part[rows] == PUBLIC]
    own = rows[part[rows] != PUBLIC]
    available = len(marked) if len(marked) else len(own)
    if e.public_samples > available:
        raise ConfigError(f"public-samples = {e.public_samples}, but there are {available} samples for the public set")
    if len(marked) or e.public_samples == 0:
        return marked[: e.public_samples], own
    chosen = np.sort(rng.experiment(e.seed, "public rows").choice(own, e.public_samples, replace=False))
    return chosen, np.setdiff1d(own, chosen, assume_unique=True)


def _canaries(e: Experiment, rows: Indices, labels: Array, classes: int) -> Canaries:
    if e.audit_canaries > len(rows):
        raise ConfigError(f"audit.canaries = {e.audit_canaries}, but there are {len(rows)} samples to plant them in")
    stream = rng.experiment(e.seed, "canaries")
    chosen = np.sort(stream.choice(rows, e.audit_canaries, replace=False)) if e.audit_canaries else rows[:0]
    true = labels[chosen].astype(np.int32)
    given = ((true + 1 + stream.integers(0, classes - 1, len(chosen))) % classes).astype(np.int32)
    return Canaries(chosen, true, given, stream.random(len(chosen)) < 0.5)


def _unseen(e: Experiment, labels: Array, own: list[Indices], free: npt.NDArray[np.bool_], classes: int) -> list[Indices]:
    """Per client ``extra_test`` free rows in its own label proportions, fewer where a class has no more."""
    if e.extra_test == 0:
        return [np.zeros(0, dtype=np.int64) for _ in own]
    pools = [np.flatnonzero(free & (labels == c)) for c in range(classes)]
    caps = np.array([len(pool) for pool in pools])
    lists = []
    for client, rows in enumerate(own):
        stream = rng.experiment(e.seed, "extra test", client=client)
        want = quotas(np.bincount(labels[rows], minlength=classes), e.extra_test, caps)
        lists.append(np.sort(np.concatenate([stream.choice(pools[c], want[c], replace=False) for c in range(classes)])))
    return lists
