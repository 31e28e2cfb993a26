"""Matching messages without names: counts by hand, ties, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedkd.attacks import linkage


def test_nearest_neighbours_are_counted_and_ranks_are_those_of_a_sort() -> None:
    """Rows 0 and 1 are nearest to themselves, row 2 to column 0 (its own is third): 2 of 3, ranks 1, 1, 3."""
    distance = np.array([[0.1, 1.0, 2.0], [1.0, 0.2, 3.0], [0.5, 1.0, 4.0]])
    report = linkage.audit(linkage.Config(), distance=distance)
    assert report.top1.value == pytest.approx(2 / 3)
    assert report.chance == pytest.approx(1 / 3)
    assert report.median_rank == 1.0
    low, high = stats.beta.ppf(0.025, 2, 2), stats.beta.ppf(0.975, 3, 1)
    assert (report.top1.low, report.top1.high) == pytest.approx((low, high))
    assert not report.leak_shown


def test_equal_distances_are_chance_and_no_leak() -> None:
    report = linkage.audit(linkage.Config(), distance=np.zeros((20, 20)))
    assert report.top1.value == pytest.approx(1 / 20)
    assert report.median_rank == 20
    assert not report.leak_shown


def test_a_perfect_match_is_a_leak_from_four_messages_on() -> None:
    """Clopper-Pearson of n of n: low = 0.025^(1/n); 0.158 of 2 is below 1/2, 0.398 of 4 above 1/4."""
    shown = {n: linkage.audit(linkage.Config(), distance=1.0 - np.eye(n)).leak_shown for n in (2, 4, 10)}
    assert shown == {2: False, 4: True, 10: True}


def test_permuting_the_senders_changes_nothing() -> None:
    distance = np.random.default_rng(3).normal(size=(12, 12)) - 1.5 * np.eye(12)
    order = np.random.default_rng(4).permutation(12)
    whole, other = (linkage.audit(linkage.Config(), distance=d) for d in (distance, distance[np.ix_(order, order)]))
    assert whole == other


@pytest.mark.parametrize(
    ("distance", "said"),
    [(np.zeros((3, 4)), "n, n"), (np.zeros((1, 1)), "n >= 2"), (np.array([[0.0, np.nan], [1.0, 0.0]]), "NaN")],
)
def test_matrices_that_cannot_be_matched_are_refused(distance: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        linkage.audit(linkage.Config(), distance=distance)
