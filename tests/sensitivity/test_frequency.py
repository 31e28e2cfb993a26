"""Rarity of tokens against the definition by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.sensitivity import frequency


def test_log_linear_between_rare_and_common() -> None:
    """rare 1, common 100: count 10 lies half-way in the logarithm; unseen and seen once are rare."""
    counts = [0, 1, 10, 100, 5000]
    found = frequency.likelihood(frequency.Config(), labels=[[0, 1, 2], [3, 4, 4]], counts=counts)
    np.testing.assert_allclose(found, [[1, 1, 0.5], [0, 0, 0]], atol=1e-7)


def test_own_counts_where_none_are_given() -> None:
    found = frequency.likelihood(frequency.Config(rare=1, common=4), labels=[7, 2, 2, 2, 2, 5, 5])
    np.testing.assert_allclose(found, [1, 0, 0, 0, 0, 0.5, 0.5], atol=1e-7)
    assert frequency.likelihood(frequency.Config(), labels=np.zeros((0, 3), dtype=int)).shape == (0, 3)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="1 <= rare < common"):
        frequency.Config(rare=5, common=5)
    with pytest.raises(ValueError, match="counts of 3 tokens"):
        frequency.likelihood(frequency.Config(), labels=[3], counts=[1, 1, 1])
