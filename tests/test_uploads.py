"""Law 6: what a client sends is checked before use, and every refusal says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedkd.errors import UploadError
from fedkd.fixed_point import encode
from fedkd.types import Field, Kinds, Schema, Upload
from fedkd.uploads import Uploads, check, nbytes

SCHEMA: Schema = {
    "weights": {"w": Field("float32", (2, 3)), "n": Field("int64", ())},
    "features": {"z": Field("float32", (None, 4))},
    "ids": {"i": Field("int32", (None,), low=0)},
    "labels": {"y": Field("int32", (None,), low=0, high=10)},
}
BIG = 2.0**20


def kinds(rows: int = 5) -> Kinds:
    return {
        "weights": {"w": np.ones((2, 3), np.float32), "n": np.array(3)},
        "features": {"z": np.zeros((rows, 4), np.float32)},
        "ids": {"i": np.arange(rows, dtype=np.int32)},
        "labels": {"y": np.full(rows, 9, np.int32)},
    }


def changed(kind: str, name: str, value: Any) -> Kinds:
    out = kinds()
    out[kind][name] = value
    return out


def test_what_was_declared_passes() -> None:
    check(SCHEMA, Upload(0, 5, kinds()), BIG)
    check(SCHEMA, Upload(0, 9, kinds()), BIG)  # fewer rows than samples: a share of them was sent
    check(SCHEMA, Upload(0, 5, kinds(0)), BIG)
    check({}, Upload(0, 5, {}), 0)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({**kinds(), "inputs": {"x": np.zeros(1, np.float32)}}, r"kinds .*inputs"),
        ({k: v for k, v in kinds().items() if k != "labels"}, r"kinds .* instead of .*labels"),
        ({}, r"kinds \[\] instead of"),
        (changed("features", "y", np.zeros(1, np.float32)), r"features: names \['y', 'z'\]"),
        ({**kinds(), "weights": {"w": np.ones((2, 3), np.float32)}}, r"weights: names \['w'\] instead of \['n', 'w'\]"),
        (changed("weights", "w", np.ones((2, 3))), "weights/w: dtype float64 instead of float32"),
        (changed("labels", "y", np.zeros(5, np.int64)), "labels/y: dtype int64 instead of int32"),
        (changed("weights", "w", np.ones((3, 2), np.float32)), r"weights/w: shape \(3, 2\) instead of \(2, 3\)"),
        (changed("weights", "w", np.ones(6, np.float32)), "weights/w: shape"),
        (changed("weights", "n", np.zeros(1, np.int64)), "weights/n: shape"),
        (changed("features", "z", np.zeros((5, 3), np.float32)), "features/z: shape"),
        (changed("features", "z", np.zeros((5, 4, 1), np.float32)), "features/z: shape"),
        (changed("ids", "i", np.arange(4, dtype=np.int32)), "ids/i: 4 rows instead of 5"),
        (changed("labels", "y", np.zeros(6, np.int32)), "labels/y: 6 rows instead of 5"),
        (changed("weights", "w", np.array([[1, np.nan, 0]] * 2, np.float32)), "weights/w: not finite"),
        (changed("features", "z", np.full((5, 4), -np.inf, np.float32)), "features/z: not finite"),
        (changed("ids", "i", np.array([0, 1, -1, 2, 3], np.int32)), r"ids/i: values -1\.\.3 outside"),
        (changed("labels", "y", np.array([0, 1, 10, 2, 3], np.int32)), r"labels/y: values 0\.\.10 outside \[0, 10\)"),
        (changed("labels", "y", np.array([0, 1, -5, 2, 3], np.int32)), "labels/y: values -5"),
        (kinds(6), "features/z: 6 rows instead of 5"),
    ],
)
def test_each_refusal_says_what_is_wrong(sent: Kinds, message: str) -> None:
    """Undeclared and missing kinds and names, dtypes, shapes (client models that differ), rows, NaN, infinity, ranges."""
    with pytest.raises(UploadError, match=message):
        check(SCHEMA, Upload(0, 5, sent), BIG)


def test_too_large_is_refused_before_anything_is_looked_at() -> None:
    size = 6 * 4 + 8 + 5 * 4 * 4 + 5 * 4 + 5 * 4
    assert nbytes(kinds()) == size
    check(SCHEMA, Upload(0, 5, kinds()), size)
    with pytest.raises(UploadError, match=f"{size} bytes are above max-upload-mb"):
        check(SCHEMA, Upload(0, 5, kinds()), size - 1)


def upload(client: int, weight: int, value: float) -> Upload:
    return Upload(client, weight, {"weights": {"w": np.full((2, 3), value, np.float32), "n": np.array(client)}})


def test_mean_over_rows_and_over_sums_is_the_same_bits() -> None:
    """A worker that pre-aggregates sends sums; (1 * 0.1 + 2 * 0.7 + 5 * 0.3) / 8 either way."""
    schema = {"weights": SCHEMA["weights"]}
    given = [upload(2, 5, 0.3), upload(0, 1, 0.1), upload(1, 2, 0.7)]
    rows, sums = Uploads(0, 3, schema, list(given)), Uploads(0, 3, schema)
    for u in given:
        sums.add_sums({k: encode(v, u.weight) for k, v in u.kinds.items()}, u.weight, [u.client])
    left, right = rows.mean("weights"), sums.mean("weights")
    assert left is not None
    assert right is not None
    assert {n: (v.dtype, v.tobytes()) for n, v in left.items()} == {n: (v.dtype, v.tobytes()) for n, v in right.items()}
    assert left["w"][0, 0] == pytest.approx(3.0 / 8)
    assert rows.clients == sums.clients == [0, 1, 2]
    assert [u.client for u in rows.sorted().rows] == [0, 1, 2]
    assert sums.sorted().sum_clients == [0, 1, 2]


def test_mean_of_what_nobody_sent_is_none() -> None:
    assert Uploads(0, 3).mean("weights") is None
    assert Uploads(0, 3, rows=[Upload(0, 4, {})]).mean("weights") is None
    assert Uploads(0, 3, rows=[upload(0, 0, 1.0)]).mean("weights") is None, "no weight"


def test_sums_that_do_not_fit_are_refused() -> None:
    sums = Uploads(0, 3)
    sums.add_sums({"weights": {"w": np.zeros(2, np.int64)}}, 3, [0])
    with pytest.raises(UploadError, match="shape"):
        sums.add_sums({"weights": {"w": np.zeros(3, np.int64)}}, 3, [1])
