"""Known secrets are found wherever they stand, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd import canary
from fedkd.errors import ConfigError
from fedkd.sensitivity import oracle, regex


def test_planted_canaries_and_the_regex_agrees_where_the_text_has_no_other_digits() -> None:
    """Specs, swing, section 4: on text without other digits the regex equals the oracle (confidence aside)."""
    drawn = canary.draw(canary.Config(repetitions=(2,), per_count=5, references=1, decoys=0), np.random.default_rng(0))
    texts, _ = canary.plant(["To be, or not to be"] * 4, drawn, np.random.default_rng(1))
    found = oracle.find(oracle.Config(tuple(c.secret for c in drawn.canaries)), texts)
    assert sum(map(len, found)) == 10
    assert {s.kind for row in found for s in row} == {"digits"}
    by_pattern = regex.find(regex.Config(), texts)
    assert [[(s.start, s.end) for s in row] for row in found] == [[(s.start, s.end) for s in row] for row in by_pattern]


def test_no_secret_flags_nothing_and_words_are_secrets_too() -> None:
    assert oracle.find(oracle.Config(), ["482913"]) == [[]]
    (row,) = oracle.find(oracle.Config(("rosebud", "7"), 0.6), ["rosebud, 77 rosebuds"])
    assert [(s.start, s.end, s.kind, s.confidence) for s in row] == [(0, 7, "secret", 0.6)]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="empty string"):
        oracle.Config(("",))
    with pytest.raises(ConfigError, match="confidence"):
        oracle.Config(confidence=2.0)
