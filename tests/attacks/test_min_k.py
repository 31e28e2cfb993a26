"""Min-K% and Min-K%++ against a loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.attacks import min_k


@given(st.integers(1, 12), st.floats(0.01, 1.0), st.integers(0, 50))
def test_loop_oracle(tokens: int, share: float, seed: int) -> None:
    """Sort each row's first n tokens, keep max(1, floor(k n)), average."""
    rng = np.random.default_rng(seed)
    logprob, lengths = -rng.exponential(size=(4, tokens)), rng.integers(1, tokens + 1, size=4)
    expected = []
    for row, n in zip(logprob, lengths, strict=True):
        kept = max(1, int(np.floor(share * n + 1e-9)))
        expected.append(np.sort(row[:n])[:kept].mean())
    assert min_k.score(min_k.Config(k=share), target_logprob=logprob, lengths=lengths) == pytest.approx(expected)


def test_plus_plus_standardises_and_defines_zero_over_zero() -> None:
    """Token scores (-1 + 2) / 0.5 = 2, 0 / 0 := 0, (-3 + 1) / 2 = -1; the lowest third is -1."""
    config = min_k.Config(k=0.34, normalise=True)
    got = min_k.score(
        config, target_logprob=[[-1.0, -1.6, -3.0]], logprob_mean=[[-2.0, -1.6, -1.0]], logprob_sd=[[0.5, 0.0, 2.0]]
    )
    assert got == pytest.approx([-1.0])


def test_published_share_of_a_short_text_keeps_one_token() -> None:
    assert min_k.score(min_k.Config(k=0.2), target_logprob=[[-5.0, -1.0]]) == pytest.approx([-5.0])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="k must lie"):
        min_k.score(min_k.Config(k=0.0), target_logprob=[[-1.0]])
    with pytest.raises(ValueError, match="needs logprob_mean"):
        min_k.score(min_k.Config(normalise=True), target_logprob=[[-1.0]])
    with pytest.raises(ValueError, match="moments must have the shape"):
        min_k.score(min_k.Config(normalise=True), target_logprob=[[-1.0]], logprob_mean=[-1.0], logprob_sd=[1.0])
    with pytest.raises(ValueError, match="NaN"):
        min_k.score(min_k.Config(), target_logprob=[[np.nan]])
    with pytest.raises(ValueError, match="T >= 1"):
        min_k.score(min_k.Config(), target_logprob=[-1.0])
