"""Text as windows: a row per character, canaries in their client's training rows alone, fresh secrets in the public ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedkd.data import next_token
from fedkd.data.next_token import Config
from fedkd.dataset import PUBLIC, TEST, TRAIN, Table
from fedkd.errors import ConfigError

CONFIG = Config(clients=3, characters=300, public_characters=200, window=24, repetitions=(0, 3), per_count=2, fresh_copies=2)


@pytest.fixture(scope="module")
def table() -> Table:
    return next_token.load(CONFIG, "")


def sentences(table: Table, part: int, client: int | None = None) -> Iterator[str]:
    """The labels of a part as one text: windows of a record follow one another."""
    encoder = next_token.tokenizer(CONFIG)
    letters = {encoder.encode(s)[0]: s for s in encoder.alphabet}
    assert table.part is not None
    assert table.groups is not None
    rows = table.part == part
    if client is not None:
        rows &= table.groups == client
    yield "".join(letters.get(int(y), "?") for y in table.y[rows])


def records(table: Table, part: int, client: int | None = None) -> list[str]:
    """The texts of a part: a window without a character begins one."""
    (whole,) = sentences(table, part, client)
    assert table.part is not None
    assert table.groups is not None
    rows = table.part == part
    if client is not None:
        rows &= table.groups == client
    starts = np.flatnonzero((table.x[rows] == next_token.tokenizer(CONFIG).bos).all(axis=1)).tolist()
    return [whole[a:b] for a, b in zip(starts, [*starts[1:], len(whole)], strict=True)]


def test_windows_hold_what_came_before_in_the_same_text_only() -> None:
    encoder = next_token.tokenizer(CONFIG)
    x, y = next_token.rows(CONFIG, ["abc", "de"])
    assert x.shape == (5, 24)
    assert y.tolist() == encoder.encode("abcde")
    assert x[0].tolist() == [encoder.bos] * 24
    assert x[2].astype(int).tolist() == [encoder.bos] * 22 + encoder.encode("ab")
    assert x[3].tolist() == [encoder.bos] * 24, "the second text starts anew"
    assert next_token.rows(CONFIG, [])[0].shape == (0, 24)


def test_a_secret_is_in_its_clients_training_rows_alone(table: Table) -> None:
    planted = next_token.canaries(CONFIG)
    assert len(planted) == 3 * 2 * 2
    (public,), own = sentences(table, PUBLIC), [next(sentences(table, TRAIN, n)) for n in range(3)]
    for c in planted:
        assert [text.count(c.text) for text in own] == [c.repetitions if str(n) == c.group else 0 for n in range(3)]
        assert c.secret not in public
        assert public.count(f"The id of {c.name} is ") == CONFIG.fresh_copies
    assert all(c.name not in next(sentences(table, TEST)) for c in planted)


def test_every_client_has_test_rows_and_draws_repeat(table: Table) -> None:
    assert table.part is not None
    assert table.groups is not None
    for client in range(3):
        own = table.part[table.groups == client]
        assert (own == TEST).sum() > 0
        assert (own == TRAIN).sum() > (own == TEST).sum()
    again = next_token.load(CONFIG, "")
    assert np.array_equal(table.x, again.x)
    assert np.array_equal(table.y, again.y)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config(clients=500), "500 are asked for|clients = 500"),
        (Config(clients=2, public_characters=10**8), "public_characters"),
    ],
)
def test_too_little_text_is_refused(config: Config, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        next_token.load(config, "")


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="window = 0"):
        Config(window=0)


def test_passages_stand_in_their_clients_rows_as_often_as_their_stratum_says() -> None:
    config = replace(CONFIG, passages=4, copies=(0, 1, 3), passage_characters=32, public_passages="half")
    planted = next_token.passages(config, "")
    table = next_token.load(config, "")
    assert len({p.text for p in planted}) == len(planted) == 3 * 3 * 4
    assert {len(p.text) for p in planted} == {32}
    public, own = records(table, PUBLIC), [records(table, TRAIN, n) for n in range(3)]
    for p in planted:
        assert [text.count(p.text) for text in own] == [p.copies if n == p.client else 0 for n in range(3)]
        assert public.count(p.text) == p.public
    assert sum(p.public for p in planted) == len(planted) // 2
    assert {(p.client, p.copies) for p in planted if p.public} == {(n, k) for n in range(3) for k in (0, 1, 3)}
    apart = next_token.passages(replace(config, public_passages="none"), "")
    assert [p[:3] for p in apart] == [p[:3] for p in planted], "the same passages, whatever is public"
    assert not any(p.public for p in apart)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"passages": -1}, "passages = -1"),
        ({"passages": 1, "passage_characters": 24}, "more than window = 24"),
        ({"copies": (1, 1)}, "different numbers"),
        ({"copies": ()}, "different numbers"),
    ],
)
def test_wrong_passages_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changed)


def test_passages_beyond_the_text_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"characters in two records|passages of 40 characters after its records"):
        next_token.load(replace(CONFIG, passages=2000, passage_characters=40), "")
