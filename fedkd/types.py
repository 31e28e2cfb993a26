"""The nouns of the project, once: what travels, what is stored, what a client holds. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""Any NumPy array; dtypes on the wire are float32, int32 and int64."""

Arrays = dict[str, Array]
"""Named arrays: a model's parameters, a state, a record."""

Kinds = dict[str, Arrays]
"""What a message carries: kind ("weights", "heads", "features", ...) -> named arrays."""

Metrics = dict[str, float]
ClientId = int


@dataclass(frozen=True)
class Split:
    """One part of a client's data."""

    x: Array
    """[K, *shape] float32"""
    y: Array
    """[K] int32 labels in [0, classes)"""
    ids: Array
    """[K] int32 sample ids, ascending, unique within the data set"""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class ClientData:
    """All that one client holds. ``test`` already contains the unseen ``extra-test`` rows."""

    client: ClientId
    train: Split
    val: Split
    test: Split
    public: Split | None = None
    """the public transfer rows, the same for every client; None where the run has none (``public-samples`` = 0)"""

    @property
    def num_examples(self) -> int:
        """K_n, the number of training samples: the weight of this client in every weighted mean."""
        return len(self.train)


@dataclass(frozen=True)
class Broadcast:
    """Server to client: ``shared`` is the same for every client of a node, ``own`` is for this client alone."""

    round: int
    client: ClientId
    shared: Mapping[str, Arrays]
    own: Mapping[str, Arrays]


@dataclass(frozen=True)
class Upload:
    """Client to server. Kinds with one row per example are named in ``ROW_KINDS``."""

    client: ClientId
    weight: int
    """K_n"""
    kinds: Kinds
    metrics: Metrics = field(default_factory=dict)


ROW_KINDS = frozenset({"features", "soft_labels", "labels", "ids"})
"""Kinds that hold one row per example; a mechanism that bounds a client's delta cannot bound these."""


@dataclass(frozen=True)
class Field:
    """What one array of an upload must look like; ``None`` in a shape is the number of rows."""

    dtype: str
    shape: tuple[int | None, ...]
    low: int | None = None
    high: int | None = None
    """Integers must lie in [low, high)."""
    most: int | None = None
    """Most rows where the first dimension is ``None``; ``None`` = K_n (rows of the client's own samples)."""


Schema = dict[str, dict[str, Field]]
"""Kind -> name -> what it must look like."""


def as_float32(value: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """A contiguous float32 copy or view of ``value``."""
    return np.ascontiguousarray(value, dtype=np.float32)
