"""Near-duplicates against all pairs compared."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd import near_duplicates as near
from fedkd import rng


def test_copies_with_few_changed_tokens_share_a_cluster_and_strangers_do_not() -> None:
    stream = rng.experiment(0, "test near")
    rows = stream.integers(0, 400, (30, 40)).tolist()
    changed = [[*row[:-2], 1, 2] for row in rows[:5]]
    found = near.clusters([*rows, *changed])
    assert found[:30].tolist() == list(range(30))
    assert found[30:].tolist() == [0, 1, 2, 3, 4]
    chain = near.clusters([[*range(40)], [*range(8, 48)], [*range(16, 56)]], similarity=0.6)
    assert chain.tolist() == [0, 0, 0], "single linkage: the ends differ by more than each step"


def test_minhash_finds_what_comparing_all_pairs_finds() -> None:
    stream = rng.experiment(1, "test near")
    base = stream.integers(0, 50, (12, 30))
    rows = [
        np.where(stream.random(30) < share, stream.integers(0, 50, 30), row).tolist()
        for row in base
        for share in (0, 0.02, 0.5)
    ]
    sets = [near.shingles(row) for row in rows]
    labels = list(range(len(rows)))
    for i in range(len(rows)):
        for j in range(i):
            if near.jaccard(sets[i], sets[j]) >= 0.7:
                a, b = labels[i], labels[j]
                labels = [min(a, b) if x in (a, b) else x for x in labels]
    assert near.clusters(rows, similarity=0.7).tolist() == labels
    assert len(set(labels)) < len(rows)


def test_edges() -> None:
    assert near.clusters([]).tolist() == []
    assert near.clusters([[1, 2], [1, 2], [3]]).tolist() == [0, 0, 2]
    assert near.jaccard(set(), set()) == 1.0
    with pytest.raises(ValueError, match="similarity must lie"):
        near.clusters([[1]], similarity=0.0)
