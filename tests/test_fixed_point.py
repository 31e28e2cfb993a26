"""The one weighted mean: the bits do not depend on grouping or order, ranges are refused, one client is the identity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedkd.errors import UploadError
from fedkd.fixed_point import _CHUNK as CHUNK
from fedkd.fixed_point import SCALE, Running, Sums, add, decode, encode, mean

FLOATS = st.floats(-1000, 1000, width=32)


def total(parts: list[Sums]) -> Sums:
    out: Sums = {}
    for part in parts:
        add(out, part)
    return out


@given(data=st.data(), clients=st.integers(1, 6), size=st.integers(0, 5))
def test_bits_do_not_depend_on_grouping_or_order(data: st.DataObject, clients: int, size: int) -> None:
    arrays = [{"w": data.draw(hnp.arrays(np.float32, size, elements=FLOATS))} for _ in range(clients)]
    weights = data.draw(st.lists(st.integers(1, 5000), min_size=clients, max_size=clients))
    parts = [encode(a, w) for a, w in zip(arrays, weights, strict=True)]
    shuffled = data.draw(st.permutations(parts))
    split = data.draw(st.integers(0, clients))
    grouped = total([g for g in (total(shuffled[:split]), total(shuffled[split:])) if g])
    assert np.array_equal(total(parts)["w"], grouped["w"])
    order = data.draw(st.permutations(list(zip(arrays, weights, strict=True))))
    straight = mean(list(zip(arrays, weights, strict=True)), cohort=9)
    assert straight["w"].tobytes() == mean(order, cohort=9)["w"].tobytes()
    assert straight["w"].tobytes() == decode(grouped, sum(weights))["w"].tobytes()


@given(data=st.data(), clients=st.integers(2, 6), shape=hnp.array_shapes(max_dims=2, max_side=4))
def test_mean_is_the_float64_mean(data: st.DataObject, clients: int, shape: tuple[int, ...]) -> None:
    """Oracle: sum_n K_n w_n / sum_n K_n in float64. Each term is rounded to 2**-32, so the mean is off by at most
    N 2**-33 / K before its own rounding to float32."""
    arrays = [data.draw(hnp.arrays(np.float32, shape, elements=FLOATS)) for _ in range(clients)]
    weights = data.draw(st.lists(st.integers(1, 5000), min_size=clients, max_size=clients))
    got = mean([({"w": a}, w) for a, w in zip(arrays, weights, strict=True)], cohort=clients)["w"]
    expected = sum(w * a.astype(np.float64) for a, w in zip(arrays, weights, strict=True)) / sum(weights)
    assert got.dtype == np.float32
    assert got.shape == shape
    limit = clients * 2.0**-33 / sum(weights) + np.spacing(np.abs(expected).astype(np.float32))
    assert (np.abs(got - expected) <= limit).all()


def test_a_value_worked_out_by_hand() -> None:
    """K = 1 and 3, w = 1.5 and -0.5: (1.5 - 1.5) / 4 = 0 and, for 2 and 4, (2 + 12) / 4 = 3.5."""
    parts = [({"w": np.array([1.5, 2], np.float32)}, 1), ({"w": np.array([-0.5, 4], np.float32)}, 3)]
    assert mean(parts, cohort=2)["w"].tolist() == [0.0, 3.5]
    assert encode(parts[1][0], 3)["w"].tolist() == [-1.5 * SCALE, 12 * SCALE]


@given(hnp.arrays(np.float32, 4, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_a_cohort_of_one_is_the_identity(value: np.ndarray[Any, Any]) -> None:
    """I13: also for values that fixed point could not hold; the result is a copy."""
    out = mean([({"w": value}, 7)], cohort=1)["w"]
    assert out.tobytes() == value.tobytes()
    assert not np.shares_memory(out, value)


def test_one_answer_of_a_larger_cohort_takes_the_common_path() -> None:
    """Whether a worker pre-aggregated must not show: 1e-12 is below half of 2**-32 and rounds to 0 on both."""
    value = {"w": np.array([1e-12, 0.25], np.float32)}
    assert mean([(value, 1)], cohort=2)["w"].tolist() == [0.0, 0.25]
    assert decode(encode(value, 1), 1)["w"].tolist() == [0.0, 0.25]


def test_integer_buffers_are_averaged_and_rounded() -> None:
    """BatchNorm's step counter: (1 * 10 + 3 * 15) / 4 = 13.75 -> 14, still int64."""
    parts = [({"n": np.array(10)}, 1), ({"n": np.array(15)}, 3)]
    out = mean(parts, cohort=2)["n"]
    assert out == 14
    assert out.dtype == np.int64
    assert out.shape == ()
    assert decode(total([encode(*p) for p in parts]), 4, {"n": np.dtype(np.int32)})["n"].dtype == np.int32


def test_weight_zero_counts_in_nothing() -> None:
    """I13: not even a value that is not a number."""
    good, bad = {"w": np.array([2.0], np.float32)}, {"w": np.array([np.nan], np.float32)}
    assert mean([(bad, 0), (good, 3), (good, 1)], cohort=3)["w"].tolist() == [2.0]
    with pytest.raises(ValueError, match="at least one upload"):
        mean([(good, 0)], cohort=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**30 + 128, -(2.0**30) - 128, 3e38])
def test_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(UploadError, match=r"w: .*2\*\*30"):
        encode({"w": np.array([0, value], np.float32)}, 1)


def test_the_range_is_of_the_weighted_value() -> None:
    at_limit = {"w": np.array([2.0**20], np.float32)}
    assert encode(at_limit, 1024)["w"][0] == 2**62
    with pytest.raises(UploadError):
        encode(at_limit, 1025)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_leaves_int64_is_refused(sign: int) -> None:
    part = encode({"w": np.array([sign * 2.0**30], np.float32)}, 1)
    sums = total([part])
    if sign < 0:
        add(sums, part)  # -2**63 is still inside
    with pytest.raises(UploadError, match="leaves the range"):
        add(sums, part)


def test_sums_that_do_not_fit_are_refused() -> None:
    sums = total([{"w": np.zeros(2, np.int64)}])
    with pytest.raises(UploadError, match="names"):
        add(sums, {"v": np.zeros(2, np.int64)})
    with pytest.raises(UploadError, match="shape"):
        add(sums, {"w": np.zeros((2, 1), np.int64)})


def test_adding_changes_the_total_alone() -> None:
    first, second = {"w": np.ones(2, np.int64)}, {"w": np.ones(2, np.int64)}
    sums = total([first, second])
    assert sums["w"].tolist() == [2, 2]
    assert first["w"].tolist() == second["w"].tolist() == [1, 1]


# ----- sums that grow in place ------------------------------------------------------------------------------------------
@given(data=st.data(), clients=st.integers(1, 5), size=st.sampled_from([0, 1, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 3]))
def test_running_sums_are_the_encoded_parts_added(data: st.DataObject, clients: int, size: int) -> None:
    """Two kinds, several arrays and a scalar; the oracle is numpy's own rint on whole arrays, summed by Python's integers."""
    stream = np.random.Generator(np.random.PCG64(data.draw(st.integers(0, 99))))
    running, expected = Running(), {"a": np.zeros(size, np.int64), "b": np.zeros((), np.int64)}
    for _ in range(clients):
        weight = int(stream.integers(1, 500))
        a, b = stream.standard_normal(size).astype(np.float32) * 100, np.array(stream.integers(0, 9))
        running.add({"x": {"a": a, "b": b}, "y": {"a": a[::-1]}}, weight)
        for name, value in (("a", a), ("b", b)):
            expected[name] = expected[name] + np.rint(value.astype(np.float64) * weight * SCALE).astype(np.int64)
    assert {n: v.tobytes() for n, v in running.sums["x"].items()} == {n: v.tobytes() for n, v in expected.items()}
    assert running.sums["y"]["a"].tobytes() == expected["a"][::-1].tobytes()
    assert running.sums["x"]["b"].shape == ()


BAD = [
    {"w": np.full(3, 2.0**20), "v": np.zeros(1)},
    {"w": np.zeros(4)},
    {"w": np.array([0, np.nan, 0])},
    {"w": np.array([0, 0, -(2.0**20)])},
]


@pytest.mark.parametrize("bad", BAD)
def test_running_sums_take_all_kinds_or_none(bad: dict[str, Any]) -> None:
    running = Running()
    running.add({"k": {"w": np.ones(2)}, "x": {"w": np.ones(3)}}, 2)
    with pytest.raises(UploadError):
        running.add({"k": {"w": np.ones(2)}, "x": bad}, 2048)
    assert running.sums["k"]["w"].tolist() == [2 * SCALE] * 2
    assert running.sums["x"]["w"].tolist() == [2 * SCALE] * 3


@pytest.mark.parametrize("sign", [1, -1])
def test_running_sums_refuse_what_leaves_int64_and_only_that(sign: int) -> None:
    """Two of 2**62 are one too many above zero and just fit below it; the bound that spares the check must not refuse them."""
    running, part = Running(), {"k": {"w": np.array([sign * 2.0**30], np.float32)}}
    for _ in range(1 if sign > 0 else 2):
        running.add(part, 1)
    with pytest.raises(UploadError, match="leaves the range"):
        running.add(part, 1)
    assert int(running.sums["k"]["w"][0]) == (2**62 if sign > 0 else -(2**63))
    running.add({"k": {"w": np.array([-sign * 2.0**30], np.float32)}}, 1)
    assert int(running.sums["k"]["w"][0]) == (0 if sign > 0 else -(2**62))


@given(data=st.data())
def test_running_sums_are_exact_beyond_what_float64_holds(data: st.DataObject) -> None:
    """Values whose integers lie around 2**53 and below 2**63 / clients: Python's integers are the oracle. Odd low bits would
    be lost in one float64 addition too many."""
    exponents = data.draw(st.lists(st.integers(-30, 27), min_size=1, max_size=7))
    running, expected = Running(), np.zeros(3, dtype=object)
    for number, exponent in enumerate(exponents):
        values = np.array([2.0**exponent, -(2.0**exponent), 3 * 2.0**-32]) + 2.0**-32
        weight = 1 + number % 2
        running.add({"k": {"w": values}}, weight)
        expected += np.array([int(v) for v in np.rint(values * weight * SCALE)], dtype=object)
        if number == 2:
            assert running.sums["k"]["w"].tolist() == expected.tolist(), "asked in between"
    assert running.sums["k"]["w"].tolist() == expected.tolist()
    assert running.sums["k"]["w"].dtype == np.int64
