"""Random streams: one per purpose, repeatable, independent of each other and of every global generator."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd import rng
from fedkd.setting import Setting
from tests.toy import toy_setting

PART = st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", "ab"]), st.integers(-1, 30), st.integers(-1, 30))


@given(PART, PART)
def test_keys_are_equal_exactly_where_the_arguments_are(
    left: tuple[int, str, int, int], right: tuple[int, str, int, int]
) -> None:
    assert (rng.key(*left) == rng.key(*right)) == (left == right)
    assert 0 <= rng.key(*left) < 2**128
    same = rng.experiment(*left).random(4).tobytes() == rng.experiment(*right).random(4).tobytes()
    assert same == (left == right)


def test_a_key_and_a_stream_are_the_same_on_every_machine() -> None:
    """Golden values: blake2b and Philox are defined bit by bit, so stored results can be repeated elsewhere."""
    assert rng.key(0, "clients", 3) == 0xC36D5CA7739CDB4CEE08B6F3BD26CA56
    assert rng.experiment(0, "clients", 3).permutation(6).tolist() == [1, 5, 3, 0, 4, 2]
    assert rng.key(1, "x", extra=b"row") != rng.key(1, "x")


def test_a_stream_does_not_move_another() -> None:
    first = rng.experiment(3, "batch order", 1, 2)
    alone = rng.experiment(3, "batch order", 1, 2).random(8)
    half = first.random(4)
    rng.experiment(3, "clients", 1).random(1000)
    assert np.array_equal(np.concatenate([half, first.random(4)]), alone)


def test_streams_of_neighbouring_rounds_and_clients_are_uncorrelated() -> None:
    """200 streams of 2,000 normals: a sample correlation has sd 1/sqrt(2000) = 0.022; the largest of 19,900 pairs stays
    below 5.5 sd with probability 1 - 8e-4, and the draw is fixed."""
    draws = np.stack([rng.experiment(0, "s", t, n).standard_normal(2000) for t in range(10) for n in range(20)])
    correlation = np.corrcoef(draws) - np.eye(200)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(2000)


def test_noise_is_a_function_of_key_and_counter() -> None:
    first = rng.noise(5, 7, (3, 4))
    assert first.dtype == np.float32
    assert first.shape == (3, 4)
    assert np.array_equal(first, rng.noise(5, 7, (3, 4)))
    for other in (rng.noise(5, 8, (3, 4)), rng.noise(6, 7, (3, 4)), rng.noise(5, 7 + 2**64, (3, 4))):
        assert not np.intersect1d(first, other).size, "no overlap: the counter is in the high words"
    many = np.concatenate([rng.noise(1, i, (100,)) for i in range(200)])
    assert abs(many.mean()) < 4 / np.sqrt(len(many))
    assert abs(many.std() - 1) < 4 / np.sqrt(2 * len(many))


def test_secret_streams_never_repeat() -> None:
    draws = {rng.secret().bytes(16) for _ in range(20)}
    assert len(draws) == 20
    code = "from fedkd import rng; print(rng.secret().bytes(16).hex())"
    out = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert out[0] != out[1]


def test_torch_scope_repeats_and_puts_the_generator_back() -> None:
    before = torch.get_rng_state()
    with rng.torch_scope(2**127 + 5):
        first = torch.rand(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**127 + 5 & 2**63 - 1)
        assert torch.equal(first, torch.rand(3)), "as torch.manual_seed draws, at a tenth of its cost"
    with rng.torch_scope(2**127 + 5):
        again = torch.rand(3)
    with rng.torch_scope(6):
        other = torch.rand(3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(RuntimeError), rng.torch_scope(1):
        torch.rand(3).reshape(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_touches_the_global_generators() -> None:
    """All streams and a whole setting with its initial weights and samples leave random, numpy and torch as they were."""
    before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # noqa: NPY002 (reads it)
    rng.experiment(0, "a").random(3)
    rng.secret().random(3)
    rng.noise(1, 2, (3,))
    setting = toy_setting()
    setting.initial()
    setting.initial(3)
    setting.sample(0)
    after = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # noqa: NPY002 (reads it)
    assert before == after


def test_global_seeds_do_not_matter() -> None:
    """Whatever third-party code did to the global generators, a run's draws are the same."""

    def draws(setting: Setting) -> list[bytes]:
        return [setting.initial()["block1.0.weight"].tobytes(), bytes(setting.sample(2))]

    expected = draws(toy_setting(seed=4))
    state = torch.get_rng_state()
    try:
        torch.manual_seed(99)
        assert draws(toy_setting(seed=4)) == expected
    finally:
        torch.set_rng_state(state)
    assert draws(toy_setting(seed=5)) != expected


def test_client_samples_are_drawn_by_id_and_nested_by_nothing() -> None:
    """S_t = ceil(fraction N) distinct clients, ascending; every client's turn comes."""
    setting = toy_setting(num_clients=10, fraction_train=0.31)
    seen = [setting.sample(t) for t in range(40)]
    assert all(len(s) == 4 and s == sorted(set(s)) for s in seen), "ceil(3.1) = 4"
    assert {c for s in seen for c in s} == set(range(10))
    assert len({tuple(s) for s in seen}) > 20
    assert seen == [toy_setting("local", num_clients=10, fraction_train=0.31).sample(t) for t in range(40)]
    assert toy_setting(num_clients=10, fraction_train=1.0).sample(3) == list(range(10))
    assert toy_setting(num_clients=10, fraction_train=0.3).cohort_size == 3, "0.3 * 10 is 3.0000000000000004 in floats"
