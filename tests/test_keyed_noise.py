"""Keys, draws and charges; letters in the names are those of specs, swing, section 12."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from scipy import stats

from fedkd import keyed_noise
from fedkd.keyed_noise import (
    charges,
    content_keys,
    first_of_key,
    philox,
    row_keys,
    shared_likelihood,
    unit_noise,
    unit_uniform,
)

TOKENS = np.random.default_rng(0).integers(0, 5, (30, 9))


def test_philox_known_answers() -> None:
    """philox4x32-10 of the known-answer file of Random123 (kat_vectors): all zeros and all ones."""
    keys = np.array([0, 2**64 - 1], dtype=np.uint64)
    bits = philox(keys, np.array([[0] * 4, [2**32 - 1] * 4], dtype=np.uint32))
    assert bits[0, 0].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert bits[1, 1].tolist() == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_e_content_keys_are_equal_exactly_where_the_prefixes_are() -> None:
    keys = content_keys(TOKENS)
    assert keys.shape == (30, 8)
    prefixes = {}
    for row, values in enumerate(TOKENS.tolist()):
        for place in range(8):
            prefixes.setdefault(tuple(values[: place + 1]), set()).add(int(keys[row, place]))
    assert all(len(found) == 1 for found in prefixes.values())
    assert len(np.unique(keys)) == len(prefixes)


def test_e_content_keys_do_not_read_the_label_or_what_follows_it() -> None:
    """Another token at t changes the keys from t on: key t is what predicts token t + 1."""
    other = TOKENS[:1].copy()
    other[0, 4] += 5
    same = content_keys(TOKENS[:1])[0] == content_keys(other)[0]
    assert same.tolist() == [True] * 4 + [False] * 4


def test_e_keys_depend_on_secret_teacher_and_purpose_not_on_batch_or_order() -> None:
    keys = content_keys(TOKENS, secret=1, teacher="a")
    order = np.random.default_rng(1).permutation(30)
    assert np.array_equal(content_keys(TOKENS[order], 1, "a"), keys[order])
    assert np.array_equal(content_keys(TOKENS[:1], 1, "a"), keys[:1])
    for other in (content_keys(TOKENS, 2, "a"), content_keys(TOKENS, 1, "b"), row_keys(np.arange(30), 8, 1, "a")):
        assert not np.isin(other, keys).any()


def test_e_row_keys_part_copies() -> None:
    keys = row_keys([7, 3], 4)
    assert len(np.unique(keys)) == 8
    assert np.array_equal(keys[1], row_keys([3], 4)[0])
    assert np.array_equal(keys[:, :2], row_keys([7, 3], 2))


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
def test_e_draws_are_a_function_of_key_and_use(law: Literal["laplace", "gaussian"], monkeypatch: pytest.MonkeyPatch) -> None:
    keys = content_keys(TOKENS)
    noise = unit_noise(law, keys, 11)
    assert noise.shape == (30, 8, 11) and noise.dtype == np.float32
    assert np.array_equal(noise[3, 2], unit_noise(law, keys[3, 2], 11))
    assert np.array_equal(noise[..., :5], unit_noise(law, keys, 5))
    monkeypatch.setattr(keyed_noise, "CHUNK", 7)
    assert np.array_equal(noise, unit_noise(law, keys, 11))
    again = unit_noise(law, keys, 11, draw=1)
    assert not np.isin(again, noise).any()
    assert unit_noise(law, keys[:0], 11).shape == (0, 8, 11)


@pytest.mark.parametrize(("law", "cdf"), [("laplace", stats.laplace.cdf), ("gaussian", stats.norm.cdf)])
def test_h_draws_follow_their_law(law: Literal["laplace", "gaussian"], cdf: object) -> None:
    """Kolmogorov-Smirnov at 40,000 draws; entries of one key and of neighbouring keys are uncorrelated (5 sd)."""
    noise = unit_noise(law, np.arange(4000, dtype=np.uint64), 10)
    assert stats.kstest(noise.ravel(), cdf).pvalue > 0.01
    correlation = np.corrcoef(noise.T) - np.eye(10)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 5 / np.sqrt(40_000)
    assert np.isfinite(noise).all()


def test_uniform_draws_are_open_and_uniform() -> None:
    drawn = unit_uniform(np.arange(5000, dtype=np.uint64))
    assert stats.kstest(drawn, "uniform").pvalue > 0.01
    assert (drawn > 0).all() and (drawn < 1).all()


def test_e_charges_count_distinct_keys() -> None:
    """Three copies of one record, two private positions: content pays 2, row keys pay 6, redrawing five times 30."""
    tokens = np.repeat(TOKENS[:1], 3, axis=0)
    mask = np.zeros((3, 8), dtype=bool)
    mask[:, 4:6] = True
    assert charges(content_keys(tokens), mask) == 2
    assert charges(row_keys(range(3), 8), mask) == 6
    assert charges(row_keys(range(3), 8), mask, draws=5) == 30
    assert charges(content_keys(tokens), ~mask & mask) == 0
    with pytest.raises(ValueError, match="one shape"):
        charges(content_keys(tokens), mask[:, :3])


def test_e_one_query_has_one_likelihood_and_one_cached_release() -> None:
    """The same prefix before a private and a public label: both take the higher likelihood and the first release."""
    keys = np.array([[5, 9], [5, 8]], dtype=np.uint64)
    assert shared_likelihood(keys, [[0.1, 0.2], [0.9, 0.3]]).tolist() == np.float32([[0.9, 0.2], [0.9, 0.3]]).tolist()
    assert first_of_key(keys).tolist() == [[0, 1], [0, 3]]
    assert shared_likelihood(keys[:0], np.zeros((0, 2))).shape == (0, 2)


def test_tokens_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, L\]"):
        content_keys(TOKENS[0])


def test_a_key_is_the_same_on_every_machine() -> None:
    """Golden values: BLAKE2b and Philox are defined bit by bit, so a cached release can be checked elsewhere."""
    assert content_keys([[0, 1, 2]], 7, "t").tolist() == [[0x5FBB8ECD8A3C202E, 0xFC2D7B086C086C65]]
