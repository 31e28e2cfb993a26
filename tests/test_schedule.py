"""I6: the tables of level s(t) and cut l(t), and I9: every refusal of a schedule names its field."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedkd.schedule import boundary, build
from tests.toy import refusal


def levels(schedule: Any, blocks: int = 3, rounds: int = 40, **options: Any) -> list[tuple[int, int]]:
    """Run-length form of s(t): (level, rounds at it)."""
    table = build(schedule, **{"blocks": blocks, "rounds": rounds, "average": True, **options})
    assert len(table.levels) == len(table.cuts) == rounds
    return [(level, len(list(run))) for level, run in groupby(table.levels)]


def cuts(schedule: Any, blocks: int = 3, rounds: int = 40, **options: Any) -> list[tuple[int, int]]:
    table = build(schedule, **{"blocks": blocks, "rounds": rounds, "average": True, **options})
    return [(cut, len(list(run))) for cut, run in groupby(table.cuts)]


@pytest.mark.parametrize(
    ("name", "blocks", "rounds", "expected"),
    [
        # boundaries ceil(a R): L+1 leaves at .50, then .75 + .15 (k-1) / max(1, L-2)
        ("late", 1, 3, [(2, 2), (1, 1)]),  # 1.5 -> 2
        ("late", 1, 40, [(2, 20), (1, 20)]),
        ("late", 1, 100, [(2, 50), (1, 50)]),
        ("late", 2, 3, [(3, 2), (2, 1)]),  # the next boundary is 2.25 -> 3, after the end
        ("late", 2, 40, [(3, 20), (2, 10), (1, 10)]),
        ("late", 2, 100, [(3, 50), (2, 25), (1, 25)]),
        ("late", 3, 3, [(4, 2), (3, 1)]),
        ("late", 3, 40, [(4, 20), (3, 10), (2, 6), (1, 4)]),  # the example of the specification
        ("late", 3, 100, [(4, 50), (3, 25), (2, 15), (1, 10)]),
        ("late", 5, 3, [(6, 2), (5, 1)]),
        ("late", 5, 40, [(6, 20), (5, 10), (4, 2), (3, 2), (2, 2), (1, 4)]),
        ("late", 5, 100, [(6, 50), (5, 25), (4, 5), (3, 5), (2, 5), (1, 10)]),
        # .70, .85, .85 + .10 (k-1) / max(1, L-2)
        ("later", 1, 3, [(2, 3)]),  # 2.1 -> 3
        ("later", 1, 40, [(2, 28), (1, 12)]),
        ("later", 1, 100, [(2, 70), (1, 30)]),
        ("later", 2, 3, [(3, 3)]),
        ("later", 2, 40, [(3, 28), (2, 6), (1, 6)]),
        ("later", 2, 100, [(3, 70), (2, 15), (1, 15)]),
        ("later", 3, 3, [(4, 3)]),
        ("later", 3, 40, [(4, 28), (3, 6), (2, 4), (1, 2)]),
        ("later", 3, 100, [(4, 70), (3, 15), (2, 10), (1, 5)]),
        ("later", 5, 3, [(6, 3)]),
        ("later", 5, 40, [(6, 28), (5, 6), (4, 2), (3, 1), (2, 1), (1, 2)]),  # 34, 35.33, 36.67, 38
        ("later", 5, 100, [(6, 70), (5, 15), (4, 4), (3, 3), (2, 3), (1, 5)]),  # 85, 88.33, 91.67, 95
    ],
)
def test_i6_late_and_later(name: str, blocks: int, rounds: int, expected: list[tuple[int, int]]) -> None:
    assert levels(name, blocks, rounds) == expected


def test_i6_cuts_of_late_stop_and_follow() -> None:
    """L = 3, R = 40: cut 3 in rounds 0..29, then none, or 2 in 30..35 and 1 in 36..39."""
    assert cuts("late") == [(3, 30), (0, 10)]
    assert cuts("late", kd_after_drop="follow") == [(3, 30), (2, 6), (1, 4)]
    assert build("late", blocks=3, rounds=40, average=True).heads == (3,)
    assert build("late", blocks=3, rounds=40, average=True, kd_after_drop="follow").heads == (1, 2, 3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dropping_set": ["L+1", "L"]}, [(4, 14), (3, 13), (2, 13)]),  # d(t) = 3 t // 40: 13.33 -> 14, 26.67 -> 27
        ({}, [(4, 10), (3, 10), (2, 10), (1, 10)]),
        ({"rounds_per_drop": 20}, [(4, 20), (3, 20)]),
        ({"rounds_per_drop": 2}, [(4, 2), (3, 2), (2, 2), (1, 34)]),
        ({"rounds_per_drop": 2, "dropping_set": [4]}, [(4, 2), (3, 38)]),
        ({"rounds_per_drop": 0}, [(4, 40)]),
        ({"dropping_set": []}, [(4, 40)]),
        ({"rounds": 2}, [(4, 1), (2, 1)]),  # R < |D| + 1: drops coincide
        ({"rounds": 1}, [(4, 1)]),
        ({"average": False}, [(3, 14), (2, 13), (1, 13)]),  # the top level is L without averaging
        ({"average": False, "top_level": 4}, [(4, 10), (3, 10), (2, 10), (1, 10)]),
    ],
)
def test_i6_equal(options: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    assert levels("equal", **options) == expected


def test_the_dropping_set_only_cuts_the_tail() -> None:
    """The times depend on L and R alone, so a sweep of D stays paired."""
    assert levels("late", dropping_set=["L+1"]) == [(4, 20), (3, 20)]
    assert levels("late", dropping_set=["L+1", "L"]) == [(4, 20), (3, 10), (2, 10)]
    assert levels("late", dropping_set=[3, 4]) == [(4, 20), (3, 10), (2, 10)]
    assert levels("late", dropping_set=[]) == [(4, 40)]
    assert levels("late", top_level=3) == [(3, 30), (2, 6), (1, 4)]
    assert levels("late", min_cut=2) == [(4, 20), (3, 10), (2, 10)]


def test_none_fixed_and_shallow_to_deep() -> None:
    assert levels("none") == [(4, 40)]
    assert levels("none", average=False) == [(3, 40)]
    assert levels("fixed", fixed_level=2) == [(2, 40)]
    assert cuts("fixed", fixed_level=4) == [(3, 40)]
    assert levels("fixed", fixed_level=2, dropping_set=[1]) == [(2, 40)], "the dropping set is ignored"
    assert levels("shallow_to_deep", kd_after_drop="follow") == [(1, 10), (2, 10), (3, 10), (4, 10)]
    # the levels of "equal" reversed: unequal dwell times are mirrored
    assert levels("shallow_to_deep", kd_after_drop="follow", dropping_set=[4, 3]) == [(2, 13), (3, 13), (4, 14)]


def test_explicit_list() -> None:
    late = [["L+1", 0.5], ["L", 0.75], [2, 0.9], [1, 1.0]]
    assert levels(late) == levels("late")
    assert levels(late, blocks=5) == [(6, 20), (5, 10), (2, 6), (1, 4)], '"L" and "L+1" scale with the model'
    assert levels([["L+1", 0.75], [0, 1.0]]) == [(4, 30), (0, 10)]
    assert cuts([["L+1", 0.75], [0, 1.0]]) == [(3, 30), (0, 10)]
    assert levels([["L", 0.01], [1, 1.0]], rounds=2) == [(3, 1), (1, 1)], "a share of a round is a round"
    assert levels([[1, 0.5], [2, 1.0]], kd_after_drop="follow") == [(1, 20), (2, 20)]


def test_no_knowledge_below_min_cut() -> None:
    assert cuts([[3, 0.5], [1, 1.0]], kd_after_drop="follow", min_cut=2) == [(3, 20), (0, 20)]
    assert cuts("fixed", fixed_level=1, min_cut=2) == [(0, 40)]


@pytest.mark.parametrize(
    ("schedule", "options", "names"),
    [
        ("early", {}, ("schedule", "late", "shallow_to_deep")),
        ("late", {"dropping_set": [3]}, ("dropping_set", "top level 4")),
        ("late", {"dropping_set": [4, 2]}, ("dropping_set", "contiguous")),
        ("late", {"dropping_set": [4, 4]}, ("dropping_set",)),
        ("late", {"dropping_set": [4, 3, 2, 1]}, ("dropping_set", "min_cut")),
        ("equal", {"dropping_set": [4, 3, 2], "min_cut": 2}, ("dropping_set", "min_cut = 2")),
        ("late", {"dropping_set": [9]}, ("dropping_set", "9")),
        ("late", {"dropping_set": [2.5]}, ("dropping_set", "2.5")),
        ("late", {"dropping_set": "all"}, ("dropping_set", "auto")),
        ("none", {"dropping_set": [1]}, ("dropping_set",)),
        ("fixed", {"fixed_level": 5}, ("fixed_level", "1..4")),
        ("fixed", {"fixed_level": 0}, ("fixed_level",)),
        ("fixed", {"fixed_level": 4, "average": False}, ("fixed_level", "1..3")),
        ("late", {"top_level": 5}, ("top_level", "1..4")),
        ("late", {"top_level": 0}, ("top_level",)),
        ("late", {"rounds_per_drop": 2}, ("rounds_per_drop", "equal")),
        ("equal", {"rounds_per_drop": -2}, ("rounds_per_drop",)),
        ("shallow_to_deep", {}, ("kd_after_drop", "follow")),
        ([[1, 0.5], [2, 1.0]], {}, ("kd_after_drop", "follow")),
        ([[5, 1.0]], {}, ("schedule", "0..4")),
        ([[-1, 1.0]], {}, ("schedule", "-1")),
        ([[2.5, 1.0]], {}, ("schedule", "2.5")),
        ([[True, 1.0]], {}, ("schedule",)),
        ([["L-1", 1.0]], {}, ("schedule", "L-1")),
        ([["L+1", 1.0]], {"average": False}, ("schedule",)),
        ([[3, 0.75], [2, 0.5], [1, 1.0]], {}, ("schedule", "rise")),
        ([[3, 0.5], [2, 0.5], [1, 1.0]], {}, ("schedule", "rise")),
        ([[3, 0.0], [1, 1.0]], {}, ("schedule", "rise")),
        ([[3, 0.5], [2, 0.9]], {}, ("schedule", "1.0")),
        ([[3, 0.5], [2, 1.5]], {}, ("schedule", "1.0")),
        ([[3, float("nan")], [2, 1.0]], {}, ("schedule", "rise")),
        ([[3, "half"], [2, 1.0]], {}, ("schedule", "numbers")),
        ([[3]], {}, ("schedule", "list")),
        (["L"], {}, ("schedule", "list")),
        ([], {}, ("schedule", "list")),
        ([[3, 1.0]], {"dropping_set": [4]}, ("dropping_set", "auto")),
    ],
)
def test_i9_refusals_name_the_field(schedule: Any, options: dict[str, Any], names: tuple[str, ...]) -> None:
    message = refusal(lambda: levels(schedule, **options))
    assert all(name in message for name in names), message


@given(
    name=st.sampled_from(["late", "later", "equal", "none", "shallow_to_deep"]),
    blocks=st.integers(1, 8),
    rounds=st.integers(1, 130),
    average=st.booleans(),
    leave=st.integers(0, 9),
    auto=st.booleans(),
    min_cut=st.integers(1, 3),
)
def test_levels_and_cuts_stay_in_bounds(
    name: str, blocks: int, rounds: int, average: bool, leave: int, auto: bool, min_cut: int
) -> None:
    """Every named schedule: 1 <= s <= top, top first where layers leave, one direction only, no cut under min_cut."""
    top = blocks + 1 if average else blocks
    leave = min(leave, max(0, top - min_cut))
    chosen = "auto" if auto else list(range(top, top - leave, -1))
    after = "follow" if name == "shallow_to_deep" else "stop"
    options = {"blocks": blocks, "rounds": rounds, "average": average, "min_cut": min_cut, "dropping_set": chosen}
    table = build(name, kd_after_drop=after, **options)
    bottom = min(top, max(1, min_cut)) if auto else top - leave
    assert all(bottom <= level <= top for level in table.levels)
    assert all(cut == 0 or min_cut <= cut <= min(level, blocks) for level, cut in zip(table.levels, table.cuts, strict=True))
    ordered = sorted(table.levels, reverse=name != "shallow_to_deep")
    assert list(table.levels) == ordered
    assert table.levels[-1 if name == "shallow_to_deep" else 0] == top
    if after == "stop":
        assert len({c for c in table.cuts if c}) <= 1
        assert list(table.cuts) == sorted(table.cuts, reverse=True)


@given(percent=st.integers(0, 100), rounds=st.integers(1, 1000))
@example(percent=7, rounds=100)  # 0.07 * 100 = 7.000000000000001
@example(percent=29, rounds=100)  # 0.29 * 100 = 28.999999999999996
def test_boundary_is_the_exact_ceiling(percent: int, rounds: int) -> None:
    """ceil(a R) in integers: -(-percent R // 100), whatever a float makes of the fraction."""
    assert boundary(percent / 100, rounds) == -(-percent * rounds // 100)
