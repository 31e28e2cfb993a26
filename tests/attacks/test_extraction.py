"""Exact, approximate and (n, p) extraction against vectors, loops and exact binomials."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd import metrics
from fedkd.attacks import extraction


def test_published_np_vectors() -> None:
    """p_z = 0.162: 1 - 0.838^6 = 0.6537, p = 0.9 needs 14; p = 0.5 at 1e-12 needs 6.931e11."""
    assert extraction.chance(math.log(0.162), 6) == pytest.approx(0.6537, abs=5e-5)
    assert extraction.queries_needed(math.log(0.162), 0.9) == 14
    assert extraction.queries_needed(math.log(1e-12), 0.5) == pytest.approx(6.931e11, rel=1e-4)


def test_edges_of_p_z() -> None:
    assert extraction.queries_needed([0.0, -np.inf], 0.5).tolist() == [1.0, np.inf]
    assert extraction.chance([0.0, -np.inf], 5).tolist() == [1.0, 0.0]
    assert extraction.chance(-800.0, 1e300) == 0.0
    assert extraction.chance(-30.0, 1) == pytest.approx(math.exp(-30.0), rel=1e-12)


@given(st.floats(-20, -1e-3), st.floats(0.01, 0.99))
def test_queries_needed_is_the_smallest_sufficient_number(log_p: float, p: float) -> None:
    n = float(extraction.queries_needed(log_p, p))
    assert extraction.chance(log_p, n) >= p * (1 - 1e-9)
    assert n == 1 or extraction.chance(log_p, n - 1) <= p * (1 + 1e-9)


def test_greedy_is_the_case_of_rank_one_everywhere() -> None:
    ranks = np.array([[1, 1, 1], [1, 2, 1], [1, 1, 9]])
    assert extraction.extracted(extraction.Config(), target_rank=ranks).tolist() == [True, False, False]


words = st.lists(st.integers(0, 2), min_size=0, max_size=7)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_edit_distance_is_the_recursive_definition(pairs) -> None:
    def levenshtein(a: tuple, b: tuple) -> int:
        if not a or not b:
            return len(a) + len(b)
        swap = levenshtein(a[1:], b[1:]) + (a[0] != b[0])
        if a[0] == b[0]:
            return swap
        return min(swap, levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1)

    for a, b in pairs:
        got = extraction.edit_distance(np.array([a], dtype=int).reshape(1, -1), np.array([b], dtype=int).reshape(1, -1))
        assert got.tolist() == [levenshtein(tuple(a), tuple(b))]


def test_approximate_allows_a_tenth_of_the_suffix() -> None:
    """50 tokens with 5 changed is 0.10 and counts; 6 changed does not. Exact misses both."""
    truth = np.tile(np.arange(50), (2, 1))
    generated = truth.copy()
    generated[0, :5] += 100
    generated[1, :6] += 100
    distance = extraction.edit_distance(generated, truth) / 50
    assert distance.tolist() == [0.10, 0.12]
    assert extraction.extracted(extraction.Config(kind="approximate"), distance=distance).tolist() == [True, False]


def test_np_kind_uses_n_and_p() -> None:
    log_p = np.log([0.162, 0.01])
    for queries, expected in ((6, [True, False]), (1, [False, False]), (500, [True, True])):
        config = extraction.Config(kind="np", probability=0.5, queries=queries)
        assert extraction.extracted(config, log_p_z=log_p).tolist() == expected


def test_difference_against_held_out_is_exact_and_conservative() -> None:
    """Each rate takes half of the 5 %: low = CP97.5(40/200).low - CP97.5(2/200).high."""
    train, held_out = np.arange(200) < 40, np.arange(200) < 2
    report = extraction.audit(extraction.Config(), train=train, held_out=held_out)
    low = metrics.clopper_pearson(40, 200, 0.975)[0] - metrics.clopper_pearson(2, 200, 0.975)[1]
    assert report.difference.low == pytest.approx(low)
    assert report.rate.value == 0.2
    assert report.leak_shown
    same = extraction.audit(extraction.Config(), train=train, held_out=train)
    assert not same.leak_shown
    assert same.difference.value == 0.0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="valid: exact, approximate, np"):
        extraction.extracted(extraction.Config(kind="greedy"))
    with pytest.raises(ValueError, match="needs its own array"):
        extraction.extracted(extraction.Config(kind="np"), target_rank=[[1]])
    with pytest.raises(ValueError, match="start at 1"):
        extraction.extracted(extraction.Config(), target_rank=[[0, 1]])
    with pytest.raises(ValueError, match="at most 0"):
        extraction.chance(0.1, 1)
    with pytest.raises(ValueError, match="at most 0"):
        extraction.chance(np.nan, 1)
    with pytest.raises(ValueError, match="one query"):
        extraction.chance(-1.0, 0)
    with pytest.raises(ValueError, match="p must lie"):
        extraction.queries_needed(-1.0, 1.0)
    with pytest.raises(ValueError, match="same rows"):
        extraction.edit_distance([[1]], [[1], [2]])
    with pytest.raises(ValueError, match="training and held-out"):
        extraction.audit(extraction.Config(), train=[], held_out=[True])
