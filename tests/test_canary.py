"""Canaries: uniform, distinct, planted as planned, and verified afterwards."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkd import canary
from fedkd.errors import ConfigError

SMALL = canary.Config(per_count=3, references=50, decoys=4)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_names_and_secrets_are_distinct_and_of_the_asked_form() -> None:
    drawn = canary.draw(canary.Config(), rng(), groups=("teacher", "transfer", "both"))
    assert len(drawn.canaries) == 3 * 5 * 8
    assert drawn.space == 10**6
    secrets = [c.secret for c in drawn.canaries] + list(drawn.references)
    assert len(set(secrets)) == len(secrets)
    assert all(len(secret) == 6 and secret.isdigit() for secret in secrets)
    names = [c.name for c in drawn.canaries]
    assert len(set(names)) == len(names)
    assert len({c.id for c in drawn.canaries}) == len(names)
    counts = collections.Counter((c.group, c.repetitions) for c in drawn.canaries)
    assert set(counts.values()) == {8}
    assert not any(name in decoy for decoy in drawn.decoys for name in names)
    assert drawn.canaries[0].text == f"The id of {names[0]} is {drawn.canaries[0].secret}."


def test_same_seed_same_canaries() -> None:
    assert canary.draw(SMALL, rng(1)) == canary.draw(SMALL, rng(1))
    assert canary.draw(SMALL, rng(1)) != canary.draw(SMALL, rng(2))


def test_every_symbol_is_uniform_at_every_place() -> None:
    """Chi-squared over 10 digits at 6 places of 5,000 references: no p value below 0.1 % / 6."""
    references = canary.draw(canary.Config(references=5000), rng(3)).references
    table = np.array([[int(symbol) for symbol in secret] for secret in references])
    for place in range(6):
        assert stats.chisquare(np.bincount(table[:, place], minlength=10)).pvalue > 0.001 / 6


def test_a_space_can_be_used_up_and_not_overdrawn() -> None:
    tiny = canary.Config(alphabet="ab", length=3, repetitions=(1,), per_count=3, references=5, decoys=0)
    drawn = canary.draw(tiny, rng())
    assert len({c.secret for c in drawn.canaries} | set(drawn.references)) == 8
    with pytest.raises(ConfigError, match="do not fit a space of 8"):
        canary.draw(canary.Config(alphabet="ab", length=3), rng())


@given(st.integers(0, 20), st.integers(0, 1000))
@settings(max_examples=25)
def test_planting_keeps_the_texts_and_counts_every_copy(texts: int, seed: int) -> None:
    drawn = canary.draw(SMALL, rng(seed))
    own = [f"text {i}" for i in range(texts)]
    planted, ledger = canary.plant(own, drawn, rng(seed))
    assert [text for text in planted if text.startswith("text")] == own
    assert len(planted) == texts + 3 * (0 + 1 + 4 + 16 + 64) + 4
    for one in drawn.canaries:
        assert [planted[row] for row in ledger[one.id]] == [one.text] * one.repetitions
    canary.verify(planted, drawn)


def test_lost_and_doubled_copies_are_named() -> None:
    drawn = canary.draw(SMALL, rng())
    planted, ledger = canary.plant(["a"] * 10, drawn, rng())
    lost = [text for row, text in enumerate(planted) if row != ledger["c1-0"][0]]
    with pytest.raises(ValueError, match="c1-0: 0 instead of 1"):
        canary.verify(lost, drawn)
    doubled = [*planted, drawn.canaries[0].text]
    with pytest.raises(ValueError, match="c0-0: 1 instead of 0"):
        canary.verify(doubled, drawn)


def test_token_stream_count() -> None:
    assert canary.count_tokens([1, 2, 1, 2, 1], [1, 2, 1]) == 2
    assert canary.count_tokens([1], [1, 2]) == 0
    with pytest.raises(ValueError, match="at least one token"):
        canary.count_tokens([1], [])


def test_coin_flips_are_fair_and_independent() -> None:
    """10,000 flips: share and the share of equal neighbours within four standard errors of 1/2."""
    flips = canary.coin_flips(10_000, rng(4))
    assert flips.mean() == pytest.approx(0.5, abs=0.02)
    assert (flips[1:] == flips[:-1]).mean() == pytest.approx(0.5, abs=0.02)
    assert canary.coin_flips(0, rng()).size == 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"template": "{name}"}, "once each"),
        ({"template": "{name} {secret} {secret}"}, "once each"),
        ({"alphabet": "aab"}, "different symbols"),
        ({"alphabet": "a"}, "different symbols"),
        ({"length": 0}, "length of at least 1"),
        ({"decoys": -1}, "negative"),
        ({"repetitions": (1, 1)}, "named once"),
        ({"decoys": 600_000}, "three syllables"),
    ],
)
def test_bad_options_are_refused(change: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        canary.draw(canary.Config(**change), rng())


def test_label_canaries_take_own_samples_and_change_only_them() -> None:
    rows = {3: np.arange(0, 50), 1: np.arange(50, 100)}
    drawn = canary.label_canaries(rows, 10, rng(), length=6, per_client=2)
    assert [one.client for one in drawn] == [1, 1, 3, 3]
    for one in drawn:
        assert set(one.indices) <= set(rows[one.client].tolist())
    used = [index for one in drawn for index in one.indices]
    assert len(set(used)) == len(used) == 24
    labels = np.full(100, 99)
    changed = canary.with_labels(labels, drawn)
    assert (labels == 99).all()
    assert sorted(np.flatnonzero(changed != 99).tolist()) == sorted(used)
    assert changed[list(drawn[0].indices)].tolist() == list(drawn[0].labels)


def test_planted_labels_are_uniform() -> None:
    drawn = canary.label_canaries({i: np.arange(6) for i in range(500)}, 10, rng(5))
    counts = np.bincount([label for one in drawn for label in one.labels], minlength=10)
    assert stats.chisquare(counts).pvalue > 0.001


def test_label_strings_are_scored_by_the_sum() -> None:
    """Exact rank by brute force over all 3^2 strings of two samples."""
    log_q = np.log([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    every = np.array([[a, b] for a in range(3) for b in range(3)])
    scores = canary.label_string_score(log_q, every)
    assert scores == pytest.approx([log_q[0, a] + log_q[1, b] for a, b in every])
    assert np.exp(scores).sum() == pytest.approx(1.0)
    references = canary.label_references(3, 40, rng(), length=2)
    assert references.shape == (40, 2)
    assert set(np.unique(references)) <= {0, 1, 2}
    with pytest.raises(ValueError, match="strings"):
        canary.label_string_score(log_q, [[0, 1, 2]])


@pytest.mark.parametrize(("classes", "length", "line"), [(1, 6, "two classes"), (10, 0, "one sample"), (10, 9, "9")])
def test_impossible_label_canaries(classes: int, length: int, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        canary.label_canaries({0: np.arange(8)}, classes, rng(), length=length)
