"""Soft labels that travelled in a run with ``record = "messages"``, as an honest-but-curious receiver has kept them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from fedkd.types import Array, Arrays

Direction = Literal["up", "down"]
"""A client's uploads, or what came down to it."""


class Message(NamedTuple):
    """The soft labels of one message."""

    round: int
    ids: Array
    """[m] sample ids, ascending"""
    q: Array
    """[m, C] probabilities, float64"""
    labels: Array | None
    """[m] labels that travelled beside the rows"""


def messages(folder: Path, direction: Direction, client: int) -> Iterator[Message]:
    """Every message of a run folder that holds soft labels with their ids, by round."""
    for part in sorted((folder / "transcript").iterdir(), key=lambda p: int(p.name)):
        path = part / f"{direction}-{client}.safetensors"
        record: Arrays = load_file(path) if path.is_file() else {}
        ids = record.get("ids/i" if direction == "up" else "soft_labels/i")
        rows = record.get("soft_labels/p" if direction == "up" else "soft_labels/q")
        if ids is None or rows is None or not len(ids):
            continue
        order = np.argsort(ids, kind="stable")
        labels = record.get("labels/y")
        yield Message(int(part.name), ids[order], softmax(rows[order]), None if labels is None else labels[order])


def mean_rows(folder: Path, direction: Direction, client: int) -> tuple[Array, Array]:  # [m] ids, [m, C] probabilities
    """Each row's mean over the rounds in which it travelled: what averaging makes of repeated releases."""
    total: dict[int, Array] = {}
    count: dict[int, int] = {}
    for message in messages(folder, direction, client):
        for row, q in zip(message.ids.tolist(), message.q, strict=True):
            total[row] = total[row] + q if row in total else q
            count[row] = count.get(row, 0) + 1
    ids = np.array(sorted(total), dtype=np.int32)
    return ids, np.array([total[int(row)] / count[int(row)] for row in ids])


def softmax(logits: Array) -> Array:  # [m, C] -> [m, C] float64
    """Probabilities of rows of logits."""
    z = logits.astype(np.float64)
    z = np.exp(z - z.max(axis=1, keepdims=True))
    out: Array = z / z.sum(axis=1, keepdims=True)
    return out
