"""Clusters of near-duplicate token rows: MinHash finds candidates, the exact Jaccard similarity decides, pairs are joined.

Broder 1997 (MinHash, banding). Passages of one cluster are not independent: intervals resample whole clusters
(specs: memorization, decision 14).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedkd import rng
from fedkd.intervals import Ints

SHINGLE = 5
"""tokens of a shingle"""
BANDS, ROWS = 32, 3
"""bands and values per band: a pair of similarity .5 becomes a candidate with probability .986, of .7 with .999997"""
PRIME = (1 << 31) - 1


def shingles(row: Sequence[int], size: int = SHINGLE) -> set[tuple[int, ...]]:
    """Every run of ``size`` tokens; a shorter row is one shingle."""
    return {tuple(row[i : i + size]) for i in range(max(1, len(row) - size + 1))}


def jaccard(a: set[tuple[int, ...]], b: set[tuple[int, ...]]) -> float:
    """Shared over all shingles; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def clusters(rows: Sequence[Sequence[int]], similarity: float = 0.5) -> Ints:  # -> [N] label: the first row of the cluster
    """Single-linkage clusters of rows whose Jaccard similarity over shingles is at least ``similarity``.

    Raises: ValueError for a similarity outside (0, 1].
    """
    if not 0.0 < similarity <= 1.0:
        raise ValueError(f"similarity must lie in (0, 1], got {similarity}")
    sets = [shingles(list(row)) for row in rows]
    parent = list(range(len(sets)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for bucket in _buckets(sets):
        for i in bucket[1:]:
            a, b = root(bucket[0]), root(i)
            if a != b and jaccard(sets[bucket[0]], sets[i]) >= similarity:
                parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(sets))], dtype=np.int64)


def _buckets(sets: Sequence[set[tuple[int, ...]]]) -> list[list[int]]:
    """Rows that agree in a whole band of their signature."""
    if not sets:
        return []
    known = sorted(set().union(*sets))
    place = {shingle: i for i, shingle in enumerate(known)}
    stream = rng.experiment(0, "minhash")
    a, b = stream.integers(1, PRIME, (BANDS * ROWS, 1)), stream.integers(0, PRIME, (BANDS * ROWS, 1))
    hashed: npt.NDArray[np.int64] = (a * stream.permutation(len(known))[None, :] + b) % PRIME  # [bands * rows, shingles]
    found: dict[tuple[int, bytes], list[int]] = {}
    for row, own in enumerate(sets):
        signature = hashed[:, [place[s] for s in own]].min(axis=1)
        for band in range(BANDS):
            found.setdefault((band, signature[band * ROWS : (band + 1) * ROWS].tobytes()), []).append(row)
    return [rows for rows in found.values() if len(rows) > 1]
