"""The generator: repeats, depends on the client alone, skews labels and sizes as asked, can be learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.data import synthetic
from fedkd.errors import ConfigError


def test_same_arguments_same_bits_and_clients_and_seeds_differ() -> None:
    config = synthetic.Config()
    first, again = synthetic.generate(config, 1, 5), synthetic.generate(config, 1, 5)
    assert np.array_equal(first.x, again.x)
    assert np.array_equal(first.y, again.y)
    for other in (synthetic.generate(config, 1, 6), synthetic.generate(config, 2, 5)):
        assert not np.array_equal(first.x, other.x)


@given(
    channels=st.integers(1, 3), side=st.integers(1, 9), classes=st.integers(2, 5), samples=st.integers(1, 20),
    client=st.integers(0, 10**9),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_any_size(channels: int, side: int, classes: int, samples: int, client: int) -> None:
    config = synthetic.Config((channels, side, side + 1), classes, samples)
    table = synthetic.generate(config, 0, client)
    assert table.x.shape == (samples, channels, side, side + 1)
    assert table.x.dtype == np.float32
    assert table.y.dtype == np.int32
    assert table.y.max() < classes
    assert synthetic.spec(config).shape == config.shape


def test_sizes_are_the_median_or_log_normal_between_the_limits() -> None:
    assert {synthetic.size(synthetic.Config(samples_per_client=7), 0, n) for n in range(20)} == {7}
    config = synthetic.Config(size_skew=1.5)
    sizes = np.array([synthetic.size(config, 0, n) for n in range(1000)])
    assert sizes.min() == synthetic.SMALLEST
    assert sizes.max() == synthetic.LARGEST
    assert 40 < np.median(sizes) < 62
    assert all(len(synthetic.generate(config, 0, n)) == sizes[n] for n in range(5))


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.05, 1, 2.5), (100.0, 9, 10)])
def test_alpha_rules_the_classes_per_client(alpha: float, low: float, high: float) -> None:
    config = synthetic.Config(alpha=alpha)
    present = [len(np.unique(synthetic.generate(config, 0, n).y)) for n in range(100)]
    assert low <= np.mean(present) <= high


def test_nearest_picture_finds_the_class() -> None:
    """With noise 0 each sample is its class picture; at the default the nearest picture is right for most samples."""
    exact = synthetic.generate(synthetic.Config(noise=0.0, alpha=10.0), 0, 3)
    pictures = synthetic.pictures((1, 8, 8), 10, 0)
    assert np.array_equal(exact.x, pictures[exact.y])
    noisy = synthetic.generate(synthetic.Config(alpha=10.0, samples_per_client=500), 0, 3)
    nearest = ((noisy.x[:, None] - pictures) ** 2).sum(axis=(2, 3, 4)).argmin(axis=1)
    assert (nearest == noisy.y).mean() > 0.9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", (8, 8)), ("shape", (1, 0, 8)), ("shape", (1, "8", 8)), ("classes", 1), ("samples_per_client", 0),
        ("size_skew", -0.1), ("noise", float("nan")), ("alpha", 0.0), ("alpha", float("inf")),
    ],
)  # fmt: skip
def test_bad_fields_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        synthetic.Config(**{field: value})
