"""Text as windows: a row per character, canaries in their client's training rows alone, fresh secrets in the public ones."""

from __future__ import annotations

from collections.abc import Iterator

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
