"""What travels beside weights: teachers by sample id (I8), wire ids, pooled rows, class means, sampled labels."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import UploadError
from fedkd.knowledge import (
    choose_rows,
    class_means,
    feature_kinds,
    labels_to_send,
    mean_of_class_means,
    pool_rows,
    sampled_labels,
    teachers,
)
from fedkd.types import Array, Arrays, Split, Upload
from tests.toy import toy_clients

CPU = torch.device("cpu")


def holder(ids: list[int]) -> Split:
    return Split(np.zeros((len(ids), 1), np.float32), np.zeros(len(ids), np.int32), np.array(ids, np.int32))


def came(ids: list[int], value: float = 1.0) -> Arrays:
    """Teacher logits [m, 2] that name their sample: (id, value)."""
    return {"q": np.array([[i, value] for i in ids], np.float32), "i": np.array(ids, np.int32)}


def asked(round: int) -> Arrays:
    """State of a client whose last upload of features was in this round."""
    return {"asked": np.array(round, np.int32)}


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12, unique=True), st.randoms(use_true_random=False))
def test_i8_teachers_find_their_sample_under_any_order(ids: list[int], shuffle: random.Random) -> None:
    rows = holder(sorted(ids))
    sent = [*ids]
    shuffle.shuffle(sent)
    held = teachers(asked(4), rows, 2, came(sent))
    assert held["q"][:, 0].tolist() == rows.ids.tolist()
    assert held["q_round"].tolist() == [4] * len(ids)
    assert held["q"].dtype == np.float32
    assert held["q_round"].dtype == np.int32


def test_teachers_are_kept_until_newer_ones_come() -> None:
    rows = holder([3, 5, 9])
    none = teachers({}, rows, 2, None)
    assert none["q_round"].tolist() == [-1, -1, -1]
    first = teachers({**none, **asked(2)}, rows, 2, came([9, 3], 1.0))
    assert first["q_round"].tolist() == [2, -1, 2]
    second = teachers({**first, **asked(7)}, rows, 2, came([5, 9], 2.0))
    assert second["q_round"].tolist() == [2, 7, 7]
    assert second["q"].tolist() == [[3, 1], [5, 2], [9, 2]]
    assert first["q_round"].tolist() == [2, -1, 2], "the state it was given is not written to"


@pytest.mark.parametrize(
    ("held", "received", "message"),
    [
        ({}, came([3, 4]), "does not hold"),
        ({}, came([3, 1000]), "does not hold"),
        ({}, came([3, -1]), "does not hold"),
        ({}, came([3, 3]), "do not fit"),
        ({}, {"q": np.zeros((2, 3), np.float32), "i": np.array([3, 5], np.int32)}, "do not fit"),
        ({}, {"q": np.zeros((1, 2), np.float32), "i": np.array([3, 5], np.int32)}, "do not fit"),
        ({"pending": np.array([5, 3], np.int32)}, came([0, 2]), "wire ids"),
        ({"pending": np.array([5, 3], np.int32)}, came([-1, 0]), "wire ids"),
    ],
)
def test_i8_a_wrong_or_missing_id_raises(held: Arrays, received: Arrays, message: str) -> None:
    with pytest.raises(UploadError, match=message):
        teachers({**asked(0), **held}, holder([3, 5, 9]), 2, received)


def test_i8_teachers_that_were_never_asked_for_are_refused() -> None:
    with pytest.raises(UploadError, match="sent no features"):
        teachers({}, holder([3]), 2, came([3]))


def test_wire_ids_are_mapped_back_at_home() -> None:
    """Rows 2 and 0 went up as wire ids 0 and 1: the teacher of wire id 0 belongs to sample 9."""
    held = {"pending": np.array([9, 3], np.int32), **asked(1)}
    received = {"q": np.array([[0.3, 0], [0.9, 0]], np.float32), "i": np.array([1, 0], np.int32)}
    out = teachers(held, holder([3, 5, 9]), 2, received)
    assert out["q"][:, 0].tolist() == [np.float32(0.3), 0, np.float32(0.9)]
    assert out["q_round"].tolist() == [1, -1, 1]


@given(count=st.integers(1, 60), percent=st.integers(1, 99), round=st.integers(0, 5))
def test_a_share_of_rows_is_drawn_afresh_under_fresh_ids(count: int, percent: int, round: int) -> None:
    ids = np.arange(count) * 7 + 100
    rows, wire = choose_rows(0, round, 3, ids, percent / 100)
    assert len(rows) == max(1, -(-percent * count // 100))
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= set(range(count))
    assert wire.tolist() == list(range(len(rows))), "no true id is on the wire"
    assert wire.dtype == np.int32


def test_all_rows_go_up_in_their_own_order_under_their_own_ids() -> None:
    rows, wire = choose_rows(0, 0, 0, np.array([4, 8, 9]), 1.0)
    assert rows.tolist() == [0, 1, 2]
    assert wire.tolist() == [4, 8, 9]


def test_the_drawn_rows_differ_by_round_and_client_and_all_come_in_time() -> None:
    draws = [choose_rows(0, t, 1, np.arange(20), 0.25)[0] for t in range(30)]
    assert len({tuple(d) for d in draws}) == 30
    assert {int(i) for d in draws for i in d} == set(range(20))
    assert not np.array_equal(draws[0], choose_rows(0, 0, 2, np.arange(20), 0.25)[0])
    assert not all((np.diff(d) > 0).all() for d in draws), "in random order"


def test_sampled_labels_follow_their_probabilities() -> None:
    """20,000 rows of (.1, .6, .3): a frequency has sd sqrt(p (1 - p) / n) <= 0.0035; 5 sd are allowed, the draw is fixed."""
    p = np.tile(np.array([0.1, 0.6, 0.3], np.float32), (20000, 1))
    y = sampled_labels(0, 1, 2, p)
    assert y.dtype == np.int32
    assert np.allclose(np.bincount(y, minlength=3) / 20000, [0.1, 0.6, 0.3], atol=5 * 0.0035)
    assert not np.array_equal(y, sampled_labels(0, 2, 2, p))
    sure = np.eye(3, dtype=np.float32)[[2, 0, 1, 2]]
    assert sampled_labels(0, 0, 0, sure).tolist() == [2, 0, 1, 2], "a class of probability 0 is never drawn"
    rounded = np.full((500, 3), np.float32(1 / 3) * np.float32(0.99))
    assert sampled_labels(0, 0, 0, rounded).max() <= 2, "a row that sums to less than 1 stays in range"


def test_labels_to_send() -> None:
    data = toy_clients()[0]
    p = 50 * np.eye(5, dtype=np.float32)[np.arange(19) % 5]
    raw, none, drawn = (labels_to_send(m, 0, 0, data, p) for m in ("raw", "none", "sampled"))
    assert raw is not None
    assert drawn is not None
    assert np.array_equal(raw, data.train.y)
    assert none is None
    assert drawn.tolist() == [i % 5 for i in range(19)], "from the soft labels, not from the true ones"


def uploads(order: tuple[int, ...] = (0, 1), labels: bool = True) -> list[Upload]:
    """Client 4 with three rows, client 2 with one; row contents name (client, id)."""
    out = []
    for client, ids in ((4, [7, 1, 5]), (2, [9])):
        z = np.array([[client, i] for i in ids], np.float32)
        y = np.array([i % 5 for i in ids], np.int32) if labels else None
        out.append(Upload(client, 10, feature_kinds(z, z + 0.5, np.array(ids, np.int32), y)))
    return [out[i] for i in order]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_rows_are_pooled_by_client_then_sample_id(order: tuple[int, ...]) -> None:
    pooled = pool_rows(uploads(order), balanced=False, device=CPU)
    assert pooled.z.tolist() == [[2, 9], [4, 1], [4, 5], [4, 7]]
    assert torch.equal(pooled.p, pooled.z + 0.5)
    assert pooled.y is not None
    assert pooled.y.tolist() == [4, 1, 0, 2]
    assert pooled.y.dtype == torch.int64
    assert pooled.weight.tolist() == [1, 1, 1, 1]


def test_balanced_rows_weigh_one_over_clients_times_rows() -> None:
    """M / (card(S_t) K_n): mean 1, and each client's rows sum to M / card(S_t) = 2."""
    weight = pool_rows(uploads(), balanced=True, device=CPU).weight
    assert np.allclose(weight, [2, 2 / 3, 2 / 3, 2 / 3])


def test_labels_that_stay_at_home_are_not_pooled() -> None:
    assert pool_rows(uploads(labels=False), balanced=False, device=CPU).y is None


def test_class_means_and_suppressed_small_classes() -> None:
    p = np.array([[1, 2, 3], [3, 4, 5], [9, 9, 9]], np.float32)
    y = np.array([0, 0, 2], np.int32)
    all_of_them = class_means(p, y, 3, min_count=0)
    assert all_of_them["p"].tolist() == [[2, 3, 4], [0, 0, 0], [9, 9, 9]]
    assert all_of_them["n"].tolist() == [2, 0, 1]
    assert all_of_them["n"].dtype == np.int32
    large = class_means(p, y, 3, min_count=2)
    assert large["p"].tolist() == [[2, 3, 4], [0, 0, 0], [0, 0, 0]]
    assert large["n"].tolist() == [2, 0, 0]


def test_the_table_is_the_unweighted_mean_over_clients_that_hold_a_class() -> None:
    """A client with 100 samples of a class counts as much as one with 5 (FedProto's rule)."""

    def part(counts: list[int], value: float) -> dict[str, Array]:
        return {"p": np.full((3, 3), value, np.float32), "n": np.array(counts, np.int32)}

    table = mean_of_class_means([part([100, 0, 0], 1.0), part([5, 7, 0], 4.0)])
    assert table["table"].tolist() == [[2.5] * 3, [4.0] * 3, [0.0] * 3]
    assert table["mask"].tolist() == [1, 1, 0]
    assert (table["table"].dtype, table["mask"].dtype) == (np.float32, np.int32)
