"""Whom an audit of channels asks about: training rows of each client, and rows that a coin kept away from everyone.

Membership is drawn before partition and training (``audit.holdout``: a coin per example; specs: audit, section 2). A held-out
row is assigned to the client that holds the row of its class before it in the data set: partitions cut a class into
contiguous pieces, and neighbours are alike (digits of one writer), so that a draw by label counts alone would let strangers
be told from members without any leak (measured on digits: AUC 0.56 against a client that had neither). Label canaries are no
candidates: their labels are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.intervals import Bools, Floats, Ints
from fedkd.prepare import Prepared
from fedkd.types import Array

FOLDS = 5


@dataclass(frozen=True)
class Candidates:
    """Members and non-members in the order of their client, then their id."""

    ids: Ints
    """[N] sample ids"""
    x: Array
    """[N, *shape] float32"""
    y: Ints
    """[N] labels"""
    client: Ints
    """[N] the client that trained on it, or that it is assigned to"""
    member: Bools
    """[N] true where that client trained on it"""

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, client: int) -> Ints:
        """Positions of a client's candidates."""
        return np.flatnonzero(self.client == client)


def draw(data: Prepared, seed: int, most: int) -> Candidates:
    """Candidates of a run, at most ``most`` of each side (a seeded draw).

    Raises: ConfigError where the run has no rows of its own on disk, no held-out row, or fewer than two of a side.
    """
    if "holdout" not in data.arrays:
        raise ConfigError("candidates need a data set with a table; this one is made per client")
    held_out = np.asarray(data.arrays["holdout"], dtype=np.int64)
    if not len(held_out):
        raise ConfigError("the run has no held-out rows, so no known non-members; run it with audit.holdout = 0.5")
    with np.load(data.path / "canaries.npz", allow_pickle=False) as file:
        canaries = file["ids"]
    own = [np.asarray(data.client(n).train.ids, dtype=np.int64) for n in range(data.num_clients)]
    own = [ids[~np.isin(ids, canaries)] for ids in own]
    labels = np.asarray(data.arrays["y"], dtype=np.int64)
    away = _assigned(data, labels, held_out[~np.isin(held_out, canaries)], canaries)
    sides = []
    for side, name in ((own, "members"), (away, "held-out rows")):
        ids = np.concatenate(side)
        client = np.repeat(np.arange(len(side)), [len(s) for s in side])
        if len(ids) < 2:
            raise ConfigError(f"{len(ids)} {name} are too few for an audit")
        kept = np.sort(rng.experiment(seed, f"audit {name}").permutation(len(ids))[:most])
        sides.append((ids[kept], client[kept]))
    ids, client = (np.concatenate([sides[0][i], sides[1][i]]) for i in (0, 1))
    member = np.arange(len(ids)) < len(sides[0][0])
    order = np.lexsort((ids, client))
    ids = ids[order]
    return Candidates(ids, np.asarray(data.arrays["x"][ids]), labels[ids], client[order], member[order])


def everyone(data: Prepared) -> Candidates:
    """Every row of a run under its true label with the client that trains on it (members), keeps it for validation or test, or
    that it is assigned to."""
    with np.load(data.path / "canaries.npz", allow_pickle=False) as file:
        canaries = file["ids"]
    labels = np.asarray(data.arrays["y"], dtype=np.int64)
    held_out = np.asarray(data.arrays["holdout"], dtype=np.int64)
    away = _assigned(data, labels, held_out[~np.isin(held_out, canaries)], canaries)
    ids, client, member = [], [], []
    for n in range(data.num_clients):
        parts = data.client(n)
        rest = [parts.val.ids, np.intersect1d(parts.test.ids, data.arrays["test"]), away[n]]
        for own, inside in ((parts.train.ids, True), *((r, False) for r in rest)):
            kept = np.asarray(own, dtype=np.int64)[~np.isin(own, canaries)]
            ids.append(kept)
            client.append(np.full(len(kept), n))
            member.append(np.full(len(kept), inside))
    every = np.concatenate(ids)
    order = np.lexsort((every, np.concatenate(client)))
    every = every[order]
    sides = np.concatenate(client)[order], np.concatenate(member)[order]
    return Candidates(every, np.asarray(data.arrays["x"][every]), labels[every], *sides)


def _assigned(data: Prepared, labels: Ints, rows: Ints, canaries: Ints) -> list[Ints]:
    """Held-out rows per client: each goes to who holds the row of its class that stands before it in the data set."""
    parts = [data.client(n) for n in range(data.num_clients)]
    kept = [np.concatenate([p.train.ids, p.val.ids, np.intersect1d(p.test.ids, data.arrays["test"])]) for p in parts]
    ids, owner = np.concatenate(kept), np.repeat(np.arange(len(kept)), [len(k) for k in kept])
    known = ~np.isin(ids, canaries)
    order = np.argsort(ids[known], kind="stable")
    ids, owner = ids[known][order], owner[known][order]
    client = np.full(len(rows), -1)
    for c in range(data.classes):
        held, mine = labels[ids] == c, labels[rows] == c
        if held.any():
            before = np.maximum(np.searchsorted(ids[held], rows[mine]) - 1, 0)
            client[mine] = owner[held][before]
    return [rows[client == n] for n in range(data.num_clients)]


def blind_scores(candidates: Candidates, seed: int) -> Floats | None:  # [N]
    """Out-of-fold scores of a linear classifier of members that saw no model, only rows and labels; None for too few."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    member = candidates.member
    if min(int(member.sum()), int((~member).sum())) < 2 * FOLDS:
        return None
    flat = candidates.x.reshape(len(member), -1).astype(np.float64)
    flat = (flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-9) / np.sqrt(flat.shape[1])
    classes = np.eye(int(candidates.y.max()) + 1)[candidates.y]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = LogisticRegression(max_iter=300)
    scores = cross_val_predict(model, np.hstack([flat, classes]), member, cv=folds, method="decision_function")
    return np.asarray(scores, dtype=np.float64)
