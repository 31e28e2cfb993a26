"""What travels beside weights in a distillation: rows of features and soft labels, teachers by sample id, class means.

FedD2S (arXiv 2402.10846) and FedGKT are the sources of the exchange; keys by sample id, wire ids and checks are decided
here. NumPy in, NumPy out, except for the server's pooled rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fedkd import rng
from fedkd.errors import UploadError
from fedkd.heads import Pooled
from fedkd.types import Array, Arrays, ClientData, Kinds, Split, Upload


def teachers(held: Arrays, rows: Split, classes: int, received: Arrays | None) -> Arrays:
    """Teacher logits by sample after what came down this round.

    Args:
        held: the client's state; "q" [K, C], "q_round" [K], "asked" [] the round of its last upload, and "pending" where
            wire ids are not sample ids.
        received: "q" [m, C] and "i" [m] ids, or None.

    Returns:
        "q" [K, C] float32 and "q_round" [K] int32, the round in which a sample's teacher was made (-1 = none yet).

    Raises: UploadError where an id is unknown or repeated, shapes do not fit, or nothing was asked.
    """
    q = held["q"].copy() if "q" in held else np.zeros((len(rows), classes), np.float32)
    when = held["q_round"].copy() if "q_round" in held else np.full(len(rows), -1, np.int32)
    if received is not None:
        ids = received["i"]
        if "asked" not in held:
            raise UploadError("soft labels came for a client that sent no features")
        if received["q"].shape != (len(ids), classes) or len(np.unique(ids)) != len(ids):
            raise UploadError("soft labels do not fit their sample ids")
        if "pending" in held:
            if len(ids) and not 0 <= ids.min() <= ids.max() < len(held["pending"]):
                raise UploadError("soft labels name wire ids that this client did not send")
            ids = held["pending"][ids]
        positions = np.searchsorted(rows.ids, ids)
        if np.any(positions >= len(rows)) or np.any(np.asarray(rows.ids)[positions] != ids):
            raise UploadError("soft labels name samples that this client does not hold")
        q[positions], when[positions] = received["q"], held["asked"]
    return {"q": q, "q_round": when}


def choose_rows(seed: int, round: int, client: int, ids: Array, fraction: float) -> tuple[Array, Array]:
    """Which rows go up, and the ids they carry on the wire.

    With ``fraction`` < 1 a fresh random subset in random order, numbered 0, 1, ...: the map to true ids stays at home.
    """
    if fraction >= 1:
        return np.arange(len(ids)), ids.astype(np.int32)
    stream = rng.experiment(seed, "upload rows", round, client)
    rows = stream.permutation(len(ids))[: max(1, math.ceil(fraction * len(ids) - 1e-9))]
    return rows, np.arange(len(rows), dtype=np.int32)


def labels_to_send(mode: str, seed: int, round: int, data: ClientData, p: Array) -> Array | None:  # p [K, C] logits -> [K]
    """A client's labels as they are ("raw"), drawn from the soft labels that it sends too ("sampled"), or none."""
    if mode == "none":
        return None
    if mode == "raw":
        return np.asarray(data.train.y, dtype=np.int32)
    return sampled_labels(seed, round, data.client, torch.tensor(p).softmax(1).numpy())


def sampled_labels(seed: int, round: int, client: int, probabilities: Array) -> Array:  # [K, C] -> [K] int32
    """One label per row drawn from its probabilities."""
    stream = rng.experiment(seed, "sampled labels", round, client)
    cumulative = probabilities.astype(np.float64).cumsum(1)
    drawn = (stream.random((len(cumulative), 1)) > cumulative).sum(1)
    labels: Array = np.minimum(drawn, probabilities.shape[1] - 1).astype(np.int32)
    return labels


def pool_rows(uploads: Sequence[Upload], balanced: bool, device: torch.device) -> Pooled:
    """All uploaded rows by client id, then sample id; ``balanced``: each client weighs the same."""
    parts = sorted(uploads, key=lambda u: u.client)
    orders = [np.argsort(u.kinds["ids"]["i"], kind="stable") for u in parts]

    def joined(kind: str, name: str) -> torch.Tensor:
        rows = [u.kinds[kind][name][o] for u, o in zip(parts, orders, strict=True)]
        return torch.tensor(np.concatenate(rows), device=device)

    sizes = np.array([len(o) for o in orders])
    per_client = sizes.sum() / (len(sizes) * sizes) if balanced else np.ones(len(sizes))
    weight = torch.tensor(np.repeat(per_client, sizes).astype(np.float32), device=device)
    labels = joined("labels", "y").long() if all("labels" in u.kinds for u in parts) else None
    return Pooled(joined("features", "z"), joined("soft_labels", "p"), labels, weight)


def class_means(p: Array, y: Array, classes: int, min_count: int) -> Arrays:
    """Per class the mean of the rows' logits "p" [C, C] and the count "n" [C]; classes below ``min_count`` count 0."""
    means, counts = np.zeros((classes, p.shape[1]), np.float32), np.zeros(classes, np.int32)
    for c in range(classes):
        own = p[y == c]
        if len(own) >= max(1, min_count):
            means[c], counts[c] = own.mean(axis=0), len(own)
    return {"p": means, "n": counts}


def mean_of_class_means(parts: Sequence[Arrays]) -> Arrays:
    """Per class the unweighted mean over clients that hold it: "table" [C, C], "mask" [C]."""
    held = np.stack([p["n"] > 0 for p in parts])
    summed = np.stack([p["p"].astype(np.float64) for p in parts]) * held[:, :, None]
    count = held.sum(0)
    return {
        "table": (summed.sum(0) / np.maximum(count, 1)[:, None]).astype(np.float32),
        "mask": (count > 0).astype(np.int32),
    }


def feature_kinds(z: Array, p: Array, ids: Array, labels: Array | None) -> Kinds:
    """The record of an upload of rows."""
    out: Kinds = {"features": {"z": z}, "soft_labels": {"p": p}, "ids": {"i": ids}}
    return out if labels is None else {**out, "labels": {"y": labels}}


def sample_ids(state: Arrays, wire: Array) -> Array:  # [m] wire ids -> [m] sample ids
    """True sample ids of the rows of an upload, from the client's state after ``finish`` ("pending": wire id -> sample id)."""
    return state["pending"][wire] if "pending" in state else wire
