"""The generator: the same seed gives the same texts, clients differ, and no digit is in them."""

from __future__ import annotations

from collections import Counter

import pytest

from fedkd.errors import ConfigError
from fedkd.texts import template
from fedkd.texts.template import Config


def test_sizes_and_names() -> None:
    corpus = template.load(Config(clients=8, records_per_client=3, sentences=2), "")
    assert Counter(corpus.clients) == {f"synthetic-{client:03d}": 3 for client in range(8)}
    assert set(corpus.groups) == set(template.TOPICS)
    assert all(text.endswith(".\n") and text.count(".") == 2 for text in corpus.texts)


def test_seeds_repeat_and_differ() -> None:
    one = template.load(Config(seed=1), "")
    assert one == template.load(Config(seed=1), "")
    assert one != template.load(Config(seed=2), "")


def test_a_client_does_not_depend_on_how_many_there_are() -> None:
    few, many = template.load(Config(clients=2), ""), template.load(Config(clients=5), "")
    assert many.take(range(len(few))) == few


def test_there_is_no_digit_and_the_source_says_synthetic() -> None:
    assert not any(symbol.isdigit() for text in template.load(Config(), "").texts for symbol in text)
    assert "synthetic" in template.SPEC.source


def test_a_small_concentration_makes_clients_narrow() -> None:
    narrow = template.load(Config(concentration=0.01, clients=6), "")
    wide = template.load(Config(concentration=100.0, clients=6), "")
    assert len(set(narrow.texts)) < len(set(wide.texts))


@pytest.mark.parametrize(
    "values",
    [{"clients": 0}, {"records_per_client": 0}, {"sentences": -1}, {"concentration": 0.0}, {"concentration": float("nan")}],
)
def test_impossible_sizes_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(values))} = .*; it must be"):
        Config(**values)
