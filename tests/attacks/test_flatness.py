"""Flatness of rows by hand, and what it reads: a temperature that follows p is seen, a constant one is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedkd.attacks.flatness import Config, score
from fedkd.config import parse_args
from fedkd.keyed_noise import unit_noise
from fedkd.metrics import auc_delong
from fedkd.soft_targets import Protection, protect

ROWS = np.log([[0.5, 0.5], [0.9, 0.1]])


def test_values_by_hand() -> None:
    entropy = score(Config(), log_q=ROWS + 3.0)  # a constant per row says nothing
    np.testing.assert_allclose(entropy, [math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)])
    np.testing.assert_allclose(score(Config("top"), log_q=ROWS), [math.log(2), -math.log(0.9)])
    np.testing.assert_allclose(score(Config("gap"), log_q=ROWS), [0.0, -math.log(9)], atol=1e-12)


def released(likelihood: np.ndarray, noise: float) -> np.ndarray:
    """Rows of a model whose confidence does not depend on what is private."""
    logits = 3 * np.random.default_rng(0).normal(size=(len(likelihood), 10))
    keys = np.arange(len(likelihood), dtype=np.uint64)
    config = Protection(temperature_high=20.0, noise_scale=noise, noise_scope="all")
    draws = torch.from_numpy(unit_noise("laplace", keys, 10)) if config.noisy else None
    q = protect(config, torch.from_numpy(logits), torch.from_numpy(likelihood), draws)
    return np.log(np.maximum(q.numpy(), 1e-6))


@pytest.mark.parametrize("statistic", ["entropy", "top", "gap"])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_p_is_read_where_it_varies_and_is_chance_where_it_is_constant(statistic: str, noise: float) -> None:
    private = np.arange(600) % 3 == 0
    config = parse_args(f'statistic = "{statistic}"', Config, "args")
    varies = score(config, log_q=released(private.astype(np.float64), noise))
    assert auc_delong(varies[private], varies[~private]).low > 0.8
    constant = score(config, log_q=released(np.ones(600), noise))
    estimate = auc_delong(constant[private], constant[~private], 0.999)
    assert estimate.low <= 0.5 <= estimate.high


@pytest.mark.parametrize("rows", [np.zeros(3), np.zeros((3, 1)), [[0.0, math.nan]], [[0.0, math.inf]]])
def test_wrong_rows_are_refused(rows: object) -> None:
    with pytest.raises(ValueError, match="rows must be logarithms"):
        score(Config(), log_q=np.asarray(rows))


def test_a_row_with_one_class_is_the_sharpest() -> None:
    rows = [[0.0, -math.inf], [0.0, -1.0]]
    for statistic in ("entropy", "top", "gap"):
        sharp, other = score(parse_args(f'statistic = "{statistic}"', Config, "args"), log_q=rows)
        assert sharp < other and math.isfinite(sharp)
